"""Embeddings as AnnData in a zarr v3 group."""

from pathlib import Path

from genome_lm import __version__
from genome_lm.formats.embeddings.anndata_layout import write_layout
from genome_lm.formats.embeddings.columns import PROVENANCE, Format
from genome_lm.formats.parts import Parts
from genome_lm.optional import require


def write_zarr(folder: Path, parts: Parts) -> None:
    """Write a group in AnnData's layout, whose attribute `genome_lm` is the version."""
    group = require("zarr").open_group(folder, mode="w", zarr_format=3)
    group.attrs[PROVENANCE] = __version__
    for _ in write_layout(group, parts):
        pass


FORMAT = Format(write_zarr, is_folder=True, needs="zarr")
