"""A model whose linear layers compute in low precision on a CPU, for inference."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from genome_lm.errors import GenomeLMError
from genome_lm.kernels import InProjection, Precision, linear, lowered, reason_against

log = logging.getLogger(__name__)


class LowPrecisionLinear(nn.Linear):
    """An `nn.Linear` whose product is computed in low precision, without gradients.

    Attributes:
        weight: As it was; what the layer was made of, for digests and copies.
        lowered: The weight that it computes with.
        precision: Which that is.
        attended: What attention computes in of its results: bfloat16 where this CPU has instructions for it.
    """

    def __init__(self, layer: nn.Linear, precision: Precision) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias, self.precision = layer.weight, layer.bias, precision
        self.lowered = lowered(layer.weight, precision)
        self.attended = torch.float32 if reason_against("bf16") else torch.bfloat16

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) → (…, M) float32.

        Raises:
            GenomeLMError: If gradients are asked for.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise GenomeLMError("a model in low precision has no gradients; load it in float32")
        return linear(x.flatten(0, -2), self.lowered, self.bias).unflatten(0, x.shape[:-1])


def precision_of(blocks: nn.Module) -> Precision:
    """What `lower_precision` made of a backbone, or of part of one."""
    layers = (module for module in blocks.modules() if isinstance(module, LowPrecisionLinear))
    return next((layer.precision for layer in layers), "float32")


def attended(layer: nn.Linear, x: Tensor) -> Tensor:
    """Results of a layer as attention computes with them: in `attended_dtype`."""
    return x.to(attended_dtype(layer, x.dtype))


def attended_dtype(layer: nn.Linear, dtype: torch.dtype) -> torch.dtype:
    """What attention computes in of a layer's results: `LowPrecisionLinear.attended`, or their own dtype."""
    return layer.attended if isinstance(layer, LowPrecisionLinear) else dtype


def product_weight(layer: nn.Linear) -> Any:
    """What the fused operations compute a layer's product with: a tensor, or a `LowPrecisionWeight`."""
    return layer.lowered if isinstance(layer, LowPrecisionLinear) else layer.weight


def in_projection(norm: nn.LayerNorm, layer: nn.Linear) -> InProjection:
    """A norm and the layer behind it, for the fused operations."""
    return InProjection(norm.weight, norm.bias, norm.eps, product_weight(layer), layer.bias)


def lower_precision(blocks: nn.Module, precision: Precision) -> Precision:
    """Let the projections and MLPs of all blocks compute in low precision, in place.

    Attention's products are in bfloat16 with either, its softmax in float32. Embedding, norms, filters, convolutions,
    the residual stream and logits stay in float32.

    Args:
        blocks: A backbone, or part of one.
        precision: "float32" changes nothing.

    Returns:
        The precision: "float32", with a warning, where this CPU has no instructions for the one asked for, since it
        would be slower.

    Raises:
        GenomeLMError: If the model is on another device.
    """
    if precision == "float32":
        return precision
    device = next(blocks.parameters()).device
    if device.type != "cpu":
        raise GenomeLMError(f"precision {precision} is for CPUs; on {device.type} leave it out, or use --device cpu")
    if reason := reason_against(precision):
        log.warning("computing in float32, not in %s: %s", precision, reason)
        return "float32"
    log.info("products are computed in %s", precision)
    for part in [module for module in blocks.modules() if hasattr(module, "adapted_layers")]:
        for name in part.adapted_layers:  # type: ignore[union-attr]
            setattr(part, name, LowPrecisionLinear(getattr(part, name), precision))
    return precision
