"""The model beside Markov chains."""

from dataclasses import asdict

from genome_lm.evaluation.analysis import Analysis, Row, Setting, Tables
from genome_lm.evaluation.measures import draw_bars
from genome_lm.evaluation.perplexity import evaluate_perplexity


def _run(setting: Setting) -> Tables:
    given, bases = setting.given, setting.number(400_000)
    scores = evaluate_perplexity(setting.lm, given.store, given.intervals, given.split, max_bases=bases)
    return Tables([{**asdict(each), "targets": scores.targets} for each in (scores.model, *scores.baselines)])


def _draw(rows: list[Row]) -> str:
    names = [row["name"] for row in rows]
    return draw_bars(rows, names, "bits_per_base", [name != "model" for name in names])


ANALYSIS = Analysis(
    words="Bits per base against Markov chains fitted on the training split; lower is better.", run=_run, draw=_draw
)
