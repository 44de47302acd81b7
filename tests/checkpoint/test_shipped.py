"""The models that come with the package: found by name, small, offline, with a card, of a committed configuration."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from genome_lm import encode, load
from genome_lm.checkpoint.shipped import FOLDER, shipped_models
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_input
from genome_lm.training import TrainingConfig

ROOT = Path(__file__).parents[2]
NAME = "bacteria-900k"


def test_a_model_opens_by_its_name_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genome_lm.checkpoint.opening.fetched", lambda *_: pytest.fail("the hub is asked"))
    assert NAME in shipped_models()
    model = load(NAME, "cpu")
    assert model.embed(["ACGTACGT"]).shape == (1, model.config.d_model)
    with pytest.raises(GenomeLMError, match=f"{NAME}: comes with this package, where there is no revision"):
        load(NAME, "cpu", revision="main")
    with pytest.raises(GenomeLMError, match=f"no model of this package .*{NAME}"):
        load("bacteria", "cpu")
    (tmp_path / NAME).mkdir()
    with pytest.raises(GenomeLMError, match="no checkpoint here"):
        load(NAME, "cpu")


@pytest.mark.parametrize("name", shipped_models())
def test_a_model_is_small_and_has_its_card(name: str) -> None:
    files = {path.name: path.stat().st_size for path in (FOLDER / name).iterdir()}
    assert files.keys() == {"config.json", "model.safetensors", "README.md"}
    assert sum(files.values()) <= 4 << 20
    card = (FOLDER / name / "README.md").read_text()
    assert all(f"## {heading}" in card for heading in ("Data", "Recipe", "Figures", "Limits"))


def test_the_model_is_that_of_its_configuration() -> None:
    study = yaml.safe_load((ROOT / "snakemake" / "config" / "pretrained.yaml").read_text())
    shape = study["models"][NAME]
    del shape["genomes"]
    model = load(NAME, "cpu")
    assert model.config == ModelConfig(**shape)
    assert TrainingConfig.from_dict(model.provenance["training"]) == TrainingConfig.from_dict(study["training"])


def test_the_model_knows_bacteria() -> None:
    """Held out by the shipped splits or not, 16,000 bases of E. coli take less than an order-0 chain's 2 bits."""
    with open_input(ROOT / "data_manifests" / "ecoli_k12_mg1655.fa.gz") as file:
        file.readline()
        sequence = b"".join(file.read(17_000).split()).decode()[:16_000]
    model = load(NAME, "cpu")
    bits = -torch.tensor(model.log_likelihood([sequence])[0][1:]).mean() / math.log(2)
    assert bits < 1.93
    assert len(encode(sequence)) == 16_000
