"""The study's table and page keep causal models and those that read both ways apart."""

import runpy
from pathlib import Path

from genome_lm.evaluation import Perplexity
from genome_lm.evaluation.perplexity import Score
from genome_lm.training import read_metrics
from tests.workflow.harness import ROOT

CAUSAL_VALUES = ("nats_per_base", "perplexity", "bits_per_base", "best_baseline", "baseline_bits_per_base")


def test_a_pseudo_perplexity_has_columns_and_a_table_of_its_own(run: Path, tmp_path: Path) -> None:
    overview = runpy.run_path(str(ROOT / "snakemake" / "scripts" / "overview.py"))
    one, other = ("tiny", "causal", 0), ("tiny", "masked", 0)
    common = ("test", 128, 5_000, Score.of("model", 1.2), (Score.of("uniform", 1.38),))
    evaluations = {
        (one, "tiny"): Perplexity(*common),
        (other, "tiny"): Perplexity(*common, measure="pseudo-perplexity"),
    }
    folders, metrics = dict.fromkeys((one, other), run), dict.fromkeys((one, other), read_metrics(run))
    table = list(overview["rows"](folders, metrics, evaluations))
    assert table[0]["perplexity"] == table[1]["pseudo_perplexity"] == 3.320117
    assert table[0]["pseudo_perplexity"] == table[0]["pseudo_nats_per_base"] == ""
    assert all(table[1][name] == "" for name in (*CAUSAL_VALUES, "valid_bits_in_equal_time"))
    links = {one: "one", other: "other"}
    sections = [*overview["causal_sections"](table[:1], links), *overview["masked_sections"](table[1:], links)]
    overview["write_overview"](tmp_path / "page.html", "Study", table, "runs.tsv", sections)
    page = (tmp_path / "page.html").read_text()
    assert "<b>tiny, causal</b> needs" in page
    before, after = page.split("<h2>Models that read both ways</h2>")
    assert "tiny, causal, seed 0" in before
    assert "masked" not in before
    assert "tiny, masked, seed 0" in after
    assert "causal, seed" not in after
