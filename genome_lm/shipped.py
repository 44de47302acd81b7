"""Folders that come with genome-lm: manifests and workflow. In a checkout they lie beside the package."""

import filecmp
import shutil
from pathlib import Path

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file

FOLDERS = ("data_manifests", "snakemake")


def shipped_folder(name: str) -> Path:
    """One of `FOLDERS`: where an installation has it, or in the checkout."""
    package = Path(__file__).parent
    installed, checkout = package / name, package.parent / name
    return installed if installed.is_dir() else checkout


def lay_out_workflow(folder: Path) -> int:
    """Copy the workflow and the manifests into a folder, so that `snakemake` can run there.

    Files that are there and alike stay. Nothing is written if one differs.

    Args:
        folder: Made if it is not there.

    Returns:
        How many files were written.

    Raises:
        GenomeLMError: If a file of the same name differs, or can't be written.
    """
    copies = {folder / name / path: shipped_folder(name) / path for name in FOLDERS for path in _files(name)}
    for copy, original in copies.items():
        if copy.exists() and not filecmp.cmp(copy, original, shallow=False):
            raise GenomeLMError(
                f"{copy} is there, and differs from the file that comes with this genome-lm: keep your own "
                "configuration beside the folder snakemake, and give a new folder, or remove this file"
            )
    missing = {copy: original for copy, original in copies.items() if not copy.exists()}
    for copy, original in missing.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(copy) as temporary:
            shutil.copyfile(original, temporary)
    return len(missing)


def _files(name: str) -> list[Path]:
    """The files of a shipped folder, relative to it; not what tools leave behind in a checkout."""
    folder = shipped_folder(name)
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if not any(part.startswith((".", "__")) for part in path.parts)]
