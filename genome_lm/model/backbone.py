"""The backbone: embedding, Hyena blocks, final norm."""

from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genome_lm.alphabet import EMBEDDING_ROWS
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import backend_for
from genome_lm.kernels.cpu.mixer import Around
from genome_lm.kernels.cpu.mlp import MlpWeights, residual_mlp, residual_mlp_
from genome_lm.model.cuda_memory import GpuBatch, free_bytes
from genome_lm.model.hyena import HyenaOperator

NORM_CHUNK = 8_192
"""Positions that the final norm takes at one time where it writes over its input."""
STORED_BYTES = 8 << 30
"""Residual streams that the blocks on a CPU keep for the backward pass; beyond it, each is computed again."""
ALWAYS_STORED_BYTES = 128 << 20
"""Residual streams on a GPU for which nobody asks the driver how much memory is free, which takes its time."""


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

    def forward(self, x: Tensor, inplace: bool = False, around: Around | None = None, first: int = 0) -> Tensor:
        """Residual stream in, residual stream out.

        Args:
            x: (B, L, D).
            inplace: Allows to write over x.
            around: Without gradients, what stands in the place of the operator's last convolution.
            first: Position from which on the output is wanted.

        Returns:
            (B, L − first, D).
        """
        if self._is_fused(x):
            return self._fused(x if inplace or torch.is_grad_enabled() else x.clone(), around, first)
        x = (x + self.dropout(self.mixer(self.norm1(x), around)))[:, first:]
        return x + self.dropout(self.mlp(self.norm2(x)))

    def _is_fused(self, x: Tensor) -> bool:
        drops = self.training and self.dropout.p > 0
        return backend_for(x) == "cpu" and self.mixer.order == 2 and not drops and not torch.compiler.is_compiling()

    def _fused(self, x: Tensor, around: Around | None, first: int) -> Tensor:
        x = self.mixer.fused_residual(x.contiguous(), self.norm1, around)[:, first:].contiguous()
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
        recompute = self.training and torch.is_grad_enabled() and self._recomputes(x)
        random = self.config.resid_dropout > 0
        for block in self.blocks[:layer]:
            if recompute:
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=random)
            else:
                x = block(x, inplace=not torch.is_grad_enabled())
        return x if layer is not None else self._final_norm(x)

    def _final_norm(self, x: Tensor) -> Tensor:
        """The final norm; without gradients written over x, so that a long sequence needs no second stream."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.norm(x)
        for rows in x.flatten(0, 1).split(NORM_CHUNK):
            rows.copy_(self.norm(rows))
        return x

    def _recomputes(self, x: Tensor) -> bool:
        """Whether blocks are computed again in the backward pass: if asked for, or if storing takes too much.

        Args:
            x: (B, L, D), the residual stream.
        """
        if self.activation_checkpointing or torch.compiler.is_compiling():
            return self.activation_checkpointing
        stored = 2 * self.config.n_layer * x.nbytes
        if x.device.type == "cuda" and stored > ALWAYS_STORED_BYTES:
            dtype = torch.bfloat16 if torch.is_autocast_enabled("cuda") else torch.float32
            batch = GpuBatch(self.config, x.shape[0], x.shape[1], dtype, backend_for(x) == "triton")
            return batch.must_recompute(free_bytes(x.device))
        return x.device.type == "cpu" and stored > STORED_BYTES

    def every_layer(self, ids: Tensor, layers: Collection[int | None]) -> Iterator[tuple[int | None, Tensor]]:
        """Hidden states of several layers in one pass, in the order of depth.

        Args:
            ids: As in `forward`.
            layers: Which ones, each as in `forward`.

        Yields:
            The layer and its states, (B, L, d_model) float32; without gradients, they are written over when the next
            ones are asked for.

        Raises:
            GenomeLMError: As `forward`.
        """
        x = self(ids, 0)
        deepest = self.config.n_layer if None in layers else max(layer or 0 for layer in layers)
        for depth in range(deepest + 1):
            x = x if depth == 0 else self.blocks[depth - 1](x, inplace=not torch.is_grad_enabled())
            if depth in layers:
                yield depth, x
        if None in layers:
            yield None, self._final_norm(x)
