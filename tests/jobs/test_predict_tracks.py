import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyBigWig
import pytest
import torch
from typer.testing import CliRunner

from genome_lm.checkpoint import save_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.formats.bigwig import BigWig
from genome_lm.inference import GenomeLM
from genome_lm.jobs import predict_tracks as job
from genome_lm.jobs.predict_tracks import gather_tracks, predict_tracks, track_paths
from genome_lm.jobs.score_bases import ScoredSequences
from genome_lm.model import Bins, Head, HeadConfig, HyenaLM
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.tiny import TINY_MODEL

BINS = Bins(8, 16, 96)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> GenomeLM:
    """Without strides, or with strides of the bases that a test gives."""
    torch.manual_seed(0)
    bins = replace(BINS, stride=getattr(request, "param", 0))
    config = HeadConfig("tracks", ("x+", "y/z"), "none", "both", means=(0.0, 0.0), scales=(3.0, 1.0), bins=bins)
    return GenomeLM(HyenaLM(TINY_MODEL), head=Head(config, TINY_MODEL))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PART_BASES", 2_000)


@pytest.fixture
def fasta(genome: Genome, tmp_path: Path) -> Path:
    letters = genome.store.fetch("two", 4_000, 8_003, output="letters").tobytes().decode()
    (tmp_path / "s.fa").write_text(f">a\n{letters}\n>short\nACGT\n>b\n{letters[:130]}\n")
    return tmp_path / "s.fa"


def plain(model: GenomeLM, sequence: str) -> np.ndarray:
    """Bin by bin, from the window that holds it."""
    inner, count = BINS.window - 2 * BINS.context, len(sequence) // BINS.size
    rows = [np.zeros((0, 2), dtype=np.float32)]
    for at in range(0, count * BINS.size, inner):
        padded = "N" * BINS.context + sequence + "N" * BINS.window
        rows.append(model.predict([padded[at : at + BINS.window]])[0])
    values = np.concatenate(rows)[:count]
    for place in range(count):
        if sum(base in "acgtACGT" for base in sequence[8 * place : 8 * place + 8]) < 4:
            values[place] = np.nan
    return values


def read(path: Path, name: str, length: int) -> np.ndarray:
    return BigWig(path).values(name, 0, length)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("model", [0, 16], indirect=True)
def test_tracks_are_what_windows_give_one_by_one(model: GenomeLM, fasta: Path, tmp_path: Path) -> None:
    sequences = ScoredSequences.of_fasta(fasta)
    written = predict_tracks(model, sequences, tmp_path / "p.bw", batch_tokens=500)
    assert [path.name for path in written.paths] == ["p.x+.bw", "p.y_z.bw"]
    assert written.parts > 1
    for contig in sequences.contigs:
        letters = "".join("ACGTN"[min(4, t - 7)] for t in contig.fetch(0, contig.length).tolist())
        expected = np.repeat(plain(model, letters), 8, axis=0)
        for column, path in enumerate(written.paths):
            values = read(path, contig.name, contig.length)
            np.testing.assert_allclose(values[: len(expected)], expected[:, column], rtol=1e-4)
            assert np.isnan(values[len(expected) :]).all()
    assert np.isnan(read(written.paths[0], "a", 4_003)).sum() > 600  # the run of N
    with pyBigWig.open(str(written.paths[0])) as wig:
        assert wig.chroms() == {"a": 4_003, "short": 4, "b": 130}
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.usefixtures("small_parts")
def test_regions_shards_and_text_have_the_same_values(model: GenomeLM, genome: Genome, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tuned", model.model, {}, model.head)
    (tmp_path / "r.bed").write_text("two\t101\t150\ntwo\t4001\t9000\none\t39990\t40000\t.\t0\t-\n")
    options = ["predict", str(tmp_path / "tuned"), "--genome", str(genome.store.path), "--json"]
    of_bed = ["--bed", str(tmp_path / "r.bed")]
    for name, more in (("all.bw", []), ("some.bw", of_bed), ("some.bedgraph", of_bed)):
        result = CliRunner().invoke(app, [*options, *more, "--out", str(tmp_path / name)])
        assert result.exception is None, result.output
    whole, some = read(tmp_path / "all.x+.bw", "two", 20_000), read(tmp_path / "some.x+.bw", "two", 20_000)
    asked = np.zeros(20_000, dtype=bool)
    asked[96:152] = asked[4_000:9_000] = True
    np.testing.assert_array_equal(some[asked], whole[asked])
    assert np.isnan(some[~asked]).all()
    lines = (tmp_path / "some.x+.bedgraph").read_text().splitlines()
    contig, start, end, value = lines[-1].split("\t")
    assert (contig, start, end) == ("two", "8992", "9000")
    assert float(value) == pytest.approx(whole[8_992], rel=1e-4)
    assert lines[0].split("\t")[:3] == ["one", "39984", "39992"]
    for number in (1, 2):
        arguments = ["--shard", f"{number}/2", "--out", str(tmp_path / "parts.bw")]
        assert CliRunner().invoke(app, [*options, *of_bed, *arguments]).exception is None
    shards = sorted(tmp_path.glob("parts.bw.shard-*"))
    with pytest.raises(GenomeLMError, match="of 2 shards these are missing: 2/2"):
        gather_tracks(shards[:1], tmp_path / "joined.bw")
    result = CliRunner().invoke(app, ["gather", *map(str, shards), "--out", str(tmp_path / "joined.bw"), "--json"])
    assert json.loads(result.output)["rows"] == 7 + 625 + 2
    for name in ("x+", "y_z"):
        one, other = (read(tmp_path / f"{stem}.{name}.bw", "two", 20_000) for stem in ("joined", "some"))
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("small_parts")
def test_a_killed_job_goes_on(model: GenomeLM, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, out = ScoredSequences.of_fasta(fasta), tmp_path / "p.bw"
    calls = []

    def killed(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)  # type: ignore[arg-type]

    def start(out: Path) -> None:
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(job, "_predicted", killed)
            predict_tracks(model, sequences, out)

    whole = job._predicted
    with pytest.raises(KeyboardInterrupt):
        start(out)
    assert not list(tmp_path.glob("*.bw"))
    assert predict_tracks(model, sequences, out).resumed == 1
    first = read(tmp_path / "p.x+.bw", "a", 4_003)
    predict_tracks(model, sequences, out, force=True)
    np.testing.assert_array_equal(read(tmp_path / "p.x+.bw", "a", 4_003), first)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "q.bw")
    with torch.no_grad():
        assert model.head is not None
        model.head.out.bias += 1  # another head is another job
    with pytest.raises(GenomeLMError, match="head_sha256"):
        predict_tracks(model, sequences, tmp_path / "q.bw")


def test_pairs_are_not_for_a_head_of_tracks(model: GenomeLM, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", model.model, {}, model.head)
    (tmp_path / "p.csv").write_text("sequence,sequence_2\nACGT,ACGA\n")
    command = ["predict", str(tmp_path / "c"), "--pairs", str(tmp_path / "p.csv"), "--out", str(tmp_path / "o.csv")]
    message = str(CliRunner().invoke(app, command).exception)
    assert "--pairs: the model was tuned on single sequences; give --fasta" in message
    with pytest.raises(GenomeLMError, match="reads single sequences, no pairs"):
        model.predict(["ACGT"], seconds=["ACGA"])


def test_what_can_t_be_predicted_is_named(model: GenomeLM, fasta: Path, tmp_path: Path) -> None:
    sequences = ScoredSequences.of_fasta(fasta)
    with pytest.raises(GenomeLMError, match="--window: 33 bases are not 2 · 16 of context and bins of 8"):
        predict_tracks(model, sequences, tmp_path / "p.bw", window=33)
    with pytest.raises(GenomeLMError, match="--window 160: more than the model's context of 128"):
        predict_tracks(model, sequences, tmp_path / "p.bw", window=160)
    (tmp_path / "short.fa").write_text(">s\nACGT\n")
    with pytest.raises(GenomeLMError, match="no interval holds a bin of 8 bases"):
        predict_tracks(model, ScoredSequences.of_fasta(tmp_path / "short.fa"), tmp_path / "p.bw")
    with pytest.raises(GenomeLMError, match="two tracks would be written to one file"):
        track_paths(tmp_path / "p.bw", ["a b", "a/b"])
    save_checkpoint(tmp_path / "plain", model.model, {})
    arguments = ["predict", str(tmp_path / "plain"), "--fasta", str(fasta), "--out", str(tmp_path / "p.bw")]
    result = CliRunner().invoke(app, arguments)
    assert "was not tuned to tracks" in str(result.exception)
    result = CliRunner().invoke(app, [*arguments[:-1], "p.csv", "--shard", "1/2"])
    assert "--shard with tracks" in str(result.exception)
    assert not list(tmp_path.glob("p.*"))
