import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pysam
import pytest
from typer.testing import CliRunner

from genome_lm.alphabet import A, T
from genome_lm.dataset import TrackRecipe, TrackSet, list_columns, read_examples, write_table
from genome_lm.errors import GenomeLMError
from genome_lm.formats.signals import Values, open_signal, read_bed_pieces
from genome_lm.genome import Interval
from genome_lm_cli.main import app
from tests.conftest import Genome

REGIONS = [
    Interval("one", 40, 3_000, "train"),
    Interval("two", 4_900, 6_100, "valid"),
    Interval("two", 0, 100, "test"),
]
RECIPE = TrackRecipe(bin=16, length=64, context=32)


def numbers(seed: int) -> Values:
    """A value of every third stretch of a contig is missing."""
    generator = np.random.default_rng(seed)
    values = generator.gamma(2, 3, 20_000).astype(np.float32)
    values[np.repeat(generator.random(1_000) < 0.3, 20)] = np.nan
    return values


class Made:
    """A signal of numbers that are there."""

    def values(self, contig: int, start: int, end: int) -> Values:
        return numbers(contig)[start:end]


def write_bigwig(path: Path, genome: Genome, signal: Made) -> Path:
    with pyBigWig.open(str(path), "w") as wig:
        wig.addHeader([("one", 40_000), ("two", 20_000)])
        for number, name in enumerate(("one", "two")):
            values = signal.values(number, 0, 20_000)
            at = np.flatnonzero(~np.isnan(values))
            wig.addEntries([name] * len(at), at.tolist(), ends=(at + 1).tolist(), values=values[at].tolist())
    return path


def plain_bin(genome: Genome, contig: str, first: int, place: int, masked: set[int]) -> float:
    """What `TrackSet` should give, base by base."""
    start = first + 16 * place
    if not 2 <= place < 6:
        return math.nan
    tokens = genome.store.fetch(contig, start, start + 16)
    values = numbers(genome.store.contigs.index(contig))
    bases = range(start, start + 16)
    counted = [
        float(values[i])
        for i, token in zip(bases, tokens, strict=True)
        if A <= token <= T and not math.isnan(values[i]) and not (contig == "one" and i in masked)
    ]
    return sum(counted) / len(counted) if 2 * len(counted) >= 16 else math.nan


def test_bins_are_the_means_of_the_bases_that_count(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "mask.bed").write_text("one\t200\t230\none\t210\t299\n")
    mask = read_bed_pieces(tmp_path / "mask.bed", genome.store)
    signal = open_signal(write_bigwig(tmp_path / "a.bw", genome, Made()), genome.store)
    made = TrackSet(genome.store, {"a": signal}, REGIONS, RECIPE, [mask])
    rows, windows, expected = pd.concat(made.tables()), 0, {}
    for region in REGIONS:
        for start in range(region.start, region.end - 127, 64):
            windows += 1
            bins = [plain_bin(genome, region.contig, start, place, {*range(200, 299)}) for place in range(8)]
            if not np.isnan(bins).all():
                expected[region.contig, start, start + 128, region.name] = bins
    assert list(rows[["contig", "start", "end", "split"]].itertuples(index=False, name=None)) == list(expected)
    assert ("one", 168, 296, "train") not in expected  # all masked
    assert made.left_out == windows - len(expected) > 0
    np.testing.assert_allclose(np.stack(rows.a), [*expected.values()], rtol=1e-5)


def test_values_are_clipped_scaled_and_logged(genome: Genome) -> None:
    plain = pd.concat(TrackSet(genome.store, {"a": Made()}, REGIONS, RECIPE).tables())
    recipe = TrackRecipe(16, 64, 32, clip=7.0, scale=True, log1p=True)
    made = TrackSet(genome.store, {"a": Made()}, REGIONS, recipe)
    clipped = np.minimum(np.stack(plain.a), 7)
    mean = np.nanmean(clipped[plain.split == "train"])
    assert made.scales["a"] == pytest.approx(mean)
    np.testing.assert_allclose(np.stack(pd.concat(made.tables()).a), np.log1p(clipped / mean), rtol=1e-5)
    zeros = pd.concat(TrackSet(genome.store, {"a": Made()}, REGIONS, TrackRecipe(16, 64, 32, "zero")).tables())
    assert np.isnan(np.stack(plain.a)[:, 2:6]).any()
    assert not np.isnan(np.stack(zeros.a)[:, 2:6][zeros.split == "train"]).any()
    few = pd.concat(TrackSet(genome.store, {"a": Made()}, REGIONS, TrackRecipe(16, 64, 32, most=9)).tables())
    assert len(few) <= 9
    assert set(few.start) <= set(plain.start)


def test_every_format_is_read_alike(genome: Genome, tmp_path: Path) -> None:
    wig = open_signal(write_bigwig(tmp_path / "a.bw", genome, Made()), genome.store)
    values = numbers(0)
    lines = [f"one\t{i}\t{i + 1}\t{value!r}" for i, value in enumerate(values.tolist()) if value == value]
    (tmp_path / "a.bedGraph").write_text("\n".join(lines) + "\n")
    graph = open_signal(tmp_path / "a.bedGraph", genome.store)
    (tmp_path / "a.bed").write_text("one\t5\t9\none\t7\t12\n")
    peaks = open_signal(tmp_path / "a.bed", genome.store)
    np.testing.assert_array_equal(wig.values(0, 50, 900), graph.values(0, 50, 900))
    np.testing.assert_array_equal(wig.values(0, 50, 900), values[50:900])
    assert peaks.values(0, 3, 14).tolist() == [0, 0, *[1] * 7, 0, 0]


def test_reads_of_a_bam_file_are_counted_as_pysam_counts_them(genome: Genome, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    header = {"HD": {"SO": "coordinate"}, "SQ": [{"SN": "one", "LN": 40_000}, {"SN": "two", "LN": 20_000}]}
    with pysam.AlignmentFile(str(tmp_path / "a.bam"), "wb", header=header) as file:
        for start in sorted(generator.integers(0, 900, 60).tolist()):
            read = pysam.AlignedSegment(file.header)
            read.query_name, read.query_sequence, read.reference_id = "r", "A" * 50, 0
            read.reference_start, read.cigarstring = start, "10S15M3D10M100N15M"
            read.flag, read.mapping_quality = int(generator.choice([0, 16, 256, 1024])), 60
            file.write(read)
    with pytest.raises(GenomeLMError, match="there is no index; make it with `samtools index"):
        open_signal(tmp_path / "a.bam", genome.store)
    pysam.index(str(tmp_path / "a.bam"))
    with pysam.AlignmentFile(str(tmp_path / "a.bam")) as file:
        expected = np.sum(file.count_coverage("one", 100, 800, quality_threshold=0), axis=0)
    assert expected.max() > 3
    np.testing.assert_array_equal(open_signal(tmp_path / "a.bam", genome.store).values(0, 100, 800), expected)


WRONG = {
    "other assembly": (["short.bw"], "short.bw: one has 900 bases there and 40,000 in the genome"),
    "other names": (["chr.bw", "--missing", "zero"], "chr.bw: none of the genome's contigs is in this file"),
    "no bins": (["a.bw", "--length", "60", "--bin", "16"], "length 60 and context 0: both have to be multiples"),
    "no room": (["a.bw", "--length", "32000"], "no region of a split holds a window of 32,000 bases"),
    "infinite": (["inf.bw", "--scale"], "track inf: one, position 302: the value is infinite; leave it out with"),
    "second sequence": (["sequence_2=a.bw"], "track sequence_2: the table has a column of this name"),
    "taken": (["split=a.bw"], "track split: the table has a column of this name"),
    "empty": (["zero=a.bw", "--scale", "--clip", "1e-300"], "track zero: its training bins have the mean 0"),
    "suffix": (["a.txt"], "a.txt: "),
    "missing": (["none.bw"], "none.bw: can't read: there is no such file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_tracks_are_named(case: str, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bigwig(tmp_path / "a.bw", genome, Made())
    for path, name in (("short.bw", "one"), ("chr.bw", "chr1")):
        with pyBigWig.open(path, "w") as wig:
            wig.addHeader([(name, 900)])
            wig.addEntries([name], [0], ends=[1], values=[1.0])
    with pyBigWig.open("inf.bw", "w") as wig:
        wig.addHeader([("one", 40_000)])
        wig.addEntries("one", 300, values=[1.0, math.inf], span=1, step=1)
    arguments, message = WRONG[case]
    options = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals), "--out", "t.parquet"]
    result = CliRunner().invoke(app, ["dataset", "from-bigwig", *arguments, *options])
    assert isinstance(result.exception, GenomeLMError)
    assert message in str(result.exception)
    assert not Path("t.parquet").exists()


def test_the_command_writes_what_finetune_reads(genome: Genome, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    path = write_bigwig(tmp_path / "a.bw", genome, Made())
    tracks = [str(path), f"b={path}"]
    options = [
        "--genome",
        str(genome.store.path),
        "--bin",
        "16",
        "--length",
        "64",
        "--context",
        "32",
        "--block",
        "3000",
    ]
    result = CliRunner().invoke(app, ["dataset", "from-bigwig", *tracks, *options, "--json", "--out", str(out)])
    assert result.exception is None, result.output
    assert list_columns(out) == ["a", "b"]
    labelled = read_examples(out, genome.store, ["a", "b"])
    facts = json.loads(result.stdout)
    assert facts["windows"] == len(labelled.examples)
    assert "windows, without a value" in result.stderr
    assert {example.split for example in labelled.examples} == {"train", "valid", "test"}
    first = labelled.examples[0]
    assert len(first.sequence) == 128
    assert first.labels[0].split()[:2] == ["nan", "nan"]
    assert first.labels[0] == first.labels[1]
    write_table(tmp_path / "plain.parquet", [pd.DataFrame({"label": ["x"]})])
    with pytest.raises(GenomeLMError, match="no column holds lists of values"):
        list_columns(tmp_path / "plain.parquet")
