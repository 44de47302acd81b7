"""Packs what the GPU kit needs on a machine without a network: `python -m tests.gpu.pack`.

The folder `.gpu`, which git ignores, gets wheels for Python 3.12 on Linux x86-64, the package's metadata, float64
results to compare with, and the commit. The machine itself needs torch, triton, numpy, lightning, pyarrow, h5py,
safetensors, typer and pytest.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".gpu"
PYTHON = "3.12"
WHEELS = (
    "zarr", "numcodecs", "google-crc32c", "donfig", "pyfaidx", "biopython", "pysam", "pyBigWig", "gffutils",
    "argh", "argcomplete", "simplejson",
)  # fmt: skip
MOST_BYTES = 40 << 20

INSTALL = "python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .gpu/whl/*.whl"
ENVIRONMENT = "export PYTHONUNBUFFERED=1 PYTHONPATH=/tmp/site:.gpu/site:."
WARM = "python3 -c 'import torch; torch.zeros(1, device=0)'"
"""Reads gigabytes from a disk that nobody has read, outside of the stages' limits."""
KIT = "python3 -m tests.gpu.kit --deadline 560 --out $OUT/kit.json"
PROFILE = "python3 -m tests.gpu.profile --deadline 560 --out $OUT"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", default="full", help="Sizes of the float64 results.")
    parser.add_argument("--no-wheels", action="store_true", help="Leave the wheels as they are.")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if not options.no_wheels:
        download_wheels(FOLDER / "whl")
    write_metadata(FOLDER / "site")
    write_expected(FOLDER / "expected.safetensors", options.form)
    (FOLDER / "commit").write_text(commit())
    packed = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    if packed > MOST_BYTES:
        sys.exit(f"{FOLDER}: {packed / 2**20:.0f} MiB are over the {MOST_BYTES >> 20} that may travel")
    print(f"packed {packed / 2**20:.1f} MiB into {FOLDER}\n")
    print("Copy the tree with .gpu to the machine; there, in its root, with $OUT a folder for what comes back:\n")
    ready = f"{INSTALL};\n{ENVIRONMENT}"
    print(f"{ready}; {WARM}; {KIT}\n\nthen, in a second call:\n\n{ready}; {PROFILE}\n")
    print("and here, with the file that came back:\n\npython -m tests.gpu.report kit.json --write")


def commit() -> str:
    """The commit of the tree, and whether it has changes that are not in it."""
    described = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def download_wheels(folder: Path) -> None:
    """The wheels of `WHEELS`, and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    platforms = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", folder,
            "--python-version", PYTHON, "--implementation", "cp", *(f"--platform={name}" for name in platforms),
            *WHEELS,
        ],
        check=True,
    )  # fmt: skip


def write_metadata(folder: Path) -> None:
    """The package's metadata, by which `importlib.metadata` finds its version and its command."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    code = "import sys; from setuptools.build_meta import prepare_metadata_for_build_wheel as f; f(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for leftover in folder.glob("*.egg-info"):
        shutil.rmtree(leftover)


def write_expected(path: Path, form: str) -> None:
    """Float64 results of the form's model."""
    from genome_lm.gpukit import FORMS
    from genome_lm.gpukit.expected import make_expected, save_expected

    save_expected(path, make_expected(FORMS[form]))


if __name__ == "__main__":
    main()
