"""HyenaDNA: implicit filter, Hyena operator, backbone, language model."""

from genome_lm.model.backbone import HyenaBackbone
from genome_lm.model.language_model import HyenaLM, target_mask

__all__ = ["HyenaBackbone", "HyenaLM", "target_mask"]
