"""Pooled models: trained on either strand, both of which are averaged where nobody says otherwise."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from genome_lm.checkpoint import save_checkpoint
from genome_lm.direction import BOTH
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import FinetuneOptions, finetune
from genome_lm.inference import GenomeLM
from genome_lm.model import HyenaLM
from genome_lm.sklearn import Embedder
from genome_lm.training.objective import with_objective
from genome_lm.training_config import TrainingConfig
from genome_lm_cli.main import app
from tests.finetune.test_finetune import rich, run_config
from tests.tiny import TINY_MODEL

TEXT = "ACGTTGCAACGGATTACA"


def pooled(**fields: Any) -> HyenaLM:
    return HyenaLM(dataclasses.replace(TINY_MODEL, strands="pooled", **fields)).eval()


def test_pooled_models_train_on_either_strand() -> None:
    recipe = TrainingConfig.from_dict({"stages": "64:2", "reverse_complement": False})
    with pytest.raises(GenomeLMError, match="strands pooled means training on either strand"):
        with_objective(recipe, pooled().config)
    with_objective(dataclasses.replace(recipe, reverse_complement=True), pooled().config)
    assert pooled().config.to_dict()["strands"] == "pooled"


@pytest.mark.parametrize("fields", [{}, {"direction": BOTH}], ids=["causal", "both"])
def test_embeddings_are_of_both_strands(tmp_path: Path, fields: dict[str, Any]) -> None:
    lm = pooled(**fields)
    model = GenomeLM(lm)
    default, both, forward = (model.embed([TEXT], strand=strand) for strand in (None, "both", "forward"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(default, both)
    assert np.abs(default - forward).max() > 1e-6
    save_checkpoint(tmp_path / "model", lm)
    np.testing.assert_allclose(Embedder(str(tmp_path / "model")).fit_transform([TEXT]), both, atol=1e-6)
    (tmp_path / "x.fa").write_text(f">x\n{TEXT}\n")
    for options, expected in (((), both), (("--strand", "forward"), forward)):
        out = tmp_path / f"e{len(options)}.npz"
        given = ["embed", str(tmp_path / "model"), "--fasta", str(tmp_path / "x.fa"), "--out", str(out), *options]
        result = CliRunner().invoke(app, given)
        assert result.exit_code == 0, result.output
        np.testing.assert_allclose(np.load(out)["embedding"], expected, atol=1e-6)


def test_tuned_models_read_both_strands_unless_they_are_told_otherwise(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", pooled())
    given: Any = (tmp_path / "model", rich(20), tmp_path / "tuned", "classification", run_config(epochs=1))
    assert finetune(*given).head.strand == "both"
    assert '"reverse_complement": true' in (tmp_path / "tuned/summary.json").read_text()
    assert finetune(*given, FinetuneOptions(strand="forward")).head.strand == "forward"
    assert '"reverse_complement": false' in (tmp_path / "tuned/summary.json").read_text()


def test_a_model_that_reads_both_ways_sees_the_context_on_both_sides() -> None:
    model = GenomeLM(HyenaLM(dataclasses.replace(TINY_MODEL, direction=BOTH)).eval())
    inner = model.embed([TEXT], pool="none")[0][4:-4]
    np.testing.assert_allclose(model.embed([TEXT], context=4)[0], inner.mean(0), atol=1e-6)
