"""Reading under a condition equals reading with its token before each sequence, by hand, in every way of reading."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import genome_lm
from genome_lm.alphabet import encode
from genome_lm.checkpoint import export_checkpoint, open_checkpoint, save_checkpoint
from genome_lm.config import CONDITION_IDS
from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval
from genome_lm.inference import Layout, score_variants
from genome_lm.inference.mutagenesis import mutagenesis
from genome_lm.jobs.run import identity_of
from genome_lm.model import HyenaLM
from genome_lm.model.recompute import (
    alternative_states,
    plain_alternative_states,
    plain_reference_states,
    reference_states,
)
from genome_lm.model.stepping import Stepper
from genome_lm_cli.main import app
from tests.conftest import Genome, biased_dna
from tests.full_passes import score_in_full
from tests.inference.test_variants import many_variants
from tests.tiny import TINY_MODEL

DNA = biased_dna(TINY_MODEL.max_length, 5)


def model_of(order: int = 2, dtype: torch.dtype = torch.float64) -> HyenaLM:
    torch.manual_seed(1)
    model = HyenaLM(replace(TINY_MODEL, order=order, conditions=("fly", "worm")))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(6)
    return model.eval().to(dtype)


def by_hand(model: HyenaLM, ids: torch.Tensor, name: str = "worm") -> torch.Tensor:
    """Logits behind the token of a condition."""
    token = torch.full((len(ids), 1), CONDITION_IDS[model.config.conditions.index(name)])
    model.condition = None
    with torch.no_grad():
        logits = model(torch.cat([token, ids], dim=1))[:, 1:]
    model.condition = name
    return logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("named") / "checkpoint", model_of(dtype=torch.float32))


@pytest.mark.parametrize("order", [2, 3])
def test_every_way_of_reading(order: int) -> None:
    """The full context in one pass, layers, gradients, token by token, and ends after shared prefixes."""
    model, ids = model_of(order), torch.randint(7, 11, (3, TINY_MODEL.max_length))
    expected = by_hand(model, ids)
    torch.testing.assert_close(model(ids), expected)
    assert (model(ids) - by_hand(model, ids, "fly")).abs().amax((0, 2)).min() > 1e-6  # the name is heard to the end
    model.condition = "worm"
    with torch.no_grad():
        for layer, states in model.backbone.every_layer(ids, [0, 1, None]):
            assert states.shape[:2] == ids.shape
            torch.testing.assert_close(states, model.backbone(ids, layer))
    stepper = Stepper(model, 40)
    lengths = torch.tensor([1, 30, 88])
    nexts = (torch.stack([row[at + step] for row, at in zip(ids, lengths, strict=True)]) for step in range(40))
    read = [stepper.prefill(ids[:, :88], lengths), *map(stepper.step, nexts)]
    for row, at in enumerate(lengths):
        torch.testing.assert_close(torch.stack(read, 1)[row], expected[row, at - 1 : at + 40])
    rows, starts, ends = torch.tensor([0, 2, 1, 1]), torch.tensor([9, 60, 10, 90]), torch.randint(7, 11, (4, 30))
    for first in (0, 9):
        shared, plain = (
            reference_states(model.backbone, ids, first),
            plain_reference_states(model.backbone, ids, first),
        )
        torch.testing.assert_close(shared.hidden, plain.hidden)
        torch.testing.assert_close(
            alternative_states(model.backbone, shared, rows, starts, ends),
            plain_alternative_states(model.backbone, plain, rows, starts, ends),
        )


def test_a_model_in_python(checkpoint: Path, genome: Genome) -> None:
    model = genome_lm.load(checkpoint, condition="worm")
    ids = torch.from_numpy(encode(DNA)).long()[None]
    logits = by_hand(model.model, ids)[0]
    likelihood = logits.log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    np.testing.assert_allclose(model.log_likelihood([DNA])[0][1:], likelihood, rtol=1e-5)
    made = model.generate([DNA[:40]], 60, temperature=0)[0]
    whole = model.log_likelihood([DNA[:40] + made.sequence])[0]
    np.testing.assert_allclose(made.log_likelihoods, whole[40:], rtol=1e-4, atol=1e-5)
    variants = many_variants(genome, 4)[::3]
    scores = [
        score(model.model, genome.store, variants, Layout(60, 20, 16)).llr
        for score in (score_variants, score_in_full)
    ]
    np.testing.assert_allclose(*scores, atol=1e-4)
    assert model.condition == "worm"
    before = model.embed([DNA, DNA[:50]])
    model.condition = "fly"
    assert np.abs(model.embed([DNA, DNA[:50]]) - before).min() > 1e-6
    assert identity_of(model.model)["condition"] == "fly"
    with pytest.raises(GenomeLMError, match="no condition 'ape'; it has fly, worm"):
        model.condition = "ape"
    with pytest.raises(GenomeLMError, match=f"{checkpoint}: this model has no condition 'ape'"):
        genome_lm.load(checkpoint, condition="ape")


def test_gradients_are_those_behind_the_token(genome: Genome) -> None:
    """What is predicted at a contig's last base, which nothing follows, is exact in the first order."""
    model, last = model_of(), Interval("one", 39_999, 40_000)
    effects = {}
    for name in ("fly", "worm"):
        model.condition = name
        scored, effects[name] = (
            mutagenesis(model, genome.store, last, Layout(60, 20, 1), method=method, strand="forward").llr
            for method in ("substitutions", "gradient")
        )
        np.testing.assert_allclose(effects[name], scored, rtol=1e-5, atol=1e-6)
    assert np.abs(effects["fly"] - effects["worm"]).max() > 1e-4


@pytest.mark.parametrize("form", ["hf", "safetensors"])
def test_exports_keep_the_names(checkpoint: Path, tmp_path: Path, form: Any) -> None:
    model = open_checkpoint(checkpoint).model
    out = export_checkpoint(model, tmp_path / "model.safetensors", form)
    opened = open_checkpoint(out).model
    assert opened.config == model.config
    opened.condition = model.condition = "fly"
    ids = torch.from_numpy(encode(DNA)).long()[None]
    torch.testing.assert_close(opened(ids), model(ids), rtol=0, atol=0)
    if form == "hf":
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps({**config, "conditions": [*"abcde"]}))
        with pytest.raises(GenomeLMError, match=r"conditions is .*at most 4"):
            open_checkpoint(out)


def shell(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words), "--device", "cpu"])


def test_from_the_shell(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    """Each command's output differs by the name; a wrong name is refused by all."""
    (tmp_path / "in.fa").write_text(f">a\n{DNA}\n")
    (tmp_path / "in.vcf").write_text(
        f"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\none\t900\t.\t"
        f"{genome.store['one', 899:900].tobytes().decode().upper()}\t<X>,AC,G\t.\t.\t.\n"
    )
    fasta, store = ("--fasta", tmp_path / "in.fa"), ("--genome", genome.store.path)
    commands = {
        "embed": (*fasta, "e.parquet"),
        "generate": (*fasta, "--length", 8, "--temperature", 0, "g.fa"),
        "score": (*fasta, "--table", tmp_path / "t.tsv", "s.bedgraph"),
        "evaluate": (*store, "--intervals", genome.intervals, "--max-bases", 2_000, "--markov-order", -1, "p.json"),
        "mutagenesis": (*store, "--region", "one:900-901", "m.tsv"),
        "score ": (*store, "--vcf", tmp_path / "in.vcf", "v.vcf"),
    }
    (tmp_path / "in.fa").write_text(f">a\n{DNA[:100]}\n")
    written: dict[str, list[bytes]] = {}
    for verb, (*words, out) in commands.items():
        for name in ("fly", "worm"):
            path = tmp_path / f"{name}.{out}"
            shown = shell(verb.strip(), checkpoint, *words, "--out", path, "--condition", name, "--force")
            assert shown.exit_code == 0, (verb, shown.output, shown.exception)
            written.setdefault(verb, []).append(path.read_bytes())
        shown = shell(
            verb.strip(), checkpoint, *words, "--out", tmp_path / f"x.{out}", "--condition", "ape", "--force"
        )
        assert "no condition 'ape'; it has fly, worm" in str(shown.exception), verb
        assert not (tmp_path / f"x.{out}").exists()
    assert all(one != other for one, other in written.values())
    assert b"condition=worm" in written["generate"][1]
    assert b" condition=worm " in written["score "][1]
    assert json.loads(written["evaluate"][1])["condition"] == "worm"
    vectors = pd.read_parquet(tmp_path / "worm.e.parquet")["embedding"]
    expected = genome_lm.load(checkpoint, condition="worm").embed([DNA[:100]])
    np.testing.assert_allclose(np.stack(vectors.to_numpy()), expected, rtol=1e-5, atol=1e-6)
