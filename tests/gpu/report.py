"""Turns a file of results into the README's table and into the crossover that chooses between the kernels.

`python -m tests.gpu.report results.json` prints the table. With `--write` the table goes between the README's two
marks and that of blocks between those of docs/gpu.md, the crossover goes into
genome_lm/kernels/triton/crossover.json, and the file itself goes into tests/gpu/results, under the card's name.
"""

import argparse
import json
import re
import shutil
import sys
from itertools import product
from pathlib import Path
from typing import Any

from genome_lm.gpukit import FORMS
from tests.gpu.pack import ROOT
from tests.measure.block_costs import DIRECTIONS as PASSES
from tests.measure.block_costs import milliseconds

README = ROOT / "README.md"
BLOCKS = ROOT / "docs" / "gpu.md"
CROSSOVER = ROOT / "genome_lm" / "kernels" / "triton" / "crossover.json"
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
DIRECTIONS = "forward", "training"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(arguments)
    results = json.loads(given.results.read_text())
    if results["device"] != "cuda" or not card(results):
        sys.exit(f"{given.results}: not from a GPU")
    print(f"{table(results)}\n\n{block_table(results)}")
    if given.write:
        for page, text in ((README, table(results)), (BLOCKS, block_table(results))):
            page.write_text(with_table(page, text))
        if reason := unproven(results):
            print(f"\n{CROSSOVER} stays as it is: {reason}")
        else:
            CROSSOVER.write_text(json.dumps(crossover(results), indent=1) + "\n")
        RESULTS.mkdir(exist_ok=True)
        target = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', card(results).lower()).strip('-')}.json"
        if given.results.resolve() != target.resolve():
            shutil.copyfile(given.results, target)
        print(f"\nwrote {README}, {BLOCKS} and {target}")


def card(results: dict[str, Any]) -> str:
    """Name of the GPU; empty if there was none."""
    return str(next((case["gpu"] for case in _cases(results, "machine") if "gpu" in case), ""))


def crossover(results: dict[str, Any]) -> dict[str, Any]:
    """Shortest and longest length at which our kernels were faster than torch.fft, by dtype and direction.

    Of the lengths in their order, the longest run of faster ones counts; from the shortest length measured on, it
    counts from 1 on. Both lengths are 0 where torch.fft was always faster. So it is with the products with Toeplitz
    matrices, beside our FFTs.
    """
    faster, measured = {}, {}
    for direction, dtype in product(DIRECTIONS, ("bfloat16", "float32")):
        rows = sorted(
            (case["shape"][2], case["shape"], case[direction])
            for case in _cases(results, "bench_conv")
            if case.get("dtype") == dtype and direction in case
        )
        name = f"{dtype} {direction}"
        measured[name] = [shape for _, shape, _ in rows]
        faster[name] = _longest_run([(length, _is_faster(times, "triton", "torch.fft")) for length, _, times in rows])
        both = [(length, times) for length, _, times in rows if "triton, products" in times]
        if both:
            faster[f"{name}, products"] = _longest_run(
                [(length, _is_faster(times, "triton, products", "triton, FFTs")) for length, times in both]
            )
    about = {"card": card(results), "date": results["date"][:10], "commit": results["commit"]}
    return {**about, "measured": measured, "faster": faster}


def _is_faster(times: dict[str, list[float]], side: str, other: str) -> bool:
    return _median(times, side) < _median(times, other)


def _longest_run(rows: list[tuple[int, bool]]) -> tuple[int, int]:
    """First and last length of the longest run of faster ones; the first of all lengths counts as 1."""
    best, run = [], []
    for length, is_faster in rows:
        run = [*run, length] if is_faster else []
        best = max(best, run, key=len)
    if not best:
        return 0, 0
    return 1 if best[0] == rows[0][0] else best[0], best[-1]


def unproven(results: dict[str, Any]) -> str:
    """Why the results do not decide between the kernels; empty if they do."""
    if results["form"] != "full" or not results["complete"]:
        return "not of a complete run of the full form"
    if not results["stages"]["kernels"]["passed"]:
        return "the kernels did not all compute right"
    timed = [case for case in _cases(results, "bench_conv") if all(direction in case for direction in DIRECTIONS)]
    if len(timed) < 2 * len(FORMS["full"].timed):
        return "not all shapes were timed"
    return ""


def _median(times: dict[str, list[float]], side: str) -> float:
    return times[side][1]


def table(results: dict[str, Any]) -> str:
    """Measured times of the operator between its projections and of whole models, as Markdown."""
    verdict = "passed" if results["passed"] else "did not all pass"
    stages = len(results["stages"])
    commit = (results["commit"] or "unknown")[:7]
    lines = [
        f"{card(results)}, {results['date'][:10]}, commit {commit}; {stages} stages of the kit {verdict}. "
        "Medians in ms, sides in turns.",
        "",
        "| what | sequences × channels × bases | precision | Triton | torch.fft | ratio | of the copy rate |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for case in _cases(results, "bench_conv"):
        for direction in DIRECTIONS:
            if direction in case:
                times, moved = case[direction], case[f"{direction} counted"]["triton"]["GB"]
                share = _share(results, moved, _median(times, "triton"))
                lines.append(_row(f"between projections, {direction}", case, case["dtype"], times) + f" {share} |")
    for case in _cases(results, "bench_step"):
        if "ms" in case:
            what = f"model of {case['layers']} layers, {case['direction']}"
            lines.append(_row(what, case, "bf16-mixed", case["ms"]) + " |")
    return "\n".join(lines)


def _row(what: str, case: dict[str, Any], precision: str, times: dict[str, list[float]]) -> str:
    mine, theirs = _median(times, "triton"), _median(times, "torch.fft")
    shape = " × ".join(f"{size:,}" for size in case["shape"])
    return f"| {what} | {shape} | {precision} | {mine:.3g} | {theirs:.3g} | {theirs / mine:.2f} |"


def _share(results: dict[str, Any], moved: float, milliseconds: float) -> str:
    """Rate of so many gigabytes, as a part of what a copy on the card came to; empty if no copy was measured."""
    rates = [case["TB_per_s"] for case in _cases(results, "machine") if "TB_per_s" in case]
    return f"{100 * moved / milliseconds / rates[0]:.0f} %" if rates else ""


def block_table(results: dict[str, Any]) -> str:
    """Measured times of whole blocks, forward and backward, beside those of the counts."""
    lines = [
        f"{card(results)}, {results['date'][:10]}. Medians of the forward and the backward pass in ms per layer and "
        "million positions.",
        "",
        "| channels | positions | sequences | ours | counted | torch.fft | counted |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in _cases(results, "bench_block"):
        if "training" in case:
            batch, width, length = case["shape"]
            cells = []
            for side, scheme in (("triton", "ours"), ("torch.fft", "eager, torch.fft")):
                measured = _median(case["training"], side) / (batch * length) * 1e6
                counted = sum(milliseconds(scheme, length, width, backward) for backward in PASSES)
                cells += [f"{measured:.1f}", f"{counted:.1f}"]
            lines.append(f"| {width} | {length:,} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(page: Path, text: str) -> str:
    """A page with a table between its two marks."""
    whole = page.read_text()
    if whole.count(BEGIN) != 1 or whole.count(END) != 1:
        sys.exit(f"{page}: needs the marks {BEGIN} and {END} once each")
    before, rest = whole.split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def _cases(results: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    return list(results["stages"].get(stage, {}).get("cases", []))


if __name__ == "__main__":
    main()
