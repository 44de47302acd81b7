"""How a batch goes through the blocks: one way or both, on one strand or on both.

This is the one place that turns sequences around. Each is turned within its own length. So padding on the right stays
there, behind what it can't reach, and a result depends neither on it nor on the batch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genome_lm.alphabet import PAD, TOKEN_COMPLEMENT
from genome_lm.config import ModelConfig
from genome_lm.kernels import is_transformed


class Turn:
    """Turns sequences around, and turned ones back; what stands ahead of them stays.

    Args:
        ids: (B, L) token ids, padded on the right with `PAD`; or weights of them, (B, L, 16).
        ahead: Positions before each sequence, such as that of a condition.
    """

    def __init__(self, ids: Tensor, ahead: int = 0) -> None:
        places = torch.arange(ids.shape[1], device=ids.device)
        is_read = ids[..., PAD] < 1 if ids.is_floating_point() else ids != PAD
        lengths = (is_read * (places + 1)).amax(1, keepdim=True)
        turned = torch.where(places < lengths, lengths - 1 - places, places) + ahead
        first = torch.arange(ahead, device=ids.device).expand(len(ids), -1)
        rows = torch.arange(len(ids), device=ids.device)[:, None] * (ahead + ids.shape[1])
        self._places = (torch.cat([first, turned], dim=1) + rows).flatten()

    def __call__(self, x: Tensor) -> Tensor:
        """Of (B, ahead + L, …), such as a residual stream; differentiable."""
        turned: Tensor = (_taken if is_transformed() else _Taken.apply)(x, self._places)
        return turned


def _taken(x: Tensor, places: Tensor) -> Tensor:
    return x.flatten(0, 1).index_select(0, places).view_as(x)


class _Taken(torch.autograd.Function):
    """Rows at their places. Turning around twice changes nothing, so the gradient is turned around too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return _taken(x, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return _taken(grad, places), None


class Ways(NamedTuple):
    """A batch of B sequences as the blocks read it.

    Attributes:
        ids: (R, L) token ids, or weights of them, (R, L, 16): the sequences, and where both strands are read, their
            reverse complements after them.
        turn: Turns these rows around, with what stands ahead of them; None where the model is causal.
        strand: Turns the other strand's B rows, likewise; None where one strand is read.
    """

    ids: Tensor
    turn: Turn | None = None
    strand: Turn | None = None

    @classmethod
    def of(cls, config: ModelConfig, ids: Tensor, ahead: int) -> "Ways":
        """How a model reads a batch; see `Turn`."""
        if not config.direction.sees_following:
            return cls(ids)
        if config.strands != "equivariant":
            return cls(ids, Turn(ids, ahead))
        complements = torch.from_numpy(TOKEN_COMPLEMENT).to(ids.device)
        complement = ids[..., complements.long()] if ids.is_floating_point() else complements.to(ids)[ids.long()]
        both = torch.cat([ids, Turn(ids)(complement)])
        return cls(both, Turn(both, ahead), Turn(ids, ahead))

    def states(self, x: Tensor) -> Tensor:
        """States of the rows → of the sequences, those of the other strand beside their own: (B, L, state_width)."""
        if self.strand is None:
            return x
        own, other = x.chunk(2)
        return torch.cat([own, self.strand(other)], dim=-1)


class Combined(nn.Module):
    """What a block adds of its two directions where that is not their sum, see `ModelConfig.combine`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_gate = config.combine == "gate"
        self.linear = nn.Linear(2 * config.d_model, config.d_model)

    def forward(self, ahead: Tensor, back: Tensor) -> Tensor:
        """Of what mixers made of the sequences and of the reversed ones, turned back: (B, L, D) each → (B, L, D)."""
        of_both = self.linear(torch.cat([ahead, back], dim=-1)).to(ahead.dtype)
        return torch.lerp(back, ahead, of_both.sigmoid()) if self.is_gate else of_both + ahead + back


def combined_bytes(config: ModelConfig, product: int) -> int:
    """Bytes per position and channel that `Combined` stores for its backward pass.

    Args:
        config: Of the model.
        product: Bytes of a number in the products: 4, or 2 within autocast.
    """
    return {"sum": 0, "gate": 2 * product + 12, "projection": 2 * product}[config.combine]


def ways(config: ModelConfig) -> int:
    """In how many directions a block mixes a row."""
    return 2 if config.direction.sees_following else 1


def strands(config: ModelConfig) -> int:
    """How many rows the blocks read per sequence."""
    return config.state_width // config.d_model


def rows_at_once(config: ModelConfig) -> int:
    """How many rows a mixer reads at one time per sequence."""
    return strands(config) * (ways(config) if config.reversed_weights == "shared" else 1)
