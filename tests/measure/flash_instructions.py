"""Instructions of FlashFFTConv's own kernels, counted in what nvcc compiles of its published code, without a GPU.

`python -m tests.measure.flash_instructions FOLDER NVCC` writes tests/measure/flash_instructions.json, from which
`tests.measure.block_costs` counts. It takes some five minutes.

- FOLDER is a clone of https://github.com/HazyResearch/flash-fft-conv at commit `COMMIT`.
- NVCC is the folder of CUDA's compiler: `python -m venv cuda && cuda/bin/pip install nvidia-cuda-nvcc==13.0.*
  nvidia-cuda-runtime==13.0.* nvidia-cuda-crt==13.0.* nvidia-cuda-cccl==13.0.* nvidia-nvvm==13.0.*` puts it into
  cuda/lib/python3*/site-packages/nvidia/cu13. Headers of numbers come from the installed PyTorch.

The package's setup compiles for compute_80, and the driver makes instructions of that. So do nvcc and ptxas here, for
sm_90. A kernel's instructions are those of each loop's body times the turns that the code takes. What is counted must
have as many products of 16 × 16 matrices as the algorithm, else this ends with an error.

The count is a low one. Of two sides of a branch, the one of fewer instructions is counted. Loops whose turns differ
between warps are taken to have the fewest.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton

COMMIT = "b8771028717f46d5b22cbb8e12833f35033d621b"
RESULTS = Path(__file__).with_suffix(".json")
OPTIONS = [
    "-ptx", "-arch=compute_80", "-O3", "--use_fast_math", "-std=c++17", "--expt-relaxed-constexpr",
    "-D__CUDA_NO_HALF_OPERATORS__", "-D__CUDA_NO_HALF_CONVERSIONS__", "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-D__CUDA_NO_HALF2_OPERATORS__",
]  # fmt: skip
"""Of the package's setup, and what PyTorch's extensions add."""
TENSOR = """#pragma once
#include <optional>
#include <vector>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <c10/util/complex.h>
namespace at {
using namespace c10;
struct Tensor { long size(int) const; void *data_ptr() const; int options() const; };
}
namespace torch {
using at::Tensor;
Tensor empty(std::initializer_list<long>, int);
}
"""
"""In the place of torch/extension.h: as much of a tensor as the code asks for that launches the kernels."""


class Kernel(NamedTuple):
    """A kernel with the sizes that the package launches it with for the batches of `block_costs`.

    Attributes:
        file: In csrc/flashfftconv.
        name: With its constants.
        warps: Of a program.
        turns: Of each loop in the order of their beginnings, those of an inner loop per turn of the outer.
        products: Of 16 × 16 matrices of real numbers that the algorithm takes in a program.
        working: Warps that do what is outside of the loops, if not all.
    """

    file: str
    name: str
    warps: int
    turns: tuple[int, ...]
    products: int
    working: int | None = None


_TILES, _OUTER = "monarch_cuda/kernels_bf16/monarch_cuda_", "butterfly/butterfly_padded_"
KERNELS = {
    "2,048 real": Kernel(
        f"{_TILES}kernel_r2r_bf16.h", "monarch_conv_cuda_kernel<32, 1, 1024, 2, false, 8, 1>", 1,
        (8, 2, 2, 16, 16, 2, 2), 8 * 4 * 32,
    ),
    "2,048 real, backward": Kernel(
        f"{_TILES}bwd_kernel_r2r_bf16.h", "monarch_conv_bwd_cuda_kernel<32, 1, 1024, 2, false, 8, 8>", 1,
        (8, 8, *(2, 2, 16, 16, 2, 2) * 2), 64 * 8 * 32,
    ),
    "16,384": Kernel(
        f"{_TILES}16_32_32_kernel_bf16.h",
        "monarch_conv_cuda_16_32_32_kernel<32, 8, 16384, 1, 2, 16, false, 8, 8, 8>", 8,
        (8, 8, 4, 2, 2, 2, 2, 2), 64 * (2 * 64 * 2 + 16 * 4 * 32),
    ),
    "16,384, backward": Kernel(
        f"{_TILES}16_32_32_bwd_kernel_bf16.h",
        "monarch_conv_bwd_cuda_16_32_32_kernel<32, 8, 16384, 1, 2, 16, false, 8, 8, 8>", 8,
        (8, 8, 8, 2, 2, 2, 2, 2, 2, 2), 64 * (3 * 64 * 2 + 16 * 6 * 32),
    ),
    "4,096 complex": Kernel(
        f"{_TILES}16_16_16_complex_kernel_bf16.h",
        "monarch_conv_cuda_complex_kernel<32, 4, 4096, 1, 16, false, 4, 8, 4>", 4,
        (8, 4, 4), 32 * 16 * 6 * 4,
    ),
    "4,096 complex, backward": Kernel(
        f"{_TILES}16_16_16_bwd_complex_kernel_bf16.h",
        "monarch_conv_bwd_cuda_complex_kernel<32, 4, 4096, 1, 16, false, 4, 8, 4>", 4,
        (8, 4, 4, 4), 32 * 16 * 9 * 4,
    ),
    "16,384 complex": Kernel(
        f"{_TILES}16_32_32_complex_kernel_bf16.h",
        "monarch_conv_cuda_16_32_32_complex_kernel<32, 8, 16384, 1, 2, 16, false, 1, 8, 8>", 8,
        (8, 8, 2, 2, 2, 2, 2), 8 * (2 * 64 * 4 + 16 * 4 * 32),
    ),
    "16,384 complex, backward": Kernel(
        f"{_TILES}16_32_32_bwd_complex_kernel_bf16.h",
        "monarch_conv_bwd_cuda_16_32_32_complex_kernel<32, 8, 16384, 1, 2, 16, false, 1, 8, 8>", 8,
        (8, 8, 2, 2, 2, 2, 2, 2, 2), 8 * (3 * 64 * 4 + 16 * 6 * 32),
    ),
    "32,768 complex": Kernel(
        f"{_TILES}32_32_32_complex_kernel_bf16.h",
        "monarch_conv_cuda_32_32_32_complex_kernel<32, 8, 32768, 2, 16, false, 1, 8, 8>", 8,
        (8, 4, 2, 4, 2, 2, 2, 2, 4, 2), 8 * 32 * 6 * 32,
    ),
    "32,768 complex, backward": Kernel(
        f"{_TILES}32_32_32_bwd_complex_kernel_bf16.h",
        "monarch_conv_bwd_cuda_32_32_32_complex_kernel<32, 8, 32768, 2, 16, false, 1, 8, 8>", 8,
        (8, 4, 2, 4, 2, 2, 4, 2, 4, 2, 2, 4, 2, 2, 4, 2), 8 * 32 * 9 * 32,
    ),
    "outer 16": Kernel(f"{_OUTER}cuda_bf16.cu", "butterfly_cuda_kernel_16<1>", 4, (1, 3, 0, 0, 1, 3), 4 * 2),
    "outer 32": Kernel(f"{_OUTER}cuda_bf16.cu", "butterfly_cuda_kernel_32<1>", 4, (8, 0, 8), 2 * 4 * 2, 2),
    "outer 64": Kernel(
        f"{_OUTER}cuda_bf16.cu", "butterfly_cuda_kernel_64<2>", 4, (16, 16, 8, 0, 16), 16 * 4 * 4 * 2 * 2
    ),
    "outer 16, inverse": Kernel(
        f"{_OUTER}ifft_cuda_bf16.cu", "butterfly_ifft_padded_cuda_kernel_16", 4, (1, 3, 1, 3, 0, 0), 4 * 2
    ),
    "outer 32, inverse": Kernel(
        f"{_OUTER}ifft_cuda_bf16.cu", "butterfly_ifft_padded_cuda_kernel_32<1>", 4, (8, 8, 0), 4 * 2 * 2, 2
    ),
    "outer 64, inverse": Kernel(
        f"{_OUTER}ifft_cuda_bf16.cu", "butterfly_ifft_padded_cuda_kernel_64<16, 2>", 4, (16, 16, 16, 16, 0),
        16 * 2 * 4 * 4 * 2,
    ),
}  # fmt: skip
"""Loops over absent gates take no turns."""

LENGTHS: dict[int, dict[str, float]] = {
    1_024: {"2,048 real": 8 * 1_024, "2,048 real, backward": 64 * 1_024},
    8_192: {"16,384": 64 * 8_192, "16,384, backward": 64 * 8_192},
    32_768: {
        "4,096 complex": 32 / 16 * 32_768, "4,096 complex, backward": 32 / 16 * 32_768,
        "outer 16": 32_768 / 64, "outer 16, inverse": 32_768 / 64,
    },
    160_000: {
        "16,384 complex": 8 / 32 * 160_000, "16,384 complex, backward": 8 / 32 * 160_000,
        "outer 32": 160_000 / 256, "outer 32, inverse": 160_000 / 256,
    },
    450_000: {
        "32,768 complex": 8 / 32 * 450_000, "32,768 complex, backward": 8 / 32 * 450_000,
        "outer 32": 450_000 / 512, "outer 32, inverse": 450_000 / 512,
    },
    1_000_000: {
        "32,768 complex": 8 / 64 * 1_000_000, "32,768 complex, backward": 8 / 64 * 1_000_000,
        "outer 64": 16 / 512 * 1_000_000, "outer 64, inverse": 16 / 512 * 1_000_000,
    },
}  # fmt: skip
"""The kernels of each length, with the positions, times channels, that a program of each does."""


def launched(length: int, backward: bool) -> list[str]:
    """Kernels of one gated convolution. The backward pass computes the result again, and both gates' gradients."""
    forward, back = [name for name in LENGTHS[length] if "outer" not in name]
    outer = [name for name in LENGTHS[length] if "outer" in name]
    if not outer:
        return [forward, back] if backward else [forward]
    there, home = outer
    return [there, there, forward, home, back, home, home] if backward else [there, forward, home]


class Counted(NamedTuple):
    """Of one program: instructions of all its warps, and those that multiply."""

    instructions: float
    multiplying: float


def counted(listing: str, kernel: Kernel) -> Counted:
    """Count a kernel's listing by cuobjdump.

    Raises:
        ValueError: If its loops or products are others than the table says.
    """
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", listing)]
    jumps = [(at, int(to[1], 16), text) for at, text in lines if (to := re.search(r"BRA.*?(0x[0-9a-f]+)", text))]
    loops = sorted((to, at) for at, to, _ in jumps if to < at)
    if len(loops) != len(kernel.turns):
        raise ValueError(f"{kernel.name}: {len(loops)} loops, not {len(kernel.turns)}")
    left_out = _other_sides(lines, jumps)
    instructions = multiplying = 0.0
    for at, text in lines:
        if at in left_out or text.startswith("NOP"):
            continue
        around = [turns for (begin, end), turns in zip(loops, kernel.turns, strict=True) if begin <= at <= end]
        times: float = kernel.warps if around else kernel.working or kernel.warps
        for turns in around:
            times *= turns
        instructions += times
        multiplying += times * ("HMMA.16816" in text)
    if multiplying != 2 * kernel.products:  # each of half a product
        raise ValueError(f"{kernel.name}: {multiplying / 2:.0f} products, not {kernel.products}")
    return Counted(instructions, multiplying)


def _other_sides(lines: list[tuple[int, str]], jumps: list[tuple[int, int, str]]) -> set[int]:
    """Places of the longer side of each branch of two sides that has neither loops nor products in it."""
    texts, left_out = dict(lines), set[int]()
    for at, to, text in jumps:
        if not text.startswith("BRA") or to <= at:
            continue
        second = [place for place in texts if at < place < to]
        for first_at, second_at, _ in jumps:
            if second_at != at + 16 or first_at >= at:
                continue
            first = [place for place in texts if first_at < place < at]
            longer = max(first, second, key=len)
            if not any(re.search("HMMA|BAR|BRA", texts[place]) for place in first + second):
                left_out.update(longer)
    return left_out


def listing_of(kernel: Kernel, folder: Path, compiler: Path) -> str:
    """What ptxas makes of a kernel, as cuobjdump lists it."""
    include = Path(torch.__file__).parent / "include"
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch)
        (own / "torch").mkdir()
        (own / "torch" / "extension.h").write_text(TENSOR)
        source = f'#include "{kernel.file}"\nvoid *kept() {{ return (void *)&{kernel.name}; }}\n'
        (own / "kernel.cu").write_text(source)
        folders = [f"-I{place}" for place in (own, folder / "csrc" / "flashfftconv", include)]
        _run(compiler / "nvcc", *OPTIONS, *folders, own / "kernel.cu", "-o", own / "kernel.ptx")
        _run(compiler / "ptxas", "-arch=sm_90", "-O3", own / "kernel.ptx", "-o", own / "kernel.cubin")
        listing = _run(tool, "-sass", own / "kernel.cubin")
    functions = [part for part in listing.split("Function : ")[1:] if _mangled(kernel.name) in part.split("\n", 1)[0]]
    (function,) = functions
    return function


def _mangled(name: str) -> str:
    """How a name and its constants begin in compiled code."""
    plain, _, constants = name.partition("<")
    of = "".join("Lb0E" if value == "false" else f"Li{value}E" for value in re.findall(r"\d+|false", constants))
    return f"{len(plain)}{plain}" + (f"I{of}E" if of else "")


def _run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("compiler", type=Path)
    options = parser.parse_args()
    commit = _run("git", "-C", options.folder, "rev-parse", "HEAD").strip()
    if commit != COMMIT:
        raise SystemExit(f"{options.folder} is at commit {commit}, not {COMMIT}")
    counts = {
        name: counted(listing_of(kernel, options.folder, options.compiler / "bin"), kernel)
        for name, kernel in KERNELS.items()
    }
    per_position = {
        str(length): {
            direction: round(sum(counts[name].instructions / programs[name] for name in launched(length, back)), 3)
            for direction, back in (("forward", False), ("backward", True))
        }
        for length, programs in LENGTHS.items()
    }
    results = {
        "commit": commit,
        "instructions of a program": {name: round(count.instructions) for name, count in counts.items()},
        "instructions per position and channel": per_position,
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
