"""The kernels compiled ahead of time for an A100 (sm_80) and an H100 (sm_90), at the sizes that the product uses."""

import pytest
import torch

pytest.importorskip("triton")

from genome_lm.gpukit.forms import KERNELS
from genome_lm.gpukit.resources import (
    BLOCKS,
    COLUMNS,
    FILTERS,
    HEADS,
    OVER_ROWS,
    PRODUCTS,
    ROWS,
    SHARED_KIB,
    SPILLS_OF,
    STEPS,
    TILES,
    TOEPLITZ,
    Variant,
    resources,
    spilled_at_most,
    step_resources,
    variants,
)


def compiled_variants() -> list[Variant]:
    """For an H100 all but float32 unaligned or in bf16x6, which takes the compiler longest.

    For an A100 bfloat16, in the form that takes more registers, and of the filters' kernels the one that spills most.
    Rows are aligned in every launch. Heads and filters are in float32 alone. The kit compiles what is left out.
    """
    kept = [one for one in variants(90) if one.dot != "bf16x6" or one.kernel in BLOCKS + HEADS + FILTERS]
    kept = [one for one in kept if one.aligned or one.kernel != "toeplitz_conv_backward"]  # it takes two minutes
    hopper = [one for one in kept if one.aligned or one.dtype != torch.float32]
    most = [*HEADS, "filter_backward_inner"]
    ampere = [one for one in variants(80) if one.dtype == torch.bfloat16 or one.kernel in most]
    aligned = [*ROWS, *OVER_ROWS, *PRODUCTS, *most]
    return [*hopper, *(one for one in ampere if not one.aligned or one.kernel in aligned)]


def name_of(variant: Variant) -> str:
    form = "aligned" if variant.aligned else "unaligned"
    dtype = str(variant.dtype).removeprefix("torch.")
    length = f"-{variant.length}" if variant.length else ""
    return f"{variant.kernel}-{dtype}-{variant.dot}-sm_{variant.arch}-{form}{length}"


@pytest.mark.slow
@pytest.mark.parametrize("variant", compiled_variants(), ids=name_of)
def test_fits_registers_and_shared_memory(variant: Variant) -> None:
    taken = resources(variant)
    assert taken.registers <= 255
    assert taken.shared <= SHARED_KIB[variant.arch] << 10
    if (most := spilled_at_most(variant)) is None:
        pytest.skip(f"the bounds of spills are for Triton {SPILLS_OF}x")
    assert taken.stack <= most, f"{taken.stack} bytes spilled"


@pytest.mark.parametrize("kernel", STEPS)
def test_kernels_of_a_token_fit_too(kernel: str) -> None:
    taken = step_resources(kernel, 90)
    assert taken.registers <= 255
    assert taken.stack == 0
    assert taken.shared <= SHARED_KIB[90] << 10


def test_every_kernel_is_compiled() -> None:
    assert (
        sorted(KERNELS)
        == sorted(TILES + ROWS + COLUMNS + BLOCKS + OVER_ROWS + PRODUCTS + FILTERS + TOEPLITZ + ["toeplitz_table"])
        == sorted({one.kernel for one in variants(90)})
    )
