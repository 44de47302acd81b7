import pytest
import torch

from genome_lm.kernels.costs import flash_fft_conv, kernel_costs, ours, table, torch_fft, worthwhile

LENGTHS = [1_024, 32_768, 160_000, 450_000, 1_000_000]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ours_moves_at_least_the_operands_and_less_than_torch_fft(length: int, dtype: torch.dtype) -> None:
    operands = 4 * length * dtype.itemsize
    assert operands <= ours(length, dtype).bytes < torch_fft(length, dtype).bytes
    if list(kernel_costs(length, dtype)) == ["tile_conv"]:
        assert ours(length, dtype).bytes == operands


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward_moves_at_least_its_operands_and_less_than_torch_fft(length: int, dtype: torch.dtype) -> None:
    operands = 7 * length * dtype.itemsize
    assert operands <= ours(length, dtype, backward=True).bytes < torch_fft(length, dtype, backward=True).bytes
    assert ours(length, dtype, backward=True).matrix >= 2 * ours(length, dtype).matrix * 15 // 16


@pytest.mark.parametrize("length", LENGTHS)
def test_floor_is_no_less_than_the_transfers(length: int) -> None:
    for cost in (ours(length, torch.bfloat16), flash_fft_conv(length), torch_fft(length, torch.bfloat16)):
        assert cost.floor >= cost.memory_floor > 0


def test_padding_costs_operations_but_no_operands() -> None:
    """1,026 positions take two tiles, 1,024 one; both read their own gates and no more."""
    short, long = kernel_costs(1_030, torch.bfloat16), kernel_costs(2_048, torch.bfloat16)
    assert short["columns_fft"].matrix == long["columns_fft"].matrix
    assert long["columns_fft"].bytes - short["columns_fft"].bytes == 2 * 2 * (2_048 - 1_030)


def test_worthwhile_up_to_a_million_in_bfloat16_but_not_in_float32() -> None:
    assert worthwhile(1_000_000, torch.bfloat16)
    assert worthwhile(160_000, torch.float32)
    assert not worthwhile(1_000_000, torch.float32)
    assert not worthwhile(100, torch.float64)


def test_no_plan_no_cost() -> None:
    with pytest.raises(ValueError, match="no plan for 100 positions"):
        kernel_costs(100, torch.float64)


def test_table_has_every_scheme() -> None:
    text = table([5_000])
    for name in (
        "columns_fft",
        "rows_conv",
        "rows_conv_backward",
        "columns_ifft_backward",
        "columns_ifft",
        "**ours**",
        "FlashFFTConv's scheme",
        "torch.fft",
    ):
        assert f"| {name} |" in text
