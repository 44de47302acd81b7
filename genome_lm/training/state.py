"""Files that a killed run goes on from: sealed by a digest, so that a damaged one is never gone on from."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genome_lm.errors import GenomeLMError

_SEAL = b"sha256:"
_SEALED_BYTES = len(_SEAL) + 64 + 2
"""Of the end of the file: the length of the archive's comment, and the comment, which holds the digest."""


def seal(path: Path) -> None:
    """Add the digest of a file of `torch.save` to it, as the comment that a zip archive may end with."""
    with path.open("r+b") as file:
        end = file.seek(-2, os.SEEK_END)  # an archive without a comment ends with the length of one, 0
        digest = _digest(file, end)
        file.seek(end)
        file.write((len(_SEAL) + len(digest)).to_bytes(2, "little") + _SEAL + digest)


def read_sealed(path: Path, what: str) -> dict[str, Any]:
    """The state in a file that `seal` was called for; tensors on the CPU.

    Args:
        path: The file.
        what: What goes on from it, for errors.

    Raises:
        GenomeLMError: If it is not a file, can't be read, or is not what was written.
    """
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            end = max(0, file.seek(0, os.SEEK_END) - _SEALED_BYTES)
            digest = _digest(file, end)
            if file.read() != (len(_SEAL) + len(digest)).to_bytes(2, "little") + _SEAL + digest:
                raise ValueError("its SHA-256 is not the one that it was written with")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise GenomeLMError(f"{path} is damaged: remove it to start the {what} anew ({error})") from error
    if not isinstance(state, Mapping):
        raise GenomeLMError(f"{path} is damaged: remove it to start the {what} anew (it holds no state)")
    return dict(state)


def _digest(file: Any, end: int) -> bytes:
    """SHA-256 of the first `end` bytes, as hexadecimal digits; the file is then there."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(min(1 << 20, end - file.tell())):
        digest.update(block)
    return digest.hexdigest().encode()
