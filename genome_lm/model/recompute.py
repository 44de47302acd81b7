"""Hidden states of sequences that share all but their end with one that the model has already read.

A causal model's states before a substitution stay as they are. One pass over the reference keeps what its mixers need
of it (`Mixer.read_reference`). An alternative then costs a pass over its own end alone. This holds for any end, so
for insertions and deletions too.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.model.backbone import HyenaBackbone
from genome_lm.model.mixer import Ends


class ReferenceStates(NamedTuple):
    """A pass over reference sequences.

    Attributes:
        ids: (R, L) token ids.
        begin: First position of which states are kept.
        hidden: (R, L − begin, D) hidden states after the final norm.
        streams: For each block the residual stream before it, (R, L − begin, D).
        kept: For each block what its mixer keeps.
    """

    ids: Tensor
    begin: int
    hidden: Tensor
    streams: tuple[Tensor, ...] = ()
    kept: tuple[Any, ...] = ()


@torch.no_grad()
def reference_states(backbone: HyenaBackbone, ids: Tensor, first: int) -> ReferenceStates:
    """Read reference sequences whose ends will be replaced from position `first` on or later.

    Args:
        backbone: In eval mode.
        ids: (R, L) token ids.
        first: No alternative starts before this position.

    Returns:
        The states, from the position before `first` on at the latest.

    Raises:
        GenomeLMError: If the model sees what follows a position, or the sequences are too long for it.
    """
    if backbone.config.direction.sees_following:
        raise GenomeLMError("this model reads in both directions: sequences that begin alike share no states")
    begin = max(0, first - _reach(backbone))
    x, streams, kept = backbone.read(ids), [], []
    place = backbone.ahead + begin
    for number, block in enumerate(backbone.blocks, start=1):
        streams.append(x[:, place:].clone())
        # Of the last block's output, nothing before `begin` is wanted.
        x, held = block.read_reference(x, place, place if number == len(backbone.blocks) else 0)
        kept.append(held)
    return ReferenceStates(ids, begin, backbone.norm(x), tuple(streams), tuple(kept))


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
        # There is not enough before these to fill what the mixers reach back to. The whole is hardly longer.
        hidden = plain_alternative_states(backbone, reference, rows[early], starts[early], ids[early])
        out = hidden.new_empty(*ids.shape, hidden.shape[-1])
        out[early] = hidden
        if not early.all():
            late = ~early
            out[late] = alternative_states(backbone, reference, rows[late], starts[late], ids[late])
        return out
    ends = Ends(rows, backbone.ahead + starts - reach, reach, backbone.ahead + begin)
    ahead = ends.places(reach)
    # Ahead of each alternative stand the last positions of the reference.
    x = backbone.embedded(torch.cat([reference.ids[:, begin:][ahead], ids], dim=1))
    for block, stream, kept in zip(backbone.blocks, reference.streams, reference.kept, strict=True):
        x[:, :reach] = stream[ahead]
        x = block.read_alternative(x, kept, ends)
    return backbone.norm(x[:, reach:])


@torch.no_grad()
def plain_reference_states(backbone: HyenaBackbone, ids: Tensor, first: int) -> ReferenceStates:
    """`reference_states` by a plain full pass."""
    begin = max(0, first - _reach(backbone))
    return ReferenceStates(ids, begin, backbone(ids)[:, begin:])


@torch.no_grad()
def plain_alternative_states(
    backbone: HyenaBackbone, reference: ReferenceStates, rows: Tensor, starts: Tensor, ids: Tensor
) -> Tensor:
    """`alternative_states` by a full pass over each alternative."""
    hidden = []
    for row, start, end in zip(rows.tolist(), starts.tolist(), ids, strict=True):
        whole = torch.cat([reference.ids[row, :start].to(end.dtype), end])
        hidden.append(backbone(whole[None])[0, start:])
    return torch.stack(hidden)


def _reach(backbone: HyenaBackbone) -> int:
    """Positions before an alternative that are needed.

    They are what its mixers see, what its n-grams hold, and what predicts its first base.
    """
    return max(1, backbone.config.ngram_reach, *(block.mixer.reach for block in backbone.blocks))
