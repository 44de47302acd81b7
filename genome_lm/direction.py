"""Which positions of a sequence a model's state at a position depends on, and what follows from that.

This is the one place that names causality. Padding, context, the shift between logits and the bases that they
predict, and shared prefixes ask a model's direction (`ModelConfig.direction`) instead of assuming one.
"""

from enum import StrEnum
from typing import Any

from genome_lm.errors import GenomeLMError


class Direction(StrEnum):
    """How a model reads; the value is its word in configurations and messages."""

    CAUSAL = "causal"
    """A state depends on its position and those before it. Logits predict the next base."""
    BOTH = "both"
    """A state depends on all positions. Logits predict the base at their own position, which is hidden for that."""

    @property
    def sees_following(self) -> bool:
        """Whether the state at a position depends on the positions after it.

        If not, padding on the right changes nothing, and what two sequences begin with can be read once for both.
        """
        return self is Direction.BOTH

    @property
    def offset(self) -> int:
        """The logits at position i predict the base at position i + offset."""
        return 0 if self is Direction.BOTH else 1

    def context(self, left: int, right: int) -> tuple[int, int]:
        """Bases of the context on each side of a sequence that can change its states."""
        return left, right if self.sees_following else 0

    def shifted(self, tokens: Any) -> tuple[Any, Any]:
        """What is read and what is predicted: (B, L) tokens → two (B, L − offset), an array or tensor as given."""
        return tokens[:, : tokens.shape[1] - self.offset], tokens[:, self.offset :]

    def require_causal(self, what: str) -> None:
        """Raise a `GenomeLMError` unless a state depends on nothing after its position; `what` needs that."""
        if self.sees_following:
            raise GenomeLMError(f"{what} needs a causal model; this one reads in both directions")


CAUSAL, BOTH = Direction.CAUSAL, Direction.BOTH
