"""Hidden states of a sequence to one vector; padding never takes part."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

Pool = Literal["mean", "last", "max", "none"]
POOLS: tuple[str, ...] = get_args(Pool)


def pool_states(states: Tensor, lengths: Sequence[int], pool: Pool) -> list[Tensor]:
    """Pool each row over its own positions.

    Args:
        states: (b, L, d) hidden states, padded on the right.
        lengths: Positions of each row that are not padding.
        pool: "mean", "max", "last", or "none" to cut off the padding alone.

    Returns:
        b tensors, (d,), or (length, d) without pooling.
    """
    rows = [states[row, :length] for row, length in enumerate(lengths)]
    if pool == "mean":
        return [row.mean(0) for row in rows]
    if pool == "max":
        return [row.amax(0) for row in rows]
    return [row[-1] for row in rows] if pool == "last" else rows
