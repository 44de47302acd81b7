"""Turns a file of results into the README's table and into the crossover that chooses between the kernels.

`python -m tests.gpu.report results.json` prints the table; with `--write` it goes between the README's two marks, the
crossover into genome_lm/kernels/crossover.json, and the file itself into tests/gpu/results, under the card's name.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.gpu.pack import ROOT

README = ROOT / "README.md"
CROSSOVER = ROOT / "genome_lm" / "kernels" / "crossover.json"
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
    print(table(results))
    if given.write:
        README.write_text(with_table(README.read_text(), table(results)))
        CROSSOVER.write_text(json.dumps(crossover(results), indent=2) + "\n")
        RESULTS.mkdir(exist_ok=True)
        target = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', card(results).lower()).strip('-')}.json"
        if given.results.resolve() != target.resolve():
            shutil.copyfile(given.results, target)
        print(f"\nwrote {README}, {CROSSOVER} and {target}")


def card(results: dict[str, Any]) -> str:
    """Name of the GPU; empty if there was none."""
    return str(next((case["gpu"] for case in _cases(results, "machine") if "gpu" in case), ""))


def crossover(results: dict[str, Any]) -> dict[str, Any]:
    """The longest length up to which our kernels were faster than torch.fft, by dtype and direction.

    A length counts only if all shorter ones that were measured are faster too. 0: at none.
    """
    longest: dict[str, int] = {}
    for direction in DIRECTIONS:
        for dtype in ("bfloat16", "float32"):
            rows = sorted(
                (case["shape"][2], case[direction])
                for case in _cases(results, "bench_conv")
                if case.get("dtype") == dtype and direction in case
            )
            if rows:
                longest[f"{dtype} {direction}"] = _longest_lead(rows)
    return {"card": card(results), "date": results["date"][:10], "commit": results["commit"], "longest": longest}


def _longest_lead(rows: list[tuple[int, dict[str, list[float]]]]) -> int:
    longest = 0
    for length, times in rows:
        if _median(times, "triton") >= _median(times, "torch.fft"):
            break
        longest = length
    return longest


def _median(times: dict[str, list[float]], side: str) -> float:
    return times[side][1]


def table(results: dict[str, Any]) -> str:
    """Measured times of convolutions and of whole models, as Markdown."""
    verdict = "passed" if results["passed"] else "did not all pass"
    stages = len(results["stages"])
    commit = (results["commit"] or "unknown")[:7]
    lines = [
        f"{card(results)}, {results['date'][:10]}, commit {commit}; {stages} stages of the kit {verdict}. "
        "Medians in ms, sides in turns.",
        "",
        "| what | sequences × channels × bases | precision | genome-lm | torch.fft | ratio | of the copy rate |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for case in _cases(results, "bench_conv"):
        for direction in DIRECTIONS:
            if direction in case:
                times, moved = case[direction], case[f"{direction} counted"]["triton"]["GB"]
                share = f"{100 * moved / _copy_rate(results) / _median(times, 'triton'):.0f} %"
                lines.append(_row(f"convolution, {direction}", case, case["dtype"], times, "triton") + f" {share} |")
    for case in _cases(results, "bench_step"):
        if "ms" in case:
            what = f"model of {case['layers']} layers, {case['direction']}"
            lines.append(_row(what, case, "bf16-mixed", case["ms"], "genome-lm") + " |")
    return "\n".join(lines)


def _row(what: str, case: dict[str, Any], precision: str, times: dict[str, list[float]], side: str) -> str:
    mine, theirs = _median(times, side), _median(times, "torch.fft")
    shape = " × ".join(f"{size:,}" for size in case["shape"])
    return f"| {what} | {shape} | {precision} | {mine:.3g} | {theirs:.3g} | {theirs / mine:.2f} |"


def _copy_rate(results: dict[str, Any]) -> float:
    """Terabytes per second, which are gigabytes per millisecond, that a copy on the card came to."""
    return float(next(case["TB_per_s"] for case in _cases(results, "machine") if "TB_per_s" in case))


def with_table(readme: str, text: str) -> str:
    """The README with a table between its two marks."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        sys.exit(f"{README}: needs the marks {BEGIN} and {END} once each")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def _cases(results: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    return list(results["stages"].get(stage, {}).get("cases", []))


if __name__ == "__main__":
    main()
