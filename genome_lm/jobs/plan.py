"""The plan of a job: its input, looked through once, and cut into parts that are embedded one by one."""

import hashlib
from typing import NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.jobs.sources import SequenceSource, Span

PART_BASES = 1 << 18
"""Bases, context included, after which a part ends: some batches, and what a killed job has to do again."""
PART_VALUES = 1 << 24
"""Numbers in the result after which a part ends: what is held in memory."""


class Part(NamedTuple):
    """Records [first, stop) of the input; their pooled bases; rows of their result."""

    first: int
    stop: int
    bases: int
    rows: int


class InputPlan(NamedTuple):
    """What a first pass through an input tells.

    Attributes:
        parts: In the input's order; every record is in one of them.
        longest: The span that asks most of the model, context included.
        shortest: The span with the fewest bases to pool.
        sha256: Digest of the input: names, places and sequence.
    """

    parts: tuple[Part, ...]
    longest: Span
    shortest: Span
    sha256: str


def plan_input(source: SequenceSource, values: int, row_per_base: bool) -> InputPlan:
    """Look through an input, and cut it into parts; the same input always gives the same plan.

    Args:
        source: The input.
        values: Numbers in a row of the result, over all layers.
        row_per_base: Rows are bases, not records.

    Raises:
        GenomeLMError: If something is wrong with the input, or there is nothing in it.
    """
    digest = hashlib.sha256()
    parts: list[Part] = []
    longest = shortest = None
    first = number = bases = rows = seen = 0
    for number, span in enumerate(source.spans(digest), start=1):
        length = span.end - span.start
        longest = max(longest or span, span, key=model_length)
        shortest = min(shortest or span, span, key=lambda span: span.end - span.start)
        bases, rows, seen = bases + length, rows + (length if row_per_base else 1), seen + model_length(span)
        if seen >= PART_BASES or rows * values >= PART_VALUES:
            parts.append(Part(first, number, bases, rows))
            first, bases, rows, seen = number, 0, 0, 0
    if rows:
        parts.append(Part(first, number, bases, rows))
    if longest is None or shortest is None:
        raise GenomeLMError(
            "nothing to embed: no window of full length with full context; use shorter windows, or --edges keep"
        )
    return InputPlan(tuple(parts), longest, shortest, digest.hexdigest())


def model_length(span: Span) -> int:
    """Bases of a span that go through the model at one time, on the strand that has more context."""
    return span.end - span.start + max(span.left, span.right)
