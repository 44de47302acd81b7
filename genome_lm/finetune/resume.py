"""What a killed tuning goes on from: its state after the last whole epoch, in a file beside the output."""

import hashlib
import io
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from genome_lm.dataset import LabelledSet
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file

log = logging.getLogger(__name__)


class Saved:
    """The state of a tuning, kept until its output is whole.

    Args:
        out: Folder that the tuning writes; the state is OUT.resume.ckpt.
        identity: What the result depends on, as JSON values; a state of another tuning is not gone on from.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.path = out.with_name(f"{out.name}.resume.ckpt")
        self._identity = json.dumps(identity, sort_keys=True)

    def read(self) -> dict[str, Any] | None:
        """The state that is there; None if there is none, or it is of another tuning.

        Raises:
            GenomeLMError: If the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            identity = state.pop("identity")
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise GenomeLMError(f"{self.path} is damaged: remove it to start the tuning anew ({error})") from error
        if identity != self._identity:
            log.warning("%s is of another model, data or configuration; starting anew", self.path)
            return None
        log.warning("going on after epoch %d, from %s", state["epoch"], self.path)
        return dict(state)

    def write(self, state: dict[str, Any]) -> None:
        """Put a state in the place of the one that is there."""
        whole = io.BytesIO()  # torch.save has an error of its own for a full disk
        torch.save({**state, "identity": self._identity}, whole)
        with replacing_file(self.path) as temporary:
            temporary.write_bytes(whole.getbuffer())

    def remove(self) -> None:
        """The output is whole."""
        self.path.unlink(missing_ok=True)


def data_digest(labelled: LabelledSet) -> str:
    """SHA-256 over sequences, labels and splits."""
    digest = hashlib.sha256()
    for example in labelled.examples:
        digest.update(json.dumps([example.sequence, example.labels, example.split]).encode())
    return digest.hexdigest()
