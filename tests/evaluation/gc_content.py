"""An analysis as one would add it: one file, registered by one line in its test."""

import numpy as np

from genome_lm.alphabet import C, G
from genome_lm.evaluation.analysis import Analysis, Setting, Tables
from genome_lm.evaluation.losses import sample_windows
from genome_lm.evaluation.measures import draw_measures, measure_row


def _run(setting: Setting) -> Tables:
    generator, count = np.random.default_rng(setting.seed), setting.number(40)
    tokens = sample_windows(setting.store, setting.regions, setting.lm.config.max_length, count, generator)
    content = np.isin(tokens, (C, G)).mean(1)
    return Tables([measure_row("G + C", content)], [{"window": n, "gc": each} for n, each in enumerate(content)])


ANALYSIS = Analysis(words="How much of the split is G or C.", run=_run, draw=draw_measures)
