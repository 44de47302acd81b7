"""Proves the GPU path on this machine in one command: `python -m tests.gpu.kit --out results.json`.

It ends within the deadline, rewrites the file of results after each stage, and prints in a last table what passed.
Exit status: 0 if all passed, else 1. `--form toy --device cpu` tries the kit itself without a GPU.
"""

import argparse
import sys
from pathlib import Path

from genome_lm.gpukit import FORMS, STAGES, Options, run_kit, summary
from tests.gpu.pack import FOLDER, ROOT, commit

FASTA = ROOT / "data_manifests" / "ecoli_k12_mg1655.fa.gz"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="File of results, JSON.")
    parser.add_argument("--deadline", type=float, default=560.0, help="Seconds.")
    parser.add_argument("--form", choices=FORMS, default="full")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES))
    given = parser.parse_args(arguments)
    options = Options(given.form, given.device, given.deadline, _expected(given.form), _fasta(given.form), _commit())
    results = run_kit(given.out, options, {name: STAGES[name] for name in given.stages})
    print(f"\n{summary(results)}\nwrote {given.out}")
    return 0 if results["passed"] else 1


def _expected(form: str) -> Path | None:
    """The packed float64 results, which are those of the full form."""
    path = FOLDER / "expected.safetensors"
    return path if form == "full" and path.exists() else None


def _fasta(form: str) -> Path | None:
    return FASTA if form == "full" else None


def _commit() -> str | None:
    """As git has it, or as packed where the tree was copied without it."""
    packed = FOLDER / "commit"
    return commit() or (packed.read_text() if packed.exists() else None)


if __name__ == "__main__":
    sys.exit(main())
