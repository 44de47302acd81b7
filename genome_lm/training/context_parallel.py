"""Training with devices that share each sequence: whether a model can be trained so, and who shares with whom."""

from typing import get_args

import torch.distributed as dist

from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.model.shards import Context, Exchange


def check_context(model: HyenaLM, devices: int, exchange: str, processes: int) -> None:
    """Refuse a number of devices that can't share the sequences of a model.

    Args:
        model: The model.
        devices: That share each sequence.
        exchange: See `genome_lm.model.shards.Context`.
        processes: Devices of all nodes together.

    Raises:
        GenomeLMError: If so.
    """
    if exchange not in get_args(Exchange):
        raise GenomeLMError(f"no context exchange {exchange!r}: use exact or int8")
    if devices < 1 or processes % devices:
        raise GenomeLMError(
            f"context devices {devices}: must divide the number of devices of all nodes together, {processes}"
        )
    if devices == 1:
        if exchange != "exact":
            raise GenomeLMError(f"context exchange {exchange} goes with --context-devices 2 or more")
        return
    model.config.direction.require_causal("sharing sequences among devices (--context-devices)")
    for name, block in zip(model.config.mixers, model.backbone.blocks, strict=True):
        mixer = block.mixer
        if mixer.halo is None and mixer.parts < devices:
            most = "no devices" if mixer.parts == 1 else f"at most {mixer.parts}"
            raise GenomeLMError(
                f"context devices {devices}: of the layout's operator {name}, {most} can share a sequence; "
                "give fewer --context-devices, or another layout"
            )


def make_context(devices: int, exchange: Exchange) -> Context | None:
    """The devices that share sequences with this one: so many with numbers in a row. Called on all of them."""
    if devices == 1:
        return None
    firsts = range(0, dist.get_world_size(), devices)
    groups = [dist.new_group([*range(first, first + devices)]) for first in firsts]
    return Context(groups[dist.get_rank() // devices], exchange)
