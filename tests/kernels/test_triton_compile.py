"""The kernels compiled ahead of time for an A100 (sm_80) and an H100 (sm_90), at the sizes that the product uses."""

import re
import subprocess
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from genome_lm.kernels import triton_conv, triton_op
from genome_lm.kernels.plan import Plan, plan_for

SHARED_KIB = {80: 99, 90: 227}
COLUMNS = ["columns_fft", "columns_ifft", "columns_ifft_backward"]
ROWS = ["rows_spectrum", "rows_conv", "rows_conv_backward"]
TILES = ["tile_spectrum", "tile_conv", "tile_conv_backward"]
OPERANDS = {"a", "b", "x0", "x1", "v", "y", "dy", "dx0", "dx1", "dv"}
BETWEEN = {"z", "g", "h", "factors"}
"""What is in the dtype of the products; h but for `tile_spectrum`, which reads the filters themselves."""
ALIGNED = {"z", "g", "factors", "phases", "spectra", "tables", "dh", "dbias", "width", "pitch"}
"""Arguments that are allocated here, or multiples of 16 by the plan: aligned in every launch."""
POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
STACK = {
    ("tile_conv_backward", torch.bfloat16): 208,
    ("tile_conv", torch.float16): 144,
    ("tile_conv", torch.float32): 144,
    ("rows_spectrum", torch.float32): 48,
    ("rows_conv", torch.float32): 144,
    ("rows_conv_backward", torch.bfloat16): 80,
}
"""Bytes a thread that may be spilled where tiles of 32 × 32 are worth it; zero elsewhere.

With four or eight warps less is spilled, but each warp has as many instructions as with two: for `tile_conv_backward`
in bfloat16, of 1,024 points, 7,700 in two warps, 13,000 in four and 23,000 in eight, spills counted.
"""


class Case(NamedTuple):
    kernel: str
    dtype: torch.dtype
    arch: int
    aligned: bool  # operands and integers at multiples of 16; Triton compiles anew for those that aren't

    def __str__(self) -> str:
        form = "aligned" if self.aligned else "unaligned"
        return f"{self.kernel}-{str(self.dtype).removeprefix('torch.')}-sm_{self.arch}-{form}"


def cases() -> list[Case]:
    """Both forms for an H100; for an A100 the one that takes more registers. Rows are aligned in every launch."""
    dtypes = torch.bfloat16, torch.float32
    forms = (90, True), (90, False), (80, False)
    operands = [Case(kernel, dtype, *form) for kernel, dtype, form in product(TILES + COLUMNS, dtypes, forms)]
    rows = [Case(kernel, dtype, arch, True) for kernel, dtype, arch in product(ROWS, dtypes, SHARED_KIB)]
    return [*operands, *rows, Case("tile_conv", torch.float16, 90, False)]


def signature(case: Case, plan: Plan, constants: dict[str, object]) -> dict[str, str]:
    """Types of the arguments, as a launch would find them."""
    types = {}
    for name in getattr(triton_conv, case.kernel).arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name in OPERANDS:
            types[name] = POINTERS[case.dtype]
        elif name in BETWEEN and case.kernel != "tile_spectrum":
            types[name] = POINTERS[plan.dot]
        elif name in {"h", "bias", "phases", "spectra", "tables", "dh", "dbias"}:
            types[name] = "*fp32"
        else:
            types[name] = "i32"
    return types


def resources(case: Case, folder: Path) -> tuple[int, int, int]:
    """Registers a thread, bytes of stack (what is spilled lies there) and bytes of shared memory."""
    plan = plan_for(1_024 if case.kernel in TILES else 1_000_000, case.dtype, case.kernel.endswith("backward"))
    assert plan is not None
    constants = triton_op._column_constants(plan) if case.kernel in COLUMNS else triton_op._constants(plan)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    if case.kernel in ("columns_fft", "columns_ifft"):
        constants["GATED"] = True
    types = signature(case, plan, constants)
    aligned = [i for i, name in enumerate(types) if types[name] != "constexpr" and (case.aligned or name in ALIGNED)]
    divisible = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(getattr(triton_conv, case.kernel), types, constants, divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", case.arch, 32), options=options)
    assert "mma" in compiled.asm["ptx"], "no tensor cores"
    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return int(found[1]), int(found[2]), compiled.metadata.shared


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=str)
def test_fits_registers_and_shared_memory(case: Case, tmp_path: Path) -> None:
    registers, stack, shared = resources(case, tmp_path)
    assert registers <= 255
    assert stack <= STACK.get((case.kernel, case.dtype), 0), f"{stack} bytes spilled"
    assert shared <= SHARED_KIB[case.arch] << 10
