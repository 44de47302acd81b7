"""Checkpoints: our own form, and HyenaDNA's in and out."""

from genome_lm.checkpoint.native import load_checkpoint, read_config, save_checkpoint

__all__ = ["load_checkpoint", "read_config", "save_checkpoint"]
