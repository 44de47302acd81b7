"""Triton kernels of the MLP's first product of matrices with the GELU, forward and backward.

A row is a position. Operands are bfloat16 or float16, sums and what follows the products are float32. Programs that
share rows are neighbours, so that memory is read once; the weights stay in L2.

Needs triton; `genome_lm.kernels.triton.product_launch` imports this module on first use.
"""

import triton
import triton.language as tl

from genome_lm.kernels.triton.conv import INTERPRETED, _cast, _kernel, _real
from genome_lm.kernels.triton.rows import _gelu, _store_sums


@triton.jit
def _operand(pointer, mask):
    """A tile of an operand, zero where masked. The interpreter can't multiply bfloat16, so there it is widened."""
    value = tl.load(pointer, mask=mask, other=0.0)
    return value.to(tl.float32) if INTERPRETED else value


@triton.jit
def _times(
    x, weight, row, column, rows, columns, depth, along, across, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Σ_k x[row, k] · w[k, column] in float32; x: (rows, depth), w with strides (along, across)."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    k = tl.arange(0, STEP)
    left, right = x + row * depth + k[None, :], weight + k[:, None] * along + column * across
    for first in range(0, depth, STEP):
        values = _operand(left, (row < rows) & (first + k[None, :] < depth))
        total = tl.dot(values, _operand(right, (first + k[:, None] < depth) & (column < columns)), acc=total)
        left += STEP
        right += STEP * along
    return total


@triton.jit
def _tile(rows, blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """First row of a program's tile, its rows (ROWS, 1) from there on and columns (1, COLUMNS), and rows left.

    Places within a tile have 32 bits, which take half the registers of those within the whole.
    """
    start = (tl.program_id(0) // blocks).to(tl.int64) * ROWS
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return start, tl.arange(0, ROWS)[:, None], column, (rows - start).to(tl.int32)


@_kernel
def linear_gelu(
    x, weight, bias, out, rows, columns, depth, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """out = gelu(x · weightᵀ + bias).

    x: (rows, depth); weight: (columns, depth); bias: (columns,); out: (rows, columns); `blocks` of columns.
    """
    start, row, column, left = _tile(rows, blocks, ROWS, COLUMNS)
    value = _times(x + start * depth, weight, row, column, left, columns, depth, 1, depth, ROWS, COLUMNS, STEP)
    value, _ = _gelu(value + _real(bias + column, column < columns))
    inside, at = (row < left) & (column < columns), row * columns + column
    tl.store(out + start * columns + at, _cast(value, out.dtype.element_ty), mask=inside)


@_kernel
def linear_gelu_backward(
    x, w1, bias, grad, w2, hidden, grad_hidden, sums, rows, columns, depth, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """hidden = gelu(a), a = x · w1ᵀ + bias, and grad_hidden, the gradient of a, from that of hidden · w2ᵀ.

    x, grad: (rows, depth); w1: (columns, depth); w2: (depth, columns); bias: (columns,); hidden, grad_hidden: (rows,
    columns); `blocks` of columns. sums: (blocks of rows, columns) float32, parts of the gradient of the bias.
    """
    start, row, column, left = _tile(rows, blocks, ROWS, COLUMNS)
    value = _times(x + start * depth, w1, row, column, left, columns, depth, 1, depth, ROWS, COLUMNS, STEP)
    gradient = _times(grad + start * depth, w2, row, column, left, columns, depth, columns, 1, ROWS, COLUMNS, STEP)
    value, slope = _gelu(value + _real(bias + column, column < columns))
    gradient *= slope  # zero in rows beyond the last
    inside, at = (row < left) & (column < columns), row * columns + column
    tl.store(hidden + start * columns + at, _cast(value, hidden.dtype.element_ty), mask=inside)
    tl.store(grad_hidden + start * columns + at, _cast(gradient, grad_hidden.dtype.element_ty), mask=inside)
    _store_sums(sums, start // ROWS, gradient, column, columns)
