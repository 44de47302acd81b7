"""The optimisers of a recipe: AdamW alone, or Muon for the matrices of the blocks and AdamW for the rest."""

from typing import Any

import torch
from torch import nn

from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.model.mixers.filter import ImplicitFilter
from genome_lm.training_config import TrainingConfig


def check_optimizer(config: TrainingConfig, sharded: bool) -> None:
    """Refuse what this PyTorch, or weights that are spread over devices, can't do.

    Raises:
        GenomeLMError: If so.
    """
    if config.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise GenomeLMError(
            f"optimizer muon needs PyTorch 2.9 or later, here is {torch.__version__}: upgrade torch, or use adamw"
        )
    if sharded and (config.optimizer == "muon" or config.ema):
        raise GenomeLMError("optimizer muon and ema need whole weights on each device: use --strategy ddp")


def make_optimizers(model: HyenaLM, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """The optimisers that step together, with the recipe's groups; "peak" of a group is its peak rate.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) gives a matrix a step whose singular values
    are all near 1. It is right for matrices that map one hidden vector to another. Embeddings, norms, biases, short
    convolutions and the long filters stay with AdamW. Muon's step is scaled by 0.2 · √(larger side), as Liu et al.
    2025 (https://arxiv.org/abs/2502.16982) do, so that its entries are as large as AdamW's: learning rate and weight
    decay of AdamW fit both. Momentum (0.95) and iterations are those of `torch.optim.Muon`.
    """
    groups = [{**group, "peak": config.lr} for group in model.parameter_groups(config.weight_decay)]
    adamw = [groups[0], *_split(groups[1], _of(model, ImplicitFilter))]
    adamw[-1]["peak"] = min(config.lr, config.filter_lr)
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        layers = (layer for block in model.backbone.blocks for layer in block.modules())
        linear = {id(layer.weight) for layer in layers if isinstance(layer, nn.Linear)}
        adamw[0], matrices = _split(adamw[0], linear)
        optimizers = [torch.optim.Muon([matrices], lr=config.lr, adjust_lr_fn="match_rms_adamw")]
    adamw = [group for group in adamw if group["params"]]
    return [*optimizers, torch.optim.AdamW(adamw, lr=config.lr, betas=(config.beta1, config.beta2))]


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
    """Give each group its learning rate of a step."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * config.scheduled(step)


def _of(model: nn.Module, kind: type[nn.Module]) -> set[int]:
    """Which parameters belong to modules of a kind, by `id`."""
    modules = (module for module in model.modules() if isinstance(module, kind))
    return {id(parameter) for module in modules for parameter in module.parameters()}


def _split(group: dict[str, Any], others: set[int]) -> list[dict[str, Any]]:
    """A group without some parameters, and one of these, both with its settings."""
    parts = [[p for p in group["params"] if (id(p) in others) == inside] for inside in (False, True)]
    return [{**group, "params": part} for part in parts]
