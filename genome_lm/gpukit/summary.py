"""The last table of a run: what passed, what did not, and why."""

from typing import Any

_SHOWN = 4
"""Problems of a stage that are shown; the file of results has all."""


def summary(results: dict[str, Any]) -> str:
    """Results of `genome_lm.gpukit.runner.run_kit` as a table with a line per stage, and its problems below it."""
    lines = [f"{'stage':<12} {'verdict':<8} {'cases':>5} {'failed':>6} {'skipped':>7} {'seconds':>7}"]
    for name, outcome in results["stages"].items():
        failed = [case for case in outcome["cases"] if not case["passed"]]
        skipped = sum("skipped" in case for case in outcome["cases"])
        verdict = "passed" if outcome["passed"] else "FAILED"
        counts = f"{len(outcome['cases']):>5} {len(failed):>6} {skipped:>7} {outcome['seconds']:>7.0f}"
        lines.append(f"{name:<12} {verdict:<8} {counts}")
        lines += [f"    {_describe(case)}" for case in failed[:_SHOWN]]
        if len(failed) > _SHOWN:
            lines.append(f"    and {len(failed) - _SHOWN} more")
        lines += [f"    {line}" for line in outcome.get("error", [])]
    lines.append("all passed" if results["passed"] else "NOT all passed")
    return "\n".join(lines)


def _describe(case: dict[str, Any]) -> str:
    facts = {key: value for key, value in case.items() if key in ("shape", "dtype", "length", "kernel", "direction")}
    named = " ".join(f"{key}={value}" for key, value in facts.items())
    return f"{case['what']} {named}: {'; '.join(case['problems'])}"
