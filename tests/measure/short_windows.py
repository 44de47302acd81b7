"""Speed of training and embedding at short windows, beside that of another version of this code, in turn.

    git worktree add --detach /tmp/base REVISION
    python -m tests.measure.short_windows /tmp/base [work …] [--rounds 5] [--threads 2]

Each version runs in a process of its own, which waits while the other one works. A turn of a training is some steps
of a whole run, with its loop, logs and data. A turn of an embedding is the command `genome-lm embed` of 1,000 random
sequences of 1,024 bases, without the start of Python. Prints for each work the median over rounds of the time there
over the time here, by the clock and by processor time. The first turn of each work is left out.

`--precision bf16-mixed` of trainings, `bf16` or `int8` of embeddings is for this version alone: the other one
computes in float32. With this same tree in the place of the other one, it compares the precisions.

`--profile` instead lists the functions of this version's main thread that take the most time of a work.
"""

import argparse
import cProfile
import importlib.util
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

TREE = Path(__file__).parents[2]
DEMO = {
    "d_model": 128, "n_layer": 3, "max_length": 1_024, "embed_dropout": 0.0, "ngram_order": 6,
    "layout": "hyena-se,hyena-mr,attention",
}  # fmt: skip


class Training(NamedTuple):
    """A training, and how many of its steps are a turn."""

    model: str | dict[str, Any]
    window: int
    tokens: int  # bases of a step
    steps: int
    optimizer: str = "muon"


TRAININGS = {
    "train-demo-256": Training(DEMO, 256, 4_096, 20),
    "train-demo-1024": Training(DEMO, 1_024, 4_096, 20),
    "train-tiny-1k-1024": Training("tiny-1k", 1_024, 4_096, 20, "adamw"),
    "train-hybrid-2m-1024": Training("hybrid-2m", 1_024, 16_384, 2),
    "train-hybrid-2m-4096": Training("hybrid-2m", 4_096, 16_384, 2),
    "train-small-32k-32768": Training("small-32k", 32_768, 32_768, 1, "adamw"),
}
EMBEDDINGS = {"embed-bacteria-900k": "bacteria-900k", "embed-hybrid-2m": "hybrid-2m"}
SEQUENCES, LENGTH = 1_000, 1_024


def train(work: Training, precision: str, folder: Path, turn: Callable[[], None]) -> None:
    """Train until `turn` raises, which is called before the first step and after each turn."""
    from genome_lm.config import PRESETS, ModelConfig
    from genome_lm.genome import build_store
    from genome_lm.mixture_config import one_source
    from genome_lm.training import TrainingConfig
    from genome_lm.training.callbacks import Log
    from genome_lm.training.run import train as run

    write_fasta(folder / "in.fa", 1, 1_000_000)
    build_store([folder / "in.fa"], folder / "genome.zarr")
    (folder / "splits.bed").write_text("0\t0\t900000\ttrain\n0\t910000\t1000000\tvalid\n", encoding="utf-8")
    recipe = TrainingConfig.from_dict(
        {
            "stages": [[work.window, 100_000]], "tokens_per_step": work.tokens, "optimizer": work.optimizer,
            "valid_every": 100_000, "checkpoint_every": 100_000, "precision": precision,
        }
    )  # fmt: skip
    end_of_step = Log.on_train_batch_end

    def wait(self: Log, trainer: Any, system: Any, outputs: Any, batch: Any, index: int) -> None:
        end_of_step(self, trainer, system, outputs, batch, index)
        if (index + 1) % work.steps == 0:
            turn()

    Log.on_train_batch_end = wait  # type: ignore[method-assign]
    shape = PRESETS[work.model] if isinstance(work.model, str) else work.model
    data = one_source(folder / "genome.zarr", folder / "splits.bed")
    run(data, folder / "run", ModelConfig.from_dict(shape), recipe)


def embed(name: str, precision: str, folder: Path, turn: Callable[[], None]) -> None:
    """Embed until `turn` raises, which is called before each time."""
    from genome_lm.checkpoint import save_checkpoint
    from genome_lm.config import PRESETS
    from genome_lm.gpukit.expected import random_model
    from genome_lm_cli.main import app

    model = name
    if name in PRESETS:
        model = str(folder / "model")
        save_checkpoint(folder / "model", random_model(PRESETS[name]))
    write_fasta(folder / "in.fa", SEQUENCES, LENGTH)
    files = ["--fasta", str(folder / "in.fa"), "--out", str(folder / "out.npz")]
    options = [] if precision == "float32" else ["--precision", precision]  # older versions have no such option
    while True:
        turn()
        app(args=["embed", model, *files, *options, "--force"], standalone_mode=False)


def write_fasta(path: Path, count: int, length: int) -> None:
    """Random sequences, named by their numbers."""
    import numpy as np

    bases = np.random.default_rng(0).choice(list("ACGT"), (count, length))
    path.write_text("".join(f">{number}\n{''.join(row)}\n" for number, row in enumerate(bases)), encoding="utf-8")


def child(tree: Path, work: str, threads: int, precision: str) -> None:
    """Do the work of a version; a turn ends with a line of its times, and each waits for a line."""
    sys.path[0] = str(tree)
    spec = importlib.util.spec_from_file_location("genome_lm_cli", tree / "cli" / "__init__.py")
    assert spec is not None
    sys.modules["genome_lm_cli"] = importlib.util.module_from_spec(spec)
    from genome_lm.allocator import keep_freed_memory
    from genome_lm.threads import limit_threads

    os.environ["OMP_NUM_THREADS"] = str(threads)
    limit_threads()
    keep_freed_memory()
    import genome_lm

    if not Path(str(genome_lm.__file__)).is_relative_to(tree):
        raise SystemExit(f"{genome_lm.__file__} was imported in place of what is in {tree}")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start: list[float] = []

    def turn() -> None:
        now = [time.perf_counter(), time.process_time()]
        answers.write(json.dumps([b - a for a, b in zip(start, now, strict=False)]) + "\n")
        answers.flush()
        if not sys.stdin.readline():
            os._exit(0)
        start[:] = [time.perf_counter(), time.process_time()]

    with tempfile.TemporaryDirectory() as folder:
        _do(work, precision, Path(folder), turn)


def _do(work: str, precision: str, folder: Path, turn: Callable[[], None]) -> None:
    if work in TRAININGS:
        train(TRAININGS[work], precision, folder, turn)
    else:
        embed(EMBEDDINGS[work], precision, folder, turn)


@contextmanager
def running(tree: Path, work: str, threads: int, precision: str) -> Iterator[Callable[[], tuple[float, float]]]:
    """A version at its work: what gives the seconds and the processor time of its next turn."""
    options = ["--threads", str(threads), "--precision", precision]
    command = [sys.executable, __file__, "--child", str(tree), work, *options]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def answer() -> list[float]:
            if not (line := stdout.readline()):
                log.seek(0)
                raise SystemExit(f"{tree}, {work}:\n{log.read().decode(errors='replace')}")
            values: list[float] = json.loads(line)
            return values

        def next_turn() -> tuple[float, float]:
            stdin.write("\n")
            stdin.flush()
            seconds, processor = answer()
            return seconds, processor

        answer()
        next_turn()
        yield next_turn
        stdin.close()


def compare(base: Path, work: str, rounds: int, threads: int, precision: str) -> str:
    """A row of the table."""
    with running(base, work, threads, "float32") as there, running(TREE, work, threads, precision) as here:
        times = [(there(), here()) for _ in range(rounds)]
    by_clock, by_processor = (statistics.median(old[k] / new[k] for old, new in times) for k in range(2))
    old, new = (statistics.median(time[way][0] for time in times) for way in range(2))
    return f"| {work} | {by_clock:.2f} | {by_processor:.2f} | {old:.2f} s | {new:.2f} s |"


def profile(work: str, precision: str, turns: int) -> None:
    """Print what takes the time of some turns in this process."""
    profiler, done = cProfile.Profile(), [0]

    class Done(BaseException):
        pass

    def turn() -> None:
        profiler.disable()
        done[0] += 1
        if done[0] > turns + 1:
            raise Done
        if done[0] > 1:
            profiler.enable()

    with tempfile.TemporaryDirectory() as folder:
        try:
            _do(work, precision, Path(folder), turn)
        except Done:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="the other version's tree")
    parser.add_argument("works", nargs="*", help=f"of {', '.join([*TRAININGS, *EMBEDDINGS])}; all without any")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["float32", "bf16-mixed", "bf16", "int8"], default="float32")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    works = options.works or [*TRAININGS, *EMBEDDINGS]
    if options.child:
        child(options.base.resolve(), works[0], options.threads, options.precision)
        return
    if options.profile:
        profile(works[0], options.precision, options.rounds)
        return
    print("| work | times as fast | by processor time | there | here |\n| --- | --- | --- | --- | --- |", flush=True)
    for work in works:
        row = compare(options.base.resolve(), work, options.rounds, options.threads, options.precision)
        print(row, flush=True)


if __name__ == "__main__":
    main()
