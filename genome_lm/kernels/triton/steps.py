"""What a model does with one token of each sequence, in Triton: as `genome_lm.kernels.steps`, one launch each.

Weights are read once per 16 sequences, which is what a step costs at the least; all else is in registers. Sums are in
float32 without TF32. Written for CUDA graphs: nothing waits, and places are read from the device.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from genome_lm.alphabet import NUCLEOTIDES
from genome_lm.kernels.steps import Convolved, Draws

ROWS = 16
"""Sequences of a program: the least of a product of tiles."""
COLUMNS = 16
"""Outputs of a program, few, so that a single sequence keeps many of a GPU's processors at work."""
DEPTH = 64
"""Inputs that are summed at one time."""
ELEMENTS = 512
"""Of a program that pushes a block."""


@triton.jit
def _moments(x, rows, inside, eps, D: tl.constexpr, DEPTH: tl.constexpr):
    """Mean and reciprocal deviation of rows of x."""
    total = tl.zeros_like(rows).to(tl.float32)
    for first in range(0, D, DEPTH):
        k = first + tl.arange(0, DEPTH)
        at = inside[:, None] & (k < D)[None, :]
        total += tl.sum(tl.load(x + rows[:, None] * D + k[None, :], mask=at, other=0.0), 1)
    mean = total / D
    squares = tl.zeros_like(total)
    for first in range(0, D, DEPTH):
        k = first + tl.arange(0, DEPTH)
        at = inside[:, None] & (k < D)[None, :]
        value = tl.load(x + rows[:, None] * D + k[None, :], mask=at, other=0.0) - mean[:, None]
        squares += tl.sum(tl.where(at, value * value, 0.0), 1)
    return mean, 1.0 / tl.sqrt(squares / D + eps)


@triton.jit
def _normed(x, rows, inside, k, mean, scale, norm_weight, norm_bias, D: tl.constexpr):
    """A tile of the normed rows at the channels k; zero beyond D."""
    value = tl.load(x + rows[:, None] * D + k[None, :], mask=inside[:, None] & (k < D)[None, :], other=0.0)
    weight = tl.load(norm_weight + k, mask=k < D, other=0.0)
    bias = tl.load(norm_bias + k, mask=k < D, other=0.0)
    return (value - mean[:, None]) * scale[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def _weights(weight, columns, k, N: tl.constexpr, K: tl.constexpr):
    """A tile of a (N, K) weight, turned: (k, columns)."""
    at = (k < K)[:, None] & (columns < N)[None, :]
    return tl.load(weight + columns[None, :] * K + k[:, None], mask=at, other=0.0)


@triton.jit
def _block(count, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns of this program, which rows exist, and which elements."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    return rows, columns, rows < count, (rows < count)[:, None] & (columns < N)[None, :]


@triton.jit(do_not_specialize=["count"])
def normed_linear_kernel(
    x, norm_weight, norm_bias, weight, bias, out, count, eps,
    D: tl.constexpr, N: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """See `normed_linear`; a program per block of columns and of rows."""
    rows, columns, inside, at = _block(count, N, ROWS, COLUMNS)
    mean, scale = _moments(x, rows, inside, eps, D, DEPTH)
    y = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, D, DEPTH):
        k = first + tl.arange(0, DEPTH)
        part = _normed(x, rows, inside, k, mean, scale, norm_weight, norm_bias, D)
        y = tl.dot(part, _weights(weight, columns, k, N, D), y, input_precision="ieee")
    if BIAS:
        y += tl.load(bias + columns, mask=columns < N, other=0.0)[None, :]
    if GELU:
        # v · (1 + tanh(a)) / 2 = v · sigmoid(2a)
        y = y * tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))
    tl.store(out + rows[:, None] * N + columns[None, :], y, mask=at)


@triton.jit(do_not_specialize=["count"])
def add_linear_kernel(
    x, y, weight, bias, out, count,
    D: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """See `add_linear`; a program per block of columns and of rows."""
    rows, columns, inside, at = _block(count, D, ROWS, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, N, DEPTH):
        k = first + tl.arange(0, DEPTH)
        part = tl.load(y + rows[:, None] * N + k[None, :], mask=inside[:, None] & (k < N)[None, :], other=0.0)
        total = tl.dot(part, _weights(weight, columns, k, D, N), total, input_precision="ieee")
    total += tl.load(bias + columns, mask=columns < D, other=0.0)[None, :]
    place = rows[:, None] * D + columns[None, :]
    tl.store(out + place, total + tl.load(x + place, mask=at, other=0.0), mask=at)


@triton.jit
def _through_short(z, stream, bias, tap, tails, short, step, rows, columns, at, D: tl.constexpr, TAPS: tl.constexpr):
    """A stream (0: x0, 1: x1, 2: v) behind its short convolution, whose state goes on by one position.

    Rows of the state are `step` apart. Barriers keep other threads from writing what one has yet to read.
    """
    channel = stream * D + columns
    exists = columns < D
    z += tl.load(bias + channel, mask=exists, other=0.0)[None, :]
    place = short + rows[:, None] * (3 * D) + channel[None, :]
    value = tl.load(place, mask=at, other=0.0) + tl.load(tap + channel, mask=exists, other=0.0)[None, :] * z
    for later in tl.static_range(TAPS - 1):
        by = tl.load(tails + later * (3 * D) + channel, mask=exists, other=0.0)
        coming = tl.load(place + (later + 1) * step, mask=at, other=0.0) + by[None, :] * z
        tl.debug_barrier()
        tl.store(place + later * step, coming, mask=at)
    return value


@triton.jit(do_not_specialize=["count", "short_step", "block_step", "width"])
def convolved_kernel(
    x, norm_weight, norm_bias, weight, bias, tap, tails, short, block, place, diagonal, u, out,
    count, eps, short_step, block_step, width,
    D: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """See `convolved`; a program per block of channels, in all three streams, and of rows."""
    rows, columns, inside, at = _block(count, D, ROWS, COLUMNS)
    mean, scale = _moments(x, rows, inside, eps, D, DEPTH)
    z0 = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    z1 = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    z2 = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, D, DEPTH):
        k = first + tl.arange(0, DEPTH)
        part = _normed(x, rows, inside, k, mean, scale, norm_weight, norm_bias, D)
        z0 = tl.dot(part, _weights(weight, columns, k, D, D), z0, input_precision="ieee")
        z1 = tl.dot(part, _weights(weight + D * D, columns, k, D, D), z1, input_precision="ieee")
        z2 = tl.dot(part, _weights(weight + 2 * D * D, columns, k, D, D), z2, input_precision="ieee")
    x0 = _through_short(z0, 0, bias, tap, tails, short, short_step, rows, columns, at, D, TAPS)
    x1 = _through_short(z1, 1, bias, tap, tails, short, short_step, rows, columns, at, D, TAPS)
    v = _through_short(z2, 2, bias, tap, tails, short, short_step, rows, columns, at, D, TAPS)
    # Long convolutions of all layers lie side by side, `width` of them per sequence.
    here = rows[:, None].to(tl.int64) * width + columns[None, :]
    y = tl.load(block + tl.load(place) * block_step + here, mask=at, other=0.0)
    tl.store(u + here, x1 * v, mask=at)
    y += x1 * v * tl.load(diagonal + columns, mask=columns < D, other=0.0)[None, :]
    tl.store(out + rows[:, None] * D + columns[None, :], x0 * y, mask=at)


@triton.jit(do_not_specialize=["size", "channels"])
def push_block_kernel(block, place, taps, u, size, channels, N: tl.constexpr, ELEMENTS: tl.constexpr):
    """See `push_block`; a program per row of the block and some of its elements."""
    row, now = tl.program_id(1), tl.load(place)
    if row >= now:
        at = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
        here = block + row.to(tl.int64) * size + at
        value = tl.load(u + at, mask=at < size, other=0.0)
        if row > now:
            by = tl.load(taps + (N + row - now) * channels + at % channels, mask=at < size, other=0.0)
            value = tl.load(here, mask=at < size, other=0.0) + by * value
        tl.store(here, value, mask=at < size)


@triton.jit(do_not_specialize=["count"])
def drawn_kernel(
    logits, numbers, settings, place, tokens, log_likelihoods, ids, count,
    TOP_K: tl.constexpr, GREEDY: tl.constexpr, FIRST: tl.constexpr, HEAD: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """See `drawn`; a program per block of rows. The bases are four rows of the head, from FIRST on."""
    rows, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HEAD)
    inside, here = rows < count, tl.load(place) * count + rows
    score = tl.load(logits + rows[:, None] * HEAD + column[None, :], mask=inside[:, None], other=0.0).to(tl.float64)
    is_base = ((column >= FIRST) & (column < FIRST + 4))[None, :]
    best = tl.max(tl.where(is_base, score, float("-inf")), 1)
    if GREEDY:
        base = tl.min(tl.where(is_base & (score == best[:, None]), column[None, :], HEAD), 1)
    else:
        chance = tl.where(is_base, tl.exp((score - best[:, None]) / tl.load(settings)), 0.0)
        share = chance / tl.sum(chance, 1)[:, None]
        # Of each base, those that are likelier, or as likely and before it.
        one, other = share[:, :, None], share[:, None, :]
        likelier = (other > one) | ((other == one) & (column[None, None, :] < column[None, :, None]))
        likelier = likelier & ((column >= FIRST) & (column < FIRST + 4))[None, None, :]
        is_kept = tl.sum(tl.where(likelier, other, 0.0), 2) < tl.load(settings + 1)
        is_kept = is_kept & (tl.sum(likelier.to(tl.int32), 2) < TOP_K)
        edges = tl.cumsum(tl.where(is_kept, chance, 0.0), 1)
        level = tl.load(numbers + here, mask=inside, other=0.0) * tl.max(edges, 1)
        base = FIRST + tl.sum((is_base & (edges <= level[:, None])).to(tl.int32), 1)
    greatest = tl.max(score, 1)
    log_sum = greatest + tl.log(tl.sum(tl.exp(score - greatest[:, None]), 1))
    likelihood = tl.sum(tl.where(column[None, :] == base[:, None], score, 0.0), 1) - log_sum
    tl.store(ids + rows, base.to(tl.int64), mask=inside)
    tl.store(tokens + here, base.to(tl.uint8), mask=inside)
    tl.store(log_likelihoods + here, likelihood.to(tl.float32), mask=inside)


def normed_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """As `genome_lm.kernels.steps.normed_linear`, of contiguous float32."""
    (rows, width), outputs = x.shape, len(weight)
    y = x.new_empty(rows, outputs)
    launch(
        normed_linear_kernel, _grid(outputs, rows),
        x, norm.weight, norm.bias, weight, weight if bias is None else bias, y, rows, norm.eps,
        D=width, N=outputs, BIAS=bias is not None, GELU=gelu, **tiles(),
    )  # fmt: skip
    return y


def add_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `genome_lm.kernels.steps.add_linear`, of contiguous float32."""
    out = torch.empty_like(x)
    grid = _grid(x.shape[1], len(x))
    launch(
        add_linear_kernel, grid, x, y, weight, bias, out, len(x), D=x.shape[1], N=y.shape[1], **tiles()
    )  # fmt: skip
    return out


def convolved(x: Tensor, norm: nn.LayerNorm, layer: Convolved) -> Tensor:
    """As `genome_lm.kernels.steps.convolved`, of float32; rows of `block` and of `u` are equally far apart."""
    out = torch.empty_like(x)
    taps, rows = layer.short.shape[:2]
    launch(
        convolved_kernel, _grid(x.shape[1], rows),
        x, norm.weight, norm.bias, *layer, out, rows, norm.eps,
        layer.short.stride(0), layer.block.stride(0), layer.u.stride(0), D=x.shape[1], TAPS=taps, **tiles(),
    )  # fmt: skip
    return out


def push_block(block: Tensor, place: Tensor, taps: Tensor, u: Tensor) -> None:
    """As `genome_lm.kernels.steps.push_block`, of contiguous float32."""
    grid = triton.cdiv(u.numel(), ELEMENTS), len(block)
    launch(push_block_kernel, grid, block, place, taps, u, u.numel(), u.shape[1], N=len(block), ELEMENTS=ELEMENTS)


def drawn(logits: Tensor, draws: Draws) -> Tensor:
    """As `genome_lm.kernels.steps.drawn`, of contiguous float32; another launch goes on to the next position."""
    rows, head = logits.shape
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    launch(
        drawn_kernel, (triton.cdiv(rows, ROWS),),
        logits, draws.numbers, draws.settings, draws.place, draws.tokens, draws.log_likelihoods, ids, rows,
        TOP_K=draws.top_k, GREEDY=draws.is_greedy, FIRST=NUCLEOTIDES[0], HEAD=head, ROWS=ROWS,
    )  # fmt: skip
    draws.place.add_(1)
    return ids


def launch(kernel: Any, grid: tuple[int, ...], *operands: Any, **constants: Any) -> None:
    """Launch a kernel on the device of its first operand."""
    with torch.cuda.device_of(operands[0]):
        kernel[grid](*operands, **constants)


def _grid(outputs: int, rows: int) -> tuple[int, int]:
    return triton.cdiv(outputs, COLUMNS), triton.cdiv(rows, ROWS)


def tiles() -> dict[str, int]:
    """Compile-time constants of the kernels that multiply."""
    return {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH}
