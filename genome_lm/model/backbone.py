"""The backbone: embedding, blocks of a mixer and an MLP, final norm."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genome_lm.alphabet import EMBEDDING_ROWS
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import (
    Branch,
    MlpWeights,
    backend_for,
    has_mlp_in_c,
    mlp_branch,
    mlp_sub_block,
    residual_mlp,
    residual_mlp_,
    runs_rows,
)
from genome_lm.model.cuda_memory import cuda_recomputed, free_bytes
from genome_lm.model.low_precision import product_weight
from genome_lm.model.mixer import Ends, GpuBatch, Mixer, drops, runs_fused
from genome_lm.model.mixers import mixer_class
from genome_lm.model.ngram import NgramEmbedding
from genome_lm.model.shards import Context, Shard
from genome_lm.model.ways import Combined, Turn, Ways, strands, ways

NORM_CHUNK = 2_048
"""Positions that the final norm takes at one time where it writes over its input: a piece in the caches.

glibc may give each piece memory of its own, see `genome_lm.allocator.give_back_holes`.
"""
STORED_BYTES = 8 << 30
"""Residual streams that the blocks on a CPU keep for the backward pass; beyond it, each is computed again."""
ALWAYS_STORED_BYTES = 128 << 20
"""Residual streams on a GPU for which nobody asks the driver how much memory is free, which takes its time."""


class Mlp(nn.Module):
    """Position-wise MLP with the tanh form of GELU; the names of its layers are as in `Mixer`."""

    residual_layers, adapted_layers = ("fc2",), ("fc1", "fc2")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.d_inner)
        self.fc2 = nn.Linear(config.d_inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Mix across the channels: (B, L, D) → (B, L, D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm residual block; the residual stream stays in float32 whatever the autocast dtype.

    Attributes:
        mixer: The operator.
        reversed_mixer: That of the reversed sequence where it has weights of its own, else None.
        combined: What is made of the two directions where that is not their sum, else None.
    """

    def __init__(self, config: ModelConfig, operator: type[Mixer]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mixer = operator(config)
        self.reversed_mixer = operator(config) if config.reversed_weights == "own" else None
        self.combined = None if config.combine == "sum" else Combined(config)
        self.norm2 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.resid_dropout)

    def layers(self, role: Literal["residual", "adapted"]) -> Iterator[nn.Linear]:
        """Linear layers that write to the residual stream, or those that LoRA adapts."""
        for part in filter(None, (self.mixer, self.reversed_mixer, self.mlp)):
            for name in getattr(part, f"{role}_layers"):
                yield part.get_submodule(name)  # type: ignore[misc]

    def undecayed(self) -> Iterator[nn.Parameter]:
        """Parameters of the mixers that weight decay spares."""
        for mixer in filter(None, (self.mixer, self.reversed_mixer)):
            yield from mixer.undecayed()

    def forward(
        self, x: Tensor, inplace: bool = False, turn: Turn | None = None, shard: Shard | None = None
    ) -> Tensor:
        """Residual stream in, residual stream out: (B, L, D) → (B, L, D), written over x if `inplace` allows it.

        With `turn`, the mixer's part is what it makes of the sequences and of the reversed ones, by default their
        sum. With `shard`, x has its positions alone.
        """
        if shard is not None:
            return self._add_mlp(self.mixer.add_shard(x, self.norm1, self.dropout, shard))
        by_rows = self._runs_rows(x)
        if turn is None and by_rows and self.mixer.has_branch(x):
            return self.add_branch(x, None)
        mix = self.mixer.add if turn is None else partial(self._both_ways, turn)
        return self._add_mlp(mix(x, self.norm1, self.dropout, inplace), by_rows=by_rows)

    def takes_branch(self, x: Tensor) -> bool:
        """Whether `add_branch` and `hand_on` take a residual stream of the shape of x."""
        return self._runs_rows(x) and self.mixer.has_branch(x)

    def add_branch(self, x: Tensor, branch: Branch | None) -> Tensor:
        """The block behind x + branch, which is added in the pass of its norm."""
        return self._add_mlp(*self.mixer.branch(x, branch, self.norm1))

    def hand_on(self, x: Tensor, branch: Branch | None) -> tuple[Tensor, Branch]:
        """`add_branch` without its last sum: the residual stream and what the next block adds to it."""
        return mlp_branch(*self.mixer.branch(x, branch, self.norm1), self._mlp_weights(), self.norm2.eps)

    def has_hooks(self) -> bool:
        """Whether something is to be done where the block is called, such as by FSDP."""
        forward, backward = self._forward_pre_hooks or self._forward_hooks, self._backward_hooks
        return bool(forward or backward or self._backward_pre_hooks)

    def _both_ways(self, turn: Turn, x: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout, inplace: bool) -> Tensor:
        """As `Mixer.add`, of the sequences and of the reversed ones."""
        if self.reversed_mixer is None:  # one pass, so that filters are made once
            ahead, back = self.mixer.add(torch.cat([x, turn(x)]), norm, dropout, inplace).chunk(2)
        else:
            ahead = self.mixer.add(x, norm, dropout, False)
            back = self.reversed_mixer.add(turn(x), norm, dropout, inplace)
        if self.combined is not None:
            return x + self.combined(ahead - x, turn(back) - x)
        if inplace:  # in x itself, since `ahead` may be a part of something larger
            return x.neg_().add_(ahead).add_(turn(back))
        return ahead - x + turn(back)

    def read_reference(self, x: Tensor, begin: int, wanted: Tensor | None = None) -> tuple[Tensor, Any]:
        """The block over reference sequences, see `Mixer.read_reference`; x may be written over.

        Args:
            x: (R, L, D).
            begin: See `Mixer.read_reference`.
            wanted: (R, L − begin) bool; if given, positions from `begin` on, of which these alone are computed.

        Returns:
            (R, L, D), or with `wanted` (R, L − begin, D), zero where it is False; what `read_alternative` needs.
        """
        x, kept = self.mixer.read_reference(x, self.norm1, begin)
        if wanted is None:
            return self._add_mlp(x), kept
        x = x[:, begin:]
        out = torch.zeros_like(x)
        out[wanted] = self._add_mlp(x[wanted][None])[0]
        return out, kept

    def read_alternative(self, x: Tensor, kept: Any, ends: Ends) -> Tensor:
        """The block over alternative ends, see `Mixer.read_alternative`; x may be written over."""
        return self._add_mlp(self.mixer.read_alternative(x, self.norm1, kept, ends))

    def _runs_rows(self, x: Tensor) -> bool:
        return runs_rows(x) and not drops(self.dropout)

    def _add_mlp(self, x: Tensor, branch: Branch | None = None, by_rows: bool | None = None) -> Tensor:
        """The MLP sub-block; without gradients, where it runs as one operation on a CPU, written over x.

        `branch`: what is to be added to x before, where `_runs_rows` says so. `by_rows`: what that says, if asked.
        """
        by_rows = self._runs_rows(x) if by_rows is None else by_rows
        # In C it is quicker than in plain form for any size. What trains no weights of the MLP has no need of theirs.
        # torch.compile can't trace how the library in C is loaded.
        own = not torch.compiler.is_compiling() and x.dtype == torch.float32 and self.mlp.fc1.weight.requires_grad
        small = 0 if own and has_mlp_in_c() else None
        if not by_rows and not runs_fused(x, self.dropout, small):
            return x + self.dropout(self.mlp(self.norm2(x)))
        if by_rows:
            return mlp_sub_block(x, branch, self._mlp_weights(), self.norm2.eps)
        operation = residual_mlp if torch.is_grad_enabled() else residual_mlp_
        return operation(x.contiguous(), self._mlp_weights(), self.norm2.eps)

    def _mlp_weights(self) -> MlpWeights:
        norm, mlp = self.norm2, self.mlp
        fc1, fc2 = mlp.fc1, mlp.fc2
        return MlpWeights(norm.weight, norm.bias, product_weight(fc1), fc1.bias, product_weight(fc2), fc2.bias)


class HyenaBackbone(nn.Module):
    """Token ids to hidden states.

    Attributes:
        activation_checkpointing: Recompute each block in the backward pass instead of storing what it computed.
        condition: Name of the condition whose token is read before each sequence, None for no such token. What is
            returned has no position for it. Set it by `HyenaLM.condition`, which checks the name.
        recomputed: Says of a batch, by its rows and their positions, which blocks are computed again in training, by
            number; None for the backbone's own rule. Computing again changes no value.
        context: Devices that share each sequence in `forward`, all of which are given whole sequences; None for this
            one alone. See `own`, and `genome_lm.training.context_parallel`, which checks whether they can.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.recomputed: Callable[[int, int], frozenset[int]] | None = None
        self.condition: str | None = None
        self.context: Context | None = None
        self.embedding = nn.Embedding(EMBEDDING_ROWS, config.d_model)
        self.ngrams = NgramEmbedding(config) if config.ngram_order else None
        self.dropout = nn.Dropout(config.embed_dropout)
        blocks = nn.ModuleList(Block(config, mixer_class(name)) for name in config.mixers)
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(self, ids: Tensor, layer: int | None = None, prompt: Tensor | None = None) -> Tensor:
        """Hidden states of a batch of token ids.

        What a position depends on is the model's direction (`ModelConfig.direction`); in a causal model padding on
        the right changes nothing.

        Args:
            ids: (B, L) integer token ids, L at most `config.filter_length`; or (B, L, 16) floats, the weight of each
                row of the embedding at each position, in which the states are differentiable.
            layer: None for the states after the last block and the final norm; k in 0 … n_layer for the residual
                stream after block k (0: the embedding), without the final norm.
            prompt: (P, d_model) vectors to stand before the embeddings of each row; P counts in the length.

        Returns:
            (B, P + L, `config.state_width`) float32; of several devices, each has the positions that are its `own`.

        Raises:
            GenomeLMError: If the batch is empty, the sequence longer than the filters, or there is no such layer.
        """
        if layer is not None and not 0 <= layer <= self.config.n_layer:
            raise GenomeLMError(
                f"there is no layer {layer}; this model has layers 0 (the embedding) to {self.config.n_layer}"
            )
        batch = Ways.of(self.config, ids, self.ahead + (0 if prompt is None else len(prompt)))
        shard = self._shard(ids.shape[1])
        x = self.read(batch.ids, prompt) if shard is None else self._read_shard(ids, shard)
        recomputed = self._recomputed(x) if self.training and torch.is_grad_enabled() else frozenset()
        if self.context is not None:  # as one, since blocks exchange again what they compute again
            recomputed = self._every if self.context.any(bool(recomputed), x.device) else frozenset()
        random = self.config.resid_dropout > 0
        joins = batch.turn is None and shard is None and torch.is_grad_enabled()
        blocks = self.blocks if layer is None else self.blocks[:layer]  # a slice of a list of modules is made anew
        handing = self._handing(x, blocks, recomputed) if joins and runs_rows(x) else frozenset()
        branch: Branch | None = None
        for number, block in enumerate(blocks):
            if number in handing:
                x, branch = block.hand_on(x, branch)
            elif branch is not None:
                x, branch = block.add_branch(x, branch), None
            elif number in recomputed:
                x = checkpoint(block, x, False, batch.turn, shard, use_reentrant=False, preserve_rng_state=random)
            else:
                x = block(x, not torch.is_grad_enabled(), batch.turn, shard)
        ahead = self.ahead if shard is None else max(0, self.ahead - shard.start)
        return batch.states(x if layer is not None else self._final_norm(x))[:, ahead:]

    @staticmethod
    def _handing(x: Tensor, blocks: Sequence[Block], recomputed: Collection[int]) -> frozenset[int]:
        """The blocks, by number, whose last sum the next one does in the pass of its norm.

        For training: what is handed on exists until the next block is through, and one that is computed again would
        keep it beside its input. Without gradients a forward pass would take more memory.
        """
        takes = [
            number not in recomputed and block.takes_branch(x) and not block.has_hooks()
            for number, block in enumerate(blocks)
        ]
        return frozenset(number for number, both in enumerate(pairwise(takes)) if all(both))

    def own(self, length: int) -> slice:
        """Which positions of sequences of so many tokens `forward` returns on this device."""
        shard = self._shard(length)
        return slice(0, length) if shard is None else slice(max(0, shard.start - self.ahead), shard.end - self.ahead)

    def _shard(self, length: int) -> Shard | None:
        return None if self.context is None else Shard(self.context, self.ahead + length)

    def _read_shard(self, ids: Tensor, shard: Shard) -> Tensor:
        """`read` for the positions of a shard."""
        self._check_shape(ids, shard.length)
        if self.condition is not None:
            ids = F.pad(ids, (1, 0), value=self.config.condition_id(self.condition))
        first = max(0, shard.start - self.config.ngram_order)  # the bases that n-grams begin with
        return self.dropout(self.embedded(ids[:, first : shard.end])[:, shard.start - first :])

    @property
    def ahead(self) -> int:
        """Positions that stand before each sequence: that of the condition, if there is one."""
        return 0 if self.condition is None else 1

    def read(self, ids: Tensor, prompt: Tensor | None = None) -> Tensor:
        """What the first block is given, the condition included: (B, ahead + P + L, d_model); see `forward`."""
        self._check_shape(ids, self.ahead + (0 if prompt is None else len(prompt)) + ids.shape[1])
        x = self.embedded(ids)
        return self.dropout(self.conditioned(x if prompt is None else _before(prompt, x)))

    def _check_shape(self, ids: Tensor, length: int) -> None:
        if not (len(ids) and length):
            raise GenomeLMError(
                f"a batch of {len(ids):,} sequences of {length:,} tokens is empty: give at least one of one token"
            )
        if length > self.config.filter_length:
            raise GenomeLMError(
                f"a sequence of {length:,} tokens is longer than this model's {self.config.filter_length:,}; "
                "cut it into windows"
            )

    def embedded(self, ids: Tensor) -> Tensor:
        """Embeddings of tokens, with those of the n-grams that end there: as `forward` → (B, L, d_model)."""
        x = ids @ self.embedding.weight if ids.is_floating_point() else self.embedding(ids.long())
        return x if self.ngrams is None else self.ngrams.added(x, ids)

    def conditioned(self, embedded: Tensor) -> Tensor:
        """Embeddings of sequences behind that of the condition: (B, L, d_model) → (B, ahead + L, d_model)."""
        if self.condition is None:
            return embedded
        number = self.config.condition_id(self.condition)
        return _before(self.embedding.weight[number : number + 1], embedded)

    def normed(self, states: Tensor) -> Tensor:
        """The final norm of states, (…, state_width), those of each strand by themselves."""
        return self.norm(states.unflatten(-1, (-1, self.config.d_model))).flatten(-2)

    def _final_norm(self, x: Tensor) -> Tensor:
        """The final norm; without gradients written over x, so that a long sequence needs no second stream."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.norm(x)
        for rows in x.flatten(0, 1).split(NORM_CHUNK):
            rows.copy_(self.norm(rows))
        return x

    @property
    def _every(self) -> frozenset[int]:
        return frozenset(range(self.config.n_layer))

    def _recomputed(self, x: Tensor) -> frozenset[int]:
        """Blocks that are computed again in the backward pass: all if asked for, or if storing takes too much.

        On a GPU, as few as its free memory allows.

        Args:
            x: (B, L, D), the residual stream.
        """
        if self.activation_checkpointing or torch.compiler.is_compiling():
            return self._every if self.activation_checkpointing else frozenset()
        if self.recomputed is not None:
            return self.recomputed(x.shape[0] // strands(self.config), x.shape[1])
        stored = (1 + ways(self.config)) * self.config.n_layer * x.nbytes
        if x.device.type == "cuda" and stored > ALWAYS_STORED_BYTES:
            dtype = torch.bfloat16 if torch.is_autocast_enabled("cuda") else torch.float32
            batch = GpuBatch(
                self.config, x.shape[0] // strands(self.config), x.shape[1], dtype, backend_for(x) == "triton"
            )
            return cuda_recomputed(batch, free_bytes(x.device))
        return self._every if x.device.type == "cpu" and stored > STORED_BYTES else frozenset()

    def every_layer(self, ids: Tensor, layers: Collection[int | None]) -> Iterator[tuple[int | None, Tensor]]:
        """Hidden states of several layers in one pass, in the order of depth.

        Args:
            ids: As in `forward`.
            layers: Which ones, each as in `forward`.

        Yields:
            The layer and its states, (B, L, `config.state_width`) float32. Without gradients, they are written over
            when the next ones are asked for.

        Raises:
            GenomeLMError: As `forward`.
        """
        batch = Ways.of(self.config, ids, self.ahead)
        x = self.read(batch.ids)
        deepest = self.config.n_layer if None in layers else max(layer or 0 for layer in layers)
        for depth in range(deepest + 1):
            x = x if depth == 0 else self.blocks[depth - 1](x, not torch.is_grad_enabled(), batch.turn)
            if depth in layers:
                yield depth, batch.states(x)[:, self.ahead :]
        if None in layers:
            yield None, batch.states(self._final_norm(x))[:, self.ahead :]


def _before(prefix: Tensor, x: Tensor) -> Tensor:
    """The same vectors before each row: (P, D), (B, L, D) → (B, P + L, D)."""
    return torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
