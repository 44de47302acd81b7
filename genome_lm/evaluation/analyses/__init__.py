"""The analyses of the suite, one file each: what it computes, what input it needs, its words and its figure.

To add one, write a file here that defines `ANALYSIS`, and add its name to the list.
"""

from importlib import import_module

from genome_lm.evaluation.analysis import Analysis

_NAMES = [
    "perplexity",
    "context",
    "recall",
    "strands",
    "shuffles",
    "codons",
    "variants",
    "probes",
]
ANALYSES: dict[str, Analysis] = {name: import_module(f"{__name__}.{name}").ANALYSIS for name in _NAMES}
"""By name, in the order of the report."""
