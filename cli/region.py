"""What the commands that map a region share: their options, where the region's bases are, and their outputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, replacing, require_suffix

if TYPE_CHECKING:
    from genome_lm.genome import GenomeStore, Interval

Region = Annotated[str, typer.Option(help="chr:start-end, 1-based, both ends in it; or a contig.")]
RegionGenome = Annotated[Path | None, typer.Option("--genome", help="Genome store.", metavar="G.zarr")]
RegionFasta = Annotated[Path | None, typer.Option("--fasta", help="FASTA file, in place of a store.")]


def check_outputs(out: Path, figure: Path | None, suffixes: Sequence[str], force: bool) -> None:
    """Raise a `GenomeLMError` unless the outputs' names tell formats, and nothing is there or it may be replaced."""
    require_suffix(out, suffixes)
    refuse_existing(out, force)
    if figure is not None:
        from genome_lm.report.mutagenesis import FORMATS

        require_suffix(figure, FORMATS)
        refuse_existing(figure, force)


@contextmanager
def opened_region(region: str, genome: Path | None, fasta: Path | None) -> "Iterator[tuple[GenomeStore, Interval]]":
    """The genome that a region lies in, as long as the context lasts, and the region.

    Raises:
        GenomeLMError: Unless there is one source of bases, and the region lies in it.
    """
    from genome_lm.genome import GenomeStore, Interval, build_store
    from genome_lm.inference.mutagenesis import parse_region

    with TemporaryDirectory(prefix="genome-lm-") as folder:
        if genome is not None and fasta is None:
            store = GenomeStore(genome)
        elif fasta is not None and genome is None:
            store = build_store([fasta], Path(folder) / "g.zarr")
        else:
            raise GenomeLMError("give either --genome or --fasta")
        yield store, Interval(*parse_region(region, store))


def write_outputs(
    result: Any,
    out: Path,
    figure: Path | None,
    write: Callable[[Path, Any], None],
    draw: Callable[[Path, Any], None] | None,
) -> str:
    """Write a result and its figure, both or neither; what was written, in words.

    `draw` is for a figure alone: its libraries take 150 MB, which nothing else should have to load.
    """
    is_folder = out.suffix == ".zarr"
    files = [path for path in (figure, None if is_folder else out) if path is not None]
    with replacing(files, [out] if is_folder else []) as new:
        write(new[-1], result)
        if figure is not None and draw is not None:
            draw(new[0], result)
    return f"wrote {out}" + (f" and {figure}" if figure else "")
