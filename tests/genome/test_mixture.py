import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval, WindowSampler, fetch_windows, read_bed
from genome_lm.genome.mixture import PERIOD, Mixture, Schedule, Source
from genome_lm.mixture_config import MixtureConfig, SourceConfig, read_mixture
from tests.conftest import Genome

SHARES = [[1.0], [0.5, 0.5], [0.9, 0.1], [0.7, 0.2, 0.1], [0.35, 0.35, 0.299, 0.001], [1 / 17] * 17, [0.0, 1.0]]


@pytest.mark.parametrize("shares", SHARES, ids=lambda shares: f"{len(shares)} from {shares[0]:.2f}")
def test_proportions_are_exact_within_one_window_at_any_point(shares: list[float]) -> None:
    schedule = Schedule(shares)
    samples = np.arange(2 * PERIOD + 1_000)
    sources, places = schedule.places(samples)
    for source, share in enumerate(schedule.shares):
        assert share == pytest.approx(shares[source], abs=1 / PERIOD)
        gave = np.cumsum(sources == source)
        assert np.abs(gave - share * (samples + 1)).max() < 1
        np.testing.assert_array_equal(places[sources == source], np.arange(gave[-1]))


def test_a_schedule_is_a_function_of_the_number() -> None:
    schedule = Schedule([0.6, 0.3, 0.1])
    whole = schedule.places(np.arange(PERIOD + 500))
    part = pickle.loads(pickle.dumps(schedule)).places(np.arange(PERIOD - 300, PERIOD + 500))
    np.testing.assert_array_equal([each[PERIOD - 300 :] for each in whole], part)


@pytest.fixture
def mixture(genome: Genome) -> Mixture:
    halves = [[Interval("one", 0, 30_000, "train")], [Interval("two", 0, 20_000, "train")]]
    samplers = [WindowSampler(genome.store, half, seed=seed) for seed, half in enumerate(halves)]
    return Mixture([Source(f"s{number}", sampler) for number, sampler in enumerate(samplers)], [0.75, 0.25])


def test_windows_are_those_of_the_sources(mixture: Mixture) -> None:
    mixed = mixture.windows(100, 400, 64)
    tokens, masks = mixture.tokens(mixed), mixture.soft_masks(mixed)
    for number, source in enumerate(mixture.sources):
        rows = mixed.sources == number
        before = int((mixture.schedule.places(np.arange(100))[0] == number).sum())
        expected = source.sampler.windows(before, int(rows.sum()), 64)
        np.testing.assert_array_equal(tokens[rows], fetch_windows(source.sampler.store, expected))
    assert (mixed.sources == 0).sum() == 300
    assert masks[mixed.sources == 1].any()
    part = mixture.windows(250, 100, 64)
    np.testing.assert_array_equal(mixture.tokens(part), tokens[150:250])
    assert mixture.names(part)[0].startswith(f"s{part.sources[0]} ")


def test_one_source_is_its_sampler(genome: Genome) -> None:
    sampler = WindowSampler(genome.store, read_bed(genome.intervals), seed=3)
    mixture = Mixture([Source("g", sampler)], [1.0])
    mixed, alone = mixture.windows(7, 50, 32), sampler.windows(7, 50, 32)
    np.testing.assert_array_equal(mixture.tokens(mixed), fetch_windows(genome.store, alone))
    assert mixture.names(mixed) == alone.names(genome.store)


def test_a_source_without_windows_is_named(genome: Genome) -> None:
    empty = WindowSampler(genome.store, [Interval("two", 5_000, 5_600, "train")])  # all N
    mixture = Mixture(
        [Source("full", WindowSampler(genome.store, read_bed(genome.intervals))), Source("empty", empty)], [0.5, 0.5]
    )
    with pytest.raises(GenomeLMError, match=r"source 'empty': .*no window of 100 bases"):
        mixture.windows(0, 4, 100)


SOURCES = (
    "sources:\n- {name: a, genome: a.zarr, intervals: a.bed}\n- {name: b, genome: sub/b.zarr, intervals: /b.bed}\n"
)


def test_rules_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    for text, shares in (
        ("", [0.1, 0.9]),
        ("weights: equal\n", [0.5, 0.5]),
        ("temperature: 0.5\n", [0.25, 0.75]),
    ):
        path.write_text(text + SOURCES)
        config = read_mixture(path)
        assert config.shares([1_000, 9_000]) == pytest.approx(shares)
    assert [source.genome for source in config.sources] == [str(tmp_path / "a.zarr"), str(tmp_path / "sub/b.zarr")]
    assert config.sources[1].intervals == "/b.bed"
    weighted = MixtureConfig((SourceConfig("a", "", "", 3), SourceConfig("b", "", "", 1)))
    assert weighted.shares([1, 1]) == [0.75, 0.25]
    for text in ("hold_out: b\n", "hold_out: [b]\nweights: equal\n"):
        path.write_text(text + SOURCES)
        assert read_mixture(path).shares([1_000, 9_000]) == [1, 0]
    assert replace(weighted, hold_out=("a",)).shares([1, 1]) == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sources: []", "no sources"),
        ("sources:\n- {name: a, genome: g, intervals: i}\n- {name: a, genome: g, intervals: i}", "both|two sources"),
        ("sources:\n- {name: a, genome: g, intervals: i, weight: 0}", "sum to zero"),
        ("sources:\n- {name: a, genome: g, intervals: i, weight: -1}", "weight"),
        (SOURCES.replace("a.bed}", "a.bed, weight: 1}"), "every source, or to none"),
        (SOURCES + "temperature: 2", "temperature"),
        (SOURCES + "temperature: 0.5\nweights: equal", "temperature goes with weights: bases"),
        (SOURCES.replace(".bed}", ".bed, weight: 1}") + "weights: equal", "every source has a weight; leave out"),
        (SOURCES.replace(".bed}", ".bed, weight: 1}") + "temperature: 0.5", "every source has a weight; leave out"),
        (SOURCES + "weights: random", "use bases, equal"),
        (SOURCES + "other: 1", "unknown field other"),
        (SOURCES + "hold_out: fly", "hold_out: 'fly' is no source; there are a, b"),
        (SOURCES + "hold_out: [a, b]", "hold_out leaves no source to train on"),
        (SOURCES + "hold_out: 1", "hold_out is 1, must be a list"),
    ],
)
def test_mistakes_are_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(text)
    with pytest.raises(GenomeLMError, match=words):
        read_mixture(path)
