"""`genome-lm download`: the files of a manifest."""

from pathlib import Path
from typing import Annotated

import typer

from genome_lm_cli.options import Json
from genome_lm_cli.output import finish


def download(
    manifest: Annotated[Path, typer.Argument(help="Manifest of a genome (see data_manifests/).", metavar="YAML")],
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="DIR")],
    listing: Annotated[
        Path | None, typer.Option("--list", help="Also write the files' paths here, a line each.", metavar="TXT")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a genome; resumes where it was cut off, and verifies checksums. With --json, a line a file.

    All files get their names when the last one is whole.

    Example: genome-lm download data_manifests/hg38.yaml --out genomes/hg38
    """
    from genome_lm.download import download_all
    from genome_lm.manifests import read_manifest

    files = {out / source.name: source for source in read_manifest(manifest).files}
    download_all(files, listing)
    for path, source in files.items():
        verified = bool(source.sha256 or source.md5)
        size = path.stat().st_size
        text = f"wrote {path}: {size:,} bytes, {'checksum verified' if verified else 'no checksum known'}"
        finish(as_json, text, path=str(path), bytes=size, verified=verified)
