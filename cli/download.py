"""`genome-lm download`: the files of a manifest."""

from pathlib import Path
from typing import Annotated

import typer

from genome_lm.files import replacing_file
from genome_lm_cli.output import say


def download(
    manifest: Annotated[Path, typer.Argument(help="Manifest of a genome (see data_manifests/).", metavar="YAML")],
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="DIR")],
    listing: Annotated[
        Path | None, typer.Option("--list", help="Also write the files' paths here, a line each.", metavar="TXT")
    ] = None,
) -> None:
    """Download a genome; resumes where it was cut off, and verifies checksums.

    Example: genome-lm download data_manifests/hg38.yaml --out genomes/hg38
    """
    from genome_lm.download import download, read_manifest

    paths = []
    for source in read_manifest(manifest).files:
        paths.append(path := download(source, out / source.name))
        checked = "checksum verified" if source.sha256 or source.md5 else "no checksum known"
        say(f"wrote {path}: {path.stat().st_size:,} bytes, {checked}")
    if listing is not None:
        with replacing_file(listing) as temporary:
            temporary.write_text("".join(f"{path}\n" for path in paths))
