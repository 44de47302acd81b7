"""Causal long convolution: one function, several backends."""

from genome_lm.kernels.reference import causal_conv, gated_causal_conv

__all__ = ["causal_conv", "gated_causal_conv"]
