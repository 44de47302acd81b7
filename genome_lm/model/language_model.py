"""The language model: backbone and tied head, its loss, its initialisation, its optimiser groups."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.alphabet import NUCLEOTIDES, TOKEN_COMPLEMENT
from genome_lm.config import ModelConfig
from genome_lm.kernels import HeadWeights, Precision, head_losses, outside_autocast, recomputed, runs_head
from genome_lm.model.backbone import HyenaBackbone
from genome_lm.model.low_precision import lower_precision
from genome_lm.model.ngram import NgramEmbedding

INITIALIZER_RANGE = 0.02
LOSS_CHUNK = 1_024
"""Positions whose logits each thread of a CPU has at one time while the loss is computed: they stay in the caches."""
CUDA_LOSS_CHUNK = 131_072
"""The same on a GPU, where each piece costs launches: 128 MiB of float32 for the norm of 256 channels."""


class HyenaLM(nn.Module):
    """HyenaDNA (Nguyen et al. 2023, https://arxiv.org/abs/2306.15794), and what a `ModelConfig` makes of it.

    The head is tied. Its logits are of the next token, or where the model reads both ways, of that at their position.

    Attributes:
        precision: Of the products of projections and MLPs; see `lower_precision`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = HyenaBackbone(config)
        self.precision: Precision = "float32"
        self._initialise()

    def _initialise(self) -> None:
        """Normal weights of 0.02, those that write to the residual stream divided by √(2 · n_layer), as GPT-2."""
        residual = {id(layer) for block in self.backbone.blocks for layer in block.layers("residual")}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                scale = math.sqrt(2 * self.config.n_layer) if id(module) in residual else 1.0
                nn.init.normal_(module.weight, std=INITIALIZER_RANGE / scale)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def lower_precision(self, precision: Precision) -> None:
        """Compute the products of projections and MLPs in "bf16" or "int8" from now on, for inference on a CPU.

        `precision` then says what is used: float32 where this CPU has no instructions for the one asked for.

        Raises:
            GenomeLMError: If the model is on another device.
        """
        self.precision = lower_precision(self.backbone, precision)

    @property
    def condition(self) -> str | None:
        """Name of the condition that each sequence is read under; None for none. It can be set.

        Raises:
            GenomeLMError: When it is set to a name that the model does not have.
        """
        return self.backbone.condition

    @condition.setter
    def condition(self, name: str | None) -> None:
        if name is not None:
            self.config.condition_id(name)
        self.backbone.condition = name

    def add_conditions(self, names: Iterable[str]) -> None:
        """Give the model conditions, beside those that it has; see `ModelConfig.with_conditions`."""
        self.config = self.backbone.config = self.config.with_conditions(names)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of what `Direction.offset` says: (B, L) ids → (B, L, 16), float32 within autocast too."""
        return self._logits(self.backbone(ids))

    def _logits(self, hidden: Tensor) -> Tensor:
        weight = self.backbone.embedding.weight
        with outside_autocast(hidden):
            if self.config.strands != "equivariant":
                return F.linear(hidden, weight)
            own, other = F.linear(hidden.unflatten(-1, (2, -1)), weight).unbind(-2)
            return own + other[..., torch.from_numpy(TOKEN_COMPLEMENT).to(hidden.device).long()]

    def loss(self, ids: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy of the nucleotides that are predicted, averaged over the targets that count.

        Logits are computed and dropped in chunks, so that memory does not grow with 16 · L.

        Args:
            ids: (B, L) integer token ids.
            targets: (B, L) integer token ids; those other than A, C, G and T never count.
            weights: (B, L) float weight of each target, 1 everywhere if None.

        Returns:
            () float32, nats per base: Σ w · CE / Σ w over A/C/G/T targets; 0 with zero gradient where there is none.
        """
        total, weight = self.summed_loss(ids, targets, weights)
        return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)

    def summed_loss(self, ids: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of `loss`, both () float32; sums over devices and micro-batches stay exact."""
        losses, counted = self.row_losses(ids, targets, weights)
        return losses.sum(), counted.sum()

    def row_losses(self, ids: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of `loss` for each sequence, both (B,) float32.

        Of several devices that share the sequences, each has the part of its own positions; its sums are the whole.
        """
        counted = target_mask(targets).float()
        if weights is not None:
            counted = counted * weights
        own = self.backbone.own(ids.shape[1])
        targets, counted = targets[:, own], counted[:, own]
        # The final norm is in the pieces, so that its output is never whole.
        hidden = self.backbone(ids, layer=self.config.n_layer).flatten(0, 1)
        losses = self._losses(hidden, targets.flatten(), counted.flatten())
        return losses.view_as(counted).sum(1), counted.sum(1)

    def _losses(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Weighted losses of positions, (N,), from the residual stream after the last block, (N, state_width)."""
        norm, embedding = self.backbone.norm, self.backbone.embedding.weight
        if self.config.strands != "equivariant" and runs_head(hidden):
            return head_losses(hidden, HeadWeights(norm.weight, norm.bias, embedding), targets, weights, norm.eps)
        rows = CUDA_LOSS_CHUNK if hidden.device.type == "cuda" else LOSS_CHUNK
        with outside_autocast(hidden):  # norm and logits are, and threads share the pieces
            return recomputed(self._chunk_losses, [hidden, targets, weights], [*norm.parameters(), embedding], rows)

    def _chunk_losses(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        logits = self._logits(self.backbone.normed(hidden)).float()
        return F.cross_entropy(logits, targets.long(), reduction="none") * weights

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW groups of the recipe: no weight decay on norms, biases, and what the mixers spare."""
        norms = (module for module in self.modules() if isinstance(module, nn.LayerNorm))
        spared = {id(parameter) for norm in norms for parameter in norm.parameters()}
        spared |= {id(parameter) for block in self.backbone.blocks for parameter in block.undecayed()}
        # Decay would pull at an n-gram's vector at every step, its gradient only where it occurs.
        spared |= {id(module.weight) for module in self.modules() if isinstance(module, NgramEmbedding)}
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            is_bias = name.endswith("bias")
            (plain if id(parameter) in spared or is_bias else decayed).append(parameter)
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def target_mask(targets: Tensor) -> Tensor:
    """Which targets count: True where the token is A, C, G or T; the shape of `targets`."""
    return (targets >= NUCLEOTIDES[0]) & (targets <= NUCLEOTIDES[-1])
