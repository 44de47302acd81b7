"""Hidden states of sequences that share all but their end with one that the model has already read.

The model is causal, so a substitution at position p changes nothing before p. From p on, the long convolution is
linear: where a block's convolution input is u for the reference and u + Δu for the alternative, its output is
h ∗ u + h ∗ Δu, and Δu is zero before p. One pass over the reference keeps u and h ∗ u behind the first position of
interest; an alternative then costs a pass over its own end alone, with FFTs of that length. This holds for any
alternative end, so for insertions and deletions too: u and Δu are compared position by position, not base by base.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.model.backbone import HyenaBackbone


class _Kept(NamedTuple):
    """What a block did to the reference, from position `begin` of the sequence on, with n = L − begin."""

    x: Tensor  # (R, n, D) residual stream before the block
    u: Tensor  # (D, R, n) input of the long convolution
    c: Tensor  # (D, R, n) its output


class ReferenceStates(NamedTuple):
    """A pass over reference sequences.

    Attributes:
        ids: (R, L) token ids.
        begin: First position of which states are kept.
        hidden: (R, L − begin, D) hidden states after the final norm.
        blocks: What `alternative_states` needs; empty after `plain_reference_states`.
    """

    ids: Tensor
    begin: int
    hidden: Tensor
    blocks: tuple[_Kept, ...]


def covers(backbone: HyenaBackbone) -> bool:
    """Whether the alternatives of this model can share the pass over their reference: order 2 alone."""
    return backbone.config.order == 2


@torch.no_grad()
def reference_states(backbone: HyenaBackbone, ids: Tensor, first: int) -> ReferenceStates:
    """Read reference sequences whose ends will be replaced from position `first` on or later.

    Args:
        backbone: In eval mode, of order 2.
        ids: (R, L) token ids.
        first: No alternative starts before this position.

    Returns:
        The states, from the position before `first` on at the latest; they take 3 · n_layer · D values a position.

    Raises:
        GenomeLMError: If the model is of another order, or the sequences are too long for it.
    """
    if not covers(backbone):
        raise GenomeLMError(f"a model of order {backbone.config.order}: only order 2 shares passes")
    begin = max(0, first - _reach(backbone))
    x, kept = backbone(ids, 0), []
    for number, block in enumerate(backbone.blocks, start=1):
        shape = (x.shape[-1], len(ids), ids.shape[1] - begin)
        states = _Kept(x[:, begin:].clone(), x.new_empty(shape), x.new_empty(shape))
        # Of the last block's output, nothing before `begin` is wanted.
        since = begin if number == len(backbone.blocks) else 0
        x = block(x, inplace=True, around=_keeping(states, begin), first=since)
        kept.append(states)
    return ReferenceStates(ids, begin, backbone.norm(x), tuple(kept))


def _keeping(states: _Kept, begin: int) -> Callable[[int, int, Tensor, Callable[[Tensor], Tensor]], Tensor]:
    def around(start: int, stop: int, u: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
        c = convolve(u)
        states.u[start:stop], states.c[start:stop] = u[..., begin:], c[..., begin:]
        return c

    return around


@torch.no_grad()
def alternative_states(
    backbone: HyenaBackbone, reference: ReferenceStates, rows: Tensor, starts: Tensor, ids: Tensor
) -> Tensor:
    """Hidden states of alternative ends.

    Args:
        backbone: The model of `reference_states`.
        reference: What that returned.
        rows: (B,) int64, the reference sequence that each alternative departs from.
        starts: (B,) int64, the position from which on the alternative takes the place of the reference.
        ids: (B, S) token ids of the alternatives from there on, starts + S ≤ L.

    Returns:
        (B, S, D) hidden states after the final norm.
    """
    reach, begin = _reach(backbone), reference.begin
    if (early := starts < reach).any():
        # Before these there is not enough to fill the short convolution; the whole is hardly longer than the end.
        hidden = plain_alternative_states(backbone, reference, rows[early], starts[early], ids[early])
        out = hidden.new_empty(*ids.shape, hidden.shape[-1])
        out[early] = hidden
        if not early.all():
            late = ~early
            out[late] = alternative_states(backbone, reference, rows[late], starts[late], ids[late])
        return out
    positions = (starts - reach - begin)[:, None] + torch.arange(reach + ids.shape[1], device=ids.device)
    places = rows[:, None], positions
    # Ahead of each alternative stand the last positions of the reference, for the short convolution.
    x = backbone(torch.cat([reference.ids[rows[:, None], begin + positions[:, :reach]], ids], dim=1), 0)
    for block, kept in zip(backbone.blocks, reference.blocks, strict=True):
        x[:, :reach] = kept.x[rows[:, None], positions[:, :reach]]
        x = block(x, inplace=True, around=_changing(kept, places, reach))
    return backbone.norm(x[:, reach:])


def _changing(
    kept: _Kept, places: tuple[Tensor, Tensor], reach: int
) -> Callable[[int, int, Tensor, Callable[[Tensor], Tensor]], Tensor]:
    def around(start: int, stop: int, u: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
        change = u - kept.u[start:stop][:, places[0], places[1]]
        change[..., :reach] = 0
        return convolve(change).add_(kept.c[start:stop][:, places[0], places[1]])

    return around


@torch.no_grad()
def plain_reference_states(backbone: HyenaBackbone, ids: Tensor, first: int) -> ReferenceStates:
    """`reference_states` by a plain full pass, for a model of any order."""
    begin = max(0, first - _reach(backbone))
    return ReferenceStates(ids, begin, backbone(ids)[:, begin:], ())


@torch.no_grad()
def plain_alternative_states(
    backbone: HyenaBackbone, reference: ReferenceStates, rows: Tensor, starts: Tensor, ids: Tensor
) -> Tensor:
    """`alternative_states` by a full pass over each alternative, for a model of any order."""
    hidden = []
    for row, start, end in zip(rows.tolist(), starts.tolist(), ids, strict=True):
        whole = torch.cat([reference.ids[row, :start].to(end.dtype), end])
        hidden.append(backbone(whole[None])[0, start:])
    return torch.stack(hidden)


def _reach(backbone: HyenaBackbone) -> int:
    """Positions before an alternative that are needed: what the short taps see, and what predicts its first base."""
    return max(1, backbone.config.short_filter_order - 1)
