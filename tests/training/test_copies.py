import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genome_lm.alphabet import decode
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, WindowSampler, build_store, read_bed
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.mixture_config import one_source
from genome_lm.training import Stage, TrainingConfig, train
from genome_lm.training.copies import Copy, draw_copies
from genome_lm.training.data import TrainingSteps
from genome_lm.training.records import read_run
from genome_lm.training_config import CopiesConfig
from tests.conftest import Genome
from tests.tiny import TINY_MODEL
from tests.training.test_train import changed

COPIES = CopiesConfig(0.5, length=(8, 40), distance=(4, 200), reverse_fraction=0.25)
RECIPE = changed(stages=((100, 60),), tokens_per_step=3_200, soft_mask_weight=0.25, copies=COPIES)
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def steps_of(store: GenomeStore, bed: Path, recipe: TrainingConfig, rank: int = 0, world: int = 1) -> TrainingSteps:
    sampler = WindowSampler(store, read_bed(bed), "train", recipe.seed)
    return TrainingSteps(Mixture([Source("genome", sampler)], [1.0]), recipe, rank, world)


def test_a_copy_of_what_follows_takes_the_place_of_other_bases(genome: Genome) -> None:
    """Against text: nothing but the copy's place differs from a run without copies, and it holds the segment."""
    with_copies = steps_of(genome.store, genome.intervals, RECIPE)
    without = steps_of(genome.store, genome.intervals, dataclasses.replace(RECIPE, copies=None))
    total, kinds, weights_seen = 0, [0, 0], set()
    for step in range(30):
        batch, plain = with_copies[step], without[step]
        drawn = draw_copies(COPIES, RECIPE.seed, 100, 32 * step, np.full(32, 101))
        for row, copy in enumerate(drawn):
            text, weights = decode(plain.tokens[row].numpy()), [0.0, *plain.weights[row].tolist()]
            if copy is not None:
                place, start, length, is_reverse = copy
                segment, of_segment = text[start : start + length], weights[start : start + length]
                if is_reverse:
                    segment, of_segment = segment.translate(COMPLEMENT)[::-1], of_segment[::-1]
                text = text[:place] + segment + text[place + length :]
                weights = weights[:place] + of_segment + weights[place + length :]
                kinds[is_reverse] += 1
                weights_seen |= set(of_segment)
            assert decode(batch.tokens[row].numpy()) == text
            assert batch.weights[row].tolist() == weights[1:]
            total += 1
    assert 0.42 < sum(kinds) / total < 0.58
    assert 0.15 < kinds[1] / sum(kinds) < 0.35
    assert weights_seen == {0.25, 1.0}


def test_without_copies_steps_are_the_windows_as_they_are(genome: Genome) -> None:
    recipe = dataclasses.replace(RECIPE, copies=None)
    steps = steps_of(genome.store, genome.intervals, recipe)
    never = steps_of(genome.store, genome.intervals, dataclasses.replace(RECIPE, copies=CopiesConfig(0.0)))
    for step in (0, 7):
        windows, batch = steps.windows(step), steps[step]
        np.testing.assert_array_equal(batch.tokens.numpy(), steps.mixture.tokens(windows))
        masks = steps.mixture.soft_masks(windows)[:, 1:]
        np.testing.assert_array_equal(batch.weights.numpy(), np.where(masks, np.float32(0.25), np.float32(1)))
        assert (never[step].tokens == batch.tokens).all()
        assert (never[step].weights == batch.weights).all()


def test_a_copy_depends_on_the_sample_alone() -> None:
    extents = np.full(300, 1_000)
    whole = draw_copies(COPIES, 7, 999, 1_000, extents)
    assert whole == [draw_copies(COPIES, 7, 999, 1_000 + i, extents[:1])[0] for i in range(300)]
    assert whole[120:] == draw_copies(COPIES, 7, 999, 1_120, extents[120:])
    others = [draw_copies(COPIES, *other, extents) for other in ((8, 999, 1_000), (7, 998, 1_000), (7, 999, 1_001))]
    assert all(whole != other for other in others)
    # Nearby samples have nothing in common.
    places = [copy.place for copy in whole if copy is not None]
    assert len(set(places)) > 100


def test_devices_share_the_copies_of_a_step(tmp_path: Path) -> None:
    """Contigs that are shorter than the windows: a step's windows are ordered by length."""
    text = np.random.default_rng(0).choice(list("ACGT"), 60 * 90)
    records = [f">{i}\n{''.join(text[60 * i : 60 * i + 40 + i % 60])}\n" for i in range(89)]
    (tmp_path / "contigs.fa").write_text("".join(records))
    store = build_store([tmp_path / "contigs.fa"], tmp_path / "contigs.zarr")
    bed = tmp_path / "all.bed"
    bed.write_text("".join(f"{i}\t0\t{40 + i % 60}\ttrain\n" for i in range(89)))
    whole = steps_of(store, bed, RECIPE)[3]
    plain = steps_of(store, bed, dataclasses.replace(RECIPE, copies=None))[3]
    assert ((whole.tokens != plain.tokens).any(1)).float().mean() > 0.2
    assert ((whole.tokens == 4) == (plain.tokens == 4)).all(), "padding stays where it is"
    for world in (2, 3):
        for rank in range(world):
            part = steps_of(store, bed, RECIPE, rank, world)[3]
            assert (part.tokens == whole.tokens[rank::world]).all()
            assert (part.weights == whole.weights[rank::world]).all()


RANGES = st.tuples(st.integers(1, 60), st.integers(0, 300)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=100, deadline=None)
@given(RANGES, RANGES, st.lists(st.integers(0, 700), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_copies_keep_to_the_window_and_to_their_ranges(
    length: tuple[int, int], distance: tuple[int, int], extents: list[int], seed: int
) -> None:
    config = CopiesConfig(1.0, length, distance)
    for extent, copy in zip(extents, draw_copies(config, seed, 700, seed, np.array(extents)), strict=True):
        assert (copy is not None) == (extent >= config.least_window)
        if copy is not None:
            assert length[0] <= copy.length <= length[1]
            assert distance[0] <= copy.start - copy.place - copy.length <= distance[1]
            assert 0 <= copy.place
            assert copy.start + copy.length <= extent


def test_every_doubling_of_lengths_and_distances_is_as_frequent() -> None:
    config = CopiesConfig(1.0, length=(16, 127), distance=(16, 4_095), reverse_fraction=0.5)
    copies = [copy for copy in draw_copies(config, 0, 10_000, 0, np.full(4_000, 10_001)) if copy is not None]
    doublings = {"length": [copy.length for copy in copies]}
    doublings["distance"] = [copy.start - copy.place - copy.length for copy in copies]
    for name, values in doublings.items():
        counts = np.bincount(np.log2(values).astype(int))[4:]
        assert len(counts) == {"length": 3, "distance": 8}[name]
        np.testing.assert_allclose(counts / 4_000, 1 / len(counts), atol=0.03)
    assert 0.45 < np.mean([copy.is_reverse for copy in copies]) < 0.55
    ends = np.array([copy.place / (10_001 - (copy.start - copy.place) - copy.length) for copy in copies])
    assert 0.47 < ends.mean() < 0.53
    assert ends.max() > 0.99


def test_a_copy_next_to_its_segment() -> None:
    tokens, weights = np.array([7, 8, 9, 10, 10, 11], dtype=np.uint8), np.arange(6, dtype=np.float32)
    Copy(0, 3, 3, True).put(tokens, weights)
    assert tokens.tolist() == [11, 7, 7, 10, 10, 11]
    assert weights.tolist() == [5, 4, 3, 3, 4, 5]


def test_a_run_says_what_it_was_trained_with(genome: Genome, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, stages=(Stage(100, 2),))
    train(one_source(genome.store.path, genome.intervals), tmp_path / "run", TINY_MODEL, recipe)
    assert read_run(tmp_path / "run").training == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "copies: missing field fraction"),
        ({"fraction": 1.5}, "copies.fraction is 1.5"),
        ({"fraction": 1, "length": [0, 5]}, r"copies.length\[0\] is 0"),
        ({"fraction": 1, "length": [6, 5]}, "copies: length is 6 to 5; give the fewest bases first"),
        ({"fraction": 1, "distance": 5}, "copies.distance is 5, must be a list"),
        ({"fraction": 1, "colour": 5}, "copies: unknown field colour"),
        ({"fraction": 1, "length": [40, 50]}, "copies take windows of 96 bases, the longest are of 64"),
    ],
)
def test_what_can_t_be_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        TrainingConfig.from_dict({"stages": "32:5,64:5", "copies": values})
