"""Evaluation: perplexity, and a suite of analyses, beside honest baselines."""

from genome_lm.evaluation.context import loss_by_context, recall
from genome_lm.evaluation.invariances import (
    codon_sensitivity,
    dinucleotide_shuffle,
    shuffle_sensitivity,
    strand_consistency,
)
from genome_lm.evaluation.losses import base_losses
from genome_lm.evaluation.markov import MarkovModel
from genome_lm.evaluation.perplexity import Perplexity, Score, evaluate_perplexity
from genome_lm.evaluation.probes import kmer_frequencies, probe_set
from genome_lm.evaluation.suite import ANALYSES, SuiteInput, run_suite
from genome_lm.evaluation.variants import variant_separation

__all__ = [
    "ANALYSES",
    "MarkovModel",
    "Perplexity",
    "Score",
    "SuiteInput",
    "base_losses",
    "codon_sensitivity",
    "dinucleotide_shuffle",
    "evaluate_perplexity",
    "kmer_frequencies",
    "loss_by_context",
    "probe_set",
    "recall",
    "run_suite",
    "shuffle_sensitivity",
    "strand_consistency",
    "variant_separation",
]
