import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genome_lm.alphabet import encode
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, Tiling, remote
from genome_lm.jobs import FastaSource, GenomeSource
from genome_lm.jobs.sources import SequenceSource, Span
from tests.conftest import Genome, biased_dna
from tests.served import serving


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Tiling, int, int, int]:
    limit = draw(st.integers(1, 60))
    start = draw(st.integers(0, limit - 1))
    end = draw(st.integers(start + 1, limit))
    window = draw(st.none() | st.integers(1, 70))
    stride = None if window is None else draw(st.none() | st.integers(1, window))
    context = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    return Tiling(window, stride, draw(st.sampled_from(["keep", "drop"])), *context).check(), start, end, limit


@given(cuts())
def test_windows(case: tuple[Tiling, int, int, int]) -> None:
    tiling, start, end, limit = case
    windows = list(tiling.cut(start, end, limit))
    window, stride = tiling.window or end - start, tiling.stride or tiling.window or end - start
    for first, stop, left, right in windows:
        assert start <= first < stop <= end
        assert left == min(tiling.left, first)
        assert right == min(tiling.right, limit - stop)
    firsts = [first for first, *_ in windows]
    assert firsts == sorted(set(firsts))
    if tiling.edges == "keep":
        assert {base for first, stop, *_ in windows for base in range(first, stop)} == set(range(start, end))
        assert {stop - first for first, stop, *_ in windows} == {min(window, end - start)}
    else:
        expected = [
            first
            for first in range(start, end, stride)
            if first + window <= end and first >= tiling.left and first + window + tiling.right <= limit
        ]
        assert firsts == expected
        assert all(stop - first == window for first, stop, *_ in windows)


def everything(source: SequenceSource) -> tuple[list[Span], str]:
    digest = hashlib.sha256()
    return list(source.spans(digest)), digest.hexdigest()


@pytest.mark.parametrize("tiling", [Tiling(100, 40, "drop", 30, 10), Tiling(300, None, "keep", 50)])
def test_what_is_read_is_what_lies_there(genome: Genome, tmp_path: Path, tiling: Tiling) -> None:
    fasta = tmp_path / "a.fa"
    contigs = {"a": biased_dna(777, 1), "b": biased_dna(90, 2), "c": biased_dna(300, 3)}
    fasta.write_text("".join(f">{name} text\n{dna}\n" for name, dna in contigs.items()))
    whole = {
        name: genome.store[name, 0 : int(length)].tobytes().decode()
        for name, length in zip(genome.store.contigs.names, genome.store.contigs.lengths, strict=True)
    }
    places = [Interval("one", 5, 905, "x"), Interval("two", 100, 130), Interval("two", 19_000, 20_000)]
    for source, texts in (
        (FastaSource(fasta, tiling), contigs),
        (GenomeSource(genome.store, places, tiling), whole),
        (GenomeSource(genome.store, None, tiling), whole),
    ):
        spans, _ = everything(source)
        assert spans
        edges = [0, 1, len(spans) // 3, len(spans) // 2, len(spans)]
        for ranges in ([(0, len(spans))], list(pairwise(edges)), [(len(spans) - 1, len(spans))]):
            read = [item for items in source.read(ranges) for item in items]
            assert [span for span, _ in read] == [s for first, stop in ranges for s in spans[first:stop]]
            for span, piece in read:
                text = texts[span.contig][span.start - span.left : span.end + span.right]
                np.testing.assert_array_equal(piece.tokens, encode(text))
                assert (piece.left, piece.right) == (span.left, span.right)


def test_from_a_url_a_part_is_read_while_the_model_goes_through_the_one_before(
    genome: Genome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes down between two parts: the next one is there already, the one behind it is an error."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    # Each part in a chunk of its own.
    starts = [number + place for number in (0, 16_500, 33_000) for place in (100, 501, 902)]
    places = [Interval("one", start, start + 300 + start % 7, str(start)) for start in starts]
    ranges = [(0, 3), (3, 6), (6, 9)]
    with serving(genome.store.path.parent) as server:
        store = GenomeStore(server.url.replace("g.zarr", genome.store.path.name))
        batches = store._chunks._files._batches  # type: ignore[union-attr]
        parts = GenomeSource(store, places, Tiling()).read(ranges)
        expected = list(GenomeSource(genome.store, places, Tiling()).read(ranges))
        for number in (0, 1):
            for (span, piece), (same, local) in zip(next(parts), expected[number], strict=True):
                assert span == same
                np.testing.assert_array_equal(piece.tokens, local.tokens)
            [batch.replies.exception() for batch in batches.values()]
            server.fails = 1_000
        with pytest.raises(GenomeLMError, match=rf"{store.path}/.* 503"):
            next(parts)


def test_the_digest_tells_inputs_apart(genome: Genome, tmp_path: Path) -> None:
    digests = []
    for number, text in enumerate((">a\nAC\n>b\nGT\n", ">a\nACG\n>b\nT\n", ">a\nAC\n>c\nGT\n", ">ab\nACGT\n")):
        (tmp_path / f"{number}.fa").write_text(text)
        digests.append(everything(FastaSource(tmp_path / f"{number}.fa", Tiling()))[1])
    places = None, [Interval("one", 0, 9)], [Interval("one", 0, 8)], [Interval("one", 0, 9, "x")]
    digests += [everything(GenomeSource(genome.store, place, Tiling(8)))[1] for place in places]
    assert len(set(digests)) == len(digests)


def test_line_ends_and_case_make_no_other_input(tmp_path: Path) -> None:
    (tmp_path / "1.fa").write_bytes(b">a x\nACGT\nAC\n")
    (tmp_path / "2.fa").write_bytes(b">a\r\nACg\r\ntAC")
    one, two = (everything(FastaSource(tmp_path / name, Tiling())) for name in ("1.fa", "2.fa"))
    assert one == two


def test_doubled_ids_are_named(tmp_path: Path) -> None:
    fasta = tmp_path / "a.fa"
    fasta.write_text("".join(f">r{n % 900}\nACGT\n" for n in range(1_000)))
    with pytest.raises(GenomeLMError, match=r"records 1 and 901 are both named 'r0'"):
        everything(FastaSource(fasta, Tiling()))


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        (Interval("one", -5, 9), "not within the contig"),
        (Interval("one", 5, 40_001), "not within the contig, which is 1-40000"),
        (Interval("one", 9, 9), "not within"),
        (Interval("chrone", 0, 9), "did you mean one"),
    ],
)
def test_bad_places(genome: Genome, interval: Interval, message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        everything(GenomeSource(genome.store, [interval], Tiling()))


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        (Tiling(None, 5), "--stride goes with --window"),
        (Tiling(4, 5), "stride 5"),
        (Tiling(0), "window 0"),
        (Tiling(4, 0), "stride 0"),
        (Tiling(4, 4, "keep", -1), "context -1"),
    ],
)
def test_bad_tilings(genome: Genome, tiling: Tiling, message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        GenomeSource(genome.store, None, tiling)
