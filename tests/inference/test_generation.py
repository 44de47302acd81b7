from pathlib import Path

import numpy as np
import pytest
import torch

import genome_lm
from genome_lm.alphabet import EMBEDDING_ROWS, A, T, encode
from genome_lm.errors import GenomeLMError
from genome_lm.inference import generation
from genome_lm.inference.sampling import Sampling
from genome_lm.kernels import steps
from tests.conftest import biased_dna

PROMPTS = [biased_dna(length, length) for length in (1, 30, 7, 30, 2)]


def choose(sampling: Sampling, logits: np.ndarray, draws: np.ndarray) -> np.ndarray:
    four = torch.nn.functional.pad(torch.from_numpy(logits), (A, EMBEDDING_ROWS - T - 1), value=-torch.inf)
    return steps.drawn(four, sampling.prepared(torch.from_numpy(draws)[None])).numpy() - A


@pytest.fixture(scope="module")
def model(run: Path) -> genome_lm.GenomeLM:
    loaded = genome_lm.load(run / "checkpoint", "cpu")
    # In float64, so that no draw can fall between two roundings of a probability.
    loaded.model.double()
    return loaded


def sequences(model: genome_lm.GenomeLM, **options: object) -> list[str]:
    return [one.sequence for one in model.generate(PROMPTS, 40, **options)]  # type: ignore[arg-type]


def test_order_and_alphabet(model: genome_lm.GenomeLM) -> None:
    generated = model.generate(PROMPTS, 40, samples=3, batch=4)
    assert [(one.prompt, one.sample) for one in generated] == [(p, s) for p in range(5) for s in range(3)]
    assert {len(one.sequence) for one in generated} == {40}
    assert set("".join(one.sequence for one in generated)) == set("ACGT")
    assert len({one.sequence for one in generated}) == 15
    assert model.generate([], 40) == []


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_reproducible_whatever_the_batch(model: genome_lm.GenomeLM, batch: int) -> None:
    assert sequences(model, samples=2, seed=5, batch=batch) == sequences(model, samples=2, seed=5)
    assert sequences(model, samples=3, seed=5)[::3] == sequences(model, samples=1, seed=5)
    assert sequences(model, seed=6) != sequences(model, seed=5)


def test_threads_are_as_before(model: genome_lm.GenomeLM) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    model.generate(["A"], 2)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


def test_log_likelihoods_are_those_of_the_whole_sequence(model: genome_lm.GenomeLM) -> None:
    for one in model.generate(PROMPTS, 40, temperature=0.7, top_k=3):
        whole = model.log_likelihood([PROMPTS[one.prompt] + one.sequence])[0][-40:]
        np.testing.assert_allclose(one.log_likelihoods, whole, atol=1e-5)


def test_greedy_is_the_likeliest_base_of_the_full_forward(model: genome_lm.GenomeLM) -> None:
    expected = []
    for prompt in PROMPTS:
        tokens = encode(prompt).tolist()
        for _ in range(40):
            tokens.append(A + int(model.logits([tokens])[0, -1, A : T + 1].argmax()))
        expected.append(genome_lm.alphabet.decode(tokens[len(prompt) :]))
    assert sequences(model, temperature=0) == expected
    assert sequences(model, top_k=1) == expected
    assert sequences(model, top_p=1e-9, seed=3) == expected


def test_what_the_model_learned_shows(model: genome_lm.GenomeLM) -> None:
    """The genome's commonest steps are A → C → G → T → A; see `biased_dna`. By chance it would be one in four."""
    text = "".join(one.sequence for one in model.generate(["ACGT"], 120, samples=30))
    steps = sum(text[i : i + 2] in ("AC", "CG", "GT", "TA") for i in range(len(text) - 1))
    assert 0.32 < steps / len(text) < 0.75


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 2}, [1, 3]),
        ({"top_p": 0.4}, [3]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.95}, [0, 1, 2, 3]),
        ({"top_k": 3, "top_p": 0.9}, [1, 2, 3]),
        ({"temperature": 0.5}, [0, 1, 2, 3]),
        ({"temperature": 2.0, "top_k": 9}, [0, 1, 2, 3]),
    ],
)
def test_draws_have_the_right_frequencies(options: dict, kept: list[int]) -> None:
    chances = np.array([0.1, 0.3, 0.2, 0.4000001])
    draws = (np.arange(10_000) + 0.5) / 10_000
    drawn = choose(Sampling(**options), np.tile(np.log(chances) + 7, (10_000, 1)), draws)
    expected = np.zeros(4)
    expected[kept] = chances[kept] ** (1 / options.get("temperature", 1))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 10_000, expected / expected.sum(), atol=2e-4)


def test_the_least_and_the_greatest_draw_choose_a_base_with_a_chance() -> None:
    draws = np.array([0.0, np.nextafter(1, 0)])
    for seed in range(200):
        logits = np.tile(np.random.default_rng(seed).normal(size=4) * 50, (2, 1))
        ranks = (-logits).argsort(1).argsort(1)
        drawn = choose(Sampling(top_k=2), logits, draws)
        assert (np.take_along_axis(ranks, drawn[:, None], 1) < 2).all()


def test_batches_fit_the_memory(model: genome_lm.GenomeLM) -> None:
    large = genome_lm.PRESETS["large-1m"]
    assert generation.batch_size(large, 900_000, 1) == 1
    assert generation.batch_size(model.config, 40, 30) == generation.MOST


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["ACGT", ""], {}, "sequence 1: empty"),
        (["AC-GT"], {}, "'-' at position 3"),
        (["ACGT", "A" * 89], {}, r"sequence 1: a prompt of 89 bases and 40 new .*; ask for 39 .*last 88 bases"),
        (["A" * 1000], {}, "a prompt of 1,000 bases"),
        (["A"], {"length": 128}, "ask for 127 new ones at most"),
        (["A"], {"length": 0}, "length 0"),
        (["A"], {"samples": 0}, "samples 0"),
        (["A"], {"batch": 0}, "batch 0"),
        (["A"], {"temperature": -1.0}, "temperature -1"),
        (["A"], {"temperature": float("nan")}, "temperature nan"),
        (["A"], {"top_k": 0}, "top-k 0"),
        (["A"], {"top_p": 1.5}, "top-p 1.5"),
        (["A"], {"seed": -1}, "seed -1"),
        ("ACGT", {}, "list of sequences"),
    ],
)
def test_bad_input(model: genome_lm.GenomeLM, prompts: list[str], options: dict, message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        model.generate(prompts, **{"length": 40, **options})
