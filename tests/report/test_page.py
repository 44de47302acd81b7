import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import Difference, Perplexity, Score
from genome_lm.evaluation.perplexity import ClassScores
from genome_lm.report import write_report
from genome_lm.report.figures import _range
from genome_lm.training.metrics import METRICS
from genome_lm.training.sessions import SESSIONS, Session
from genome_lm_cli.main import app


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copied"))


def words(page: Path) -> str:
    return " ".join(re.sub("<[^>]*>", " ", page.read_text(encoding="utf-8")).split())


def test_a_run_without_an_evaluation(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    shown = words(out)
    assert "Training run run " in shown
    assert "trained on tiny" in shown
    assert "not finished" not in shown
    assert "Perplexity against baselines" not in shown
    session = json.loads((run / SESSIONS).read_text())
    for value in (session["started"], session["device"], "hours, minutes, seconds of training"):
        assert value in shown
    assert out.read_text(encoding="utf-8").count("<svg") == 1


def test_an_unfinished_run_whose_loss_spikes(copied: Path, tmp_path: Path) -> None:
    (copied / "summary.json").unlink()
    lines = (copied / METRICS).read_text().splitlines()
    fields = lines[46].split(",")
    fields[6], fields[8] = "9.5", "13.7"
    (copied / METRICS).write_text("\n".join([*lines[:46], ",".join(fields), *lines[47:50]]) + "\n")
    write_report(copied, tmp_path / "report.html", title="a $title$ [b] \udcff")
    shown = words(tmp_path / "report.html")
    assert r"a $title$ [b] \udcff" in shown
    assert "The run is not finished: step 49 of 60 is done." in shown
    assert "The loss spiked in 1 step, the first of them step 46 (13.700 bits per base)" in shown


def test_a_run_without_a_step(copied: Path, tmp_path: Path) -> None:
    (copied / "summary.json").unlink()
    (copied / METRICS).write_text((copied / METRICS).read_text().splitlines()[0] + "\n")
    with pytest.raises(GenomeLMError, match="no step is done yet"):
        write_report(copied, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_watched_until_it_is_finished(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the command sleeps, the run begins, takes steps, takes none, and is finished."""
    summary, metrics, out = copied / "summary.json", copied / METRICS, tmp_path / "report.html"
    whole, lines, pages = summary.read_text(), metrics.read_text().splitlines(keepends=True), []
    summary.unlink()
    metrics.unlink()
    steps = iter([1, 11, 11, 31, len(lines)])

    def sleep(seconds: float) -> None:
        assert seconds == 7
        pages.append((out.read_text(encoding="utf-8"), out.stat().st_mtime_ns) if out.exists() else None)
        metrics.write_text("".join(lines[: (count := next(steps))]))
        os.utime(metrics, ns=(count, count))
        if count == len(lines):
            summary.write_text(whole)

    monkeypatch.setattr(time, "sleep", sleep)
    result = CliRunner().invoke(app, ["report", str(copied), "--watch", "--every", "7", "--out", str(out)])
    assert result.exit_code == 0, result.output
    before, begun, first, same, later = pages
    assert before is begun is None
    assert "step 10 of\n60 is done. Written at " in first[0]
    assert '<meta http-equiv="refresh" content="7">' in first[0]
    assert same == first
    assert "step 30 of\n60 is done" in later[0]
    text = out.read_text(encoding="utf-8")
    assert "not finished" not in text
    assert "refresh" not in text


def test_what_a_command_line_holds_is_text(copied: Path, tmp_path: Path) -> None:
    session = Session("2026-01-01T00:00:00+00:00", 0, "cpu", "genome-lm train --out '<script>\x1b[2J'")
    (copied / SESSIONS).write_text(json.dumps(session.__dict__) + "\n")
    write_report(copied, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\x1b" not in page


def test_classes_of_regions(run: Path, tmp_path: Path) -> None:
    names = "model", "uniform", "order-2 Markov"
    losses = {"coding": (1.21, 1.386, 1.25), "inter<i>genic": (1.31, 1.386, 1.30)}
    scores = {name: [Score.of(*pair) for pair in zip(names, values, strict=True)] for name, values in losses.items()}
    classes = tuple(ClassScores(name, 1_234, model, tuple(rest)) for name, (model, *rest) in scores.items())
    model, *baselines = scores["coding"]
    evaluation = Perplexity("test", 64, 2_468, model, tuple(baselines), classes)
    (tmp_path / "e.json").write_text(json.dumps(evaluation.to_dict()))
    write_report(run, tmp_path / "report.html", tmp_path / "e.json")
    shown = words(tmp_path / "report.html")
    assert "coding 1,234 1.7457 order-2 Markov 1.8034 -0.0577" in shown
    assert "inter&lt;i&gt;genic 1,234 1.8899 order-2 Markov 1.8755 +0.0144" in shown
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    (tmp_path / "e.json").write_text(json.dumps({**evaluation.to_dict(), "classes": []}))
    write_report(run, tmp_path / "report.html", tmp_path / "e.json")
    assert "By class of region" not in words(tmp_path / "report.html")


@pytest.mark.parametrize(
    ("loss", "interval", "words_of_lead"),
    [
        (1.21, (-0.07, -0.05), "1.7457 bits per base , 0.0577 fewer than {} (95 % interval -0.0700 to -0.0500)"),
        (
            1.26,
            (-0.01, 0.04),
            "0.0144 more than {} (95 % interval -0.0100 to +0.0400, so neither is shown to be better)",
        ),
        (1.21, (None, None), "0.0577 fewer than {}"),
    ],
)
@pytest.mark.parametrize("has_mixture", [False, True])
def test_the_page_leads_with_the_difference_to_the_best_baselines(
    run: Path, tmp_path: Path, loss: float, interval: tuple[float, float], words_of_lead: str, has_mixture: bool
) -> None:
    model, *baselines = [Score.of(*each) for each in (("model", loss), ("order-0 Markov", 1.3), ("uniform", 1.25))]
    if has_mixture:
        baselines.append(Score.of("mixed Markov to order 2", 1.2))
    differences = [
        Difference(each.name, model.bits_per_base - each.bits_per_base, *interval, 60) for each in baselines
    ]
    evaluation = Perplexity("test", 64, 2_468, model, tuple(baselines), differences=tuple(differences))
    (tmp_path / "e.json").write_text(json.dumps(evaluation.to_dict()))
    write_report(run, tmp_path / "report.html", tmp_path / "e.json", "the run")
    lead = "the run On 2,468 held-out bases of the split “test”, the model needs "
    shown = words(tmp_path / "report.html").split("layers, width")[0].split(lead)[1]
    if has_mixture:
        assert words_of_lead.format("uniform, the best baseline alone") in shown
        assert f" and {differences[-1].bits_per_base:.4f} more than mixed Markov to order 2" in shown
    else:
        assert shown.endswith(f"{words_of_lead.format('uniform')}. 2 ")


def test_the_picture_ends_above_most_steps() -> None:
    train = [8.0, 4.0, 3.0] + [1.9 + 0.001 * n for n in range(100)]
    low, high = _range(train, [1.95])
    assert 1.88 < low < 1.9
    assert 1.99 < high < 2.05
    assert _range(train, [2.5])[1] > 2.5  # each validation is in it
    low, high = _range([1.9], [])
    assert low < 1.9 < high
