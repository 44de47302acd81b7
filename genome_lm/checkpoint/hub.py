"""Models on the Hugging Face hub, by their ids."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from genome_lm.checkpoint.shipped import shipped_models
from genome_lm.errors import GenomeLMError
from genome_lm.optional import require

PINNED = {
    "LongSafari/hyenadna-tiny-1k-seqlen-hf": "e8c1effa8673814e257e627d2e1eda9ea5a373f6",
    "LongSafari/hyenadna-tiny-1k-seqlen-d256-hf": "6036d4e144922b44470294f510cbfd2539ba3b7e",
    "LongSafari/hyenadna-tiny-16k-seqlen-d128-hf": "d79fa37e2cd62dd338103c630f95be8f90812d46",
    "LongSafari/hyenadna-small-32k-seqlen-hf": "8fe770c78eb13fe33bf81501612faeddf4d6f331",
    "LongSafari/hyenadna-medium-160k-seqlen-hf": "7ebf71773d22c0ede2cc55cb2be15ee8c289e1ce",
    "LongSafari/hyenadna-medium-450k-seqlen-hf": "42dedd4d374eac0fb8168549e546a3472fbd27ae",
    "LongSafari/hyenadna-large-1m-seqlen-hf": "0a629abf9c7f85b4ec9aa6a1aefa3adcf1907446",
}
"""Commits of published models that are loaded unless another revision is asked for."""
HUB_ID = re.compile(r"[A-Za-z0-9_-][\w.-]*/[A-Za-z0-9_-][\w.-]*", re.ASCII)
_LOCAL_NAMES = {"checkpoint", "model.safetensors", "config.json"}
_LOCAL_SUFFIXES = {".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors"}
log = logging.getLogger(__name__)


def require_hub_id(source: str) -> str:
    """A source that is not on this machine, if it is an id on the hub and does not look like a path.

    Raises:
        GenomeLMError: Saying why it is taken for a path.
    """
    path = Path(source)
    names = ", ".join(shipped_models())
    if not HUB_ID.fullmatch(source):
        reason = f"no such file or folder, no hub id (OWNER/NAME), and no model of this package ({names})"
    elif path.name in _LOCAL_NAMES or path.suffix in _LOCAL_SUFFIXES:
        reason = f"no such file or folder, and not looked up on the hub, as {path.name} is the name of a file of ours"
    elif path.parent.exists():
        reason = f"no such file or folder, and not looked up on the hub, as there is a folder {path.parent} here"
    else:
        return source
    raise GenomeLMError(f"{source}: no checkpoint here: {reason}")


def fetched(hub_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a model on the hub, downloaded unless it is in the hub's cache; the log says so before.

    Args:
        hub_id: OWNER/NAME.
        revision: Commit, tag or branch; the pinned commit of a published model if None.
        patterns: Files that are wanted.

    Returns:
        A folder that is named by the commit.

    Raises:
        GenomeLMError: If it can't be had.
    """
    hub = require("huggingface_hub")
    revision = revision or PINNED.get(hub_id)
    plain = [name for name in patterns if "*" not in name]
    try:
        cached = [hub.try_to_load_from_cache(hub_id, name, revision=revision) for name in plain]
        if sum(isinstance(place, str) for place in cached) < 2:  # config and weights
            address = f"{hub.constants.ENDPOINT}/{hub_id}"
            log.warning("%s: downloading %s, revision %s", hub_id, address, revision or "main")
        return Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        # The hub's library lets errors of its HTTP library through, which is another one since version 1.
        raise GenomeLMError(f"{hub_id}: not a folder here, and can't be had from the hub: {error}") from error
