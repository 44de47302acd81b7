"""Training and inference under conditions: a token that names a species stands before the sequence."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from genome_lm.alphabet import EMBEDDING_ROWS, VOCABULARY
from genome_lm.checkpoint import load_checkpoint
from genome_lm.config import CONDITION_IDS, ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import Scoring, evaluate_perplexity
from genome_lm.genome import GenomeStore, build_store, fetch_windows, read_bed
from genome_lm.mixture_config import MixtureConfig, SourceConfig
from genome_lm.training import Machine, train
from genome_lm.training.data import StepBatch, TrainingSteps
from genome_lm.training.opening import open_sources
from genome_lm.training.sessions import SESSIONS
from genome_lm.training.sources import SOURCES, read_sources
from tests.tiny import TINY_MODEL
from tests.training.test_train import changed, weights

RECIPE = changed(stages=((8, 40),), lr=1e-2, valid_every=20, valid_windows=3_000, checkpoint_every=8)
GC = {"hot": 0.85, "cold": 0.15}


class Species(NamedTuple):
    data: MixtureConfig
    run: Path


@pytest.fixture(scope="module")
def species(tmp_path_factory: pytest.TempPathFactory) -> Species:
    """A run on two species of different composition, and a third source without a name."""
    folder = tmp_path_factory.mktemp("species")
    sources = []
    for name, gc in GC.items():
        draws = np.random.default_rng(len(name)).choice(list("ACGT"), 6_000, p=np.array([1 - gc, gc, gc, 1 - gc]) / 2)
        (folder / f"{name}.fa").write_text(f">{name}\n{''.join(draws)}\n")
        build_store([folder / f"{name}.fa"], folder / f"{name}.zarr", name)
        (folder / f"{name}.bed").write_text(f"{name}\t0\t5000\ttrain\n{name}\t5000\t6000\tvalid\n")
        sources.append(SourceConfig(name, str(folder / f"{name}.zarr"), str(folder / f"{name}.bed"), condition=name))
    sources.append(replace(sources[0], name="nameless", condition=None))
    data = MixtureConfig(tuple(sources), unconditioned=0.25)
    train(data, folder / "run", TINY_MODEL, RECIPE)
    return Species(data, folder / "run")


def test_conditions_have_the_ids_behind_the_vocabulary() -> None:
    assert CONDITION_IDS == range(len(VOCABULARY), EMBEDDING_ROWS)


def test_what_is_read_is_the_name_and_then_the_window(species: Species) -> None:
    """The tokens of steps, by hand: of each source, every fourth window has no name, whatever the workers."""
    mixture = open_sources(species.data, RECIPE).mixture
    steps = TrainingSteps(mixture, RECIPE, conditions=("other", "cold", "hot"))
    ids, given = {"hot": CONDITION_IDS[2], "cold": CONDITION_IDS[1]}, dict.fromkeys(range(3), 0)
    for step in range(12):
        windows = steps.windows(step)
        expected = np.empty((len(windows.sources), 9), dtype=np.uint8)
        for row, source in enumerate(windows.sources.tolist()):
            opened = mixture.sources[source]
            window = opened.sampler.windows(given[source], 1, 9)
            expected[row] = fetch_windows(opened.sampler.store, window)[0]
            given[source] += 1
            if source < 2 and given[source] % 4:
                expected[row, 0] = ids[opened.name]
        batch = steps[step]
        np.testing.assert_array_equal(batch.tokens.numpy(), expected)
        assert (batch.weights == 1).all()
        parts = [TrainingSteps(mixture, RECIPE, rank, 2, ("other", "cold", "hot"))[step] for rank in range(2)]
        for rank, part in enumerate(parts):
            torch.testing.assert_close(part.tokens, batch.tokens[rank::2])


def test_a_run_resumes_to_the_bit(species: Species, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = TrainingSteps.__getitem__

    def stopped(steps: TrainingSteps, step: int) -> StepBatch:
        if step == 20:
            signal.raise_signal(signal.SIGTERM)
        return read(steps, step)

    halved = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingSteps, "__getitem__", stopped)
        assert train(species.data, halved, TINY_MODEL, RECIPE).checkpoint is None
    train(species.data, halved, TINY_MODEL, RECIPE, machine=Machine(num_workers=2))
    assert [json.loads(line)["first_step"] > 0 for line in (halved / SESSIONS).read_text().splitlines()] == [
        False,
        True,
    ]
    assert weights(halved) == weights(species.run)
    assert (halved / SOURCES).read_bytes() == (species.run / SOURCES).read_bytes()
    for other in (replace(species.data, unconditioned=0.5), replace(species.data, sources=species.data.sources[:2])):
        with pytest.raises(GenomeLMError, match="holds another run"):
            train(other, halved, TINY_MODEL, RECIPE)


def test_the_right_name_predicts_better(species: Species) -> None:
    """Than the wrong one, and than none; the validation of training is under each source's own name."""
    model, _ = load_checkpoint(species.run / "checkpoint")
    assert model.config.conditions == ("hot", "cold")
    validated = {row.source: row.valid_loss for row in read_sources(species.run) if row.step == 39}
    for source, other in zip(species.data.sources[:2], ("cold", "hot"), strict=True):
        store, regions = GenomeStore(Path(source.genome)), read_bed(Path(source.intervals))
        losses = []
        for condition in (source.condition, None, other):
            model.condition = condition
            losses.append(evaluate_perplexity(model, store, regions, Scoring("valid", 8, -1)).model.loss)
        assert losses[0] < losses[1] < losses[2]
        assert validated[source.name] == pytest.approx(losses[0], rel=1e-5)
        if source.name == "hot":
            assert validated["nameless"] == pytest.approx(losses[1], rel=1e-5)


def test_a_held_out_species_is_watched_without_a_name(species: Species, tmp_path: Path) -> None:
    data = replace(species.data, hold_out=("cold",))
    assert data.conditions == ("hot",)
    train(data, tmp_path / "run", TINY_MODEL, changed(stages=((8, 2),), valid_windows=3_000))
    model, _ = load_checkpoint(tmp_path / "run/checkpoint")
    assert model.config.conditions == ("hot",)
    last = {row.source: row.valid_loss for row in read_sources(tmp_path / "run")}
    cold = data.sources[1]
    store, regions = GenomeStore(Path(cold.genome)), read_bed(Path(cold.intervals))
    assert last["cold"] == pytest.approx(
        evaluate_perplexity(model, store, regions, Scoring("valid", 8, -1)).model.loss, rel=1e-5
    )


def test_names_keep_their_tokens_in_further_training(species: Species, tmp_path: Path) -> None:
    """`--init` from a model with names: known ones keep their ids, new ones go behind."""
    cold, hot = species.data.sources[1], species.data.sources[0]
    data = MixtureConfig((cold, replace(hot, condition="new")))
    short = changed(stages=((32, 1),))
    train(data, tmp_path / "run", None, short, init=species.run / "checkpoint")
    assert load_checkpoint(tmp_path / "run/checkpoint")[0].config.conditions == ("hot", "cold", "new")
    more = MixtureConfig(tuple(replace(hot, name=name, condition=name) for name in "abc"))
    with pytest.raises(GenomeLMError, match=r"conditions is .*its length must be at least 0 and at most 4"):
        train(more, tmp_path / "more", None, short, init=species.run / "checkpoint")


@pytest.mark.parametrize(
    ("names", "unconditioned", "words"),
    [
        ("abcde", 0.1, "mixture: 5 conditions, at most 4: .*; there are a, b, c, d, e"),
        ("", 0.2, "unconditioned goes with sources that have a condition"),
    ],
)
def test_mistakes_are_named(names: str, unconditioned: float, words: str) -> None:
    sources = [SourceConfig(f"s{n}", "g", "b", condition=n) for n in names] or [SourceConfig("s", "g", "b")]
    with pytest.raises(GenomeLMError, match=words):
        MixtureConfig(tuple(sources), unconditioned=unconditioned)


def test_conditions_of_a_model() -> None:
    config = replace(TINY_MODEL, conditions=("a", "b"))
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert "conditions" not in TINY_MODEL.to_dict()
    with pytest.raises(GenomeLMError, match="two conditions are named 'a'"):
        replace(TINY_MODEL, conditions=("a", "a"))
    with pytest.raises(GenomeLMError, match="no condition 'c'; it has a, b"):
        config.condition_id("c")
    with pytest.raises(GenomeLMError, match="no condition 'c'; it was trained without any"):
        TINY_MODEL.condition_id("c")


@pytest.mark.parametrize(("length", "fits"), [(129, True), (130, False)])
def test_windows_leave_room_for_the_name(species: Species, tmp_path: Path, length: int, fits: bool) -> None:
    """The filters span two positions more than the context; validation needs one of them."""
    recipe = changed(stages=((length, 1),))
    if fits:
        train(species.data, tmp_path, TINY_MODEL, recipe)
        return
    with pytest.raises(GenomeLMError, match="windows of 130 bases, the model's context is 128"):
        train(species.data, tmp_path, TINY_MODEL, recipe)
