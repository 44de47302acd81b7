"""Tuning within a budget of memory."""

import numpy as np
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.finetune.targets import Data
from genome_lm.finetune.tuning import within_budget
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.machine import memory_budget
from genome_lm.model import HyenaLM
from genome_lm.model.memory import PROCESS_BYTES, training_chain
from genome_lm.training.memory_plan import BYTES_PER_BASE
from tests.tiny import TINY_MODEL


def test_fewer_sequences_at_one_time_and_blocks_computed_again() -> None:
    model, config = HyenaLM(TINY_MODEL), FinetuneConfig(method="full", sequences_per_step=8, device_tokens=1_024)
    data = [Data(["short", "long"], [np.full(n, 7, np.uint8) for n in (20, 100)], [np.zeros(1)] * 2)]
    length = 100 + config.prompt_length
    assert within_budget(model, data, config) is config
    with memory_budget("8GB"):
        assert within_budget(model, data, config).device_tokens == 8 * length
    taken = PROCESS_BYTES["training"] + BYTES_PER_BASE * 8 * length
    with memory_budget(taken + training_chain(TINY_MODEL, length, 1, 0, 0).peak([0]) + 100):
        assert within_budget(model, data, config).device_tokens == length
        assert model.backbone.recomputed is not None
        assert model.backbone.recomputed(1, length) == {0}
    with memory_budget("200MB"), pytest.raises(GenomeLMError, match="116 bases needs at least"):
        within_budget(model, data, config)
