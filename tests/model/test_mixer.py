"""An operator of one file and one registration goes through all that a model is used for."""

from pathlib import Path

import pytest
import torch

from genome_lm import GenomeLM, load
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.finetune.adapters import merge, prepare
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.genome.variants import Variant
from genome_lm.inference import Layout, score_variants
from genome_lm.mixture_config import one_source
from genome_lm.model import HyenaLM
from genome_lm.model.cuda_memory import cuda_forward_bytes, cuda_training_bytes
from genome_lm.model.memory import forward_bytes, training_bytes
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.mixers import MIXERS
from genome_lm.model.stepping import Stepper
from genome_lm.training import train
from tests.conftest import Genome
from tests.full_passes import score_in_full
from tests.model.decay_mixer import DecayMixer
from tests.tiny import TINY_MODEL, TINY_RECIPE

SHAPE = {**TINY_MODEL.to_dict(), "n_layer": 3}


@pytest.fixture(autouse=True)
def registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "decay", DecayMixer)


@pytest.mark.parametrize(
    "layout", ["decay, hyena", "hyena-se, hyena-mr", "attention, attention-local, attention-dilated"]
)
def test_training_to_scores(layout: str, genome: Genome, tmp_path: Path) -> None:
    config = ModelConfig(**{**SHAPE, "layout": layout})
    assert config.mixers == (*layout.split(", "), layout.split(", ")[0])[:3]
    train(one_source(genome.store.path, genome.intervals), tmp_path / "run", config, TINY_RECIPE)
    model: GenomeLM = load(tmp_path / "run" / "checkpoint")
    assert model.model.config == config
    assert model.embed(["ACGTACGT"]).shape == (1, config.d_model)
    assert model.generate(["ACGT"], length=5, temperature=0)
    contig, layout = genome.store.contigs.names[0], Layout(12, 8, 4)
    ref = genome.store[contig, 40:41].tobytes().decode()
    variants = [Variant(contig, 40, ref, alt) for alt in sorted({*"ACGT"} - {ref})]
    shared, full = (score(model.model, genome.store, variants, layout) for score in (score_variants, score_in_full))
    torch.testing.assert_close(torch.tensor(shared.llr), torch.tensor(full.llr), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["decay", "hyena,decay"])
def test_reading_token_by_token_equals_the_full_forward(layout: str) -> None:
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(**{**SHAPE, "layout": layout})).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(7, 11, (2, 20))
    with torch.no_grad():
        full = model(ids)
    lengths, length = torch.tensor([3, 7]), 12
    stepper = Stepper(model, length)
    logits = [stepper.prefill(ids[:, :7], lengths)]
    logits += [stepper.step(ids[torch.arange(2), lengths + position]) for position in range(length)]
    expected = torch.stack([full[row, end - 1 : end + length] for row, end in enumerate(lengths.tolist())])
    torch.testing.assert_close(torch.stack(logits, dim=1), expected)


@pytest.mark.parametrize("name", ["decay", "hyena-se", "hyena-mr"])
def test_parts_of_the_model_ask_the_operator(name: str) -> None:
    config = ModelConfig(**{**SHAPE, "layout": name})
    model = HyenaLM(config)
    assert 0.5 < model.backbone.blocks[0].mixer.out_proj.weight.std() * (6**0.5) / 0.02 < 1.5
    decayed, plain = model.parameter_groups(0.1)
    assert len(decayed["params"]) + len(plain["params"]) == len([*model.parameters()])
    prepare(model, FinetuneConfig(method="lora"))
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 3 * 4 * 2
    merge(model)
    assert 0 < forward_bytes(config, 1_000) < training_bytes(config, 1_000)
    batch = GpuBatch(config, 1, 1_000)
    assert 0 < cuda_forward_bytes(batch) < cuda_training_bytes(batch)


def test_unknown_operators_are_named() -> None:
    with pytest.raises(GenomeLMError, match=r"unknown operator 'mamba'; there are: hyena, .*decay"):
        HyenaLM(ModelConfig(**{**SHAPE, "layout": "hyena,mamba"}))


def test_a_layout_names_no_more_operators_than_there_are_blocks() -> None:
    with pytest.raises(GenomeLMError, match="layout names 4 operators for 3 blocks"):
        ModelConfig(**{**SHAPE, "layout": "hyena,decay,hyena,decay"})
