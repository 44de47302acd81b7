"""Conditions of an experiment, compared over seeds and over test windows."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from genome_lm.dataset import LabelledSet
from genome_lm.dataset.baselines import best_logistic
from genome_lm.documents import json_text, read_json
from genome_lm.evaluation.analyses.probes import _Split
from genome_lm.files import replacing_file

RESAMPLES = 2_000
Array = npt.NDArray[np.float64]


class Values(NamedTuple):
    """A measure of one condition: sums over each test window, (seeds, n), and what they are divided by, (n,)."""

    sums: Array
    counts: Array

    @property
    def of_seeds(self) -> Array:
        """(seeds,)"""
        return self.sums.sum(1) / self.counts.sum()

    def resampled(self) -> Array:
        """(RESAMPLES,) means over seeds, on windows drawn with replacement; the same windows for each condition."""
        size = len(self.counts)
        draws = np.random.default_rng(0).integers(size, size=(RESAMPLES, size))
        return self.sums.mean(0)[draws].sum(1) / self.counts[draws].sum(1)


Results = dict[str, dict[str, Values]]
"""By condition and measure."""


def kept(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in a file, which is computed and written if it is missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary:
            temporary.write_text(json_text(compute(), indent=None) + "\n", encoding="utf-8")
    values: dict[str, Any] = read_json(path)
    return values


def gathered(scores: Mapping[str, Sequence[dict[str, Any]]]) -> Results:
    """Put together what the seeds of each condition gave: by measure, its "sums" and "counts" of windows."""
    return {
        condition: {
            measure: Values(
                np.array([seed[measure]["sums"] for seed in seeds], dtype=float),
                np.array(seeds[0][measure]["counts"], dtype=float),
            )
            for measure in seeds[0]
        }
        for condition, seeds in scores.items()
    }


def probed(labelled: LabelledSet, embed: Callable[[list[str]], Any]) -> npt.NDArray[np.int64]:
    """Whether logistic regression on what `embed` gives of the sequences, (n, d), is right about each test window."""
    sets = _Split.of(labelled, 0)
    train, valid, test = (np.asarray(embed([example.sequence for example in part])) for part in sets.examples)
    classifier, _ = best_logistic((train, valid), sets.targets[:2], 0)
    return np.asarray(classifier.predict(test) == sets.targets[2]).astype(np.int64)


def is_accuracy(measure: str) -> bool:
    """Whether a measure is shown in percent, by its name; others are bits per base."""
    return measure.startswith(("probe", "tuned"))


def shown(values: Array, measure: str) -> str:
    """Mean over seeds and the half of its 95 % interval (Student's t); accuracies in percent."""
    scale, digits = (100, 1) if is_accuracy(measure) else (1, 4)
    text = f"{scale * values.mean():.{digits}f}"
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        text += f" ± {scale * half:.{digits}f}"
    return text


def difference(one: Values, other: Values, measure: str) -> str:
    """Thousandths of a bit, or percent; with the interval over windows, bold if it exceeds both spreads."""
    scale, digits = (100, 1) if is_accuracy(measure) else (1_000, 1)
    low, high = np.quantile(one.resampled() - other.resampled(), [0.025, 0.975]) * scale
    of_seeds = stats.ttest_ind(one.of_seeds, other.of_seeds, equal_var=False).confidence_interval(0.95)
    mean = scale * (one.of_seeds.mean() - other.of_seeds.mean())
    exceeds = low * high > 0 and of_seeds.low * of_seeds.high > 0
    text = f"{mean:+.{digits}f}"
    return f"{f'**{text}**' if exceeds else text} ({low:+.{digits}f} to {high:+.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def values_table(results: Results, names: Mapping[str, str], measures: Mapping[str, str]) -> list[list[str]]:
    """A row per condition of `names`: its name and its value of each measure."""
    return [
        [name] + [shown(results[key][each].of_seeds, each) if each in results[key] else "" for each in measures]
        for key, name in names.items()
    ]


def differences_table(
    results: Results, pairs: Mapping[tuple[str, str], str], measures: Mapping[str, str]
) -> list[list[str]]:
    """A row per pair of conditions: its name and the difference in each measure."""
    return [
        [name]
        + [
            difference(results[one][each], results[other][each], each)
            if each in results[one] and each in results[other]
            else ""
            for each in measures
        ]
        for (one, other), name in pairs.items()
    ]


def write_values(results: Results, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["condition", "seed", "measure", "value"])
        for condition, measures in results.items():
            for measure, values in measures.items():
                writer.writerows([condition, seed, measure, value] for seed, value in enumerate(values.of_seeds))
