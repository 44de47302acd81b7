"""Causal long convolution and the sub-blocks around it: plain references, and faster backends beside them."""

from genome_lm.kernels.conv.reference import causal_conv
from genome_lm.kernels.dispatch import backend_for, gated_causal_conv

__all__ = ["backend_for", "causal_conv", "gated_causal_conv"]
