"""The model beside Markov chains."""

from dataclasses import asdict

from genome_lm.evaluation.analysis import Analysis, Row, Setting, Tables
from genome_lm.evaluation.measures import draw_compared
from genome_lm.evaluation.perplexity import Scoring, evaluate_perplexity


def _run(setting: Setting) -> Tables:
    given, bases = setting.given, setting.number(400_000)
    scores = evaluate_perplexity(setting.lm, given.store, given.intervals, Scoring(given.split, max_bases=bases))
    rows = [{**asdict(each), "targets": scores.targets} for each in (scores.model, *scores.baselines)]
    for row in rows:
        row[scores.measure] = row.pop("perplexity")
    return Tables(rows)


def _draw(rows: list[Row]) -> str:
    ranked = sorted(rows, key=lambda row: row["bits_per_base"])
    names = [row["name"] for row in ranked]
    is_baseline = [name != "model" for name in names]
    return draw_compared(ranked, names, "bits_per_base", "bits per base, lower is better", is_baseline)


ANALYSIS = Analysis(
    words="Bits per base against Markov chains fitted on the training split; lower is better. A model that reads "
    "both ways has a pseudo-perplexity, beside uniform guessing alone, since it sees what follows.",
    run=_run,
    draw=_draw,
)
