"""The two forms of a genome that `load` reads, made where they are not there."""

import io
from pathlib import Path

from genome_lm.errors import GenomeLMError
from genome_lm.files import open_input, read_blocks
from genome_lm.genome import build_store


def load_inputs(fasta: Path, genome: Path | None, folder: Path) -> tuple[Path, Path]:
    """A plain FASTA that may be indexed, and a store of it.

    Args:
        fasta: FASTA, plain or gzipped.
        genome: Its store; None to build it.
        folder: Where to put what is made.

    Returns:
        Both paths.

    Raises:
        GenomeLMError: If there is no such FASTA, or it is none.
    """
    if not fasta.is_file():
        raise GenomeLMError(f"{fasta}: no such file")
    # Under a name of its own, so that the index that pyfaidx writes does not land beside the user's file.
    plain = folder / "genome.fa"
    with open_input(fasta) as file:
        is_packed = not isinstance(file, io.BufferedReader)
    if is_packed:
        with plain.open("wb") as target:
            target.writelines(read_blocks(fasta))
    else:
        plain.symlink_to(fasta.resolve())
    if genome is None:
        genome = folder / "genome.zarr"
        build_store([plain], genome)
    return plain, genome
