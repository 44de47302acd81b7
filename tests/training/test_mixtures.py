import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import genome_lm
from genome_lm.checkpoint import load_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import Scoring, evaluate_perplexity
from genome_lm.genome import BaseClasses, GenomeStore, read_bed
from genome_lm.mixture_config import MixtureConfig, SourceConfig, read_mixture
from genome_lm.training import Machine, train
from genome_lm.training.metrics import read_metrics
from genome_lm.training.opening import open_sources
from genome_lm.training.sources import SOURCES, read_sources
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.tiny import TINY_MODEL
from tests.training.test_train import changed, weights

SHORT = changed(stages=((32, 12),), valid_every=4, checkpoint_every=4)


@pytest.fixture(scope="module")
def halves(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> MixtureConfig:
    """Two sources of one store, the second three times as often."""
    folder = tmp_path_factory.mktemp("mixture")
    sources = []
    for contig, weight in (("one", 1), ("two", 3)):
        bed = folder / f"{contig}.bed"
        lines = [line for line in genome.intervals.read_text().splitlines() if line.startswith(f"{contig}\t")]
        bed.write_text("\n".join(lines) + "\n")
        sources.append(SourceConfig(contig, str(genome.store.path), str(bed), weight))
    return MixtureConfig(tuple(sources))


@pytest.fixture(scope="module")
def mixed(halves: MixtureConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "run"
    train(halves, folder, TINY_MODEL, SHORT)
    return folder


def test_each_source_is_told_of(mixed: Path) -> None:
    rows, metrics = read_sources(mixed), read_metrics(mixed)
    assert [(row.step, row.source) for row in rows] == [(step, name) for step in range(12) for name in ("one", "two")]
    for step, row in enumerate(metrics):
        of_step = rows[2 * step : 2 * step + 2]
        total = sum(each.targets * (each.loss or 0) for each in of_step)
        assert row.loss == pytest.approx(total / sum(each.targets for each in of_step), rel=1e-5)
        assert all((each.valid_loss is not None) == ((step + 1) % 4 == 0) for each in of_step)
    assert sum(row.targets for row in rows if row.source == "two") == pytest.approx(
        3 * sum(row.targets for row in rows if row.source == "one"), rel=0.1
    )
    summary = json.loads((mixed / "summary.json").read_text())
    for source in summary["sources"]:
        assert source["targets"] == sum(row.targets for row in rows if row.source == source["name"])
        assert source["bases"] == source["share"] * SHORT.bases(12)  # no contig is shorter than a window
    assert [source["share"] for source in summary["sources"]] == [0.25, 0.75]
    assert summary["valid_loss"] == pytest.approx(
        sum(source["share"] * source["valid_loss"] for source in summary["sources"])
    )
    _, provenance = load_checkpoint(mixed / "checkpoint")
    assert [source["name"] for source in provenance["sources"]] == ["one", "two"]
    assert provenance["by_source"] == summary["sources"]


def test_a_mixture_resumes_to_the_bit(halves: MixtureConfig, mixed: Path, tmp_path: Path) -> None:
    whole, killed = mixed, tmp_path / "run"
    shutil.copytree(whole, killed)
    for name in ("summary.json", "checkpoint", "resume.ckpt"):
        shutil.rmtree(killed / name) if (killed / name).is_dir() else (killed / name).unlink()
    # Nothing was saved: all rows are of steps that are taken again.
    train(halves, killed, TINY_MODEL, SHORT, machine=Machine(num_workers=2))
    assert weights(killed) == weights(whole)
    assert (killed / SOURCES).read_bytes() == (whole / SOURCES).read_bytes()


def test_a_source_of_weight_0_is_watched_alone(halves: MixtureConfig, genome: Genome, tmp_path: Path) -> None:
    """Leaving a species out: its regions are all `valid`, and the weights are those of a run without it."""
    alone, beside, bed = tmp_path / "alone", tmp_path / "beside", tmp_path / "out.bed"
    bed.write_text("two\t0\t20000\tvalid\n")
    drawn = halves.sources[0]
    left_out = SourceConfig("out", str(genome.store.path), str(bed), 0)
    train(MixtureConfig((drawn,)), alone, TINY_MODEL, SHORT)
    train(MixtureConfig((drawn, left_out)), beside, TINY_MODEL, SHORT)
    assert weights(alone) == weights(beside)
    last = read_sources(beside)[-1]
    assert (last.source, last.targets, last.loss) == ("out", 0, None)
    assert last.valid_loss is not None
    assert read_metrics(beside)[-1].valid_loss == read_sources(beside)[-2].valid_loss
    assert json.loads((beside / "summary.json").read_text())["sources"][1]["passes"] == 0
    sources = replace(drawn, weight=None), replace(left_out, weight=None)
    train(MixtureConfig(sources, hold_out=("out",)), tmp_path / "named", TINY_MODEL, SHORT)
    assert weights(tmp_path / "named") == weights(alone)
    assert (tmp_path / "named" / SOURCES).read_bytes() == (beside / SOURCES).read_bytes()
    bed.write_text("two\t0\t20000\ttrain\n")
    with pytest.raises(GenomeLMError, match=r"source 'out': .*out\.bed: no intervals of split 'valid'"):
        train(MixtureConfig((drawn, left_out)), tmp_path / "other", TINY_MODEL, SHORT)


def test_from_the_shell(halves: MixtureConfig, genome: Genome, tmp_path: Path) -> None:
    mixture, run = tmp_path / "mixture.yaml", str(tmp_path / "run")
    names = "\n".join(f"- {{name: {s.name}, genome: {s.genome}, intervals: {s.intervals}}}" for s in halves.sources)
    mixture.write_text(f"weights: equal\nsources:\n{names}\n")
    shape = "--d-model 16 --n-layer 1 --max-length 64 --stages 32:2 --tokens-per-step 512 --device cpu".split()
    shown = CliRunner().invoke(app, ["train", "--data", str(mixture), "--out", run, *shape])
    assert shown.exit_code == 0, shown.output
    assert "passes" in shown.stderr
    assert "valid by source: one " in shown.stderr
    page = tmp_path / "report.html"
    assert CliRunner().invoke(app, ["report", run, "--out", str(page)]).exit_code == 0
    assert "50.00 %" in page.read_text()
    store = str(genome.store.path)
    for wrong in (["--data", str(mixture), "--genome", store], ["--genome", store], []):
        shown = CliRunner().invoke(app, ["train", *wrong, "--out", str(tmp_path / "other"), *shape])
        assert "or --data with a mixture" in str(shown.exception)


def test_a_source_of_short_regions_is_named(halves: MixtureConfig, genome: Genome, tmp_path: Path) -> None:
    bed = tmp_path / "n.bed"
    bed.write_text("two\t5000\t5600\ttrain\n")
    data = MixtureConfig((halves.sources[0], SourceConfig("empty", str(genome.store.path), str(bed), 1)))
    with pytest.raises(GenomeLMError, match="source 'empty'"):
        train(data, tmp_path / "run", TINY_MODEL, SHORT)


CLASSES = "one 0 20000 coding 0 +\none 20000 40000 upstream 0 -\ntwo 0 4000 rare\n"


@pytest.fixture
def classed(halves: MixtureConfig, tmp_path: Path) -> str:
    """A mixture, as text, of which source a is drawn by classes."""
    (tmp_path / "classes.bed").write_text(CLASSES.replace(" ", "\t"))
    (tmp_path / "all.bed").write_text("".join(Path(source.intervals).read_text() for source in halves.sources))
    genome = halves.sources[0].genome
    return (
        f"sources:\n- {{name: b, genome: {genome}, intervals: all.bed, weight: 1}}\n"
        f"- {{name: a, genome: {genome}, intervals: all.bed, weight: 4, regions: classes.bed, "
        "classes: {upstream: 1, coding: 3, rare: 0}}\n"
    )


def test_classes_of_a_source_are_sources(classed: str, tmp_path: Path) -> None:
    (tmp_path / "mixture.yaml").write_text(classed)
    sources = open_sources(read_mixture(tmp_path / "mixture.yaml"), SHORT)
    assert [record["name"] for record in sources.records] == ["b", "a/upstream", "a/coding"]
    assert [record["share"] for record in sources.records] == pytest.approx([0.2, 0.2, 0.6], abs=1e-4)
    assert [record.get("regions_sha256") is None for record in sources.records] == [True, False, False]
    mixed = sources.mixture.windows(0, 1_000, 33)
    train_bases = sum(
        r.end - r.start for r in read_bed(tmp_path / "all.bed") if (r.contig, r.name) == ("one", "train")
    )
    of_classes = [source.sampler.bases for source in sources.mixture.sources[1:]]
    assert sum(of_classes) == train_bases
    for number, (least, most) in enumerate([(20_000, 40_000), (0, 20_000)], start=1):
        windows = mixed.windows.take(mixed.sources == number)
        assert not windows.contigs.any()
        assert (least <= windows.starts).all()
        assert (windows.starts + 33 <= most).all()
    by_bases = replace(read_mixture(tmp_path / "mixture.yaml"), sources=tuple(
        replace(source, weight=None) for source in read_mixture(tmp_path / "mixture.yaml").sources
    ))  # fmt: skip
    shares = [record["share"] for record in open_sources(by_bases, SHORT).records]
    whole = sources.mixture.sources[0].sampler.bases
    assert shares == pytest.approx(
        [whole / (whole + train_bases), *(f * train_bases / (whole + train_bases) for f in (0.25, 0.75))], abs=1e-4
    )


def test_a_run_by_classes_is_validated_by_class(classed: str, tmp_path: Path) -> None:
    (tmp_path / "mixture.yaml").write_text(classed)
    data, run = read_mixture(tmp_path / "mixture.yaml"), tmp_path / "run"
    (tmp_path / "all.bed").write_text("one\t0\t15000\ttrain\none\t15100\t23000\tvalid\none\t24000\t40000\ttrain\n")
    train(data, run, TINY_MODEL, changed(stages=((32, 2),), valid_every=2, valid_windows=3_000))
    rows = {row.source: row.valid_loss for row in read_sources(run) if row.step == 1}
    model, store = genome_lm.load(run / "checkpoint").model, GenomeStore(Path(data.sources[0].genome))
    regions, classes = read_bed(tmp_path / "all.bed"), BaseClasses.read(tmp_path / "classes.bed", store)
    scores = evaluate_perplexity(model, store, regions, Scoring("valid", 32, -1), classes)
    by_class = {f"a/{each.name}": each.model.loss for each in scores.classes}
    assert rows == pytest.approx({"b": scores.model.loss, **by_class})
    page = tmp_path / "report.html"
    shown = CliRunner().invoke(app, ["report", str(run), "--out", str(page)])
    assert shown.exit_code == 0, shown.exception
    assert "a/coding" in page.read_text()


@pytest.mark.parametrize(
    ("there", "instead", "words"),
    [
        ("coding: 3", "codng: 3", r"source 'a': .*classes\.bed: no class 'codng'; there are coding, upstream, rare"),
        ("rare: 0", "rare: -1", r"mixture\.yaml: mixture: sources\[1\]\.classes\.rare"),
        ("upstream: 1, coding: 3", "upstream: 0", "source 'a': the weights of the classes sum to zero"),
        ("regions: classes.bed, ", "", "source 'a': regions and classes go together"),
        ("name: b", "name: a/coding", "two sources are named 'a/coding'"),
        ("regions: classes.bed", "regions: other.bed", r"source 'a': .*other\.bed: line 1: .*another assembly"),
        (
            "regions: classes.bed, classes: {upstream: 1, coding: 3, rare: 0}",
            "regions: held_out.bed, classes: {upstream: 1}",
            r"source 'a': .*held_out\.bed: no base of split 'train' has the class 'upstream'",
        ),
        ("regions: classes.bed", "regions: absent.bed", r"source 'a': .*absent\.bed"),
    ],
)
def test_mistakes_in_classes_name_the_source(
    there: str, instead: str, words: str, classed: str, halves: MixtureConfig, tmp_path: Path
) -> None:
    contig, start, end, *_ = next(r for r in read_bed(tmp_path / "all.bed") if r.name == "valid")
    (tmp_path / "held_out.bed").write_text(f"{contig}\t{start}\t{end}\tupstream\n")
    (tmp_path / "other.bed").write_text("one\t0\t40001\tcoding\n")
    assert there in classed
    (tmp_path / "mixture.yaml").write_text(classed.replace(there, instead))
    with pytest.raises(GenomeLMError, match=words):
        open_sources(read_mixture(tmp_path / "mixture.yaml"), SHORT)
