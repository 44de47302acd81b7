"""`genome-lm download`: the files of a manifest."""

from pathlib import Path
from typing import Annotated

import typer

from genome_lm.files import replacing_file
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

    Example: genome-lm download data_manifests/hg38.yaml --out genomes/hg38
    """
    from genome_lm.download import download, read_manifest

    paths = []
    for source in read_manifest(manifest).files:
        paths.append(path := download(source, out / source.name))
        checked = "checksum verified" if source.sha256 or source.md5 else "no checksum known"
        text = f"wrote {path}: {path.stat().st_size:,} bytes, {checked}"
        verified = bool(source.sha256 or source.md5)
        finish(as_json, text, path=str(path), bytes=path.stat().st_size, verified=verified)
    if listing is not None:
        with replacing_file(listing) as temporary:
            temporary.write_text("".join(f"{path}\n" for path in paths))
