"""Which positions of a sequence a model's state at a position depends on, and what follows from that.

This is the one place that names causality. Padding, context, the shift between logits and the bases that they
predict, and shared prefixes ask a model's direction (`ModelConfig.direction`) instead of assuming one.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Direction:
    """How a model reads.

    Attributes:
        name: Its word in configurations and messages.
        sees_following: Whether the state at a position depends on the positions after it. If not, padding on the
            right changes nothing, and what two sequences begin with can be read once for both.
        offset: The logits at position i predict the base at position i + offset.
    """

    name: str
    sees_following: bool
    offset: int

    def context(self, left: int, right: int) -> tuple[int, int]:
        """Bases of the context on each side of a sequence that can change its states."""
        return left, right if self.sees_following else 0

    def shifted(self, tokens: Any) -> tuple[Any, Any]:
        """What is read and what is predicted: (B, L) tokens → two (B, L − offset), an array or tensor as given."""
        return tokens[:, : tokens.shape[1] - self.offset], tokens[:, self.offset :]


CAUSAL = Direction("causal", sees_following=False, offset=1)
"""A state depends on its position and those before it."""
