"""Filters that several passes share."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.kernels.conv import implicit
from genome_lm.model import HyenaLM
from genome_lm.model.mixers import filter as filters
from genome_lm.model.mixers.filter import ImplicitFilter, shared_filters

LENGTHS = 40, 33, 47, 17
"""Of the passes; the third is longer than what they share, and the last one is shorter."""


@pytest.fixture
def passes_through_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Positions that filters' networks were computed for, with a graph or without."""
    seen = list[int]()
    features = implicit.positional_features

    def counted(weight: Tensor, length: int, span: int) -> Tensor:
        seen.append(length)
        return features(weight, length, span)

    monkeypatch.setattr(implicit, "positional_features", counted)
    return seen


def gradients(model: HyenaLM, count: int) -> dict[str, Tensor]:
    """Of the summed losses of all passes, which share their filters if `count` is more than one."""
    torch.manual_seed(1)
    model.zero_grad()
    with shared_filters(model, count) as passes:
        for number, length in enumerate(LENGTHS, start=1):
            passes.last = number == len(LENGTHS)
            ids = torch.randint(7, 11, (2, length + 1))
            model.summed_loss(ids[:, :-1], ids[:, 1:])[0].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def made(**fields: int) -> HyenaLM:
    torch.manual_seed(0)
    return HyenaLM(
        ModelConfig(d_model=8, n_layer=2, max_length=64, filter_order=8, embed_dropout=0, **fields)
    ).double()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("kernel", "order"), [("reference", 2), ("reference", 3), ("cpu", 2)])
def test_gradients_are_those_of_passes_that_make_their_own(
    kernel: str, order: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", kernel)
    model = made(order=order)
    model.backbone.activation_checkpointing = checkpointing
    expected = gradients(model, 1)
    assert any("filter.hidden" in name for name in expected)
    torch.testing.assert_close(gradients(model, len(LENGTHS)), expected, rtol=1e-10, atol=1e-12)


def test_a_step_goes_through_a_filter_s_network_twice(passes_through_networks: list[int]) -> None:
    model = made()
    gradients(model, len(LENGTHS))
    assert passes_through_networks == [40, 40, 47, 47, 40, 40], "two layers: first, longer and last pass"


def test_beyond_the_budget_each_pass_makes_its_own(
    passes_through_networks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made()
    expected = gradients(model, 1)
    passes_through_networks.clear()
    monkeypatch.setattr(filters, "SHARED_BYTES", 2 * 8 * 40 * 8)  # one layer's
    torch.testing.assert_close(gradients(model, len(LENGTHS)), expected, rtol=1e-10, atol=1e-12)
    assert sorted(passes_through_networks) == sorted([40, 47, 40, *LENGTHS])


def test_frozen_filters_and_the_time_after_a_step() -> None:
    model = made()
    model.backbone.blocks[0].mixer.filter.requires_grad_(False)
    expected = gradients(model, 1)
    torch.testing.assert_close(gradients(model, len(LENGTHS)), expected, rtol=1e-10, atol=1e-12)
    assert not any(name.startswith("backbone.blocks.0.mixer.filter.") for name in expected)
    assert all(module.passes is None for module in model.modules() if isinstance(module, ImplicitFilter))
