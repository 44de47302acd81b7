"""What asks a model's direction, tried with one that sees what follows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from genome_lm.direction import BOTH, CAUSAL
from genome_lm.errors import GenomeLMError
from genome_lm.inference.batches import BatchSize, compute_in_batches, padded_batches
from genome_lm.inference.embedding import FlankedSequence
from genome_lm.model import HyenaLM
from genome_lm.model.recompute import reference_states
from genome_lm.model.stepping import Stepper
from tests.tiny import TINY_MODEL

CPU = torch.device("cpu")


def test_what_is_read_and_what_is_predicted() -> None:
    tokens = np.arange(12).reshape(2, 6)
    read, targets = CAUSAL.shifted(tokens)
    np.testing.assert_array_equal(read + 1, targets)
    assert read.shape == (2, 5)
    assert all(part.shape == (2, 6) for part in BOTH.shifted(tokens))


def test_context_that_counts() -> None:
    sequence = FlankedSequence(np.arange(10, dtype=np.uint8), left=2, right=3)
    assert sequence.seen_by(CAUSAL).tokens.tolist() == [*range(7)]
    assert sequence.seen_by(BOTH).tokens.tolist() == [*range(10)]
    assert {sequence.seen_by(direction).bases for direction in (CAUSAL, BOTH)} == {sequence.bases}


def test_no_padding_where_it_would_be_seen() -> None:
    tokens = [np.full(length, 7, np.uint8) for length in (5, 3, 5, 4, 3)]
    assert [numbers for numbers, *_ in padded_batches(tokens, 100, CPU)] == [[0, 2, 3, 1, 4]]
    assert [numbers for numbers, *_ in padded_batches(tokens, 100, CPU, BOTH)] == [[0, 2], [3], [1, 4]]
    batches: list[list[int]] = []
    compute_in_batches(tokens, BatchSize(100), CPU, lambda numbers, ids: batches.append(numbers), BOTH)
    assert batches == [[0, 2], [3], [1, 4]]


def test_what_only_causal_models_can_do_is_refused() -> None:
    model = HyenaLM(replace(TINY_MODEL, direction=BOTH))
    with pytest.raises(GenomeLMError, match="only causal models can be read token by token"):
        Stepper(model, 5)
    with pytest.raises(GenomeLMError, match="share no states"):
        reference_states(model.backbone, torch.full((1, 9), 7), 4)
