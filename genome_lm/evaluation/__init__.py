"""Evaluation: perplexity beside honest baselines."""

from genome_lm.evaluation.markov import MarkovModel
from genome_lm.evaluation.perplexity import Perplexity, Score, evaluate_perplexity

__all__ = ["MarkovModel", "Perplexity", "Score", "evaluate_perplexity"]
