"""The kernels compiled ahead of time for an A100 (sm_80) and an H100 (sm_90), at the sizes that the product uses."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from genome_lm.kernels import triton_conv, triton_op
from genome_lm.kernels.plan import Plan, plan_for

SHARED_KIB = {80: 99, 90: 227}
LENGTH = 1_000_000
COLUMNS = ["columns_fft", "columns_ifft", "columns_ifft_backward"]
TILES = ["tile_spectrum", "tile_conv", "tile_conv_backward", "rows_spectrum", "rows_conv", "rows_conv_backward"]
FLOAT32 = {"bias", "dbias", "dh", "factors", "phases", "spectra", "tables"}


def signature(kernel: str, dtype: torch.dtype, constants: dict[str, object]) -> dict[str, str]:
    """Types of the arguments, as a launch on tensors of this dtype would find them."""
    item = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}[dtype]
    types = {}
    for name in getattr(triton_conv, kernel).arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif "stride" in name:
            types[name] = "i64"
        elif name in FLOAT32 or (name == "h" and kernel == "tile_spectrum"):
            types[name] = "*fp32"
        elif name in {"z", "g", "h", "a", "b", "x0", "x1", "v", "y", "dy", "dx0", "dx1", "dv"}:
            types[name] = item
        else:
            types[name] = "i32"
    return types


def resources(kernel: str, dtype: torch.dtype, plan: Plan, arch: int, folder: Path) -> tuple[int, int, int]:
    """Registers a thread, bytes of stack (what is spilled lies there) and bytes of shared memory."""
    columns = kernel in COLUMNS
    constants = triton_op._column_constants(plan) if columns else triton_op._constants(plan)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    if kernel in ("columns_fft", "columns_ifft"):
        constants["GATED"] = True
    types = signature(kernel, dtype, constants)
    aligned = [i for i, name in enumerate(types) if types[name].startswith("*") or name in ("width", "pitch")]
    source = ASTSource(
        getattr(triton_conv, kernel), types, constants, {(i,): [["tt.divisibility", 16]] for i in aligned}
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert "mma" in compiled.asm["ptx"], "no tensor cores"
    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return int(found[1]), int(found[2]), compiled.metadata.shared


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kernel", TILES + COLUMNS)
def test_fits_registers_and_shared_memory(kernel: str, dtype: torch.dtype, arch: int, tmp_path: Path) -> None:
    """Kernels that the backward uses too have smaller tiles there."""
    plan = plan_for(LENGTH, dtype, kernel.endswith("backward"))
    assert plan is not None
    registers, stack, shared = resources(kernel, dtype, plan, arch, tmp_path)
    assert registers <= 255
    assert stack == 0, f"{stack} bytes spilled"
    assert shared <= SHARED_KIB[arch] << 10
