import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyBigWig
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.formats import signals
from genome_lm.formats.base_weights import BaseWeights, open_base_weights
from genome_lm.genome import Interval, Windows, WindowSampler, read_bed
from genome_lm.mixture_config import BaseWeightsConfig
from tests.conftest import Genome

LENGTHS = {"one": 40_000, "two": 20_000}
PIECES = [("one", 0, 7, 0.5), ("one", 7, 30, 2.0), ("one", 39_990, 40_000, 0.25), ("two", 0, 3, 4.0)]
TRAINED = [Interval("one", 0, 40_000, "train"), Interval("two", 0, 20_000, "train")]


def bedgraph(path: Path, pieces: Sequence[tuple[str, int, int, float | str]] = PIECES) -> Path:
    lines = ["track type=bedGraph", *("\t".join(map(str, piece)) for piece in reversed(pieces))]
    path.write_text("\n".join(lines) + "\n")
    return path


def bigwig(
    path: Path, pieces: Sequence[tuple[str, int, int, float]] = PIECES, lengths: dict[str, int] = LENGTHS
) -> Path:
    contigs, starts, ends, values = (list(column) for column in zip(*pieces, strict=True))
    with pyBigWig.open(str(path), "w") as wig:
        wig.addHeader(list(lengths.items()))
        wig.addEntries(contigs, starts, ends=ends, values=values)
    return path


def opened(genome: Genome, path: Path, trained: Sequence[Interval] = TRAINED, **options: object) -> BaseWeights:
    config = BaseWeightsConfig(str(path), **options)  # type: ignore[arg-type]
    return open_base_weights(config, genome.store, trained)


def expected(contig: str, start: int, end: int, missing: float = 1) -> npt.NDArray[np.float32]:
    whole = np.full(LENGTHS[contig], missing, dtype=np.float32)
    for name, first, last, value in PIECES:
        if name == contig:
            whole[first:last] = value
    return whole[start:end]


@pytest.mark.parametrize("write", [bedgraph, bigwig])
def test_windows_on_both_strands_and_beyond_contigs(write: object, genome: Genome, tmp_path: Path) -> None:
    path = write(tmp_path / ("a.bedGraph" if write is bedgraph else "a.bw"))  # type: ignore[operator]
    weigh = pickle.loads(pickle.dumps(opened(genome, path)))
    contigs, starts = np.array([0, 0, 0, 1, 1]), np.array([0, 3, 39_980, -10, -10])
    reverse = np.array([False, True, True, False, True])
    rows = weigh(Windows(contigs, starts, reverse, 40))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[0], expected("one", 0, 40))
    np.testing.assert_array_equal(rows[1], expected("one", 3, 43)[::-1])
    np.testing.assert_array_equal(rows[2], np.append(np.zeros(20), expected("one", 39_980, 40_000)[::-1]))
    np.testing.assert_array_equal(rows[3], np.append(np.zeros(10), expected("two", 0, 30)))
    np.testing.assert_array_equal(rows[4], rows[3][::-1])


def test_bedgraph_and_bigwig_say_the_same(genome: Genome, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    edges = np.sort(generator.choice(20_000, 1_000, replace=False)).tolist()
    pieces = [
        (name, start, end, round(float(generator.normal()), 3))
        for name in LENGTHS
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]
    options = {"scale": 2.0, "clip": (0.25, 1.5), "missing": 0.125}
    text = opened(genome, bedgraph(tmp_path / "a.bg", pieces), **options)
    binary = opened(genome, bigwig(tmp_path / "a.bigWig", pieces), **options)
    windows = WindowSampler(genome.store, read_bed(genome.intervals)).windows(0, 200, 300)
    rows = text(windows)
    np.testing.assert_array_equal(rows, binary(windows))
    assert rows.min() == 0.125
    assert rows.max() == 1.5
    np.testing.assert_array_equal(text(windows.take(slice(100, None))), rows[100:])


def test_a_bed_file_is_a_set(genome: Genome, tmp_path: Path) -> None:
    path = tmp_path / "repeats.bed"
    path.write_text("one\t10\t20\tx\t0\t+\none\t5\t12\none\t11\t12\none\t20\t22\ntwo\t0\t20000\n")
    weigh = opened(genome, path, scale=0.5)
    row = weigh(Windows(np.array([0]), np.array([0]), np.array([False]), 30))[0]
    np.testing.assert_array_equal(row, [1] * 5 + [0.5] * 17 + [1] * 8)
    only = opened(genome, path, missing=0.0)
    row = only(Windows(np.array([0]), np.array([0]), np.array([True]), 30))[0]
    np.testing.assert_array_equal(row, [0] * 8 + [1] * 17 + [0] * 5)
    with pytest.raises(GenomeLMError, match=r"repeats.bed: .*outside weigh as much; give base_weights a scale"):
        opened(genome, path)


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        ("one\t0\t5\tnan", {}, "line 1: column 4 is 'nan'; bedGraph has a finite number"),
        ("one\t0\t5\t1\none\t9\t12\t1e999", {}, "line 2: column 4 is '1e999'"),
        ("one\t0\t5", {}, "line 1: column 4 is ''"),
        ("one\t0\t5\t-1", {}, r"line 1: the value gives the weight -1.*a clip, such as"),
        ("one\t0\t5\t1e10", {}, "line 1: the value gives the weight"),
        ("one\t0\t5\t1\none\t4\t9\t2", {}, r"one, position 5, has two values"),
        ("one\t0\t40001\t1", {}, "line 1: .*beyond the contig's end, 40000; is this BED of another assembly"),
        ("chr1\t0\t5\t1", {}, "line 1: no contig 'chr1'"),
        ("one\t0\t5\t0\n", {"missing": 0.0}, "every base of the training regions weighs zero"),
        ("one\t0\t5\t1\n", {"clip": (0, 0), "missing": 0}, "every base .* weighs zero"),
        ("two\t6000\t6005\t1\n", {}, "no base of the training regions has a value"),
        ("one\t0\t1\t1\none\t1\t2\t1\none\t2\t3\t1", {}, "more than 2 intervals; make a bigWig"),
        ("#\n", {}, "no intervals"),
    ],
)
def test_bad_bedgraphs_are_named(
    lines: str,
    options: dict[str, float],
    words: str,
    genome: Genome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "MOST_INTERVALS", 2)
    path = tmp_path / "a.bedgraph"
    path.write_text(lines)
    with pytest.raises(GenomeLMError, match=f"a.bedgraph: {words}"):
        opened(genome, path, TRAINED[:1], **options)


@pytest.mark.parametrize(
    ("pieces", "lengths", "options", "words"),
    [
        (PIECES[:3], {"one": 40_000}, {}, r"no contig two in this track \(its first is one\); give .* missing"),
        ([("chr1", 0, 5, 1.0)], {"chr1": 40_000}, {"missing": 1.0}, "no base of the training regions has a value"),
        (PIECES, {"one": 40_001, "two": 20_000}, {}, "one has 40,001 bases there and 40,000 in the genome"),
        (PIECES, {"one": 39_999, "two": 20_000}, {"missing": 0}, "one has 39,999 bases there"),
        ([("one", 0, 5, -2.0), ("two", 0, 5, 1.0)], LENGTHS, {"scale": 3.0}, "one: the value gives the weight -6"),
        ([("one", 0, 5, float("inf")), ("two", 0, 5, 1.0)], LENGTHS, {}, "one: the value gives the weight inf"),
        ([("one", 0, 5, 0.0)], LENGTHS, {"missing": 0.0}, "every base of the training regions weighs zero"),
    ],
)
def test_bad_bigwigs_are_named(
    pieces: list[tuple[str, int, int, float]],
    lengths: dict[str, int],
    options: dict[str, float],
    words: str,
    genome: Genome,
    tmp_path: Path,
) -> None:
    path = bigwig(tmp_path / "a.bw", pieces, lengths)
    with pytest.raises(GenomeLMError, match=f"a.bw: {words}"):
        opened(genome, path, **options)


def test_contigs_that_only_one_of_the_two_has(genome: Genome, tmp_path: Path) -> None:
    path = bigwig(tmp_path / "a.bw", [*PIECES[:3], ("other", 0, 5, 9.0)], {"one": 40_000, "other": 500})
    assert opened(genome, path, TRAINED[:1])
    weigh = opened(genome, path, missing=0.5)
    np.testing.assert_array_equal(weigh(Windows(np.array([1]), np.array([0]), np.array([False]), 30)), 0.5)


def test_damaged_files_are_named(genome: Genome, tmp_path: Path) -> None:
    path = tmp_path / "a.bw"
    cut = bigwig(tmp_path / "whole.bw").read_bytes()[:100]
    for content, words in ((b"", "not a bigWig"), (b"no bigWig at all", "not a bigWig"), (cut, "a damaged bigWig")):
        path.write_bytes(content)
        with pytest.raises(GenomeLMError, match=f"a.bw: can't read: {words} file"):
            opened(genome, path)
    random = np.random.default_rng(1).random(30_000, dtype=np.float32)
    with pyBigWig.open(str(path), "w") as wig:
        wig.addHeader(list(LENGTHS.items()))
        wig.addEntries("one", 0, values=random, span=1, step=1)
    content = bytearray(path.read_bytes())
    content[len(content) // 5] ^= 255
    path.write_bytes(content)
    with pytest.raises(GenomeLMError, match=r"a.bw: can't read the values of one: a damaged bigWig file"):
        opened(genome, path, TRAINED[:1])
    with pytest.raises(GenomeLMError, match=r"none.bw: can't read: there is no such file"):
        opened(genome, tmp_path / "none.bw")
    with pytest.raises(GenomeLMError, match=r"a.txt: the end of the name says the format"):
        opened(genome, tmp_path / "a.txt")
