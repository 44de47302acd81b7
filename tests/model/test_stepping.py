from functools import partial

import pytest
import torch

from genome_lm.alphabet import A, T
from genome_lm.config import PRESETS
from genome_lm.errors import GenomeLMError
from genome_lm.kernels.conv import online as online_conv
from genome_lm.model import HyenaLM, prefill
from genome_lm.model.stepping import Stepper
from tests import tiny
from tests.operation_counts import forward_operations, generation_operations, recomputing_operations
from tests.operations import OperationCounter

SHAPE = {"d_model": 16, "n_layer": 2, "max_length": 126, "filter_order": 8, "embed_dropout": 0.0}


random_model = partial(tiny.random_model, SHAPE)


def random_ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(A, T + 1, (batch, length), generator=torch.Generator().manual_seed(1))


def stepped(stepper: Stepper, ids: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Logits after each prompt and after each further token that the stepper has room for: (R, length + 1, 16)."""
    logits = [stepper.prefill(ids[:, : int(lengths.max())], lengths, rows)]
    ends = lengths[rows]
    logits += [stepper.step(ids[rows, ends + position]) for position in range(stepper.length)]
    return torch.stack(logits, dim=1)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_conv, "DIRECT", 8)
    monkeypatch.setattr(prefill, "CPU", prefill.Pieces(20, 20_000, 8))


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("taps", [1, 3, 5])
def test_stepping_equals_the_full_forward(order: int, taps: int, small_blocks: None) -> None:
    """Prompts of unequal lengths, one of a single token, one that several sequences go on from."""
    model, ids = random_model(order=order, short_filter_order=taps), random_ids(3, 128)
    lengths, rows, length = torch.tensor([1, 6, 28]), torch.tensor([2, 0, 1, 0]), 100
    with torch.no_grad():
        full = model(ids)
    expected = torch.stack([full[row, lengths[row] - 1 : lengths[row] + length] for row in rows])
    stepper = Stepper(model, length)
    torch.testing.assert_close(stepped(stepper, ids, lengths, rows), expected)
    # The same stepper begins anew.
    again = stepped(stepper, ids[:2], torch.tensor([4, 4]), torch.tensor([0, 1]))
    torch.testing.assert_close(again, full[:2, 3 : 4 + length])


@pytest.mark.parametrize("prompt", [1, 2, 3, 64, 127])
def test_any_prompt_length(prompt: int, small_blocks: None) -> None:
    model, ids, room = random_model(), random_ids(2, 128), 128 - prompt
    with torch.no_grad():
        full = model(ids)
    logits = stepped(Stepper(model, room), ids, torch.tensor([prompt] * 2), torch.arange(2))
    torch.testing.assert_close(logits, full[:, prompt - 1 :])


@pytest.mark.parametrize("layout", ["hyena", "hyena-se"])
def test_the_pieces_of_a_gpu_give_the_same(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, lengths = random_model(layout=layout), random_ids(2, 128), torch.tensor([90, 31])
    monkeypatch.setattr(prefill, "CPU", prefill.Pieces(20, 20_000, 8))
    small = stepped(Stepper(model, 38), ids, lengths, torch.arange(2))
    monkeypatch.setattr(prefill, "CPU", prefill.CUDA)
    torch.testing.assert_close(stepped(Stepper(model, 38), ids, lengths, torch.arange(2)), small)


@pytest.mark.parametrize("preset", ["tiny-1k", "tiny-16k"])
def test_published_shapes_in_float32(preset: str) -> None:
    torch.manual_seed(0)
    model, ids = HyenaLM(PRESETS[preset]).eval(), random_ids(2, 700)
    for parameter in model.backbone.blocks.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    with torch.no_grad():
        full = model(ids)
    logits = stepped(Stepper(model, 600), ids, torch.tensor([100, 100]), torch.arange(2))
    assert full.std() > 0.1
    torch.testing.assert_close(logits, full[:, 99:], rtol=0, atol=1e-5)


def test_room() -> None:
    model = random_model()
    for length in (0, 128):
        with pytest.raises(GenomeLMError, match="1 to 127 tokens"):
            Stepper(model, length)
    stepper = Stepper(model, 2)
    with pytest.raises(GenomeLMError, match="longer than this model's 128"):
        stepper.prefill(random_ids(1, 127))
    for wrong in ([0], [4]):
        with pytest.raises(GenomeLMError, match="1 to 3"):
            stepper.prefill(random_ids(1, 3), torch.tensor(wrong))
    stepper.prefill(random_ids(1, 126))
    for _ in range(2):
        stepper.step(random_ids(1, 1)[:, 0])
    with pytest.raises(GenomeLMError, match="2 tokens have been read"):
        stepper.step(random_ids(1, 1)[:, 0])


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(("prompt", "length"), [(1, 100), (60, 2), (30, 70)])
def test_operations_are_those_carried_out(
    prompt: int, length: int, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "reference")
    model, ids = random_model(order=order, d_model=32), random_ids(1, prompt + length)
    counter = OperationCounter()
    with counter:
        stepper = Stepper(model, length)
        stepper.prefill(ids[:, :prompt])
        for token in ids[:, prompt:-1].T:
            stepper.step(token)
    assert counter.total == pytest.approx(generation_operations(model.config, prompt, length), rel=0.01)
    counter = OperationCounter()
    with torch.no_grad(), counter:
        model(ids)
    assert counter.total == pytest.approx(forward_operations(model.config, prompt + length), rel=0.01)


def test_a_hundred_times_fewer_operations() -> None:
    for preset in ("tiny-16k", "large-1m"):
        config = PRESETS[preset]
        slow, fast = (count(config, 1, 16_383) for count in (recomputing_operations, generation_operations))
        assert slow > 100 * fast
        # All but linear: twice the length costs a little over twice as much.
        assert generation_operations(config, 1, 8_192) > fast / 2.5
