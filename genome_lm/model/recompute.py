"""Hidden states of sequences that share all but their end with one that the model has already read.

A causal model's states before a substitution stay as they are. One pass over the reference keeps what its mixers need
of it (`Mixer.read_reference`). An alternative then costs a pass over its own end alone. This holds for any end, so
for insertions and deletions too.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model.backbone import HyenaBackbone
from genome_lm.model.mixer import Ends


class ReferenceStates(NamedTuple):
    """A pass over reference sequences.

    Attributes:
        ids: (R, L) token ids.
        begin: First position of which states are kept.
        hidden: (R, L − begin, D) hidden states after the final norm, where they are wanted.
        streams: The residual stream before each block and after the last, (R, L − begin, D) each; after the last one
            where it is wanted.
        kept: For each block what its mixer keeps.
    """

    ids: Tensor
    begin: int
    hidden: Tensor
    streams: tuple[Tensor, ...] = ()
    kept: tuple[Any, ...] = ()

    def at(self, layer: int | None) -> Tensor:
        """The states of a layer, (R, L − begin, D); None for those after the final norm."""
        return self.hidden if layer is None else self.streams[layer]


def kept_streams(config: ModelConfig) -> int:
    """Numbers per position and channel that `reference_states` keeps at most: streams, and what mixers keep."""
    return 2 + 3 * config.n_layer


@torch.no_grad()
def reference_states(
    backbone: HyenaBackbone, ids: Tensor, first: int, wanted: Tensor | None = None
) -> ReferenceStates:
    """Read reference sequences whose ends will be replaced from position `first` on or later.

    Args:
        backbone: In eval mode.
        ids: (R, L) token ids.
        first: No alternative starts before this position.
        wanted: (R, L) bool, the positions whose states after the last block are wanted; None for all.

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
    wanted = torch.ones_like(ids[:, begin:], dtype=torch.bool) if wanted is None else wanted[:, begin:]
    for number, block in enumerate(backbone.blocks, start=1):
        streams.append(x[:, place:].clone())
        x, held = block.read_reference(x, place, wanted if number == len(backbone.blocks) else None)
        kept.append(held)
    streams.append(x)
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
    return alternative_layers(backbone, reference, rows, starts, ids, (None,))[None]


@torch.no_grad()
def alternative_layers(
    backbone: HyenaBackbone,
    reference: ReferenceStates,
    rows: Tensor,
    starts: Tensor,
    ids: Tensor,
    layers: Collection[int | None],
) -> dict[int | None, Tensor]:
    """As `alternative_states`, of several layers in one pass; each as in `HyenaBackbone.forward`."""
    reach, begin = _reach(backbone), reference.begin
    if (early := starts < reach).any():
        # There is not enough before these to fill what the mixers reach back to. The whole is hardly longer.
        of_early = plain_alternative_layers(backbone, reference, rows[early], starts[early], ids[early], layers)
        if early.all():
            return of_early
        late = ~early
        of_late = alternative_layers(backbone, reference, rows[late], starts[late], ids[late], layers)
        out = {layer: states.new_empty(*ids.shape, states.shape[-1]) for layer, states in of_early.items()}
        for layer, states in out.items():
            states[early], states[late] = of_early[layer], of_late[layer]
        return out
    ends = Ends(rows, backbone.ahead + starts - reach, reach, backbone.ahead + begin)
    ahead = ends.places(reach)
    # Ahead of each alternative stand the last positions of the reference.
    x = backbone.embedded(torch.cat([reference.ids[:, begin:][ahead], ids], dim=1))
    out = {}
    before_blocks = zip(backbone.blocks, reference.streams[:-1], reference.kept, strict=True)
    for depth, (block, stream, kept) in enumerate(before_blocks):
        x[:, :reach] = stream[ahead]
        if depth in layers:
            out[depth] = x[:, reach:].clone()
        x = block.read_alternative(x, kept, ends)
    out[len(backbone.blocks)] = x[:, reach:]
    if None in layers:
        out[None] = backbone.norm(x[:, reach:])
    return {layer: out[layer] for layer in layers}


@torch.no_grad()
def plain_reference_states(
    backbone: HyenaBackbone, ids: Tensor, first: int, wanted: Tensor | None = None
) -> ReferenceStates:
    """`reference_states` by a plain full pass, which gives all positions."""
    begin = max(0, first - _reach(backbone))
    states = _every_layer(backbone, ids, begin, (*range(backbone.config.n_layer + 1), None))
    return ReferenceStates(ids, begin, states.pop(None), tuple(states.values()))


@torch.no_grad()
def plain_alternative_states(
    backbone: HyenaBackbone, reference: ReferenceStates, rows: Tensor, starts: Tensor, ids: Tensor
) -> Tensor:
    """`alternative_states` by a full pass over each alternative."""
    return plain_alternative_layers(backbone, reference, rows, starts, ids, (None,))[None]


@torch.no_grad()
def plain_alternative_layers(
    backbone: HyenaBackbone,
    reference: ReferenceStates,
    rows: Tensor,
    starts: Tensor,
    ids: Tensor,
    layers: Collection[int | None],
) -> dict[int | None, Tensor]:
    """`alternative_layers` by a full pass over each alternative."""
    each = []
    for row, start, end in zip(rows.tolist(), starts.tolist(), ids, strict=True):
        whole = torch.cat([reference.ids[row, :start].to(end.dtype), end])
        each.append(_every_layer(backbone, whole[None], start, layers))
    return {layer: torch.cat([states[layer] for states in each]) for layer in layers}


def _every_layer(
    backbone: HyenaBackbone, ids: Tensor, begin: int, layers: Collection[int | None]
) -> dict[int | None, Tensor]:
    """The states of layers from position `begin` on, by a full pass."""
    return {layer: states[:, begin:].clone() for layer, states in backbone.every_layer(ids, layers)}


def _reach(backbone: HyenaBackbone) -> int:
    """Positions before an alternative that are needed.

    They are what its mixers see, what its n-grams hold, and what predicts its first base.
    """
    return max(1, backbone.config.ngram_reach, *(block.mixer.reach for block in backbone.blocks))
