"""Models, and a recipe to train one by, that take seconds."""

from collections.abc import Mapping
from typing import Any

import torch

from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM
from genome_lm.training import Stage, TrainingConfig

TINY_MODEL = ModelConfig(d_model=16, n_layer=2, max_length=128, filter_order=8)
TINY_RECIPE = TrainingConfig(
    stages=(Stage(32, 30), Stage(128, 30)), tokens_per_step=512, lr=5e-3, valid_every=20, checkpoint_every=7
)


def random_model(shape: Mapping[str, Any], **fields: Any) -> HyenaLM:
    """A float64 model with weights so large that what is far back is felt; `fields` take the place of the shape's."""
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(**{**shape, **fields})).double().eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model
