"""Runs the stages one after the other, each in a process with a deadline, and writes what they found after each."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from genome_lm import __version__
from genome_lm.files import replacing_file
from genome_lm.gpukit.forms import FORMS

SCHEMA = 1
_LEAST_SECONDS = 3.0
"""A stage for which there is less time left is not begun."""
_ERROR_LINES = 8
_CORES = 8
"""Cores with which the limits of the stages do; they are longer on a machine with fewer."""


class Stage(NamedTuple):
    """A stage of the kit.

    Attributes:
        module: Its module, with a function `run`.
        seconds: Its limit in the full form.
        interpreted: Whether its kernels run in Triton's interpreter where there is no GPU.
    """

    module: str
    seconds: float
    interpreted: bool = False


STAGES = {
    "machine": Stage("genome_lm.gpukit.stages.machine", 90),
    "compile": Stage("genome_lm.gpukit.stages.compilation", 120),
    "kernels": Stage("genome_lm.gpukit.stages.kernels", 90, interpreted=True),
    "attention": Stage("genome_lm.gpukit.stages.attention", 90),
    "model": Stage("genome_lm.gpukit.stages.model", 90),
    "training": Stage("genome_lm.gpukit.stages.training", 100),
    "bench_conv": Stage("genome_lm.gpukit.stages.bench_conv", 100, interpreted=True),
    "bench_block": Stage("genome_lm.gpukit.stages.bench_block", 60),
    "bench_step": Stage("genome_lm.gpukit.stages.bench_step", 80),
    "generation": Stage("genome_lm.gpukit.stages.generation", 80),
    "use": Stage("genome_lm.gpukit.stages.use", 60),
}
"""In the order in which they run: what is proved first is what the later ones stand on.

The limits are what a stage may take where something goes wrong. Together they are longer than the deadline.
"""


@dataclass(frozen=True)
class Options:
    """How the kit runs.

    Attributes:
        form: Name of its sizes.
        device: "cuda", or "cpu" for the toy form.
        deadline: Seconds after which it has ended, whatever happens.
        expected: See `genome_lm.gpukit.kit.Kit`.
        fasta: See there.
        commit: Of the source, to be recorded.
    """

    form: str = "full"
    device: str = "cuda"
    deadline: float = 560.0
    expected: Path | None = None
    fasta: Path | None = None
    commit: str | None = None


def run_kit(
    out: Path,
    options: Options,
    stages: dict[str, Stage] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run stages, and write one file of results, which is whole after each of them.

    Args:
        out: The file, JSON.
        options: How to run.
        stages: By name; None for all.
        say: Takes a line whenever a stage ends.

    Returns:
        What the file holds: `stages` with `passed`, `seconds` and `cases` of each, `complete` once all have ended,
        and `passed` if every one has.
    """
    stages = STAGES if stages is None else stages
    start = time.monotonic()
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "genome_lm": __version__,
        "commit": options.commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "form": options.form,
        "device": options.device,
        "complete": False,
        "passed": False,
        "stages": {},
    }
    with tempfile.TemporaryDirectory(prefix="gpukit-") as scratch:
        for name, stage in stages.items():
            left = options.deadline - (time.monotonic() - start)
            limit = stage.seconds * FORMS[options.form].seconds * max(1.0, _CORES / (os.cpu_count() or 1))
            outcome = _run_stage(name, stage, options, min(left, limit), scratch)
            results["stages"][name] = outcome
            _write(out, results)
            say(_line(name, outcome))
    results["complete"] = True
    results["passed"] = all(outcome["passed"] for outcome in results["stages"].values())
    _write(out, results)
    return results


def _run_stage(name: str, stage: Stage, options: Options, limit: float, scratch: str) -> dict[str, Any]:
    """A stage in a process of its own: whether it passed, its seconds, its cases, and its error if it failed."""
    if limit < _LEAST_SECONDS:
        return {"passed": False, "seconds": 0.0, "cases": [], "error": ["no time was left"]}
    folder, cases = Path(scratch, name), Path(scratch, f"{name}.jsonl")
    folder.mkdir()
    cases.touch()
    paths = {key: str(value) if value else None for key, value in asdict(options).items() if key in _PATHS}
    arguments = {
        "form": options.form, "device": options.device, "folder": str(folder), "results": str(cases), **paths,
    }  # fmt: skip
    start = time.monotonic()
    command = [sys.executable, "-m", "genome_lm.gpukit.stage", stage.module, json.dumps(arguments)]
    errors = folder / "stderr"
    with errors.open("w", encoding="utf-8") as stderr:
        status = _wait(command, _environment(stage, options, scratch), limit, stderr)
    finished = list(_whole_lines(cases))
    outcome = {
        "passed": status == 0 and bool(finished) and all(case["passed"] for case in finished),
        "seconds": round(time.monotonic() - start, 1),
        "cases": finished,
    }
    if status != 0:
        last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_ERROR_LINES:]
        outcome["error"] = [f"stopped after {limit:.0f} s" if status is None else f"exit status {status}", *last]
    return outcome


_PATHS = "expected", "fasta"


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Cases of a file, but for a last line that was being written when its process was killed."""
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def _environment(stage: Stage, options: Options, scratch: str) -> dict[str, str]:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(Path(scratch, "triton"))}
    environment.pop("TRITON_INTERPRET", None)
    if stage.interpreted and options.device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    return environment


def _wait(command: Sequence[str], environment: dict[str, str], limit: float, stderr: Any) -> int | None:
    """Exit status of a process; None if it was killed at its limit, with all that it had started."""
    process = subprocess.Popen(command, env=environment, stderr=stderr, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _write(out: Path, results: dict[str, Any]) -> None:
    with replacing_file(out) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _line(name: str, outcome: dict[str, Any]) -> str:
    verdict = "passed" if outcome["passed"] else "FAILED"
    return f"{name}: {verdict}, {len(outcome['cases'])} cases, {outcome['seconds']:.0f} s"
