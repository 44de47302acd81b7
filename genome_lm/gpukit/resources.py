"""What the Triton kernels take of a processor: compiled ahead of time, without a GPU. Needs triton."""

import re
import subprocess
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from genome_lm.alphabet import EMBEDDING_ROWS, NUCLEOTIDES
from genome_lm.kernels.conv.online import DIRECT
from genome_lm.kernels.triton import conv as triton_conv
from genome_lm.kernels.triton import (
    filter_launch,
    filters,
    launch,
    product_launch,
    products,
    row_launch,
    steps,
    toeplitz,
    toeplitz_launch,
)
from genome_lm.kernels.triton import rows as triton_rows
from genome_lm.kernels.triton.filter_plan import CHANNELS
from genome_lm.kernels.triton.plan import Plan, Precision, plan_for
from genome_lm.kernels.triton.toeplitz_plan import ToeplitzPlan, plans

SHARED_KIB = {80: 99, 90: 227}
"""Shared memory that a program may have, by architecture."""
COLUMNS = ["columns_fft", "columns_ifft", "columns_ifft_backward"]
ROWS = ["rows_fft", "rows_conv", "rows_backward"]
TILES = ["tile_spectrum", "tile_conv", "tile_conv_backward"]
BLOCKS = ["taps_backward"]
WHOLE_ROWS = ["norm_rows", "norm_rows_backward"]
PARTS_OF_ROWS = ["gelu_rows", "gelu_rows_backward", "round_rows"]
HEADS = ["head_rows", "head_rows_backward"]
OVER_ROWS = WHOLE_ROWS + PARTS_OF_ROWS + HEADS
PRODUCTS = ["linear_gelu", "linear_gelu_backward"]
"""Of the MLP, in half precision alone."""
TOEPLITZ = ["toeplitz_conv", "toeplitz_conv_backward"]
"""Of short sequences, in bfloat16 on an H100 alone. `toeplitz_table` goes with them."""
WIDTH = 256
"""Channels of a row, as the larger models have them."""
SUMS = ["filter_backward_out", "filter_backward_inner"]
"""Kernels of filters that sum over positions."""
FILTERS = ["filter_forward", "filter_backward_hidden", *SUMS, "filter_backward_first"]
FILTER_WIDTH = 64
"""Of the filters' networks, as the presets have them."""
TAPS = 3
"""Of the short convolutions, as the models have them."""
_OPERANDS = {"a", "b", "x0", "x1", "v", "y", "dy", "dx0", "dx1", "dv", "ds0", "du", "dz0", "dz1", "dz2"}
_BETWEEN = {"z", "g", "h", "factors"}
"""What is in the dtype of the products; h but for `tile_spectrum`, which reads the filters themselves."""
_ALIGNED = {"z", "g", "factors", "phases", "spectra", "tables", "dh", "dbias", "sums", "width", "pitch"}
"""Arguments that are allocated by us, or multiples of 16 by the plan: aligned in every launch."""
_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
_ROW_OPERANDS = {"branch", "normed", "grad_normed", "rounded", "hidden"}
"""What the kernels over rows have in the dtype of the products, and `grad` where it is that of the hidden layer."""
_FLOAT32 = {"h", "bias", "short", "a_taps", "b_taps", "sums", "phases", "spectra", "tables", "dh", "dbias"}
_PRODUCTS: list[tuple[torch.dtype, Precision]] = [
    (torch.bfloat16, "bf16"), (torch.float32, "bf16x3"), (torch.float32, "bf16x6"),
]  # fmt: skip
SPILLS_OF = "3.9."
"""Versions of Triton that the bounds of spills are for. 3.7.1, which PyPI's torch 2.13 for CUDA has, spills more."""
_STACK: dict[int, dict[tuple[str, Precision], int]] = {
    80: {
        ("tile_conv_backward", "bf16"): 448,
        ("columns_fft", "bf16"): 160,
        ("columns_ifft", "bf16"): 64,
        ("columns_ifft_backward", "bf16"): 488,
        ("rows_fft", "bf16"): 824,
        ("rows_conv", "bf16"): 1_144,
        ("rows_backward", "bf16"): 608,
        ("tile_conv", "bf16x3"): 24,
        ("tile_conv_backward", "bf16x3"): 456,
        ("rows_conv", "bf16x3"): 16,
        ("rows_backward", "bf16x3"): 48,
        ("tile_conv", "bf16x6"): 24,
        ("tile_conv_backward", "bf16x6"): 536,
        ("rows_conv", "bf16x6"): 32,
        ("rows_backward", "bf16x6"): 176,
        ("norm_rows", "bf16"): 8,
        ("head_rows_backward", "bf16x6"): 8,
        ("filter_backward_hidden", "bf16x6"): 16,
        ("filter_backward_out", "bf16x6"): 192,
        ("filter_backward_inner", "bf16x6"): 240,
    },
    90: {
        ("tile_conv_backward", "bf16"): 336,
        ("columns_ifft", "bf16"): 80,
        ("columns_ifft_backward", "bf16"): 504,
        ("linear_gelu_backward", "bf16"): 16,
        ("rows_backward", "bf16"): 232,
        ("tile_conv", "bf16x3"): 104,
        ("tile_conv_backward", "bf16x3"): 280,
        ("rows_conv", "bf16x3"): 64,
        ("rows_backward", "bf16x3"): 600,
        ("tile_conv", "bf16x6"): 16,
        ("tile_conv_backward", "bf16x6"): 440,
        ("rows_fft", "bf16x6"): 464,
        ("rows_conv", "bf16x6"): 552,
        ("rows_backward", "bf16x6"): 928,
        ("head_rows_backward", "bf16x6"): 32,
        ("filter_backward_inner", "bf16x6"): 48,
    },
}
"""Bytes per thread that Triton 3.9 may spill, by architecture; zero elsewhere.

Tiles of 32 × 32 are worth it: with four or eight warps less is spilled, but each warp has as many instructions as
with two. Rows of 64 × 64 suit an H100, which multiplies from shared memory: with what it spills in "bf16x6",
`rows_conv` still has 4.3 instructions per point of a transform. In tiles of 32 × 32 it has 5.3, and column passes
cost four times as much. An A100 holds the operands in registers, and spills. There float32 has tiles of 32 × 32.
Whether they are faster in bfloat16 too is to be measured.
"""
_STACK_OF_LENGTH = {
    ("tile_conv", 8_192): 192, ("tile_conv_backward", 4_096): 1_728, ("tile_conv_backward", 8_192): 2_232,
    ("rows_backward", 32_768): 16, ("toeplitz_conv", 1_001): 8, ("toeplitz_conv_backward", 1_001): 16,
    ("toeplitz_conv_backward", 1_024): 8,
}  # fmt: skip
"""The same of variants with a length, for an H100. Backward passes of one program spill 720 and 1,256 bytes of
lengths that are multiples of 16, whose instructions are counted, and these of others."""

STEPS = [
    "normed_linear_kernel", "add_linear_kernel", "convolved_kernel", "push_block_kernel", "drawn_kernel",
]  # fmt: skip
"""Of `genome_lm.kernels.triton.steps`."""
_STEP_TYPES = {
    "place": "*i64", "ids": "*i64", "tokens": "*u8", "numbers": "*fp64", "settings": "*fp64", "eps": "fp32",
    **dict.fromkeys(("count", "size", "channels", "short_step", "block_step", "width"), "i32"),
}  # fmt: skip


class Variant(NamedTuple):
    """A kernel as it is compiled for some launches.

    Attributes:
        kernel: Its name.
        dtype: Of the operands.
        dot: Precision of the matrix products.
        arch: Such as 90, for compute capability 9.0.
        aligned: Whether operands and integers are multiples of 16; Triton compiles anew for those that are not.
        length: Positions whose plan it has; 0: 1,024 of a tile, a million of several.
    """

    kernel: str
    dtype: torch.dtype
    dot: Precision
    arch: int
    aligned: bool
    length: int = 0


class Resources(NamedTuple):
    """What a kernel takes: registers per thread, bytes of stack per thread, bytes of shared memory per program."""

    registers: int
    stack: int
    shared: int


def variants(arch: int) -> list[Variant]:
    """Every kernel in each precision, in both forms; rows of long sequences are aligned in every launch."""
    forms = product(TILES + COLUMNS, _PRODUCTS, (True, False))
    blocks = product(BLOCKS, _PRODUCTS[::2], (True, False))  # they multiply no matrices
    rows = product(ROWS, _PRODUCTS, (True,))
    # Rows of 16 channels or multiples of it are aligned. What heads and filters read is float32 in any case.
    over_rows = product(WHOLE_ROWS + PARTS_OF_ROWS, _PRODUCTS[::2], (True,))
    float32_alone = product(HEADS + FILTERS, _PRODUCTS[2:], (True,))  # filters' products are in tf32x3
    of_mlp = product(PRODUCTS, _PRODUCTS[:1], (True,))
    each = *forms, *blocks, *rows, *over_rows, *float32_alone, *of_mlp
    made = [Variant(kernel, *operands, arch, aligned) for kernel, operands, aligned in each]
    made.append(Variant("tile_conv", torch.float16, "bf16x3", arch, False))
    others = [("rows_conv", 32_768, True), ("rows_backward", 32_768, True)]
    if arch >= 90:
        tiles = (
            ("tile_spectrum", 8_192), ("tile_conv", 8_192), ("tile_conv_backward", 4_096),
            ("tile_conv_backward", 8_192),
        )  # fmt: skip
        others += [(*tile, aligned) for tile, aligned in product(tiles, (True, False))]
        others += [(kernel, length, length % 16 == 0) for kernel, length in product(TOEPLITZ, (1_001, 1_024))]
        others += [("toeplitz_table", 1_024, True)]
    made += [Variant(kernel, *_PRODUCTS[0], arch, aligned, length) for kernel, length, aligned in others]
    return made


def spilled_at_most(variant: Variant) -> int | None:
    """Bytes of stack per thread that are allowed; None for a Triton whose spills are not known."""
    if not triton.__version__.startswith(SPILLS_OF):
        return None
    if variant.length:
        return _STACK_OF_LENGTH.get((variant.kernel, variant.length), 0)
    return _STACK[variant.arch].get((variant.kernel, variant.dot), 0)


def resources(variant: Variant) -> Resources:
    """Compile a kernel at the sizes that its length has, and read what it takes.

    Raises:
        ValueError: If it does not use tensor cores.
    """
    kernel, dtype = variant.kernel, variant.dtype
    if kernel in FILTERS:
        return _of_filters(variant)
    if kernel in OVER_ROWS + PRODUCTS:
        return _of_rows(variant)
    if kernel.startswith("toeplitz"):
        return _of_toeplitz(variant)
    length, hopper = variant.length or (1_024 if kernel in TILES else 1_000_000), variant.arch >= 90
    plan = plan_for(length, dtype, kernel.endswith("backward"), variant.dot, hopper)
    assert plan is not None
    return _compiled(variant, *_conv_source(variant, plan), multiplies=kernel not in BLOCKS)


def _conv_source(
    variant: Variant, plan: Plan, taps: tuple[int, int] = (TAPS, TAPS), gated: bool = True
) -> tuple[ASTSource, dict[str, Any]]:
    """A kernel of the convolution, and its options; `taps` of the first and of the second stream that it loads."""
    kernel = variant.kernel
    names = getattr(triton_conv, kernel).arg_names
    if kernel in COLUMNS:
        constants = launch._column_constants(plan, inverse=kernel != "columns_fft")
    else:
        constants = launch._constants(plan)
    if kernel in BLOCKS:
        constants |= {"LANES": 16, "OCTETS": launch.TAPS_OCTETS, "num_warps": launch.TAPS_WARPS}
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    constants |= {"GATED": gated, "TAPS": taps[1], "A_TAPS": taps[0], "B_TAPS": taps[1]}
    constants = {name: value for name, value in constants.items() if name in names}
    types = _signature(variant, plan, constants)
    aligned = variant.aligned
    divisible = {
        (number,): [["tt.divisibility", 16]]
        for number, name in enumerate(types)
        if types[name] != "constexpr" and (name in _ALIGNED or (aligned and name not in triton_conv.GENERAL))
    }
    return ASTSource(getattr(triton_conv, kernel), types, constants, divisible), options


def instructions(
    kernel: str, plan: Plan, taps: tuple[int, int] = (TAPS, TAPS), gated: bool = True
) -> tuple[int, int]:
    """Instructions of a warp of a convolution's kernel on an H100: outside of its loop, and in one turn of it."""
    dtype = torch.bfloat16 if plan.dot == "bf16" else torch.float32
    source, options = _conv_source(Variant(kernel, dtype, plan.dot, 90, True), plan, taps, gated)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    listing = _read(compiled.asm["cubin"], "-sass")
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", listing)]
    places = [at for at, text in lines if not text.startswith("NOP")]
    turns = [(int(match[1], 16), at) for at, text in lines if (match := re.search(r"BRA.*?(0x[0-9a-f]+)", text))]
    loops = [(begin, end) for begin, end in turns if begin < end]  # what ends a kernel jumps to itself
    within = sum(any(begin <= at <= end for begin, end in loops) for at in places)
    return len(places) - within, within


def _loops(cubin: bytes) -> list[int]:
    """Instructions outside of loops, and in a turn of each loop without the loops in it, in their order."""
    listing = _read(cubin, "-sass")
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", listing)]
    turns = [(int(match[1], 16), at) for at, text in lines if (match := re.search(r"BRA.*?(0x[0-9a-f]+)", text))]
    loops = sorted((begin, end) for begin, end in turns if begin < end)  # what ends a kernel jumps to itself
    counts = [0] * (1 + len(loops))
    for at, text in lines:
        if not text.startswith("NOP"):
            inner = [number for number, (begin, end) in enumerate(loops, 1) if begin <= at <= end]
            counts[max(inner, default=0)] += 1  # of loops around a place, the one that begins last is the innermost
    return counts


def toeplitz_instructions(kernel: str, plan: ToeplitzPlan, whole: bool, taps: int) -> list[int]:
    """Instructions of a warp of a product with Toeplitz matrices on an H100, as `toeplitz_costs` counts them."""
    source, options = _toeplitz_source(kernel, plan, whole, aligned=True, taps=taps)
    return _loops(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"])


def _toeplitz_source(
    kernel: str, plan: ToeplitzPlan, whole: bool, aligned: bool, taps: int = TAPS
) -> tuple[ASTSource, dict[str, Any]]:
    """A product with Toeplitz matrices, and its options; `aligned`: operands and their strides, see `Variant`."""
    function = getattr(toeplitz, kernel)
    constants = toeplitz_launch.constants(plan, plan.sequences, backward=kernel.endswith("backward"))
    constants |= {"TAPS": taps, "LANES": 16 if taps else 8, "WHOLE": whole, "BLOCK": toeplitz_launch.TABLE_BLOCK}
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    kinds = dict.fromkeys(("short", "h", "skip", "skew", "dh", "sums"), "*fp32")
    kinds |= dict.fromkeys(_OPERANDS | {"table", "work"}, "*bf16") | dict.fromkeys(constants, "constexpr")
    types = {name: kinds.get(name, "i32") for name in function.arg_names}
    ours = {"table", "work", "skew", "dh", "sums", "width", "pitch"}
    divisible = {
        (number,): [["tt.divisibility", 16]]
        for number, name in enumerate(types)
        if types[name] != "constexpr"
        and (name in ours or (aligned and name not in triton_conv.GENERAL and name != "tiles"))
    }
    return ASTSource(function, types, constants, divisible), options


def _of_toeplitz(variant: Variant) -> Resources:
    """What a product with Toeplitz matrices takes, of all its plans the most."""
    compiled = []
    kernel, batch = variant.kernel, 256
    for plan in plans(variant.length, batch, kernel.endswith("backward")):
        source, options = _toeplitz_source(kernel, plan, plan.is_whole(batch), variant.aligned)
        compiled.append(_compiled(variant, source, options, multiplies=kernel in TOEPLITZ))
    return Resources(*map(max, zip(*compiled, strict=True)))


def _of_rows(variant: Variant) -> Resources:
    """The same for a kernel over rows, or a product of the MLP."""
    kernel = getattr(products if variant.kernel in PRODUCTS else triton_rows, variant.kernel)
    if variant.kernel in PRODUCTS:
        constants = product_launch.constants(backward=variant.kernel.endswith("backward"))
    elif variant.kernel in HEADS:
        constants = row_launch._head_constants(WIDTH)
    else:
        constants = (row_launch._constants if variant.kernel in WHOLE_ROWS else row_launch._block_constants)(WIDTH)
    options: dict[str, Any] = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
    constants |= dict.fromkeys(("ADDED", "ROUNDED", "NORMED"), True)
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    operands = _ROW_OPERANDS | ({"grad"} if "hidden" in kernel.arg_names else set())
    if variant.kernel in PRODUCTS:
        operands |= {"x", "weight", "out", "w1", "w2", "grad_hidden"}
    types = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(constants, "constexpr")
    others = dict.fromkeys(("rows", "columns", "depth", "blocks", "per_program"), "i32")
    others |= {"eps": "fp32", "targets": "*u8"}
    types |= {name: kind for name, kind in others.items() if name in types}
    types |= dict.fromkeys(operands & types.keys(), _POINTERS[variant.dtype])
    plain = {*constants, *triton_conv.GENERAL, "eps"}
    divisible = {
        (number,): [["tt.divisibility", 16]] for number, name in enumerate(kernel.arg_names) if name not in plain
    }
    source = ASTSource(kernel, types, constants, divisible)
    multiplies = variant.kernel in PRODUCTS or variant.kernel == "head_rows_backward"
    return _compiled(variant, source, options, multiplies)


def _of_filters(variant: Variant) -> Resources:
    """The same for a kernel of filters."""
    function = getattr(filters, variant.kernel)
    constants = filter_launch.sizes_for(FILTER_WIDTH, sums=variant.kernel in SUMS) | {"CHANNELS": CHANNELS}
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    plain = dict.fromkeys(filters.GENERAL, "i32") | dict.fromkeys(constants, "constexpr") | {"shift": "fp32"}
    types = {name: plain.get(name, "*fp32") for name in function.arg_names}
    divisible = {
        (number,): [["tt.divisibility", 16]] for number, of in enumerate(types.values()) if of.startswith("*")
    }
    source = ASTSource(function, types, constants, divisible)
    return _compiled(variant, source, options, multiplies=variant.kernel != "filter_backward_first")


def _compiled(variant: Variant, source: ASTSource, options: dict[str, Any], multiplies: bool) -> Resources:
    compiled = triton.compile(source, target=GPUTarget("cuda", variant.arch, 32), options=options)
    if multiplies and "mma" not in compiled.asm["ptx"]:
        raise ValueError(f"{variant.kernel}: no tensor cores")
    return Resources(*_registers_and_stack(compiled.asm["cubin"]), compiled.metadata.shared)


def step_resources(kernel: str, arch: int) -> Resources:
    """Compile a kernel of a token's step at the sizes of a model of 256 channels, and read what it takes."""
    function = getattr(steps, kernel)
    sizes = {
        "D": 256, "N": DIRECT if kernel == "push_block_kernel" else 1_024, "BIAS": True, "GELU": True, "TAPS": TAPS,
        "TOP_K": 4, "GREEDY": False, "FIRST": NUCLEOTIDES[0], "HEAD": EMBEDDING_ROWS, "ELEMENTS": steps.ELEMENTS,
        **steps.tiles(),
    }  # fmt: skip
    constants = {name: sizes[name] for name in function.arg_names if name in sizes}
    types = {
        name: "constexpr" if name in constants else _STEP_TYPES.get(name, "*fp32") for name in function.arg_names
    }
    compiled = triton.compile(ASTSource(function, types, constants), target=GPUTarget("cuda", arch, 32))
    return Resources(*_registers_and_stack(compiled.asm["cubin"]), compiled.metadata.shared)


def _signature(variant: Variant, plan: Plan, constants: dict[str, object]) -> dict[str, str]:
    """Types of the arguments, as a launch would find them."""
    types = {}
    for name in getattr(triton_conv, variant.kernel).arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name in _OPERANDS:
            types[name] = _POINTERS[variant.dtype]
        elif name in _BETWEEN and variant.kernel != "tile_spectrum":
            types[name] = _POINTERS[plan.kept]
        else:
            types[name] = "*fp32" if name in _FLOAT32 else "i32"
    return types


def _registers_and_stack(cubin: bytes) -> tuple[int, int]:
    """As the tool that comes with Triton reads them; what is spilled lies on the stack."""
    usage = _read(cubin, "-res-usage")
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if match is None:
        raise ValueError(f"cuobjdump says no registers: {usage}")
    return int(match[1]), int(match[2])


def _read(cubin: bytes, what: str) -> str:
    """What cuobjdump says of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(cubin)
        return subprocess.run([tool, what, binary], capture_output=True, text=True, check=True).stdout
