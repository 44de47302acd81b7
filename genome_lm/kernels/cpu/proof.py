"""Whether a library of stages in C computes what their plain form does, which is tested before one is used."""

import ctypes
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels import sub_blocks
from genome_lm.kernels.cpu import flash, head, long_fft, mixer_proof, mlp, stages, streams
from genome_lm.kernels.cpu.low_precision import lowered
from genome_lm.kernels.cpu.mlp_amx import Int8MlpInTiles, MlpInTiles, may_use_tiles
from genome_lm.kernels.cpu.sub_blocks import MlpInC, gemm_of
from genome_lm.kernels.cpu.torch_private import has_complex_transforms

SHAPES = (3, 1, 1), (2, 3, 2), (2, 2, 1_025), (2, 1, 2_100)
"""Channels, sequences and positions: less than a tile of stages.c, and several."""
TOLERANCE = 5e-6
"""Largest difference from float64, relative to the largest value."""
ROUNDING = 4e-3
"""The same of stages that write bfloat16."""
MLP_ROUNDING = 2e-2
"""The same of the MLP with products in bfloat16 or integers, by norms."""
PIECE = 40
"""Rows of a piece of the MLP."""
MOST_ROUNDED = 1e-3
"""Share of integers that may differ from float64's."""
Given = Tensor | float | None


def cases(channels: int, sequences: int, length: int) -> dict[str, tuple[list[Given], list[int]]]:
    """What each stage is given, with rows of some at a distance, and the places of what it writes."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def row(*lead: int) -> Tensor:
        return drawn(*lead, sequences, length + 3)[..., :length]

    z, of_z = row(3, channels), drawn(3, channels, 1, 1)
    taps, tap_bias, skip = drawn(3, channels, 1, 3), drawn(3, channels, 1, 1), drawn(channels, 1, 1)
    a, b, c, d = (row(channels) for _ in range(4))
    carry = drawn(3, channels, 1, 2) if sequences == 1 else None
    kernel = drawn(channels, stages.MOST_TAPS)

    def turned(dtype: torch.dtype, of_results: torch.dtype) -> list[Given]:
        heads, width = channels, 6
        rows = drawn(sequences, length, 3 * heads * width + 1).to(dtype)[..., :-1]
        results = (drawn(sequences, heads, length, width).to(of_results).transpose(0, 1) for _ in range(3))
        return [rows, drawn(length, width), *results]

    def recalled(dtype: str) -> list[Given]:
        heads, width = 2, 2 * (9 + channels)
        rows, before = drawn(sequences, length + 1, 2 * width)[:, :length], drawn(sequences, 4, 2 * width)
        results = (drawn(heads, sequences, length, width // heads) for _ in range(3))
        if dtype:
            results = (each.bfloat16() for each in results)
        return [rows, before, drawn(5 * 2 * width), drawn(heads), 1e-4, *results]

    return {
        "gelu": ([3 * drawn(length, 37)], [0]),
        "quantise": ([drawn(length, 37), drawn(length, 37).to(torch.int8), torch.zeros(length)], [1, 2]),
        "gelu_quantise": (
            [99 * drawn(length, 37), drawn(length).abs(), drawn(37), drawn(length, 37).to(torch.int8)],
            [0, 1, 3],
        ),
        "dequantise": (
            [(999 * drawn(length, 37)).to(torch.int32), drawn(length), drawn(37), drawn(length, 37)],
            [3],
        ),
        "add_scaled": ([drawn(length, 37), drawn(length), drawn(37), drawn(length, 37), drawn(length, 37)], [4]),
        "gelu_backward": ([3 * drawn(length, 37), drawn(length, 37), torch.zeros(37)], [0, 1, 2]),
        "narrow_bfloat16": ([drawn(length, 40)[:, :37], drawn(length, 37).bfloat16()], [1]),
        "gelu_bfloat16": ([3 * drawn(length, 37).bfloat16()], [0]),
        "gelu_backward_bfloat16": (
            [3 * drawn(length, 37).bfloat16(), drawn(length, 37).bfloat16(), torch.zeros(37)],
            [0, 1, 2],
        ),
        "norm_bfloat16": (
            [drawn(length, 40)[:, :37], drawn(37), drawn(37), 1e-5, drawn(length, 37).bfloat16()],
            [4],
        ),
        "norm_backward": (
            [*(drawn(length, 40)[:, :37] for _ in range(3)), drawn(37), 1e-5, drawn(length, 37), *torch.zeros(3, 37)],
            [5, 6, 7, 8],
        ),
        "windowed": ([a[:, 0], -9 * drawn(channels).abs(), torch.linspace(0, 1, length), 0.05, b[:, 0]], [4]),
        "gates_in": ([z, of_z, taps, tap_bias, carry, a, b, None], [4, 5, 6]),
        "gates_in kept": ([z, of_z, taps, tap_bias, None, a, b, row(3, channels)], [5, 6, 7]),
        "gate_out": ([a, b, c, skip, d], [4]),
        "conv_inputs": ([z, a, taps, tap_bias, b, c], [4, 5]),
        "gate_backward": ([z, a, b, c, skip, taps, tap_bias, d, torch.zeros_like(skip)], [1, 7, 8]),
        "streams_backward": (
            [z, a, b, c, skip, taps, tap_bias, torch.zeros_like(taps), torch.zeros_like(tap_bias)],
            [0, 7, 8],
        ),
        "filtered": ([a, kernel, b], [2]),
        "filtered one tap": ([a, kernel[:, :1], b], [2]),
        "filtered_backward": ([a, kernel, b, c, torch.zeros_like(kernel)], [3, 4]),
        **{f"recall_streams{dtype}": (recalled(dtype), [5, 6, 7]) for dtype in ("", stages.BFLOAT16)},
        "rotary_streams": (turned(torch.float32, torch.float32), [2, 3, 4]),
        "rotary_streams_bfloat16": (turned(torch.float32, torch.bfloat16), [2, 3, 4]),
        "rotary_halves_bfloat16": (turned(torch.bfloat16, torch.bfloat16), [2, 3, 4]),
        "rotary_backward": (turned(torch.float32, torch.float32), [0]),
        "rotary_backward_bfloat16": (turned(torch.bfloat16, torch.bfloat16), [0]),
    }


def wrong(library: ctypes.CDLL, case: str, shape: tuple[int, int, int]) -> str:
    """What a library computes wrong in one of the `cases`; empty if nothing."""
    given, written = cases(*shape)[case]
    name = case.split()[0]
    exact = [each.double() if isinstance(each, Tensor) and each.is_floating_point() else each for each in given]
    exact = [each.clone() if isinstance(each, Tensor) else each for each in exact]
    plain = name.removesuffix(stages.BFLOAT16)
    getattr(streams if hasattr(streams, plain) else stages, plain).__wrapped__(*exact)
    stages.in_c(library, name, given)
    for place in written:
        got, expected = given[place], exact[place]
        if isinstance(got, Tensor) and isinstance(expected, Tensor):
            if got.dtype == torch.int8:  # a value half-way between two may become either
                if float((got != expected).double().mean()) > MOST_ROUNDED:
                    return f"{case} of {shape} gives other integers"
                continue
            difference, scale = float((got - expected).abs().max()), float(expected.abs().max())
            if not difference <= (ROUNDING if name.endswith(stages.BFLOAT16) else TOLERANCE) * scale:
                return f"{case} of {shape} differs by {difference:.1e} at values up to {scale:.1e}"
    return ""


MLP_WAYS = "float32", "bfloat16", "bfloat16 in tiles", "int8 in tiles"
"""What the products of the MLP are in."""


def wrong_mlp(library: ctypes.CDLL, way: str) -> str:
    """What a library computes wrong of the MLP in one of `MLP_WAYS`; empty if nothing."""
    torch.manual_seed(0)
    shapes = (150, 24), (24,), (24,), (50, 24), (50,), (24, 50), (24,)
    x, *given = (torch.randn(shape, requires_grad=True) for shape in shapes)
    exact = [each.detach().double().requires_grad_() for each in (x, *given)]
    y = mlp.residual_mlp_reference(exact[0], mlp.MlpWeights(*exact[1:]), 1e-5)
    with torch.no_grad():
        weights = mlp.MlpWeights(*(each.detach() for each in given))
        in_c = _mlp_in_c(library, way, weights)
        if in_c is None:
            return ""
        results = [torch.empty_like(x)]
        in_c.forward(x.detach(), results[0], PIECE)
        if not isinstance(in_c, Int8MlpInTiles):
            grad_x = torch.empty_like(x)
            results += [grad_x, *in_c.backward(x.detach(), y.detach().float().cos(), grad_x, PIECE)]
    expected = [y.detach(), *torch.autograd.grad(y, exact, y.detach().cos())][: len(results)]
    for got, want in zip(results, expected, strict=True):
        most = TOLERANCE if way == "float32" else MLP_ROUNDING
        if not float((got - want).norm()) <= most * float(want.norm()):
            return f"the MLP, products in {way}, is off by too much"
    return ""


def _mlp_in_c(library: ctypes.CDLL, way: str, weights: Any) -> MlpInC | MlpInTiles | Int8MlpInTiles | None:
    """What computes it; None where this process has no such products."""
    if way.endswith("in tiles") and not may_use_tiles(library):
        return None
    if way == "int8 in tiles":
        weights = weights._replace(w1=lowered(weights.w1, "int8"), w2=lowered(weights.w2, "int8"))
        return Int8MlpInTiles(library, weights, 1e-5)
    rounds = way != "float32"
    weights = mlp.for_products(weights, rounds)
    if way == "bfloat16 in tiles":
        return MlpInTiles(library, weights, 1e-5, goes_back=True)
    gemm = gemm_of(library, rounds)
    return None if gemm is None else MlpInC(library, gemm, weights, 1e-5)


def wrong_head(library: ctypes.CDLL, rows: int) -> str:
    """What a library computes wrong of the loss of so many rows; empty if nothing."""
    generator = torch.Generator().manual_seed(0)
    x, *weights = (torch.randn(shape, generator=generator) for shape in ((rows, 40), (40,), (40,), (16, 40)))
    scales, grad = torch.randn(2, rows, generator=generator)
    targets = torch.arange(rows, dtype=torch.int32) % head.SYMBOLS
    exact = [each.double().requires_grad_() for each in (x, *weights)]
    losses = sub_blocks.head_losses(exact[0], sub_blocks.HeadWeights(*exact[1:]), targets, scales.double(), 1e-5)
    in_c = head.HeadInC(library, weights, 1e-5)
    results = in_c.forward(x, targets, scales), *in_c.backward(x, targets, scales, grad)
    for got, want in zip(results, (losses, *torch.autograd.grad(losses, exact, grad.double())), strict=True):
        if not float((got - want).detach().abs().max()) <= TOLERANCE * float(want.detach().abs().max()):
            return f"the loss of {rows} rows is off by too much"
    return ""


def wrong_transforms(library: ctypes.CDLL, rows: int) -> str:
    """What a library computes wrong of convolutions by matrices of so many rows; empty if nothing."""
    if not has_complex_transforms():
        return ""
    generator, length = torch.Generator().manual_seed(0), rows * 48 - 7
    u, dc = torch.randn(2, 2, 2, length, generator=generator)
    h = torch.randn(2, length, generator=generator)
    in_steps = long_fft.LongTransform(library, length, (rows, 48))
    of_h = in_steps.spectrum(h)[:, None]
    product = in_steps.spectrum(u).mul_(of_h)
    results = in_steps.signal(product), in_steps.convolved(u, of_h), *in_steps.convolved_backward(u, dc, h)
    of_u, of_dc, of_filter = (torch.fft.rfft(each.double(), n=2 * length) for each in (u, dc, h[:, None]))
    exact = (
        torch.fft.irfft(product, n=2 * length)[..., :length]
        for product in (of_u * of_filter, of_dc * of_filter.conj(), (of_u.conj() * of_dc).sum(1))
    )
    c, du, dh = exact
    for got, want in zip(results, (c, c, c, du, dh), strict=True):
        if not float((got - want).abs().max()) <= TOLERANCE * float(want.abs().max()):
            return f"convolutions by matrices of {rows} rows are off by too much"
    return ""


def wrong_flash(library: ctypes.CDLL) -> str:
    """What a library computes wrong of causal attention in bfloat16; empty if nothing, or if there are no tiles."""
    if not may_use_tiles(library):
        return ""
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 2, 77, 24), (2, 1, 300, 40)):
        q, k, v, grad = (torch.randn(shape, generator=generator).bfloat16() for _ in range(4))
        exact = [x.double().requires_grad_() for x in (q, k, v)]
        y = F.scaled_dot_product_attention(exact[0], exact[1], exact[2], is_causal=True)
        expected = [y.detach(), *torch.autograd.grad((y * grad.double()).sum(), exact)]
        result, logs = flash.forward(library, q, k, v)
        results = [result, *flash.backward(library, q, k, v, result, logs, grad)]
        for got, want in zip(results, expected, strict=True):
            if not float((got - want).norm()) <= ROUNDING * float(want.norm()):
                return f"attention in bfloat16 of {shape} is off by too much"
    return ""


def main(file: str) -> str:
    """What the library in a file computes wrong; empty if nothing."""
    stages.COMPILED = False  # else a stage in plain form would compile a library, and wait for its proof, and so on
    library = ctypes.CDLL(file)
    reasons = (wrong(library, case, shape) for shape in SHAPES for case in cases(1, 1, 1))
    of_mlp = (wrong_mlp(library, way) for way in MLP_WAYS)
    of_mixer = (mixer_proof.wrong(library, rounds) for rounds in (False, True))
    of_transforms = (wrong_transforms(library, rows) for rows in (32, 64, 128))
    of_flash = map(wrong_flash, [library])
    of_head = (wrong_head(library, rows) for rows in (3, 1_234))
    return next(filter(None, chain(reasons, of_mlp, of_mixer, of_transforms, of_flash, of_head)), "")
