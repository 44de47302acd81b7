"""Passes without gradients within a budget of memory: fewer sequences at one time, the same results."""

import re

import numpy as np
import pytest

from genome_lm.config import PRESETS, ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.inference import GenomeLM, Recipe
from genome_lm.inference.batches import BatchSize
from genome_lm.inference.embedding import fit_batches
from genome_lm.inference.generation import batch_size
from genome_lm.kernels.cpu.workspace import workspace
from genome_lm.machine import memory_budget
from genome_lm.model import HyenaLM
from genome_lm.model.memory import PROCESS_BYTES, forward_bytes
from genome_lm.model.mixers.filter import ImplicitFilter
from genome_lm.model.room import as_option, check_output, fitting_positions, leave_room

SHAPE = ModelConfig(d_model=32, n_layer=2, max_length=4096)
WIDE = ModelConfig(d_model=256, n_layer=1, max_length=16_384)


def room(config: ModelConfig, length: int, rows: int, spectra: int = 0) -> int:
    return PROCESS_BYTES["forward"] + forward_bytes(config, length, rows, spectra)


def test_without_a_budget_nothing_changes() -> None:
    backbone = HyenaLM(SHAPE).backbone
    assert fitting_positions(backbone, 32_768, 4096) == 32_768


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_as_many_sequences_as_the_budget_allows(rows: int) -> None:
    backbone = HyenaLM(SHAPE).backbone
    with memory_budget(room(SHAPE, 4096, rows)):
        fitting = fitting_positions(backbone, 32_768, 4096)
        assert room(SHAPE, 4096, fitting // 4096) <= room(SHAPE, 4096, rows)
        assert 1 <= fitting // 4096 <= rows
    with memory_budget(room(SHAPE, 4096, 1) - 1), pytest.raises(GenomeLMError, match="4,096 bases needs at least"):
        fitting_positions(backbone, 32_768, 4096)


def test_libraries_of_a_command_are_in_its_budget() -> None:
    backbone, more = HyenaLM(SHAPE).backbone, 100 << 20
    allowed = room(SHAPE, 4096, 1)
    with memory_budget(allowed, PROCESS_BYTES["forward"] + more), pytest.raises(GenomeLMError) as refused:
        fitting_positions(backbone, 32_768, 4096)
    assert as_option(allowed + more) in str(refused.value)
    with memory_budget(allowed + more, PROCESS_BYTES["forward"] + more):
        assert fitting_positions(backbone, 32_768, 4096) == 4096


def test_the_cache_of_spectra_follows() -> None:
    backbone = HyenaLM(SHAPE).backbone
    filters = [module for module in backbone.modules() if isinstance(module, ImplicitFilter)]
    with memory_budget(room(SHAPE, 4096, 1)):
        fitting_positions(backbone, 4096, 4096)
        assert all(each.cache.budget == 0 for each in filters)
    with memory_budget("8GB"):
        fitting_positions(backbone, 4096, 4096)
        assert all(each.cache.budget > 1 << 30 for each in filters)


def test_states_of_bases_count() -> None:
    backbone = HyenaLM(WIDE).backbone

    def least(pool: str, layers: tuple, strand: str) -> int:
        recipe = Recipe.of(pool, layers, strand, WIDE)
        with memory_budget("100MB"), pytest.raises(GenomeLMError) as refused:
            fit_batches(backbone, recipe, BatchSize(1), WIDE.max_length)
        return int(re.findall(r"--memory (\d+)MB", str(refused.value))[0]) * 10**6

    states = 4 * WIDE.max_length * WIDE.d_model
    pooled = least("mean", (None,), "concat")
    for layers, strand, copies in (((None,), "forward", 1), ((None,), "both", 2), ((1, None), "concat", 8)):
        added = least("none", layers, strand) - pooled
        assert copies * states <= added <= copies * states + 128 * WIDE.max_length + 10**6


def test_an_output_is_refused_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    base = PROCESS_BYTES["forward"]
    with memory_budget(base + 10**8):
        check_output(10**8, "a.bw", "write a.bedgraph")
        with pytest.raises(GenomeLMError, match=r"a\.bw needs at least .* or write a\.bedgraph") as refused:
            check_output(2 * 10**8, "a.bw", "write a.bedgraph")
    assert f"give --memory {as_option(base + 2 * 10**8)} or more" in str(refused.value)
    monkeypatch.setattr("genome_lm.machine.free_memory", lambda: 10**9)
    check_output(10**8, "a.bw", "write a.bedgraph")
    with pytest.raises(GenomeLMError, match=r"needs at least 2\.0 GB of memory, 1\.0 GB are free"):
        check_output(2 * 10**9, "a.bw", "write a.bedgraph")


def test_memory_is_left_for_outputs() -> None:
    model = GenomeLM(HyenaLM(SHAPE).eval(), None)
    filters = [module for module in model.backbone.modules() if isinstance(module, ImplicitFilter)]

    def cached() -> int:
        return sum(bool(each.cache._held) for each in filters)

    model.embed(["ACGT" * 200])
    leave_room(model.backbone)
    assert cached() == SHAPE.n_layer
    with memory_budget("8GB"):
        leave_room(model.backbone)
    assert cached() == 0
    assert workspace.nbytes == 0


def test_generation_follows() -> None:
    shape = PRESETS["small-32k"]
    with memory_budget("1GB"):
        few = batch_size(shape, 16_000, 1_000)
    assert 1 <= few < batch_size(shape, 16_000, 1_000)
    with memory_budget("400MB"), pytest.raises(GenomeLMError, match="generating 16,000 bases needs at least"):
        batch_size(shape, 16_000, 1_000)


def test_results_stay_what_they_are() -> None:
    model = GenomeLM(HyenaLM(SHAPE).eval())
    generator = np.random.default_rng(0)
    sequences = ["".join(generator.choice(list("ACGT"), length)) for length in (4096, 300, 2000, 4096)]
    plain = model.embed(sequences), model.log_likelihood(sequences)
    with memory_budget(room(SHAPE, 4096, 1)):
        np.testing.assert_allclose(model.embed(sequences), plain[0], rtol=1e-4, atol=1e-5)
        for one, other in zip(model.log_likelihood(sequences), plain[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
