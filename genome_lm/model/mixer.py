"""What a model asks of a mixer: the operator of a block that mixes along the sequence.

An operator is a subclass of `Mixer` in `genome_lm.model.mixers`, with one line in its registry. `forward` is all that
it must give. Everything else has a plain form here, right for every causal operator, that a faster one overrides:
the residual sub-block, the pass that two sequences with a common beginning share, reading token by token, and the
forecast of memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.kernels import WIDEST, Branch, Precision, backend_for, steps
from genome_lm.model.shards import Shard


class Held(NamedTuple):
    """Bytes on a CPU that a layer needs for a batch, beside weights and residual streams."""

    kept: int  # from its turn to the end of the pass
    temporary: int  # while it is its turn
    projection: int = 0  # of what training keeps of it within the budget of `genome_lm.kernels.kept_projections`
    projected_again: int = 0  # while it is gone back through, where that was not kept
    shared: int = 0  # of what the micro-batches of a step share of it
    buffers: int = 0  # that stay for layers to come, which use the same ones


class GpuBatch(NamedTuple):
    """A batch on a GPU.

    Attributes:
        config: Of the model.
        batch: Sequences.
        length: Positions of each.
        dtype: Of the products: float32, or bfloat16 within autocast.
        has_triton: Whether the Triton kernels work there; they are used where they are worthwhile.
    """

    config: ModelConfig
    batch: int
    length: int
    dtype: torch.dtype = torch.float32
    has_triton: bool = True

    @property
    def unit(self) -> int:
        """One byte per position and channel."""
        return self.batch * self.length * self.config.d_model

    @property
    def runs_rows(self) -> bool:
        """Whether the kernels over rows compute the MLP in training; see `genome_lm.kernels.runs_rows`."""
        return self.has_triton and not self.config.resid_dropout and self.config.d_model <= WIDEST


class Units(NamedTuple):
    """What a block takes on a GPU with one mixer; a unit is a byte per position and channel of the batch."""

    stored: float  # units that the backward pass needs, beside the MLP's hidden layer
    hidden: int  # bytes per position and hidden channel of the MLP that the backward pass needs
    per_position: int  # bytes per position, whatever the batch, that the backward pass needs
    temporary: int  # units that exist besides while the block is gone back through
    forward: int  # units that exist at one time without gradients
    mixing: int = 0  # units that exist besides while the mixer is gone back through, where they are counted
    blocks: int = 0  # bytes of pieces that exist besides, whatever the batch


class Ends(NamedTuple):
    """Alternative ends of reference sequences, each with the last positions of its reference ahead of it.

    Attributes:
        rows: (B,) int64, the reference sequence that each departs from.
        starts: (B,) int64, position in the reference where each begins, less `ahead`.
        ahead: Positions of the reference that stand before each end.
        begin: First position of the reference from which on a mixer kept what it was asked to.
    """

    rows: Tensor
    starts: Tensor
    ahead: int
    begin: int

    def places(self, length: int) -> tuple[Tensor, Tensor]:
        """Indices of the ends' positions, `length` each, in what was kept from `begin` on: (B, 1) and (B, length)."""
        positions = torch.arange(length, device=self.starts.device)
        return self.rows[:, None], (self.starts - self.begin)[:, None] + positions


class Prompts(NamedTuple):
    """Prompts that sequences go on from.

    Attributes:
        lengths: (B,) int64 on the CPU, tokens of each prompt.
        rows: (R,) int64 on the CPU, the prompt that each sequence of the batch goes on from.
        replayed: Whether a step may be captured as a CUDA graph and replayed; see `MixerSteps`.
        fused: Then what `genome_lm.kernels.fused_steps` gives, else None.
    """

    lengths: Tensor
    rows: Tensor
    replayed: bool = False
    fused: Any = None


class MixerSteps(ABC):
    """The state of all layers of one operator, for a batch of sequences that are read token by token.

    After `start`, each layer in order reads the prompts by `prefill`; `begin` ends that. For each token then, `turn`
    comes first, each layer in order takes its `step`, `advance` ends the position, and `settle` does what depends on
    its number.

    Attributes:
        can_replay: Whether `turn`, `step` and `advance` can be captured as a CUDA graph after prompts that are to be
            `replayed`: they wait for nothing on the device, they depend on no number of Python's that changes from
            token to token, and what one token leaves to the next stays where it is in memory.
    """

    can_replay: ClassVar[bool] = False

    @abstractmethod
    def start(self, prompts: Prompts, x: Tensor) -> None:
        """Take over the prompts; x, (B, P, D), tells their padded length, the dtype and the device."""

    @abstractmethod
    def prefill(self, layer: int, normed: Tensor, x: Tensor) -> None:
        """Add what the layer makes of `normed`, (B, P, D), to x, and keep what later positions need of it."""

    def begin(self) -> None:
        """End the reading of the prompts."""

    def turn(self) -> None:
        """Look up what is the same for all layers at the present position."""

    @abstractmethod
    def step(self, layer: int, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """What the layer makes of norm(x) at the present position, added to x, (R, D)."""

    def advance(self) -> None:
        """Go to the next position."""

    def settle(self) -> None:
        """Do what depends on how many positions were read; called after each `advance`, and never captured."""


class Mixer(nn.Module, ABC):
    """An operator that mixes along the sequence, (B, L, D) → (B, L, D), made from a `ModelConfig`.

    Attributes:
        residual_layers: Names of its linear layers that write to the residual stream; their weights start smaller.
        adapted_layers: Names of its linear layers beside which LoRA puts its matrices.
        reach: Positions before an alternative end that `read_alternative` needs ahead of it.
        halo: Positions before a shard that are all that its own depend on, wherever they are; None if there is no
            such number. Then `add_shard` is overridden, or no devices share a sequence.
        parts: Channels or heads that an overridden `add_shard` mixes by themselves: at most as many devices share a
            sequence.
    """

    residual_layers: ClassVar[tuple[str, ...]] = ("out_proj",)
    adapted_layers: ClassVar[tuple[str, ...]] = ("in_proj", "out_proj")
    reach: int = 0
    halo: int | None = None
    parts: int = 1

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Mix along the sequence: (B, L, D) → (B, L, D), as the model's direction allows."""

    def add(self, x: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout, inplace: bool) -> Tensor:
        """The residual sub-block: x + dropout(self(norm(x))), (B, L, D), written over x if `inplace` allows it."""
        return x + dropout(self(norm(x)))

    def has_branch(self, x: Tensor) -> bool:
        """Whether `branch` takes the residual stream, or only `add` does; x: one of the same shape."""
        return False

    def branch(self, x: Tensor, added: Branch | None, norm: nn.LayerNorm) -> tuple[Tensor, Branch]:
        """x + added, if anything is, and what the sub-block adds to that, which the next one does."""
        raise NotImplementedError

    def add_shard(self, x: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout, shard: Shard) -> Tensor:
        """`add` for the positions of this device's shard: (B, n, D) → (B, n, D).

        This form is right where `halo` is given.
        """
        assert self.halo is not None
        before = shard.before(x, self.halo)
        return self.add(torch.cat([before, x], dim=1), norm, dropout, False)[:, before.shape[1] :]

    def undecayed(self) -> Iterable[nn.Parameter]:
        """Parameters that weight decay spares, beside biases and norms."""
        return ()

    def read_reference(self, x: Tensor, norm: nn.LayerNorm, begin: int) -> tuple[Tensor, Any]:
        """`add` without gradients and dropout, over reference sequences whose ends will be replaced.

        Args:
            x: (R, L, D); may be written over.
            norm: The sub-block's norm.
            begin: No alternative needs a position before this one ahead of it.

        Returns:
            (R, L, D), and what `read_alternative` needs.
        """
        normed = norm(x)
        return x + self(normed), normed

    def read_alternative(self, x: Tensor, norm: nn.LayerNorm, kept: Any, ends: Ends) -> Tensor:
        """`add` without gradients and dropout, over alternative ends of sequences that were read.

        Args:
            x: (B, ahead + S, D) the ends, each behind the last positions of its reference; may be written over.
            norm: The sub-block's norm.
            kept: What `read_reference` returned.
            ends: Where they begin.

        Returns:
            (B, ahead + S, D); the first `ahead` positions are of no use.
        """
        normed, span = norm(x), x.shape[1]
        whole = normed.new_zeros(len(x), int(ends.starts.max()) + span, x.shape[-1])
        for row, source, start, end in zip(whole, ends.rows.tolist(), ends.starts.tolist(), normed, strict=True):
            row[:start], row[start : start + span] = kept[source, :start], end
        return x + self(whole)[_rows_of(ends.starts, span)]

    @classmethod
    def steps(cls, mixers: Sequence["Mixer"], length: int) -> MixerSteps:
        """The state of these layers, all of this class, for reading `length` tokens one by one after prompts."""
        return RereadSteps(mixers, length)

    @classmethod
    def step_values(cls, config: ModelConfig, prompt: int, length: int) -> int:
        """Numbers that `steps` keeps per layer and sequence."""
        return (prompt + length) * config.d_model

    @classmethod
    def forward_held(cls, config: ModelConfig, length: int, rows: int, precision: Precision = "float32") -> Held:
        """What a layer holds on a CPU in a forward pass without gradients, so many sequences of float32.

        What it keeps are spectra, as far as the budget for them allows.
        """
        return Held(0, 4 * 4 * rows * length * config.d_model)

    @classmethod
    def training_held(cls, config: ModelConfig, length: int, rows: int, small: int) -> Held:
        """What a layer holds on a CPU in a training step that stores what it computed, as `forward_held`.

        `small` is 0 in bf16-mixed, where no step is in plain form; else see `genome_lm.model.memory.small_in`.
        """
        stream = 4 * rows * length * config.d_model
        return Held(6 * stream, 8 * stream)

    @classmethod
    def gpu_units(cls, batch: GpuBatch, training: bool) -> Units:
        """What a block with this mixer takes on a GPU; the default is a guess of a plain operator, not counted."""
        return Units(stored=52, hidden=8, per_position=0, temporary=24, forward=44)


def runs_fused(x: Tensor, dropout: nn.Dropout | None = None, small: int | None = None) -> bool:
    """Whether a residual sub-block runs as one fused operation on the CPU, where there is one.

    Args:
        x: The residual stream.
        dropout: Before the residual addition.
        small: Elements of x below which a training step is quicker in plain form; None for those of Hyena.
    """
    return backend_for(x, small) == "cpu" and not drops(dropout) and not torch.compiler.is_compiling()


def drops(dropout: nn.Dropout | None) -> bool:
    """Whether a dropout changes anything."""
    return dropout is not None and dropout.training and dropout.p > 0


class RereadSteps(MixerSteps):
    """Plain reading token by token, right for every causal mixer: each token reads all before it again."""

    def __init__(self, mixers: Sequence[Mixer], length: int) -> None:
        self._mixers, self._length = mixers, length

    def start(self, prompts: Prompts, x: Tensor) -> None:
        """See `MixerSteps`."""
        self._rows = prompts.rows.to(x.device)
        self._ends = prompts.lengths.to(x.device)[self._rows]
        self._batch = torch.arange(len(self._rows), device=x.device)
        self._read = x.new_zeros(len(self._mixers), len(self._rows), x.shape[1] + self._length, x.shape[2])

    def prefill(self, layer: int, normed: Tensor, x: Tensor) -> None:
        """See `MixerSteps`."""
        self._read[layer, :, : x.shape[1]] = normed[self._rows]
        x += self._mixers[layer](normed)

    def step(self, layer: int, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """See `MixerSteps`."""
        read = self._read[layer]
        read[self._batch, self._ends] = steps.normed(x, norm)
        return x + self._mixers[layer](read[:, : int(self._ends.max()) + 1])[self._batch, self._ends]

    def advance(self) -> None:
        """See `MixerSteps`."""
        self._ends += 1


def _rows_of(starts: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """Indices of `span` positions from each row's start on."""
    rows = torch.arange(len(starts), device=starts.device)
    return rows[:, None], starts[:, None] + torch.arange(span, device=starts.device)
