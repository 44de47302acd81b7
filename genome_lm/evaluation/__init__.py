"""Evaluation: perplexity, and the baselines that make it mean something."""
