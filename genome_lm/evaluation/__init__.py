"""Evaluation: perplexity, and a suite of analyses, beside honest baselines."""

from genome_lm.evaluation.analyses import ANALYSES
from genome_lm.evaluation.analyses.codons import codon_sensitivity
from genome_lm.evaluation.analyses.context import loss_by_context
from genome_lm.evaluation.analyses.probes import probe_set
from genome_lm.evaluation.analyses.recall import recall
from genome_lm.evaluation.analyses.shuffles import dinucleotide_shuffle, shuffle_sensitivity
from genome_lm.evaluation.analyses.strands import strand_consistency
from genome_lm.evaluation.analyses.variants import variant_separation
from genome_lm.evaluation.analysis import Analysis, SuiteInput
from genome_lm.evaluation.losses import base_losses
from genome_lm.evaluation.markov import MarkovModel
from genome_lm.evaluation.perplexity import ClassScores, Perplexity, Score, Scoring, evaluate_perplexity
from genome_lm.evaluation.stretches import Difference
from genome_lm.evaluation.suite import run_suite
from genome_lm.evaluation.variant_benchmark import BenchmarkInput, run_variant_benchmark

__all__ = [
    "ANALYSES",
    "Analysis",
    "BenchmarkInput",
    "ClassScores",
    "Difference",
    "MarkovModel",
    "Perplexity",
    "Score",
    "Scoring",
    "SuiteInput",
    "base_losses",
    "codon_sensitivity",
    "dinucleotide_shuffle",
    "evaluate_perplexity",
    "loss_by_context",
    "probe_set",
    "recall",
    "run_suite",
    "run_variant_benchmark",
    "shuffle_sensitivity",
    "strand_consistency",
    "variant_separation",
]
