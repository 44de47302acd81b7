import pytest
import torch

from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM
from genome_lm.model.backbone import HyenaBackbone
from genome_lm.model.recompute import (
    alternative_states,
    plain_alternative_states,
    plain_reference_states,
    reference_states,
)

LENGTH, END = 150, 40


def backbone(dtype: torch.dtype, **shape: int) -> HyenaBackbone:
    """Weights large enough that a change far back is felt."""
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(**{"d_model": 24, "n_layer": 3, "max_length": 200, "filter_order": 8, **shape}))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    return model.backbone.eval().to(dtype)


def bases(*shape: int) -> torch.Tensor:
    return torch.randint(7, 11, shape)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("order", "taps"), [(2, 1), (2, 3), (2, 5), (3, 3)])
@pytest.mark.parametrize("first", [0, 1, 4, 60])
def test_alternatives_equal_full_passes(
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    dtype: torch.dtype,
    tolerance: float,
    order: int,
    taps: int,
    first: int,
) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", kernel)
    model = backbone(dtype, order=order, short_filter_order=taps)
    ids, ends = bases(3, LENGTH), bases(6, END)
    rows, starts = torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([first, first, first + 1, first + 3, 90, 110])
    reference, plain = reference_states(model, ids, first), plain_reference_states(model, ids, first)
    assert reference.begin == plain.begin <= max(0, first - 1)
    torch.testing.assert_close(reference.hidden, plain.hidden, rtol=0, atol=tolerance)
    states = alternative_states(model, reference, rows, starts, ends)
    expected = plain_alternative_states(model, plain, rows, starts, ends)
    torch.testing.assert_close(states, expected, rtol=0, atol=tolerance)
    # Not because nothing happens: the same ends after other sequences come out otherwise, to their last base.
    others = alternative_states(model, reference, (rows + 1) % 3, starts, ends)
    assert (others - states)[starts >= 60][:, -1].abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_wanted_positions_are_those_of_a_full_pass(dtype: torch.dtype, tolerance: float) -> None:
    model, ids, ends = backbone(dtype), bases(3, LENGTH), bases(2, END)
    wanted = torch.rand(3, LENGTH) < 0.3
    rows, starts = torch.tensor([0, 2]), torch.tensor([60, 90])
    some, plain = (read(model, ids, 60, wanted) for read in (reference_states, plain_reference_states))
    here = wanted[:, some.begin :]
    for layer in (None, 3):
        torch.testing.assert_close(some.at(layer)[here], plain.at(layer)[here], rtol=0, atol=tolerance)
    assert not some.at(3)[~here].any()
    ends_of = [states(model, some, rows, starts, ends) for states in (alternative_states, plain_alternative_states)]
    torch.testing.assert_close(*ends_of, rtol=0, atol=tolerance)


def test_an_end_that_is_the_reference_changes_nothing() -> None:
    model = backbone(torch.float64)
    ids = bases(1, LENGTH)
    reference = reference_states(model, ids, 50)
    states = alternative_states(model, reference, torch.tensor([0]), torch.tensor([50]), ids[:, 50:90])
    torch.testing.assert_close(states[0], reference.hidden[0, 50 - reference.begin : 90 - reference.begin])


def test_spectra_of_two_lengths_are_kept_and_follow_the_weights() -> None:
    model = backbone(torch.float32)
    long_filter = model.blocks[0].mixer.filter

    def spectra(length: int) -> torch.Tensor:
        convolutions = long_filter.convolutions(length)
        for make in convolutions.pieces((0, 24), torch.empty(24, length)):
            make()
        return convolutions.of(0, 24).keywords["of_filter"]

    with torch.no_grad():
        first = {length: spectra(length) for length in (150, 40, 150, 40)}
        for length, spectrum in first.items():
            assert spectra(length).data_ptr() == spectrum.data_ptr()
        spectra(60)
        assert spectra(150).data_ptr() != first[150].data_ptr()
        long_filter.out.weight.mul_(2)
        torch.testing.assert_close(spectra(40), 2 * first[40])
