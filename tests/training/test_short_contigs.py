"""Contigs that are shorter than the windows: hardly any padding is read, and what is learned is the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from genome_lm.checkpoint import load_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.direction import BOTH, CAUSAL, Direction
from genome_lm.genome import GenomeStore, Interval, WindowSampler, build_store, tile, write_bed
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.mixture_config import MixtureConfig, SourceConfig
from genome_lm.model import HyenaLM
from genome_lm.training import Stage, TrainingConfig, data, read_metrics, target_losses, train, validation
from genome_lm.training.data import TrainingSteps
from genome_lm.training.lines import source_lines
from genome_lm.training.micro_batches import MicroBatch, micro_batches, read_lengths
from genome_lm.training.opening import open_sources
from genome_lm.training.sources import expected_bases
from tests.conftest import biased_dna

MODEL = ModelConfig(d_model=8, n_layer=2, max_length=3_000, filter_order=8, embed_dropout=0)
RECIPE = TrainingConfig(
    (Stage(3_000, 4),), tokens_per_step=60_000, device_tokens=9_000, valid_every=2, valid_windows=8, lr=2e-3
)


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    """500 contigs of 200 to 3,000 bases."""
    folder = tmp_path_factory.mktemp("contigs")
    sizes = np.random.default_rng(0).integers(200, 3_001, 500).tolist()
    dna = biased_dna(sum(sizes), 1)
    ends = np.cumsum(sizes).tolist()
    records = (f">{i}\n{dna[end - size : end]}\n" for i, (size, end) in enumerate(zip(sizes, ends, strict=True)))
    (folder / "contigs.fa").write_text("".join(records))
    return build_store([folder / "contigs.fa"], folder / "contigs.zarr")


@pytest.fixture(scope="module")
def mixture(contigs: GenomeStore, tmp_path_factory: pytest.TempPathFactory) -> MixtureConfig:
    """Two sources, of every other contig; few are for validation."""
    folder, sources = tmp_path_factory.mktemp("mixture"), []
    for number in range(2):
        regions = [
            Interval(name, 0, int(size), "valid" if i % 50 == number else "train")
            for i, (name, size) in enumerate(zip(contigs.contigs.names, contigs.contigs.lengths, strict=True))
            if i % 2 == number
        ]
        write_bed(folder / f"{number}.bed", regions)
        sources.append(SourceConfig(str(number), str(contigs.path), str(folder / f"{number}.bed"), 1 + number))
    return MixtureConfig(tuple(sources))


def steps_of(store: GenomeStore, length: int, rank: int = 0, world: int = 1, tokens: int = 262_144) -> TrainingSteps:
    regions = [Interval(name, 0, int(size), "train") for name, size in zip(store, store.contigs.lengths, strict=True)]
    sampler = WindowSampler(store, regions)
    config = TrainingConfig((Stage(length, 10),), tokens_per_step=tokens)
    return TrainingSteps(Mixture([Source("contigs", sampler)], [1.0]), config, rank, world)


@pytest.mark.parametrize("length", [1_024, 3_000, 20_000])
def test_at_most_a_twentieth_of_a_step_is_padding(contigs: GenomeStore, length: int) -> None:
    for world in (1, 2, 3):
        devices = [steps_of(contigs, length, rank, world) for rank in range(world)]
        for step in range(3):
            batches = [steps[step] for steps in devices]
            windows = devices[0].windows(step)
            bases = np.minimum(contigs.contigs.lengths[windows.windows.contigs], length + 1).sum() - len(
                windows.sources
            )
            read = sum((end - first) * size for batch in batches for first, end, size in batch.micro_batches)
            assert bases >= 0.95 * read
            if length > 1_024:
                assert bases <= 0.6 * len(windows.sources) * length  # what was read before
            # All devices make as many micro-batches, which hold each window once.
            assert len({len(batch.micro_batches) for batch in batches}) == 1
            for batch in batches:
                rows = [row for first, end, _ in batch.micro_batches for row in range(first, end)]
                assert rows == list(range(len(batch.tokens)))
                assert max((end - first) * size for first, end, size in batch.micro_batches) <= 32_768
            assert sum(len(batch.tokens) for batch in batches) == len(windows.sources)


def test_whole_windows_are_cut_as_ever(contigs: GenomeStore) -> None:
    """As many to a micro-batch as the device takes, in the order in which they are drawn."""
    steps = steps_of(contigs, 199)
    batch = steps[0]
    assert [end - first for first, end, _ in batch.micro_batches[:-1]] == [32_768 // 199] * 8
    assert {length for *_, length in batch.micro_batches} == {199}
    np.testing.assert_array_equal(batch.tokens, steps.mixture.tokens(steps.windows(0)))
    assert micro_batches(np.full(5, 64), 64, 128, rank=1, world=2) == [MicroBatch(0, 2, 64), MicroBatch(2, 2, 16)]


def test_the_loss_of_each_window_is_the_same(contigs: GenomeStore) -> None:
    torch.manual_seed(0)
    model, batch = HyenaLM(MODEL), steps_of(contigs, 3_000, tokens=60_000)[1]
    ids, targets = CAUSAL.shifted(batch.tokens)
    with torch.no_grad():
        whole, counted = model.row_losses(ids, targets, batch.weights)
        for first, end, length in batch.micro_batches:
            rows = ids[first:end, :length], targets[first:end, :length], batch.weights[first:end, :length]
            losses, weights = model.row_losses(*rows)
            torch.testing.assert_close(losses, whole[first:end], rtol=1e-6, atol=0)
            torch.testing.assert_close(weights, counted[first:end], rtol=0, atol=0)


def test_expected_bases_are_those_of_the_windows(contigs: GenomeStore, mixture: MixtureConfig) -> None:
    regions = [
        Interval(name, 0, int(size), "train") for name, size in zip(contigs, contigs.contigs.lengths, strict=True)
    ]
    assert WindowSampler(contigs, regions).mean_extent(3_001) == contigs.contigs.lengths.mean()
    config = replace(RECIPE, stages=(Stage(3_000, 40), Stage(1_000, 30)))
    sources = open_sources(mixture, config).mixture
    steps, counted = TrainingSteps(sources, config), np.zeros(2)
    for step in range(config.steps):
        windows = steps.windows(step)
        np.add.at(counted, windows.sources, read_lengths(sources.extents(windows), windows.windows.length, CAUSAL))
    assert expected_bases(sources, config) == pytest.approx(counted, rel=0.03)
    assert counted.sum() < 0.8 * config.bases(config.steps)
    assert source_lines(sources, config)[-1].startswith(
        f"contigs are shorter than windows: about {sum(expected_bases(sources, config)):,.0f}"
    )


def test_a_run_learns_the_same(mixture: MixtureConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trimmed", "whole"):
        if name == "whole":
            for module in (data, validation):
                monkeypatch.setattr(module, "read_lengths", untrimmed)
        train(mixture, tmp_path / name, MODEL, RECIPE)
    one, two = (read_metrics(tmp_path / name) for name in ("trimmed", "whole"))
    for row, other in zip(one, two, strict=True):
        assert (row.loss, row.grad_norm) == pytest.approx((other.loss, other.grad_norm), rel=1e-5)
        assert row.valid_loss == (None if other.valid_loss is None else pytest.approx(other.valid_loss, rel=1e-6))
    weights = [load_checkpoint(tmp_path / name / "checkpoint")[0].state_dict() for name in ("trimmed", "whole")]
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-5)


def untrimmed(extents: npt.NDArray[np.int64], length: int, direction: Direction) -> npt.NDArray[np.int64]:
    return np.full_like(extents, length - direction.offset)


def test_validation_reads_little_padding(contigs: GenomeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = HyenaLM(MODEL).eval(), []
    monkeypatch.setattr(model, "forward", lambda ids: shapes.append(ids.shape) or torch.zeros(*ids.shape, 16))
    regions = [Interval(name, 0, int(size)) for name, size in zip(contigs, contigs.contigs.lengths, strict=True)]
    windows, inside = tile(contigs, regions, 3_001, 3_000)
    targets = sum(int(counted.sum()) for *_, counted in target_losses(model, contigs, windows, inside, 32_768))
    assert targets == sum(end - start - 1 for _, start, end, *_ in regions)
    assert targets >= 0.95 * sum(rows * length for rows, length in shapes)


def test_a_model_that_sees_padding_gets_whole_windows() -> None:
    both = BOTH
    extents = np.array([0, 1, 5, 9])
    assert read_lengths(extents, 9, both).tolist() == [9] * 4
    assert read_lengths(extents, 9, CAUSAL).tolist() == [1, 1, 4, 8]
