"""HyenaDNA: implicit filter, Hyena operator, backbone, language model, heads of tuned models."""

from genome_lm.model.backbone import HyenaBackbone
from genome_lm.model.head import HEAD_POOLS, TASKS, Bins, Head, HeadConfig
from genome_lm.model.language_model import HyenaLM, target_mask

__all__ = ["HEAD_POOLS", "TASKS", "Bins", "Head", "HeadConfig", "HyenaBackbone", "HyenaLM", "target_mask"]
