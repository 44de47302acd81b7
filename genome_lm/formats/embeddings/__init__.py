"""Embeddings in files, written piece by piece: a module per format, which its suffix registers here."""

from pathlib import Path

from genome_lm.files import replacing_file, replacing_folder, require_suffix
from genome_lm.formats.embeddings import anndata_file, npz, parquet, zarr_group
from genome_lm.formats.embeddings.columns import Format
from genome_lm.formats.parts import Parts
from genome_lm.optional import require

__all__ = ["FORMATS", "Format", "check_suffix", "write_parts"]

FORMATS: dict[str, Format] = {
    ".npz": npz.FORMAT,
    ".parquet": parquet.FORMAT,
    ".zarr": zarr_group.FORMAT,
    ".h5ad": anndata_file.FORMAT,
}


def check_suffix(path: Path) -> None:
    """Raise a `GenomeLMError` if the name does not say which format is meant, or that can't be written."""
    if needs := FORMATS[require_suffix(path, tuple(FORMATS))].needs:
        require(needs)


def write_parts(path: Path, parts: Parts) -> None:
    """Write the parts of a job as one file, or folder for zarr, whole or not at all; memory does not grow with them.

    Args:
        path: Where to; its suffix tells the format. What is there is replaced.
        parts: The parts.

    Raises:
        GenomeLMError: On another suffix, or if it can't be written.
    """
    check_suffix(path)
    embedding_format = FORMATS[path.suffix]
    with (replacing_folder if embedding_format.is_folder else replacing_file)(path) as temporary:
        embedding_format.write(temporary, parts)
