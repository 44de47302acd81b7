"""Heads of several sets of tracks, which one model is tuned with."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import genome_lm
from genome_lm.checkpoint import open_checkpoint, save_checkpoint
from genome_lm.checkpoint.native import CONFIG
from genome_lm.dataset import Example, LabelledSet
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import FinetuneConfig, FinetuneOptions, finetune, finetune_heads
from genome_lm.finetune.records import read_tuning
from genome_lm.finetune.targets import encode_examples
from genome_lm.finetune.tuning import Tuning
from genome_lm.model import Bins, Head, HeadConfig, HyenaLM
from genome_lm.progress import Bar
from genome_lm_cli.main import app
from tests.tiny import TINY_MODEL

SPLITS = ("train", "train", "train", "valid", "test")
BIN = {"human": 8, "mouse": 4}
CONFIG_OF_TWO = FinetuneConfig(epochs=2, sequences_per_step=4, lr=5e-3)


def tracks(name: str, count: int = 15) -> LabelledSet:
    """Tracks of one head: by how many bases of each bin are G or C, of mouse A too."""
    generator = np.random.default_rng(len(BIN) * [*BIN].index(name))
    letters = {"human": ("GC",), "mouse": ("GC", "A")}[name]
    examples = []
    for number in range(count):
        sequence = "".join(generator.choice(list("ACGT"), 48))
        pieces = [sequence[start : start + BIN[name]] for start in range(0, 48, BIN[name])]
        labels = tuple(" ".join(str(sum(base in each for base in piece)) for piece in pieces) for each in letters)
        place = "chr1", 48 * number, 48 * number + 48
        examples.append(Example(f"{name}{number}", sequence, labels, SPLITS[number % 5], *place))
    return LabelledSet(examples, tuple(f"of_{each}" for each in letters))


@pytest.fixture(autouse=True)
def no_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same as of a single head, and take most of the time."""
    monkeypatch.setattr("genome_lm.finetune.run.measure_baselines", lambda *arguments: [])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_checkpoint(tmp_path / "checkpoint", HyenaLM(TINY_MODEL), {})


def test_heads_are_tuned_predict_by_name_and_go_on_after_a_kill(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {name: tracks(name) for name in BIN}
    whole = finetune_heads(checkpoint, sets, tmp_path / "t", "tracks", CONFIG_OF_TWO)
    assert {name: result.head.bins for name, result in whole.items()} == {
        name: Bins(size, 0, 48) for name, size in BIN.items()
    }
    for name, result in whole.items():
        assert result.history[-1]["valid_loss"] < result.history[0]["valid_loss"]
        test = [e.sequence for e in sets[name].of_split("test").examples]
        predicted = genome_lm.load(tmp_path / "t/checkpoint", head=name).predict(test)
        np.testing.assert_allclose(np.stack(predicted), np.stack(result.predictions), rtol=1e-4)
        assert json.loads((tmp_path / f"t/{name}/summary.json").read_text())["head"] == result.head.to_dict() | {
            "outputs": [*result.head.outputs], "means": [*result.head.means], "scales": [*result.head.scales]
        }  # fmt: skip
    files = sorted(path.name for path in (tmp_path / "t/checkpoint").iterdir())
    assert files == ["config.json", "head.human.safetensors", "head.mouse.safetensors", "model.safetensors"]
    tensors = {name: (tmp_path / "t/checkpoint" / name).read_bytes() for name in files[1:]}
    shutil.rmtree(tmp_path / "t")

    epochs, train_epoch = [], Tuning._train_epoch

    def killed(tuning: Tuning, bar: Bar) -> float:
        epochs.append(tuning._epoch + 1)
        if epochs == [1, 2]:
            raise KeyboardInterrupt
        return train_epoch(tuning, bar)

    monkeypatch.setattr(Tuning, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune_heads(checkpoint, sets, tmp_path / "t", "tracks", CONFIG_OF_TWO)
    again = finetune_heads(checkpoint, sets, tmp_path / "t", "tracks", CONFIG_OF_TWO)
    assert epochs == [1, 2, 2]
    assert {name: (tmp_path / "t/checkpoint" / name).read_bytes() for name in files[1:]} == tensors
    assert [result.history for result in again.values()] == [result.history for result in whole.values()]
    # As text: from Python 3.13 on, dataclasses that hold the same NaN are not equal.
    assert [repr(result.metrics) for result in again.values()] == [repr(result.metrics) for result in whole.values()]


def two_heads() -> dict[str, tuple[Head, HeadConfig]]:
    torch.manual_seed(0)
    made = {}
    for name, size in BIN.items():
        outputs = tracks(name).columns
        numbers = (0.0,) * len(outputs), (1.0,) * len(outputs)
        config = HeadConfig("tracks", outputs, "none", "forward", 0, *numbers, bins=Bins(size, 0, 48))
        made[name] = Head(config, TINY_MODEL), config
    return made


def test_a_step_of_one_head_leaves_the_others_as_they_are() -> None:
    splits = {
        name: (head, {split: encode_examples(tracks(name).of_split(split), config, 99) for split in SPLITS[2:]})
        for name, (head, config) in two_heads().items()
    }
    tuning = Tuning(HyenaLM(TINY_MODEL), splits, CONFIG_OF_TWO)
    tuning._generator = np.random.default_rng(0)
    for name in ("human", "mouse", "human"):
        before = {of: [p.clone() for p in head.parameters()] for of, head in tuning.heads.items()}
        tuning._step(tuning.learners[name], [0, 1, 2], 1.0)
        changed = {
            of: any((p != old).any() for p, old in zip(head.parameters(), before[of], strict=True))
            for of, head in tuning.heads.items()
        }
        assert changed == {of: of == name for of in BIN}


def test_a_name_that_is_missing_unknown_or_unfit_is_told(tmp_path: Path) -> None:
    heads = {name: head for name, (head, _) in two_heads().items()}
    folder = save_checkpoint(tmp_path / "c", HyenaLM(TINY_MODEL), {}, heads)
    (tmp_path / "s.fa").write_text(f">one\n{'ACGT' * 12}\n")
    command = ["predict", str(folder), "--fasta", str(tmp_path / "s.fa"), "--out"]
    for out in ("p.csv", "p.bw"):
        given = [*command, str(tmp_path / out)]
        missing = CliRunner().invoke(app, given)
        assert "this model has the heads human, mouse: name the one that predicts" in str(missing.exception)
        unknown = CliRunner().invoke(app, [*given, "--head", "cat"])
        assert "no head 'cat': there are human, mouse" in str(unknown.exception)
        assert CliRunner().invoke(app, [*given, "--head", "human"]).exception is None
    model = genome_lm.load(folder)
    assert model.embed(["ACGT"])[0].shape == (TINY_MODEL.d_model,)
    with pytest.raises(GenomeLMError, match="this model has the heads human, mouse"):
        model.one_hot("head")
    single = save_checkpoint(tmp_path / "single", HyenaLM(TINY_MODEL), {}, heads["human"])
    with pytest.raises(GenomeLMError, match="single: no head 'human': its only head has no name"):
        genome_lm.load(single, head="human")
    assert genome_lm.load(single).head is not None
    for names in ("../a", "checkpoint"):
        with pytest.raises(GenomeLMError, match="a name has up to 64 letters"):
            save_checkpoint(tmp_path / "bad", HyenaLM(TINY_MODEL), {}, {names: heads["human"], "b": heads["mouse"]})
    config = json.loads((folder / CONFIG).read_text())
    config["heads"]["human"]["scales"] = [2.0]
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(GenomeLMError, match="another SHA-256"):
        open_checkpoint(folder)
    config = {name: value for name, value in config.items() if name != "sha256"} | {"heads": {"../x": {}}}
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(GenomeLMError, match=r"head '\.\./x': a name has up to 64 letters"):
        open_checkpoint(folder)


def _drawn_anew(examples: Sequence[Example]) -> list[Example]:
    """Examples with other sequences, so that only their places are shared."""
    generator = np.random.default_rng(9)
    return [e._replace(sequence="".join(generator.choice(list("ACGT"), len(e.sequence)))) for e in examples]


def test_what_one_head_trains_on_and_another_holds_out_leaks(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = {name: tracks(name) for name in BIN}
    config = FinetuneConfig(epochs=1)
    first, *others = sets["human"].examples
    copy = first._replace(sequence=sets["mouse"].examples[3].sequence)
    sets["human"] = sets["human"]._replace(examples=[copy, *others])
    dropped = finetune_heads(checkpoint, sets, tmp_path / "a", "tracks", config, FinetuneOptions(leak_policy="drop"))
    assert [result.leaks for result in dropped.values()] == [1, 0]
    assert "first human: human0 and mouse: mouse3 (valid)" in caplog.text
    caplog.clear()
    shifted = [e._replace(split=SPLITS[(i + 1) % 5]) for i, e in enumerate(tracks("mouse").examples)]
    sets = {"human": tracks("human"), "mouse": tracks("mouse")._replace(examples=shifted)}
    elsewhere = {**sets, "yeast": tracks("human")._replace(examples=_drawn_anew(tracks("human").examples))}
    genomes = {"human": "one", "mouse": "one", "yeast": "another"}  # overlaps count whatever other genomes there are
    with pytest.raises(GenomeLMError, match="6 training examples, overlapping intervals"):
        finetune_heads(
            checkpoint,
            elsewhere,
            tmp_path / "b",
            "tracks",
            config,
            FinetuneOptions(leak_policy="refuse"),
            genomes=genomes,
        )
    finetune_heads(checkpoint, sets, tmp_path / "b", "tracks", config, FinetuneOptions(leak_policy="refuse"))
    other_way = [e._replace(split="test" if e.split == "train" else "train") for e in sets["human"].examples]
    sets["mouse"] = sets["human"]._replace(examples=other_way)
    with pytest.raises(GenomeLMError, match="no training example is left without those that leak"):
        finetune_heads(checkpoint, sets, tmp_path / "c", "tracks", config, FinetuneOptions(leak_policy="drop"))
    with pytest.raises(GenomeLMError, match="several heads go with the task tracks"):
        finetune_heads(checkpoint, sets, tmp_path / "c", "regression", config)


def test_the_command(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Figures take long: what a page is made of has to be there.
    monkeypatch.setattr(
        "genome_lm.report.write_finetune_report", lambda folder, out: read_tuning(folder / "summary.json")
    )
    data = []
    for name in BIN:
        labelled = tracks(name)
        table = pd.DataFrame([{"sequence": e.sequence, "split": e.split} for e in labelled.examples])
        for column, label in enumerate(labelled.columns):
            table[label] = [[float(v) for v in e.labels[column].split()] for e in labelled.examples]
        table.to_parquet(tmp_path / f"{name}.parquet")
        data += ["--data", f"{name}={tmp_path / name}.parquet"]
    command = ["finetune", str(checkpoint), "--task", "tracks", "--epochs", "1", "--out", str(tmp_path / "t")]
    done = CliRunner().invoke(app, [*command, *data, "--json"])
    assert done.exception is None, done.output
    facts = json.loads(done.stdout.splitlines()[-1])["heads"]
    assert [len(facts[name]["metrics"]) for name in BIN] == [4, 12]
    files = {"history.csv", "predictions.parquet", "summary.json"}
    assert all({path.name for path in (tmp_path / "t" / name).iterdir()} == files for name in BIN)
    wrong = {
        "give each one a name, NAME=FILE, or none": [*data, "--data", str(tmp_path / "mouse.parquet")],
        "no --data has this name; there are human, mouse": [*data, "--genome", "cat=x.zarr"],
        "none for the head mouse": [*data, "--genome", "human=x.zarr"],
        "the table of each has its splits": [*data, "--test", str(tmp_path / "mouse.parquet")],
    }
    for message, options in wrong.items():
        assert message in str(CliRunner().invoke(app, [*command[:-1], str(tmp_path / "u"), *options]).exception)


def test_a_head_with_a_name_may_be_the_only_one(checkpoint: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(epochs=1)
    named = finetune_heads(checkpoint, {"human": tracks("human")}, tmp_path / "a", "tracks", config)["human"]
    plain = finetune(checkpoint, tracks("human"), tmp_path / "b", "tracks", config)
    assert repr(named.metrics) == repr(plain.metrics)
    assert genome_lm.load(tmp_path / "a/checkpoint").head is not None
