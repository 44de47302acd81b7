"""The optimisers of a recipe: AdamW alone, or Muon for the matrices of the blocks and AdamW for the rest."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

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
        kind = BatchedMuon if _on_cpu(matrices["params"]) else torch.optim.Muon
        optimizers = [kind([matrices], lr=config.lr, adjust_lr_fn="match_rms_adamw")]
    adamw = [group for group in adamw if group["params"]]
    # In one pass over each tensor, where PyTorch takes a dozen. On a GPU it chooses by itself.
    fused = True if _on_cpu([p for group in adamw for p in group["params"]]) else None
    optimizers.append(torch.optim.AdamW(adamw, lr=config.lr, betas=(config.beta1, config.beta2), fused=fused))
    if fused:
        optimizers[-1].register_step_post_hook(_count_changes)
    return optimizers


class BatchedMuon(getattr(torch.optim, "Muon", torch.optim.Optimizer)):  # type: ignore[misc]
    """`torch.optim.Muon` with matrices of one shape, or one's transpose, in one product, with the same state.

    On a CPU the products of one matrix take less time than what PyTorch does around them. It is for the settings of
    `make_optimizers`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """See `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, matrices, gradients, momenta)
            by_shape: dict[tuple[int, ...], list[int]] = {}
            for number, gradient in enumerate(gradients):
                by_shape.setdefault(tuple(sorted(gradient.shape)), []).append(number)
            for shape, numbers in by_shape.items():
                ours, grads, averages = (
                    [every[number] for number in numbers] for every in (matrices, gradients, momenta)
                )
                torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, averages, group["momentum"])
                updates = _orthogonal(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
                torch._foreach_mul_(ours, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(ours, updates, alpha=-group["lr"] * 0.2 * math.sqrt(max(shape)))
        return loss


def _orthogonal(
    matrices: Sequence[Tensor], coefficients: tuple[float, float, float], steps: int, eps: float
) -> list[Tensor]:
    """Matrices with singular values near 1, bfloat16, of matrices of one shape or its transpose.

    Newton-Schulz iterations as in `torch.optim.Muon`.
    """
    a, b, c = coefficients
    wide = [each.bfloat16().T if each.shape[0] > each.shape[1] else each.bfloat16() for each in matrices]
    x = torch.stack([each.div_(torch.linalg.vector_norm(each).clamp(min=eps)) for each in wide])
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    both = zip(matrices, x, strict=True)
    return [update.T if each.shape[0] > each.shape[1] else update for each, update in both]


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `limit`, and give the norm before, a scalar.

    `torch.nn.utils.clip_grad_norm_` of whole tensors on one device, to the bit, without what that does around it.
    """
    gradients = [each.grad for each in parameters if each.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _on_cpu(parameters: Sequence[Tensor]) -> bool:
    """Whether all are whole on the CPU."""
    return all(each.device.type == "cpu" and not isinstance(each, DTensor) for each in parameters)


def _count_changes(optimizer: torch.optim.Optimizer, _arguments: Any, _named: Any) -> None:
    """Have the version counters of all parameters see a step.

    A fused one does not count, and what was computed from the weights is kept by these counters.
    """
    for group in optimizer.param_groups:
        torch.autograd.graph.increment_version(group["params"])


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
    """Give each group its learning rate of a step."""
    share = config.scheduled(step)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def _of(model: nn.Module, kind: type[nn.Module]) -> set[int]:
    """Which parameters belong to modules of a kind, by `id`."""
    modules = (module for module in model.modules() if isinstance(module, kind))
    return {id(parameter) for module in modules for parameter in module.parameters()}


def _split(group: dict[str, Any], others: set[int]) -> list[dict[str, Any]]:
    """A group without some parameters, and one of these, both with its settings."""
    parts = [[p for p in group["params"] if (id(p) in others) == inside] for inside in (False, True)]
    return [{**group, "params": part} for part in parts]
