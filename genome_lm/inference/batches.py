"""Sequences of many lengths in batches: sorted by length, padded on the right, halved when memory runs out."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from genome_lm.alphabet import PAD, Tokens, encode
from genome_lm.config import ModelConfig
from genome_lm.direction import CAUSAL, Direction
from genome_lm.errors import GenomeLMError
from genome_lm.machine import free_memory

BATCH_TOKENS = 32_768
"""Positions of a batch on a CPU, padding included, where memory allows: larger ones leave the caches."""
_MOST_TOKENS = 262_144
"""Positions of a batch on a GPU: more don't make it quicker."""
_STATES = 24
"""Arrays of (positions, d_model) float32 that a forward pass holds at most, roughly."""

_MEMORY_ERRORS = (
    ("DefaultCPUAllocator", "memory"),
    ("CUDA error: out of memory",),
    ("CUFFT_ALLOC_FAILED",),
    ("CUBLAS_STATUS_ALLOC_FAILED",),
    ("CUDNN_STATUS_ALLOC_FAILED",),
    ("Triton Error [CUDA]", "out of memory"),
)
"""Words of the messages that tell of short memory."""


class BatchSize:
    """Positions of a batch; it shrinks for good when memory runs out.

    Attributes:
        tokens: Positions of a batch at most, padding included; a longer sequence goes alone.
    """

    def __init__(self, tokens: int) -> None:
        if tokens < 1:
            raise GenomeLMError(f"batches of {tokens} bases: at least 1")
        self.tokens = tokens

    @classmethod
    def automatic(cls, config: ModelConfig, device: torch.device) -> "BatchSize":
        """As many positions as pay off and, roughly, fit half of the memory that is free now."""
        if device.type == "cuda":
            free, most = torch.cuda.mem_get_info(device)[0], _MOST_TOKENS
        else:
            free, most = free_memory(), BATCH_TOKENS
        return cls(max(1, min(most, free // 2 // (_STATES * 4 * config.state_width))))


def encode_all(sequences: Sequence[str], names: Sequence[str] | None, most: int) -> list[Tokens]:
    """Token ids of each sequence, none of them empty or longer than `most` bases.

    Raises:
        GenomeLMError: Naming the sequence (its name, or its number from 0).
    """
    if isinstance(sequences, str):
        raise GenomeLMError("give a list of sequences, not one string")
    return [encode_one(sequence, name_of(number, names), most) for number, sequence in enumerate(sequences)]


def encode_one(sequence: str, name: str, most: int) -> Tokens:
    """Token ids of a sequence that is not empty nor longer than `most` bases; `name` is what errors call it."""
    if not sequence:
        raise GenomeLMError(f"{name}: empty sequence")
    check_length(name, len(sequence), most)
    return encode(sequence, name)


def name_of(number: int, names: Sequence[str] | None) -> str:
    """What errors call a sequence: its name, or its number from 0."""
    return names[number] if names is not None else f"sequence {number}"


def check_length(name: str, length: int, most: int) -> None:
    """Raise a `GenomeLMError` if a sequence is longer than the model's context."""
    if length > most:
        raise GenomeLMError(
            f"{name}: {length:,} bases are more than the model's context of {most:,}; "
            "cut it into windows (--window and --stride, or `genome_lm.inference.windows`)"
        )


def padded_batches(
    tokens: Sequence[Tokens], batch_tokens: int, device: torch.device, direction: Direction = CAUSAL
) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Batches of sequences of like length.

    Args:
        tokens: n arrays of token ids.
        batch_tokens: Positions of a batch at most, padding included; a longer sequence goes alone.
        device: Where the batches go.
        direction: Of the model; one that sees what follows would see padding, and gets sequences of one length.

    Yields:
        Numbers of the sequences, (b, L) int64 ids with [PAD] on the right, lengths.
    """
    lengths = [len(ids) for ids in tokens]
    order = _longest_first(lengths)
    while order:
        numbers = _batch(lengths, order, batch_tokens, direction)
        order = order[len(numbers) :]
        ids = _padded([tokens[number] for number in numbers])
        yield numbers, ids.to(device), [lengths[number] for number in numbers]


def compute_in_batches(
    tokens: Sequence[Tokens],
    size: BatchSize,
    device: torch.device,
    compute: Callable[[list[int], Tensor], None],
    direction: Direction = CAUSAL,
) -> None:
    """Call `compute(numbers, ids)` on batches as `padded_batches` makes them, on smaller ones when memory runs out.

    Args:
        tokens: n arrays of token ids.
        size: Of the batches; where memory runs out, on a GPU or a CPU, it is halved and the batch done again.
        device: Where the batches go.
        compute: Takes the numbers of the sequences and (b, L) int64 ids; it may be called again on the same ones.
        direction: See `padded_batches`.

    Raises:
        GenomeLMError: If memory does not do for one sequence alone.
    """
    lengths = [len(ids) for ids in tokens]
    order = _longest_first(lengths)
    while order:
        longest, numbers = lengths[order[0]], _batch(lengths, order, size.tokens, direction)
        if _fits(lambda numbers=numbers: compute(numbers, _padded([tokens[n] for n in numbers]).to(device))):  # type: ignore[misc]
            order = order[len(numbers) :]
        elif len(numbers) == 1:
            raise GenomeLMError(
                f"out of memory on {device} with one sequence of {longest:,} bases; use shorter windows (--window), "
                "another device, or a machine with more memory"
            )
        else:
            size.tokens = longest * (len(numbers) // 2)


def _fits(attempt: Callable[[], None]) -> bool:
    """Whether memory does for it. What the attempt held is free again only once its exception is gone."""
    try:
        attempt()
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not _is_out_of_memory(error):
            raise
    else:
        return True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short: PyTorch's own errors, and the plain RuntimeErrors of the libraries below it."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(all(word in str(error) for word in words) for words in _MEMORY_ERRORS)


def _batch(lengths: Sequence[int], order: list[int], batch_tokens: int, direction: Direction) -> list[int]:
    """The first sequences of an order that go through the model together."""
    longest = lengths[order[0]]
    numbers = order[: max(1, batch_tokens // longest)]
    return [n for n in numbers if lengths[n] == longest] if direction.sees_following else numbers


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda number: lengths[number], reverse=True)


def _padded(tokens: Sequence[Tokens]) -> Tensor:
    """Of sequences, the first of which is the longest."""
    padded = np.full((len(tokens), len(tokens[0])), PAD, dtype=np.int64)
    for row, ids in enumerate(tokens):
        padded[row, : len(ids)] = ids
    return torch.from_numpy(padded)
