"""Checkpoints: our own form, and HyenaDNA's in and out."""

from genome_lm.checkpoint.native import load_checkpoint, save_checkpoint, weights_sha256
from genome_lm.checkpoint.opening import Opened, open_checkpoint

__all__ = ["Opened", "load_checkpoint", "open_checkpoint", "save_checkpoint", "weights_sha256"]
