"""Sequences of many lengths in batches: sorted by length, padded on the right."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from genome_lm.alphabet import PAD, encode
from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import Codes


def encode_all(sequences: Sequence[str], names: Sequence[str] | None, most: int) -> list[Codes]:
    """Token ids of each sequence, none of them empty or longer than `most` bases.

    Raises:
        GenomeLMError: Naming the sequence (its name, or its number from 0).
    """
    if isinstance(sequences, str):
        raise GenomeLMError("give a list of sequences, not one string")
    encoded = []
    for number, sequence in enumerate(sequences):
        name = names[number] if names is not None else f"sequence {number}"
        if not sequence:
            raise GenomeLMError(f"{name}: empty sequence")
        if len(sequence) > most:
            raise GenomeLMError(
                f"{name}: {len(sequence):,} bases are more than the model's context of {most:,}; "
                "cut it into windows (--window and --stride, or `genome_lm.inference.windows`)"
            )
        encoded.append(encode(sequence, name))
    return encoded


def padded_batches(
    tokens: Sequence[Codes], batch_tokens: int, device: torch.device
) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Batches of sequences of like length.

    Args:
        tokens: n arrays of token ids.
        batch_tokens: Positions of a batch at most, padding included; a longer sequence goes alone.
        device: Where the batches go.

    Yields:
        Numbers of the sequences, (b, L) int64 ids with [PAD] on the right, lengths.
    """
    order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]), reverse=True)
    while order:
        longest = len(tokens[order[0]])
        numbers, order = order[: max(1, batch_tokens // longest)], order[max(1, batch_tokens // longest) :]
        ids = np.full((len(numbers), longest), PAD, dtype=np.int64)
        for row, number in enumerate(numbers):
            ids[row, : len(tokens[number])] = tokens[number]
        yield numbers, torch.from_numpy(ids).to(device), [len(tokens[number]) for number in numbers]
