"""Which strands of DNA are read: the words of all commands for it, and what they mean."""

from collections.abc import Callable
from typing import Any, Literal, get_args

from genome_lm.errors import GenomeLMError

Strands = Literal["forward", "reverse", "both"]
"""Of likelihoods; "both" is the mean of the strand that is given and its reverse complement."""
EmbeddedStrands = Literal["forward", "both", "concat"]
"""Of embeddings; "concat" puts the two strands one after the other."""
HeadStrands = Literal["forward", "both"]
"""Of what a tuned model predicts."""


def check_strand(strand: str, strands: Any) -> None:
    """Raise a `GenomeLMError` if a word is not among those of one of the types above."""
    if strand not in get_args(strands):
        *others, last = get_args(strands)
        raise GenomeLMError(f"strand {strand!r}: use {', '.join(others)} or {last}")


def orientations(strand: str) -> tuple[bool, ...]:
    """The readings that a word asks for, each as whether it is of the reverse complement."""
    return {"forward": (False,), "reverse": (True,)}.get(strand, (False, True))


def counted_once(advance: Callable[[float], None], strand: str) -> Callable[[float], None]:
    """Tell how much is done where each reading of a strand counts: what is read on both strands counts half each."""
    readings = len(orientations(strand))
    return lambda amount: advance(amount / readings)
