"""The folder for transformers: its own code against genome-lm, in a process that can't import genome-lm."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from genome_lm.checkpoint import export_for_transformers
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import Head, HeadConfig, HyenaLM

TRANSFORMERS = Path(sys.prefix) / "transformers"
"""Where `make` installs .ci/transformers.txt."""
TINY = {"d_model": 16, "n_layer": 3, "max_length": 64, "embed_dropout": 0.0}
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "a-hyena": ({"order": 3}, "mean"),
    "hybrid": (
        {
            "layout": "hyena-se,hyena-mr,attention",
            "mr_taps": 16,
            "filter_groups": 4,
            "ngram_order": 4,
            "ngram_width": 8,
        },
        "last",
    ),
    "recall": (
        {"layout": "attention-recall,attention-local,hyena", "attention_window": 8, "recall_keys": 6, "heads": 2},
        "masked",
    ),
    "both": ({"direction": "both", "layout": "hyena,attention", "ngram_order": 3}, "max"),
    "both-own": ({"direction": "both", "reversed_weights": "own"}, "mean"),
}


def made(fields: dict[str, Any], pool: str = "mean", **head: Any) -> tuple[HyenaLM, Head]:
    """A model and a head with random weights, none of which is as it begins."""
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig.from_dict({**TINY, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, Head(HeadConfig("classification", ("one", "two"), pool, **head), model.config)  # type: ignore[arg-type]


def with_transformers(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(TRANSFORMERS)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not TRANSFORMERS.exists(), reason=f"no {TRANSFORMERS}: see Makefile")
def test_models_open_and_work_without_genome_lm(tmp_path: Path) -> None:
    lengths = torch.tensor([50, 30, 1])
    for name, (fields, pool) in MODELS.items():
        model, head = made(fields, pool)
        export_for_transformers(model, tmp_path / name, head)
        ids = torch.randint(7, 12, (3, 50)).masked_fill(torch.arange(50) >= lengths[:, None], 4)
        with torch.no_grad():
            expected = {"ids": ids, "logits": model(ids), "classes": head(model.backbone, ids, lengths)}
        torch.save(expected, tmp_path / f"{name}.pt")
    script = Path(__file__).with_name("with_transformers.py")
    result = json.loads(with_transformers(str(script), str(tmp_path), cwd=tmp_path).splitlines()[-1])
    assert set(result["off"]) == set(MODELS)
    for name, off in result["off"].items():
        assert max(off.values()) < 1e-5, name
    assert result["card"] == [2, 2]
    assert result["ids"] == [[7, 8, 9, 10, 11], [10, 11, 4, 4, 4]]
    assert result["mask"] == [[1] * 5, [1, 1, 0, 0, 0]]
    assert (result["text"], result["generated"], result["features"]) == ("ACGTN", 8, 5)
    assert result["trained"]["after"] < 0.8 * result["trained"]["before"]
    registered = (
        "from genome_lm.checkpoint import register_with_transformers as do; do(); import transformers as t;"
        "model = t.AutoModelForCausalLM.from_pretrained('hybrid'); print(type(model).__module__)"
    )
    module = with_transformers("-c", registered, cwd=tmp_path).split()[-1]
    assert module == "genome_lm.checkpoint.transformers_files.modeling_genome_lm"


@pytest.mark.parametrize(
    ("fields", "head", "message"),
    [
        ({"layout": "attention-dilated"}, {}, "no place for attention-dilated"),
        ({"direction": "both", "strands": "equivariant"}, {}, "no place for strands"),
        ({}, {"strand": "both"}, "a head with strand both"),
        ({}, {"prompt": 2}, "a head with a soft prompt"),
    ],
)
def test_what_has_no_place_is_refused(
    tmp_path: Path, fields: dict[str, Any], head: dict[str, Any], message: str
) -> None:
    model, with_head = made(fields, **head)
    with pytest.raises(GenomeLMError, match=message):
        export_for_transformers(model, tmp_path / "out", with_head)
    assert not (tmp_path / "out").exists()
