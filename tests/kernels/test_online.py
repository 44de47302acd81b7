"""The online convolution against its definition, in float64, with blocks so small that every border is crossed."""

import pytest
import torch

from genome_lm.kernels.conv import online as online_conv
from genome_lm.kernels.conv.online import (
    OnlineConv,
    OnlineConvReference,
    ReplayedConv,
    TileFilters,
    convolve_ahead,
    convolve_ahead_reference,
)
from genome_lm.kernels.conv.reference import causal_conv
from tests.operation_counts import online_operations
from tests.operations import OperationCounter

LENGTHS = [1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 64, 100, 129]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(online_conv, "DIRECT", 4)
    monkeypatch.setattr(online_conv, "FFT_BYTES", 600)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("form", [OnlineConv, ReplayedConv])
@pytest.mark.parametrize("length", LENGTHS)
def test_online_equals_its_reference_and_the_whole_convolution(length: int, form: type[OnlineConv]) -> None:
    batch, channels = 2, 5
    u, h, ahead = random(length, batch, channels), random(channels, length), random(length, batch, channels)
    filters = TileFilters(h)
    online, reference = form(filters, ahead.clone()), OnlineConvReference(filters, ahead)
    outputs = []
    for now in u:
        torch.testing.assert_close(online.pending, reference.pending)
        outputs.append(online.pending + h[:, 0] * now)
        for conv in (online, reference):
            conv.push(now)
            conv.settle()
    whole = causal_conv(u.permute(1, 2, 0), h, h.new_zeros(channels)).permute(2, 0, 1)
    torch.testing.assert_close(torch.stack(outputs), whole + ahead)


@pytest.mark.parametrize("form", [OnlineConv, ReplayedConv])
@pytest.mark.parametrize("direct", [1, 2, 64])
def test_any_block_size(direct: int, form: type[OnlineConv], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_conv, "DIRECT", direct)
    test_online_equals_its_reference_and_the_whole_convolution(150, form)


@pytest.mark.parametrize(("given", "length"), [(1, 1), (1, 40), (40, 1), (17, 30)])
def test_convolve_ahead(given: int, length: int) -> None:
    lengths = torch.tensor([given, 1, (given + 1) // 2])
    u, h = random(3, 4, given), random(4, given + length)
    u *= torch.arange(given) < lengths[:, None, None]
    y, ahead = convolve_ahead(u, h, lengths)
    torch.testing.assert_close((y, ahead), convolve_ahead_reference(u, h, lengths))
    for row, end in enumerate(lengths.tolist()):
        for later in range(length):
            expected = sum(h[:, end + later - s] * u[row, :, s] for s in range(end))
            torch.testing.assert_close(ahead[later, row], expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_operations_are_those_carried_out(length: int) -> None:
    counter = OperationCounter()
    with torch.no_grad(), counter:
        online = OnlineConv(TileFilters(random(3, length)), random(length, 1, 3))
        for now in random(length - 1, 1, 3):
            online.push(now)
            online.settle()
    assert counter.total == pytest.approx(online_operations(length, 3))


def test_operations_grow_as_l_log_squared_l() -> None:
    costs = [online_operations(1 << power, 1) / ((1 << power) * power**2) for power in (10, 14, 18)]
    assert max(costs) < 1.5 * min(costs)
