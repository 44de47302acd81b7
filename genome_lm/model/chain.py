"""Which blocks of a chain keep what they computed for the backward pass, and which compute it again.

After Rockmate (Zhao et al. 2023, https://arxiv.org/abs/2307.01236), which solves it on the chain of all blocks.
Here a block that computes again keeps its input alone and runs forward a second time, by itself, when its turn in the
backward pass comes. There are no other schedules, so an optimal choice is found by one walk along the chain.

When block i is gone back through, there are what the blocks before it hold, all that block i stores (kept or just
computed again), and what going back takes besides:

    peak = fixed + max over i of (sum over j < i of held_j + stored_i + temporary_i),

where held_j is stored_j of a block that keeps, and input_j of one that computes again. The time is that of the step
plus `again_j` of each block that computes again. So a choice for block j counts against the room of all later blocks
alone, and the last block always keeps.
"""

from collections.abc import Collection
from typing import NamedTuple


class Link(NamedTuple):
    """A block of the chain; memory in bytes, time in any unit."""

    stored: int  # what its backward pass needs, its input included
    input: int  # its input, all that it holds if it is computed again
    temporary: int  # what going back through it takes besides
    again: float  # time of computing it again


class Chain(NamedTuple):
    """Blocks in their order, and the bytes that there are whatever they keep."""

    fixed: int
    links: tuple[Link, ...]

    def peak(self, recomputed: Collection[int]) -> int:
        """Most bytes that there are at one time if the blocks of these numbers are computed again."""
        held, most = 0, 0
        for number, link in enumerate(self.links):
            most = max(most, held + link.stored + link.temporary)
            held += link.input if number in recomputed else link.stored
        return self.fixed + most

    def time(self, recomputed: Collection[int]) -> float:
        """Time of computing these blocks again."""
        return sum(self.links[number].again for number in recomputed)

    @property
    def least(self) -> int:
        """Bytes below which nothing helps: all blocks are computed again."""
        return self.peak(range(len(self.links)))

    def solve(self, room: int) -> frozenset[int] | None:
        """The blocks to compute again, in the least time, so that the peak is within `room`; None if nothing is.

        A walk along the chain keeps the choices that no other beats in both memory and time: with a few kinds of
        blocks as many as there are combinations of their numbers.
        """
        front = [_Choice(self.fixed, 0.0, None)]
        for number, link in enumerate(self.links):
            fits = [choice for choice in front if choice.held + link.stored + link.temporary <= room]
            if not fits:
                return None
            keep = [_Choice(choice.held + link.stored, choice.time, choice.recomputed) for choice in fits]
            again = [
                _Choice(choice.held + link.input, choice.time + link.again, (number, choice.recomputed))
                for choice in fits
            ]
            front = _best([*keep, *again])
        return frozenset(min(front, key=lambda choice: choice.time).numbers())


_Numbers = tuple[int, "_Numbers"] | None


class _Choice(NamedTuple):
    held: int
    time: float
    recomputed: "_Numbers"

    def numbers(self) -> list[int]:
        numbers, rest = [], self.recomputed
        while rest is not None:
            number, rest = rest
            numbers.append(number)
        return numbers


def _best(choices: list[_Choice]) -> list[_Choice]:
    """Those that no other beats: more memory always buys less time."""
    front: list[_Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.held, choice.time)):
        if not front or choice.time < front[-1].time:
            front.append(choice)
    return front
