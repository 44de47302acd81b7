"""Memory and time of reading made tables of several sizes, of `dataset audit` on them, and of a frozen tuning.

python -m tests.measure.labelled_sets 50000 200000 1000000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genome_lm.checkpoint import save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.dataset import find_leaks, read_examples
from genome_lm.finetune.resume import data_digest
from genome_lm.finetune.targets import class_weights, encode_examples, output_names
from genome_lm.model import HeadConfig, HyenaLM

LENGTH = 500
PEAK = (
    "import atexit, os; from genome_lm.machine import peak_memory;"
    "atexit.register(lambda: print(peak_memory(), file=open(os.environ['PEAK'], 'w')));"
)
"""The process itself tells its peak: what the system tells its parent begins with the memory of that."""
RUN = f"{PEAK} from genome_lm_cli.main import run; run()"
READ = f"{PEAK} import sys; from tests.measure.labelled_sets import read; read(sys.argv[1])"
TOGETHER = 50_000


def make(path: Path, windows: int) -> None:
    """Windows of random bases, one of two classes richer in G and C; a tenth each for validation and test."""
    generator = np.random.default_rng(0)
    splits = np.array([*["train"] * 8, "valid", "test"])
    writer = None
    for first in range(0, windows, TOGETHER):
        numbers = np.arange(first, min(windows, first + TOGETHER))
        labels = generator.integers(2, size=len(numbers))
        draws = generator.random((len(numbers), LENGTH), dtype=np.float32)
        bounds = np.array([0.25, 0.5, 0.75]) + labels[:, None] * np.array([-0.02, 0.0, 0.02])
        codes = sum((draws > bounds[:, [k]]).astype(np.uint8) for k in range(3))
        texts = [row.tobytes().decode() for row in np.frombuffer(b"ACGT", dtype=np.uint8)[codes]]
        table = pa.table({"sequence": texts, "label": labels, "split": splits[numbers % 10]})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def measured(folder: Path, code: str, *arguments: str | Path) -> dict[str, float]:
    """Peak memory in MiB, and seconds, of a Python program; an audit that fails a check is fine."""
    begun = time.perf_counter()
    environment = {**os.environ, "PEAK": str(folder / "peak")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode > ("audit" in arguments):
        raise SystemExit(f"{command} failed")
    return {"peak_mib": int((folder / "peak").read_text()) >> 20, "seconds": round(time.perf_counter() - begun)}


def read(path: str) -> None:
    """What a tuning does before its model sees a sequence, the rules for shortcuts left out."""
    labelled = read_examples(Path(path))
    leaks = find_leaks(labelled.examples)
    digest = data_digest(labelled)
    train = labelled.of_split("train")
    head = HeadConfig("classification", output_names(train, "classification"), "mean")
    data = encode_examples(train, head, LENGTH)
    print(len(leaks), digest, data.tokens[len(data.tokens) - 1].sum(), class_weights(data, head))


def main() -> None:
    """Print a line of JSON per size and command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("windows", type=int, nargs="+", help="sizes of the tables")
    parser.add_argument("--only", choices=["read", "audit", "finetune"], help="one of the commands")
    options = parser.parse_args()
    for windows in options.windows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(folder / "t.parquet", windows)
            shape = ModelConfig(d_model=16, n_layer=1, max_length=LENGTH + 2)
            save_checkpoint(folder / "model", HyenaLM(shape), {})
            tuning = [RUN, "finetune", folder / "model", "--data", folder / "t.parquet"]
            tuning += ["--task", "classification", "--method", "frozen", "--epochs", "1", "--out", folder / "tuned"]
            commands = {
                "read": [READ, folder / "t.parquet"],
                "audit": [RUN, "dataset", "audit", folder / "t.parquet"],
                "finetune": tuning,
            }
            for command, arguments in commands.items():
                if options.only in (None, command):
                    print(
                        json.dumps({"windows": windows, "command": command, **measured(folder, *arguments)}),
                        flush=True,
                    )


if __name__ == "__main__":
    main()
