"""Embeddings as AnnData in HDF5 (.h5ad)."""

import io
from pathlib import Path
from typing import Any

from genome_lm.formats.embeddings.anndata_layout import write_layout
from genome_lm.formats.embeddings.columns import Format
from genome_lm.formats.parts import Parts
from genome_lm.optional import require


def write_anndata(path: Path, parts: Parts) -> None:
    """Write a file in AnnData's layout."""
    with _PatientFile(path, "w+") as raw:
        try:
            with require("h5py").File(raw, "w") as file:
                for _ in write_layout(file, parts):
                    raw.raise_failure()
        except Exception:
            raw.raise_failure()
            raise
        raw.raise_failure()


class _PatientFile(io.FileIO):
    """A file that keeps the failure of a write until it is asked for.

    HDF5 can't close a file that it could not write, and ends the process later.
    """

    _failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of the bytes; after a failure, nothing."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self._failure is None:
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self._failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size, if nothing has failed."""
        try:
            return super().truncate(size) if self._failure is None else size or 0
        except OSError as error:
            self._failure = error
            return size or 0

    def raise_failure(self) -> None:
        """Raise the failure of an earlier write, if there was one."""
        if self._failure is not None:
            raise self._failure


FORMAT = Format(write_anndata)
