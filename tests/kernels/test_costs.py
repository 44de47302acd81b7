import json
from pathlib import Path

import pytest
import torch

from genome_lm.kernels.triton import costs, plan, product_plan, rates
from genome_lm.kernels.triton.costs import (
    filter_costs,
    flash_fft_conv,
    kernel_costs,
    launches,
    ours,
    product_costs,
    row_costs,
    table,
    torch_fft,
    worthwhile,
)
from genome_lm.kernels.triton.plan import make_plan, plan_for

LENGTHS = [1_024, 32_768, 160_000, 450_000, 1_000_000]


MANY = 1 << 20
"""A batch so large that what belongs to the filter alone is shared."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """The crossovers measured, none at first."""
    faster: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(costs, "measured_crossover", lambda: faster)
    return faster


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ours_moves_at_least_the_operands_and_less_than_torch_fft(
    length: int, dtype: torch.dtype, backward: bool
) -> None:
    operands = (7 if backward else 4) * length * dtype.itemsize
    cost = ours(length, dtype, backward, MANY)
    assert operands <= cost.bytes < torch_fft(length, dtype, backward).bytes
    assert cost.cached >= cost.bytes
    if "tile_conv" in kernel_costs(length, dtype, backward):
        assert cost.bytes == pytest.approx(operands, rel=1e-4)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_floors(length: int, backward: bool) -> None:
    """A pass takes as long as its kernels one after the other, each at least as long as its transfers."""
    for batch in (1, 8):
        kernels = kernel_costs(length, torch.bfloat16, backward, batch).values()
        assert all(cost.floor >= max(cost.memory_floor, cost.cached / rates.CACHE) > 0 for cost in kernels)
        total = ours(length, torch.bfloat16, backward, batch)
        assert total.floor == pytest.approx(sum(cost.floor for cost in kernels))
    for cost in (flash_fft_conv(length), torch_fft(length, torch.bfloat16, backward)):
        assert cost.floor >= cost.memory_floor > 0


@pytest.mark.parametrize(("backward", "passes"), [(False, 5), (True, 9)])
def test_torch_fft_takes_passes_over_the_streams_for_their_short_convolutions(backward: bool, passes: int) -> None:
    plain, short = (torch_fft(1_000, torch.bfloat16, backward, taps) for taps in (0, 3))
    assert short.bytes - plain.bytes == passes * 3 * 1_000 * 2
    assert short.plain > plain.plain


@pytest.mark.parametrize("backward", [False, True])
def test_a_batch_shares_the_filter(backward: bool) -> None:
    one, many = (kernel_costs(20_000, torch.bfloat16, backward, batch) for batch in (1, 10))
    assert many["columns_fft, filter"].floor == pytest.approx(one["columns_fft, filter"].floor / 10)
    assert many["rows_fft"].floor < one["rows_fft"].floor
    last = "columns_ifft_backward" if backward else "columns_ifft"
    assert many[last] == one[last]


def test_l2_of_a_column_pass() -> None:
    """One program, counted by hand: 32 columns are a block of 32 × 64, factors twice 32 × 32 in bfloat16."""
    sizes = plan_for(16_384, torch.bfloat16)
    assert sizes is not None
    assert (sizes.n_columns, sizes.block_rows, sizes.block_columns, sizes.step) == (32, 32, 64, 32)
    factors, gates, result = 2 * 32 * 32 * 2, 2 * 32 * 64 * 2, 2 * 32 * 64 * 2
    assert kernel_costs(16_384, torch.bfloat16)["columns_fft"].cached == (factors + gates + result) * 512 // 64


def test_padding_costs_operations_but_no_operands() -> None:
    """Both lengths take 32 tiles, and each reads its own gates and no more."""
    short, long = kernel_costs(16_000, torch.bfloat16), kernel_costs(16_384, torch.bfloat16)
    assert short["columns_fft"].matrix == long["columns_fft"].matrix
    assert long["columns_fft"].bytes - short["columns_fft"].bytes == 2 * 2 * (16_384 - 16_000)


def test_instructions_of_few_columns_bind_their_passes() -> None:
    """Two tiles fill two rows of a block of 16, so that the passes have eight times the instructions of 16 tiles."""
    two, many = (make_plan(count * 4_096, "bf16", 64, 64, 4) for count in (2, 16))
    per_position = [costs._ColumnPass(plan).fft(0, 0).floor / plan.n_columns for plan in (two, many)]
    assert per_position[0] == pytest.approx(8 * per_position[1])


@pytest.mark.usefixtures("measured")
def test_by_the_counts_ours_is_worthwhile_up_to_some_length() -> None:
    for training in (False, True):
        assert worthwhile(1_024, torch.bfloat16, 256, training)
        assert worthwhile(160_000, torch.bfloat16, 1, training)
        assert worthwhile(1_000_000, torch.bfloat16, 1, training)
        assert not worthwhile(1_000_000, torch.float32, 1, training, taps=3)
    assert not worthwhile(4_000_000, torch.bfloat16, 1)
    assert worthwhile(1_024, torch.float32, 256)
    assert not worthwhile(32_768, torch.float32, 1, True)
    assert not worthwhile(100, torch.float64)


@pytest.mark.usefixtures("measured")
def test_what_float32_is_worth_follows_the_setting_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three products of bfloat16 instead of six, and as many bytes; bfloat16 and float16 take no notice."""
    length, dtypes = 160_000, (torch.float32, torch.float16, torch.bfloat16)
    before, was_worthwhile = [ours(length, dtype) for dtype in dtypes], worthwhile(length, torch.float32)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    after = [ours(length, dtype) for dtype in dtypes]
    assert after[0].matrix == pytest.approx(before[0].matrix / 2)
    assert after[0].bytes == before[0].bytes
    assert after[0].floor < before[0].floor
    assert after[1:] == before[1:]
    assert (was_worthwhile, worthwhile(length, torch.float32)) == (False, True)


@pytest.mark.parametrize("backward", [False, True])
def test_launches(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel once per group of channels. Groups that stay in L2 would be at least eight times as many."""
    taps, kernels = 3, 8 if backward else 5
    assert launches(1_000, torch.bfloat16, backward, 1, 256, taps) == (3 if backward else 2)
    wide = launches(1_000_000, torch.bfloat16, backward, 1, 256, taps)
    assert wide == kernels * (24 if backward else 16)
    assert 15e-6 * wide < 256 * ours(1_000_000, torch.bfloat16, backward, 1, taps).floor / 4, "of 15 µs each"
    monkeypatch.setattr(plan, "WORKSPACE_BYTES", 16 << 20)
    assert launches(1_000_000, torch.bfloat16, backward, 1, 256, taps) >= 8 * wide


@pytest.mark.parametrize("backward", [False, True])
def test_what_stands_in_l2_is_not_moved(backward: bool) -> None:
    """Nothing but operands and results is then read from memory; one program keeps nothing between passes."""
    for length in LENGTHS:
        costs_of = kernel_costs(length, torch.bfloat16, backward).values()
        assert all(cost.cached / rates.CACHE <= cost.resident <= cost.floor for cost in costs_of)
    one = ours(1_024, torch.bfloat16, backward)
    assert one.resident == one.floor
    many = ours(32_768, torch.bfloat16, backward, 8)
    assert many.resident < many.floor


def test_a_measured_crossover_takes_precedence(measured: dict[str, tuple[int, int]]) -> None:
    measured |= {"bfloat16 forward": (900, 1_000), "bfloat16 training": (1, 2_000_000)}
    assert not worthwhile(899, torch.bfloat16)
    assert worthwhile(900, torch.bfloat16)
    assert worthwhile(1_000, torch.bfloat16)
    assert not worthwhile(1_001, torch.bfloat16)
    assert worthwhile(1_000_000, torch.bfloat16, training=True)
    assert not worthwhile(2_000_001, torch.bfloat16, training=True)
    assert not worthwhile(160_000, torch.float32), "not measured"


@pytest.mark.parametrize("dynamic", [None, True])
def test_torch_compile_sees_through_the_decision(dynamic: bool | None) -> None:
    def choose(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if worthwhile(x.shape[-1], x.dtype, len(x)) else x * 2

    torch.compiler.reset()
    compiled = torch.compile(choose, backend="eager", fullgraph=True, dynamic=dynamic)
    for length in (1_000, 5_000, 1_000_000):
        x = torch.zeros(1, length, dtype=torch.bfloat16)
        assert torch.equal(compiled(x), choose(x))


def test_the_file_of_measured_crossovers() -> None:
    dtypes, directions = ("float32", "float16", "bfloat16"), ("forward", "training")
    assert set(json.loads(Path(costs.__file__).with_name("crossover.json").read_text())) == {
        "card",
        "date",
        "commit",
        "measured",
        "faster",
    }
    names = {f"{dtype} {direction}" for dtype in dtypes for direction in directions}
    products = {f"bfloat16 {direction}, products" for direction in directions}
    assert set(costs.measured_crossover()) <= names | products


@pytest.mark.parametrize("length", [1_000, 8_000, 100_000])
@pytest.mark.parametrize("taps", [1, 2, 4, 7])
def test_any_taps_count_like_those_whose_instructions_are_counted(length: int, taps: int) -> None:
    """Models may have short convolutions of any length, and whether kernels are worthwhile is asked for all."""
    for backward in (False, True):
        seconds, counted = (
            [cost.floor for cost in costs.fft_costs(length, torch.bfloat16, backward, 8, each).values()]
            for each in (taps, rates.COUNTED_TAPS)
        )
        assert seconds == pytest.approx(counted, rel=0.1)
    assert costs.worthwhile(length, torch.bfloat16, 8, training=True, taps=taps)


@pytest.mark.parametrize("backward", [False, True])
def test_products_take_short_sequences_in_batches_by_count(
    backward: bool, measured: dict[str, tuple[int, int]]
) -> None:
    """FFTs take what is long, alone, or not bfloat16. A measurement takes precedence where the batch is large."""
    plan = costs.toeplitz_plan_for(1_024, 256, torch.bfloat16, backward, 3)
    assert plan is not None
    by_fft = sum(cost.floor for cost in costs.fft_costs(1_024, torch.bfloat16, backward, 256, 3).values())
    assert ours(1_024, torch.bfloat16, backward, 256, 3).floor < 0.8 * by_fft
    for length, batch, dtype in (
        (1_024, 1, torch.bfloat16),
        (8_192, 32, torch.bfloat16),
        (1_024, 256, torch.float32),
    ):
        assert costs.toeplitz_plan_for(length, batch, dtype, backward, 3) is None
    direction = "training" if backward else "forward"
    measured[f"bfloat16 {direction}, products"] = (1_025, 9_000)
    assert costs.toeplitz_plan_for(1_024, 256, torch.bfloat16, backward, 3) is None
    assert costs.toeplitz_plan_for(8_192, 32, torch.bfloat16, backward, 3) is not None
    assert costs.toeplitz_plan_for(8_192, 1, torch.bfloat16, backward, 3) is None, "measured with many sequences"


@pytest.mark.parametrize("length", [1_024, 32_768])
def test_short_convolutions_read_the_streams_as_they_are(length: int) -> None:
    """Forward: not a byte more. Backward: two gradients are written instead of three, and a pass of 8 follows."""
    plain, short = (ours(length, torch.bfloat16, taps=taps) for taps in (0, 3))
    assert short.bytes == plain.bytes
    plain, short = (ours(length, torch.bfloat16, backward=True, taps=taps) for taps in (0, 3))
    assert short.bytes - plain.bytes == pytest.approx((8 - 1) * 2 * length)


def test_kernels_over_rows() -> None:
    """Counted by hand, in bfloat16: the stream has 4 bytes, products have 2, the hidden layer has 4 widths."""
    norm, added, gelu = 4 + 2, 4 + 2 + 4 + 2, 4 * (2 + 2)
    assert sum(cost.bytes for cost in row_costs().values()) == 2 * added + gelu
    gelu, mlp, mixer = 4 * 4 * 2, 2 + 4 + 4 + 4 + 2, 2 + 4 + 4 + 4 + 2 + 2
    assert sum(cost.bytes for cost in row_costs(backward=True).values()) == norm + gelu + mlp + mixer


def test_products_with_the_gelu() -> None:
    """Counted by hand: fc1's operand is read, the hidden layer of 4 widths written; backward two of each."""
    (forward,), (backward,) = (list(product_costs(256, of_backward).values()) for of_backward in (False, True))
    assert (forward.bytes, forward.matrix) == (2 + 8, 2 * 4 * 256)
    assert (backward.bytes, backward.matrix) == (2 * forward.bytes, 2 * forward.matrix)
    tile = (128 + 256) * 256 * 2 / (128 * 256)
    assert forward.cached == 4 * (tile + 2)


@pytest.mark.parametrize("backward", [False, True])
def test_products_are_fused_where_that_takes_less_time(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside products of cuBLAS, which read and write memory, and the GELU's pass."""
    name = "FUSED_WIDTH_BACKWARD" if backward else "FUSED_WIDTH"
    widest = getattr(product_plan, name)
    monkeypatch.setattr(product_plan, name, 4 * widest)
    of_gelu = row_costs(backward)["gelu_rows_backward" if backward else "gelu_rows"].floor
    for width, fused in ((widest // 2, True), (widest, True), (2 * widest, False)):
        own = sum(cost.floor for cost in product_costs(width, backward).values())
        product = max(10 / rates.COPY, 8 * width / rates.MATRIX)
        assert (own < (2 if backward else 1) * product + of_gelu) == fused


@pytest.mark.parametrize("length", [1_000, 1_000_000])
def test_filters_move_themselves_and_little_else(length: int) -> None:
    """Forward: written once. Backward: their gradients are read twice, and between the kernels are hidden values."""
    channels, hidden = 768, 64
    (forward,) = filter_costs(length, channels, 3, 5).values()
    assert forward.bytes == 4 * length * channels
    backward = filter_costs(length, channels, 3, 5, backward=True)
    moved = sum(cost.bytes for cost in backward.values())
    between = (2 + 1 + 2 * 2 + 1) * 4 * length * hidden
    assert moved > 2 * forward.bytes + between
    assert length < 10_000 or moved < 1.02 * (2 * forward.bytes + between), "sums of weights are shared by positions"
    for cost in (forward, *backward.values()):
        assert cost.floor >= max(cost.memory_floor, cost.cached / rates.CACHE) > 0
    more = filter_costs(length, channels, 4, 5, backward=True)
    assert len(more) == len(backward) + 1


def test_no_plan_no_cost() -> None:
    with pytest.raises(ValueError, match="no plan for 100 positions"):
        kernel_costs(100, torch.float64)


def test_table_has_every_scheme() -> None:
    text = table([5_000])
    for name in (
        "columns_fft",
        "rows_conv",
        "rows_backward",
        "columns_ifft_backward",
        "columns_ifft",
        "**ours**",
        "FlashFFTConv's scheme",
        "torch.fft",
    ):
        assert f"| {name} |" in text
