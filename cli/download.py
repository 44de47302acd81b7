"""`genome-lm download`: the files of a genome."""

from pathlib import Path
from typing import Annotated

import typer

from genome_lm_cli.options import Json
from genome_lm_cli.output import finish


def download(
    genome: Annotated[
        str,
        typer.Argument(
            help="Name of a genome that is known here (hg38), NCBI accession (GCF_000005845.2), ucsc:NAME or "
            "ensembl:NAME, or a manifest (NAME.yaml).",
            metavar="GENOME",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="DIR")],
    listing: Annotated[
        Path | None, typer.Option("--list", help="Also write the files' paths here, a line each.", metavar="TXT")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a genome; resumes where it was cut off, and verifies checksums. With --json, a line a file.

    All files get their names when the last one is whole. NCBI's and Ensembl's genomes come with their annotation
    (GFF3). The variable NCBI_API_KEY holds your key to NCBI, if you have one.

    Example: genome-lm download GCF_000005845.2 --out genomes/ecoli
    """
    from genome_lm.assemblies import genome_sources
    from genome_lm.download import download_all

    files = {out / source.name: source for source in genome_sources(genome)}
    download_all(files, listing)
    for path, source in files.items():
        verified = bool(source.sha256 or source.md5)
        size = path.stat().st_size
        text = f"wrote {path}: {size:,} bytes, {'checksum verified' if verified else 'no checksum known'}"
        finish(as_json, text, path=str(path), bytes=size, verified=verified)
