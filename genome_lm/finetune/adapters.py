"""What of a model is tuned: everything, nothing, or matrices of low rank beside its own."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from genome_lm.errors import check_range
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.model import Head, HyenaLM


class LowRank(nn.Module):
    """W → W + alpha / rank · B A (Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1); B starts at zero.

    As a parametrisation of the weight it holds for every kernel, and can be merged into the weight.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.a = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.b = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that is used."""
        return weight + self.scale * (self.b @ self.a)


def prepare(model: HyenaLM, config: FinetuneConfig) -> None:
    """Freeze what is not tuned; for LoRA add the matrices.

    Raises:
        GenomeLMError: If LoRA's rank is above the model's width, where its matrices would be larger than its own.
    """
    if config.method == "lora":
        check_range("lora-rank", config.lora_rank, 1, model.config.d_model)
    model.requires_grad_(config.method == "full")
    if config.method == "lora":
        for block in model.backbone.blocks:
            for layer in block.layers("adapted"):
                low_rank = LowRank(layer.weight, config.lora_rank, config.lora_alpha)
                parametrize.register_parametrization(layer, "weight", low_rank)


def merge(model: HyenaLM) -> None:
    """Make the added matrices part of the weights; nothing is left of them."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def parameter_groups(model: HyenaLM, heads: Iterable[Head], config: FinetuneConfig) -> list[dict[str, Any]]:
    """AdamW groups with their peak rate as `peak`: the recipe's of the model, those of LoRA, and the heads'."""
    groups = [
        {**group, "params": [p for p in group["params"] if p.requires_grad], "peak": config.lr}
        for group in model.parameter_groups(config.weight_decay)
    ]
    if config.method == "lora":
        added = [p for module in model.modules() if isinstance(module, LowRank) for p in module.parameters()]
        groups = [{"params": added, "weight_decay": 0.0, "peak": config.lr}]
    rate = config.head_lr
    named = [each for head in heads for each in head.named_parameters()]
    matrices = [parameter for name, parameter in named if name.endswith("weight")]
    groups.append({"params": matrices, "weight_decay": config.weight_decay, "peak": rate})
    plain = [parameter for name, parameter in named if not name.endswith("weight")]
    groups.append({"params": plain, "weight_decay": 0.0, "peak": rate})
    return [group for group in groups if group["params"]]


def trainable_state(model: HyenaLM, heads: Mapping[str, Head]) -> dict[str, Tensor]:
    """Copies of what is tuned, by name."""
    return {
        f"{place}.{name}": parameter.detach().clone()
        for place, module in _modules(model, heads)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def restore_state(model: HyenaLM, heads: Mapping[str, Head], state: dict[str, Tensor]) -> None:
    """Put copies of `trainable_state` back."""
    for place, module in _modules(model, heads):
        for name, parameter in module.named_parameters():
            if f"{place}.{name}" in state:
                parameter.copy_(state[f"{place}.{name}"])


def _modules(model: HyenaLM, heads: Mapping[str, Head]) -> list[tuple[str, nn.Module]]:
    return [("model", model), *((f"head {name}", head) for name, head in heads.items())]
