"""The kernels compiled ahead of time for an A100 (sm_80) and an H100 (sm_90), at the sizes that the product uses."""

import pytest

pytest.importorskip("triton")

from genome_lm.gpukit.forms import KERNELS
from genome_lm.gpukit.resources import COLUMNS, ROWS, SHARED_KIB, TILES, Variant, resources, spilled_at_most, variants


def chosen() -> list[Variant]:
    """Both forms for an H100; for an A100 the one that takes more registers. Rows are aligned in every launch."""
    return [*variants(90), *(one for one in variants(80) if not one.aligned or one.kernel in ROWS)]


def name_of(variant: Variant) -> str:
    form = "aligned" if variant.aligned else "unaligned"
    return f"{variant.kernel}-{str(variant.dtype).removeprefix('torch.')}-sm_{variant.arch}-{form}"


@pytest.mark.slow
@pytest.mark.parametrize("variant", chosen(), ids=name_of)
def test_fits_registers_and_shared_memory(variant: Variant) -> None:
    taken = resources(variant)
    assert taken.registers <= 255
    assert taken.stack <= spilled_at_most(variant), f"{taken.stack} bytes spilled"
    assert taken.shared <= SHARED_KIB[variant.arch] << 10


def test_every_kernel_is_compiled() -> None:
    assert sorted(KERNELS) == sorted(TILES + ROWS + COLUMNS) == sorted({one.kernel for one in variants(90)})
