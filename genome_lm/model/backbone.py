"""The backbone: embedding, Hyena blocks, final norm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genome_lm.alphabet import EMBEDDING_ROWS
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import backend_for
from genome_lm.kernels.cpu_mlp import MlpWeights, residual_mlp, residual_mlp_
from genome_lm.model.hyena import HyenaOperator


class Mlp(nn.Module):
    """Position-wise MLP with the tanh form of GELU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.d_inner)
        self.fc2 = nn.Linear(config.d_inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Mix across the channels: (B, L, D) → (B, L, D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm residual block; the residual stream stays in float32 whatever the autocast dtype."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mixer = HyenaOperator(config)
        self.norm2 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.resid_dropout)

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Residual stream in, residual stream out: (B, L, D) → (B, L, D); `inplace` allows to write over x."""
        if self._is_fused(x):
            return self._fused(x if inplace or torch.is_grad_enabled() else x.clone())
        x = x + self.dropout(self.mixer(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))

    def _is_fused(self, x: Tensor) -> bool:
        drops = self.training and self.dropout.p > 0
        return backend_for(x) == "cpu" and self.mixer.order == 2 and not drops and not torch.compiler.is_compiling()

    def _fused(self, x: Tensor) -> Tensor:
        x = self.mixer.fused_residual(x.contiguous(), self.norm1)
        fc1, fc2 = self.mlp.fc1, self.mlp.fc2
        weights = MlpWeights(self.norm2.weight, self.norm2.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        operation = residual_mlp if torch.is_grad_enabled() else residual_mlp_
        return operation(x, weights, self.norm2.eps)


class HyenaBackbone(nn.Module):
    """Token ids to hidden states.

    Attributes:
        activation_checkpointing: Recompute each block in the backward pass instead of storing what it computed.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.embedding = nn.Embedding(EMBEDDING_ROWS, config.d_model)
        self.dropout = nn.Dropout(config.embed_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(self, ids: Tensor, layer: int | None = None, prompt: Tensor | None = None) -> Tensor:
        """Hidden states of a batch of token ids.

        The model is causal: position i depends on ids[:, : i + 1] alone, so padding on the right changes nothing.

        Args:
            ids: (B, L) integer token ids, L at most `config.filter_length`.
            layer: None for the states after the last block and the final norm; k in 0 … n_layer for the residual
                stream after block k (0: the embedding), without the final norm.
            prompt: (P, d_model) vectors to stand before the embeddings of each row; P counts in the length.

        Returns:
            (B, P + L, d_model) float32.

        Raises:
            GenomeLMError: If the sequence is longer than the filters, or there is no such layer.
        """
        length = ids.shape[1] + (0 if prompt is None else len(prompt))
        if length > self.config.filter_length:
            raise GenomeLMError(
                f"a sequence of {length:,} tokens is longer than this model's {self.config.filter_length:,}; "
                "cut it into windows"
            )
        if layer is not None and not 0 <= layer <= self.config.n_layer:
            raise GenomeLMError(
                f"there is no layer {layer}; this model has layers 0 (the embedding) to {self.config.n_layer}"
            )
        x = self.embedding(ids.long())
        if prompt is not None:
            x = torch.cat([prompt.expand(len(ids), -1, -1), x], dim=1)
        x = self.dropout(x)
        for block in self.blocks[:layer]:
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, inplace=not torch.is_grad_enabled())
        return self.norm(x) if layer is None else x
