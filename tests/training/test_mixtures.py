import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genome_lm.checkpoint import load_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.genome.mixture import MixtureConfig, SourceConfig
from genome_lm.training import train
from genome_lm.training.metrics import read_metrics
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
    train(halves, killed, TINY_MODEL, SHORT, num_workers=2)
    assert weights(killed) == weights(whole)
    assert (killed / SOURCES).read_bytes() == (whole / SOURCES).read_bytes()


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
