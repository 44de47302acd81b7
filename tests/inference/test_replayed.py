"""Generation whose steps are replayed: on a GPU as a CUDA graph, here by a recorder that does what a graph does."""

import logging
from typing import Any, get_args

import numpy as np
import pytest
import torch

from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import Codes
from genome_lm.inference import generation
from genome_lm.inference.generation import Generated, generate
from genome_lm.inference.sampling import Sampling
from genome_lm.kernels import Replayed, graphs, steps, without_graphs
from genome_lm.kernels.conv import online as online_conv
from genome_lm.kernels.conv.online import OnlineConv
from genome_lm.model import HyenaLM, stepping
from genome_lm.model.mixers import MIXERS, attention_recall, attention_steps, explicit_steps, hyena_steps
from genome_lm.model.stepping import Stepper
from tests import replaying
from tests.model.decay_mixer import DecayMixer
from tests.tiny import random_model

SHAPE = {"d_model": 16, "n_layer": 2, "max_length": 100, "filter_order": 8, "embed_dropout": 0.0}
ATTENTION = {
    "heads": 2, "attention_window": 5, "attention_segments": ((8, 1), (16, 2)), "recall_taps": 3, "recall_keys": 4,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "hyena": {},
    "hyena of order 3": {"order": 3, "short_filter_order": 1},
    "n-grams": {"ngram_order": 3},
    "explicit": {"layout": "hyena-se,hyena-mr", "se_taps": 4, "mr_taps": 20},
    "attention": {"layout": "attention,attention-local,attention-dilated", "n_layer": 3, **ATTENTION},
    "recall": {"layout": "attention-recall,hyena", **ATTENTION},
}
LENGTH = 40
PROMPTS = [np.random.default_rng(length).integers(7, 11, length).astype(np.uint8) for length in (1, 25, 6)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_conv, "DIRECT", 8)


@pytest.fixture
def steppers(monkeypatch: pytest.MonkeyPatch) -> list[Stepper]:
    """The steppers of what is generated, which take the form for GPUs."""
    made: list[Stepper] = []

    def make(model: HyenaLM, length: int) -> Stepper:
        made.append(Stepper(model, length))
        return made[-1]

    monkeypatch.setattr(generation, "Stepper", make)
    monkeypatch.setattr(stepping, "REPLAYED", {"cpu"})
    return made


def generated(model: HyenaLM, sampling: Sampling, prompts: list[Codes] = PROMPTS) -> list[Generated]:
    return generate(model, prompts, LENGTH, 2, sampling, 6)


def texts(sequences: list[Generated]) -> list[str]:
    return [one.sequence for one in sequences]


def states(stepper: Stepper) -> list[torch.Tensor]:
    """All tensors that the states hold, in their order."""
    held = [*stepper._states]
    streams: list[torch.Tensor] = []
    for one in held:
        parts = one if isinstance(one, list | tuple) else vars(one).values()
        for part in parts:
            if isinstance(part, torch.Tensor):
                streams.append(part)
            elif isinstance(part, list | tuple | OnlineConv | explicit_steps.Ring):
                held.append(part)
    return streams


@pytest.mark.parametrize(
    ("name", "is_fused"),
    [
        *((name, False) for name in MODELS),
        *((name, True) for name in ("hyena", "hyena of order 3", "n-grams", "recall")),
    ],
)
def test_a_replayed_step_is_the_step_itself(
    name: str, is_fused: bool, steppers: list[Stepper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepping, "fused_steps", lambda x: steps if is_fused else None)
    model, sampling = random_model(SHAPE, **MODELS[name]), Sampling(temperature=0.9, top_k=3, top_p=0.95, seed=4)
    monkeypatch.setattr(graphs, "captured", lambda work, device: work)
    eager = generated(model, sampling)
    monkeypatch.setattr(graphs, "captured", replaying.record)
    replayed = generated(model, sampling)
    assert all(stepper.replayed for stepper in steppers)
    assert len(set(texts(eager))) == 6
    assert texts(replayed) == texts(eager)
    for one, other in zip(replayed, eager, strict=True):
        np.testing.assert_array_equal(one.log_likelihoods, other.log_likelihoods)
    after, expected = (states(stepper) for stepper in (steppers[1], steppers[0]))
    assert len(after) > 5
    torch.testing.assert_close(after, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_the_form_for_gpus_draws_what_that_for_cpus_does(
    name: str, steppers: list[Stepper], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sampling = random_model(SHAPE, **MODELS[name]), Sampling(seed=1)
    monkeypatch.setattr(graphs, "captured", replaying.record)
    replayed = generated(model, sampling)
    monkeypatch.setattr(stepping, "REPLAYED", {"cuda"})
    plain = generated(model, sampling)
    assert [stepper.replayed for stepper in steppers] == [True, False]
    assert texts(replayed) == texts(plain)
    for one, other in zip(replayed, plain, strict=True):
        np.testing.assert_allclose(one.log_likelihoods, other.log_likelihoods, rtol=1e-6)


def break_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place in the block is a number of Python's."""
    monkeypatch.setattr(hyena_steps, "ReplayedConv", lambda filters, ahead, push: OnlineConv(filters, ahead))


def break_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place in a ring is a number of Python's."""
    ring = explicit_steps.Ring
    monkeypatch.setattr(explicit_steps, "Ring", lambda taps, before, replayed: ring(taps, before))


def break_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the next step reads is made anew by each."""

    def advance(steps: attention_steps.AttentionSteps) -> None:
        steps._last = steps._last + 1

    monkeypatch.setattr(attention_steps.AttentionSteps, "advance", advance)


@pytest.mark.parametrize(
    ("name", "fault"), [("hyena", break_place), ("explicit", break_ring), ("attention", break_cache)]
)
def test_the_recorder_tells_what_no_graph_could_do(
    name: str, fault: Any, steppers: list[Stepper], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sampling = random_model(SHAPE, **MODELS[name]), Sampling(seed=1)
    monkeypatch.setattr(graphs, "captured", lambda work, device: work)
    eager = generated(model, sampling)
    monkeypatch.setattr(graphs, "captured", replaying.record)
    assert texts(generated(model, sampling)) == texts(eager)
    fault(monkeypatch)
    assert texts(generated(model, sampling)) != texts(eager)


def test_the_recorder_refuses_to_wait_for_the_device(
    steppers: list[Stepper], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearest(q: torch.Tensor, k: torch.Tensor, recent: torch.Tensor, count: int) -> torch.Tensor:
        return (recent > 0) & bool(recent.amax() > 0)

    monkeypatch.setattr(attention_recall, "nearest_counts", nearest)
    monkeypatch.setattr(graphs, "captured", replaying.record)
    with pytest.raises(AssertionError, match="waits for the device"):
        generated(random_model(SHAPE, **MODELS["recall"]), Sampling())


def test_one_operator_that_reads_all_again_keeps_all_from_being_replayed(
    steppers: list[Stepper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MIXERS, "decay", DecayMixer)
    monkeypatch.setattr(graphs, "captured", lambda work, device: pytest.fail("captured"))
    model = random_model(SHAPE, layout="decay,hyena")
    sequences = texts(generated(model, Sampling(seed=1)))
    assert not steppers[0].replayed
    monkeypatch.setattr(stepping, "REPLAYED", {"cuda"})
    assert sequences == texts(generated(model, Sampling(seed=1)))


def test_what_cannot_be_captured_goes_on_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    step = Replayed(lambda: done.append(1), torch.device("cuda", 99), graphs.LEAST)  # there is none
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            step()
    assert len(done) == 5
    assert caplog.text.count("without a CUDA graph") == 1
    assert not step.is_captured


def calls_captured(monkeypatch: pytest.MonkeyPatch, times: int) -> bool:
    done: list[int] = []
    monkeypatch.setattr(graphs, "captured", lambda work, device: lambda: done.append(1))
    step = Replayed(lambda: done.append(0), torch.device("cpu"), times)
    for _ in range(times):
        step()
    assert len(done) == times
    return done != [0] * times


def test_what_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is repeated often enough, unless a variable says that nothing is."""
    assert calls_captured(monkeypatch, graphs.LEAST)
    assert not calls_captured(monkeypatch, graphs.LEAST - 1)
    with without_graphs():
        assert not calls_captured(monkeypatch, graphs.LEAST)
    monkeypatch.setenv(graphs.VARIABLE, "none")
    with pytest.raises(GenomeLMError, match="GENOME_LM_GRAPHS=none: use auto or off"):
        calls_captured(monkeypatch, graphs.LEAST)


def test_launches_of_a_token() -> None:
    """Four per layer with the Triton kernels; without them, a graph has as many as the form for CPUs."""
    model = random_model(SHAPE, n_layer=8)
    plain, replayed, fused = (replaying.launches_per_token(model, form) for form in get_args(replaying.Form))
    assert fused == 8 * 4 + 7
    assert fused < plain / 3
    assert replayed < 1.1 * plain
    assert fused + 2 * 4 == replaying.launches_per_token(random_model(SHAPE, n_layer=10), "fused")
