import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genome_lm.alphabet import PAD, reverse_complement
from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval, Windows, WindowSampler, fetch_windows, soft_masks, split_genome, tile
from tests.genome.conftest import Small

Drawn = list[tuple[str, int, int, str]]
CONTIGS = st.sampled_from(["chr1", "chr2", "tiny", "chrM"])
REGIONS = st.lists(
    st.tuples(CONTIGS, st.integers(0, 2_999), st.integers(1, 600), st.sampled_from(["train", "test"])),
    min_size=1,
    max_size=8,
)


def regions_of(small: Small, drawn: Drawn) -> list[Interval]:
    sizes = {name: len(dna) for name, dna in small.sequences.items()}
    return [Interval(c, s % sizes[c], min(s % sizes[c] + size, sizes[c]), split) for c, s, size, split in drawn]


def same(one: Windows, two: Windows) -> bool:
    return one.length == two.length and all(map(np.array_equal, one[:3], two[:3]))


@pytest.fixture
def sampler(small: Small) -> WindowSampler:
    return WindowSampler(small.store, split_genome(small.store, block=300, gap=20, seed=1), seed=5)


@pytest.mark.parametrize("length", [30, 250])
def test_numbers_give_windows_however_they_are_asked(small: Small, sampler: WindowSampler, length: int) -> None:
    count = sampler.count(length)
    total = 5 * count + 3
    whole = sampler.windows(0, total, length)
    for size in (1, 7, total // 2):
        for first in range(0, total - size, size):
            expected = whole.take(slice(first, first + size))
            assert same(sampler.windows(first, size, length), expected)
    assert same(sampler.windows(3, 4, length), whole.take(slice(3, 7)))  # back, after later passes
    passes = [whole.take(slice(i * count, (i + 1) * count)) for i in range(5)]
    assert not any(same(passes[i], passes[i + 1]) for i in range(4))
    regions = split_genome(small.store, block=300, gap=20, seed=1)
    assert not same(WindowSampler(small.store, regions, seed=6).windows(0, total, length), whole)


def test_pickled_and_in_another_process(sampler: WindowSampler) -> None:
    expected, pickled = sampler.windows(11, 50, 100), pickle.dumps(sampler)
    assert same(pickle.loads(pickled).windows(11, 50, 100), expected)
    code = "import pickle, sys; s = pickle.load(sys.stdin.buffer)"
    code += "; sys.stdout.buffer.write(pickle.dumps(s.windows(11, 50, 100)))"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, stdout=subprocess.PIPE, check=True)
    assert same(pickle.loads(done.stdout), expected)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(REGIONS, st.integers(1, 400), st.sampled_from([0.0, 0.2, 1.0]))
def test_windows_lie_where_they_may(small: Small, drawn: Drawn, length: int, max_n: float) -> None:
    regions = regions_of(small, [("chrM", 100, 400, "train"), *drawn])
    train = [region for region in regions if region.name == "train"]
    others = [region for region in regions if region.name != "train"]
    sampler = WindowSampler(small.store, regions, seed=3, max_n_fraction=max_n)
    try:
        windows = sampler.windows(0, 2 * sampler.count(length), length)
    except GenomeLMError:
        assert others, "chrM has no N: without other splits its windows are always allowed"
        return
    for contig, start, reverse in zip(*(array.tolist() for array in windows[:3]), strict=True):
        name, dna = list(small.sequences.items())[contig]
        if reverse and len(dna) < length:
            # It begins with the contig's last base.
            assert start == len(dna) - length
            start = 0
        end = start + length
        homes = [region for region in train if region.contig == name]
        within = any(r.start <= start and end <= r.end for r in homes)
        extended = any(
            r.end - r.start < length
            and start <= r.start
            and r.end <= end
            and (start in (0, (r.start + r.end - length) // 2) or end == len(dna))
            for r in homes
        )
        assert within or extended
        assert 0 <= start
        assert end <= max(len(dna), length)
        assert not any(r.contig == name and start < r.end and r.start < end for r in others)
        assert sum(letter not in "ACGTUacgtu" for letter in dna[start:end]) <= max_n * len(dna[start:end])


def test_a_pass_tiles_a_region_from_a_phase(small: Small) -> None:
    sampler = WindowSampler(small.store, [Interval("chr2", 103, 2_000, "train")], max_n_fraction=1)
    count, phases = sampler.count(100), set()
    assert count == 18
    for number in range(40):
        starts = np.sort(sampler.windows(number * count, count, 100).starts)
        assert (np.diff(starts)[:-1] == 100).all()
        assert 0 < starts[-1] - starts[-2] <= 100
        phases.add(int(starts[0]) - 103)
    assert len(phases) > 20
    assert phases <= set(range(100))


@pytest.mark.parametrize(
    "regions",
    [
        [Interval("chr1", 1_000, 1_600, "train")],
        [Interval("chr2", 500, 520, "train"), Interval("chr2", 530, 600, "test")],
        [Interval("chr2", 500, 700, "test")],
    ],
)
@pytest.mark.filterwarnings("error")
def test_no_window_left(small: Small, regions: list[Interval]) -> None:
    with pytest.raises(GenomeLMError, match="no window of 100 bases is left"):
        WindowSampler(small.store, regions).windows(0, 5, 100)


def test_strands(small: Small) -> None:
    regions = [Interval("chr1", 0, 3_000, "train"), Interval("tiny", 0, 19, "train")]
    both = WindowSampler(small.store, regions, max_n_fraction=1).windows(0, 1_000, 40)
    back = both.reverse
    assert 400 < back.sum() < 600
    ahead = both._replace(reverse=np.zeros(1_000, dtype=bool))
    tokens, masked = fetch_windows(small.store, both), soft_masks(small.store, both)
    forward, forward_masked = fetch_windows(small.store, ahead), soft_masks(small.store, ahead)
    assert (tokens == PAD).any()
    # What follows the last base is padding, and nothing else is.
    extents = both.extents(small.store)
    np.testing.assert_array_equal(tokens == PAD, np.arange(40) >= extents[:, None])
    np.testing.assert_array_equal(ahead.extents(small.store), np.where(extents == 19, np.where(back, 40, 19), 40))
    assert set(both.names(small.store)) >= {"tiny:1-19(+)", "tiny:1-19(-)"}
    np.testing.assert_array_equal(tokens[back], reverse_complement(forward[back]))
    np.testing.assert_array_equal(tokens[~back], forward[~back])
    np.testing.assert_array_equal(masked[back], forward_masked[back, ::-1])
    one = WindowSampler(small.store, regions, reverse_complement=False, max_n_fraction=1).windows(0, 1_000, 40)
    assert not one.reverse.any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(REGIONS, st.integers(1, 300), st.floats(0.01, 1))
def test_tile(small: Small, drawn: Drawn, length: int, step: float) -> None:
    intervals, stride = regions_of(small, drawn), max(1, int(length * step))
    windows, inside = tile(small.store, intervals, length, stride)
    expected = []
    for contig, start, end, *_ in intervals:
        starts = [start]
        while starts[-1] + length < end:
            starts.append(starts[-1] + stride)
        expected += [(small.store.contigs.index(contig), s, min(length, end - s)) for s in starts]
    assert list(zip(windows.contigs.tolist(), windows.starts.tolist(), inside.tolist(), strict=True)) == expected
    assert not windows.reverse.any()
    inside = tile(small.store, intervals, length, length)[1]
    assert inside.min() >= 1
    assert inside.sum() == sum(interval.end - interval.start for interval in intervals)
