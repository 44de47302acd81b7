"""How much memory a training step takes on each CPU process of those that share its sequences.

Each process has its share of the positions. Operators that see a bounded number of positions before are in their own
form, over those positions too. The others are in plain form (`Mixer.add_shard`) and exchange whole sequences of some
channels. What these take was measured (`tests.measure.memory --context-devices 2`), not counted.
"""

from functools import lru_cache

from genome_lm.config import ModelConfig
from genome_lm.model.chain import Chain, Link
from genome_lm.model.language_model import HyenaLM
from genome_lm.model.memory import PROJECTION_BYTES, step_fixed_bytes, stream_bytes
from genome_lm.model.mixer import Held
from genome_lm.model.mixers import mixer_class
from genome_lm.model.shapes import without_memory

PROCESS_BYTES = 40 << 20
"""What a process takes where layers exchange channels, whatever the positions: measured, not counted."""
MARGIN = 1.25
"""How much of the forecast a budget must allow: measured peaks were up to 1.2 times as much."""
HYENA, OTHER = (13, 78), (2, 55)
"""Streams that a layer which exchanges channels stores, and that exist besides while it is gone back through.

The first are of Hyena, the others of attention. The allocator's freed pieces are in them.
"""


def shared_chain(
    config: ModelConfig, length: int, rows: int, devices: int, small: int, projections: int = PROJECTION_BYTES
) -> Chain:
    """What the blocks hold on a process; see `genome_lm.model.memory.training_chain`.

    All blocks are computed again or none is: processes exchange anew what they compute again.

    Args:
        config: Of a causal model.
        length: Positions of whole sequences.
        rows: Sequences of a micro-batch.
        devices: Processes that share each sequence.
        small: See `training_chain`.
        projections: Bytes of in-projections that are kept.
    """
    own = -(-length // devices)
    stream = stream_bytes(config, own, rows)
    hidden = 4 * rows * own * config.d_inner if rows * own * config.d_model < small or config.resid_dropout else 0
    links, halos, lent = [], _halos(config), 0
    for name, halo in zip(config.mixers, halos, strict=True):
        held = _exchanged(name, stream) if halo is None else _with_halo(config, name, own + halo, rows, small)
        keeps = lent + held.projection <= projections
        lent += held.projection if keeps else 0
        temporary = held.temporary + (0 if keeps else held.projected_again)
        links.append(Link(2 * stream + hidden + held.kept, stream, temporary, 1))
    taken = PROCESS_BYTES if None in halos else 0
    return Chain(taken + step_fixed_bytes(config, own, rows, small) + lent, tuple(links))


def _exchanged(name: str, stream: int) -> Held:
    kept, temporary = HYENA if name == "hyena" else OTHER
    return Held(kept * stream, temporary * stream)


def _with_halo(config: ModelConfig, name: str, positions: int, rows: int, small: int) -> Held:
    """The operator over its positions and those before, which are joined to them in a stream of their own."""
    held = mixer_class(name).training_held(config, positions, rows, small)
    joined = stream_bytes(config, positions, rows)
    return held._replace(kept=held.kept + joined, temporary=held.temporary + joined)


@lru_cache(maxsize=64)
def _halos(config: ModelConfig) -> tuple[int | None, ...]:
    with without_memory():
        return tuple(block.mixer.halo for block in HyenaLM(config).backbone.blocks)
