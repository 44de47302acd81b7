"""What a killed tuning goes on from: its state after the last whole epoch, in a file beside the output."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from genome_lm.dataset import LabelledSet
from genome_lm.files import replacing_file
from genome_lm.training.state import read_sealed, seal

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
        state = read_sealed(self.path, "tuning")
        if state.pop("identity", None) != self._identity:
            log.warning("%s is of another model, data or configuration; starting anew", self.path)
            return None
        log.warning("going on after epoch %d, from %s", state["epoch"], self.path)
        return state

    def write(self, state: dict[str, Any]) -> None:
        """Put a state in the place of the one that is there."""
        with replacing_file(self.path) as temporary:
            torch.save({**state, "identity": self._identity}, temporary)
            seal(temporary)

    def remove(self) -> None:
        """The output is whole."""
        self.path.unlink(missing_ok=True)


def data_digest(labelled: LabelledSet) -> str:
    """SHA-256 over sequences, labels and splits."""
    digest = hashlib.sha256()
    for example in labelled.examples:
        digest.update(json.dumps([example.sequence, example.second, example.labels, example.split]).encode())
    return digest.hexdigest()
