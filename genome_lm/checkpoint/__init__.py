"""Checkpoints: our own form, and HyenaDNA's in and out."""

from genome_lm.checkpoint.export import export_checkpoint
from genome_lm.checkpoint.extend import extend_context
from genome_lm.checkpoint.for_transformers import export_for_transformers, register_with_transformers
from genome_lm.checkpoint.native import check_head_names, load_checkpoint, save_checkpoint, weights_sha256
from genome_lm.checkpoint.opening import Opened, open_checkpoint
from genome_lm.checkpoint.push import push_checkpoint

__all__ = [
    "Opened",
    "check_head_names",
    "export_checkpoint",
    "export_for_transformers",
    "extend_context",
    "load_checkpoint",
    "open_checkpoint",
    "push_checkpoint",
    "register_with_transformers",
    "save_checkpoint",
    "weights_sha256",
]
