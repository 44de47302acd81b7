"""Triton kernels over rows: norm and residual sum, GELU and its bias, the head's loss, forward and backward.

A row is a position: its channels, or those of the MLP's hidden layer, lie side by side. A program takes a tile of
rows. The sums over all rows, which are the gradients of weights and biases, are left as one part per program, so that
they are the same in every run. All arithmetic is float32, whatever the dtype that is read and written.

Needs triton; `genome_lm.kernels.triton.row_launch` imports this module on first use.
"""

import triton
import triton.language as tl

from genome_lm.kernels.triton.conv import _cast, _kernel, _real

TOKENS = tl.constexpr(16)
"""Rows of the embedding, which is the head."""


@triton.jit
def _rows_of(tile, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows (ROWS, 1), columns (1, COLUMNS) and places of a tile of whole rows."""
    row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    return row, column, row * columns + column


@triton.jit
def _part_of(tile, block, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The same for a tile of a block of columns."""
    row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = block * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return row, column, row * columns + column


@triton.jit
def _standard(value, is_column, columns, eps):
    """Rows at mean 0 and variance 1, zero beyond their columns, and the factor that made the variance 1."""
    centred = tl.where(is_column, value - tl.sum(value, axis=1, keep_dims=True) / columns, 0.0)
    factor = tl.rsqrt(tl.sum(centred * centred, axis=1, keep_dims=True) / columns + eps)
    return centred * factor, factor


@triton.jit
def _through_norm(gradient, standard, factor, columns):
    """The gradient of rows in front of `_standard` from the one behind it."""
    mean = tl.sum(gradient, axis=1, keep_dims=True) / columns
    along = tl.sum(gradient * standard, axis=1, keep_dims=True) / columns
    return factor * (gradient - mean - standard * along)


@triton.jit
def _store_sums(sums, number, total, column, columns):
    """The sum over a tile's rows as a row of `sums`."""
    at = number * columns + column
    tl.store(sums + at, tl.sum(total, axis=0, keep_dims=True), mask=column < columns)


@_kernel
def norm_rows(
    x, branch, bias, weight, shift, total, normed, rows, columns, eps,
    ADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """normed = norm(total) · weight + shift, total = x + branch + bias; without ADDED of x itself.

    x, branch, total, normed: (rows, columns); bias, weight, shift: (columns,).
    """
    row, column, at = _rows_of(tl.program_id(0), columns, ROWS, COLUMNS)
    is_column = column < columns
    inside = (row < rows) & is_column
    value = _real(x + at, inside)
    if ADDED:
        value += _real(branch + at, inside) + _real(bias + column, is_column)
        rounded = _cast(value, total.dtype.element_ty)
        tl.store(total + at, rounded, mask=inside)
        value = rounded.to(tl.float32)
    standard, _ = _standard(value, is_column, columns, eps)
    result = standard * _real(weight + column, is_column) + _real(shift + column, is_column)
    tl.store(normed + at, _cast(result, normed.dtype.element_ty), mask=inside)


@_kernel
def norm_rows_backward(
    x, grad_normed, grad, weight, shift, grad_x, rounded, normed, sums, rows, columns, eps, per_program,
    ROUNDED: tl.constexpr, NORMED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """grad_x = grad + what comes back through the norm of x from grad_normed; `per_program` tiles a program.

    With ROUNDED also grad_x in another dtype, with NORMED also the norm's output. sums: (programs, 3, columns)
    float32, parts of the gradients of weight and shift, and of the sum of grad_x.
    """
    first = tl.program_id(0) * per_program
    column = tl.arange(0, COLUMNS)[None, :]
    is_column = column < columns
    scale, offset = _real(weight + column, is_column), _real(shift + column, is_column)
    to_weight, to_shift, of_x = (tl.zeros((ROWS, COLUMNS), tl.float32),) * 3
    for i in range(per_program):
        row, _, at = _rows_of(first + i, columns, ROWS, COLUMNS)
        inside = (row < rows) & is_column
        standard, factor = _standard(_real(x + at, inside), is_column, columns, eps)
        gradient = _real(grad_normed + at, inside)
        to_weight += gradient * standard
        to_shift += gradient
        result = _real(grad + at, inside) + _through_norm(gradient * scale, standard, factor, columns)
        tl.store(grad_x + at, _cast(result, grad_x.dtype.element_ty), mask=inside)
        of_x += tl.where(inside, result, 0.0)
        if ROUNDED:
            tl.store(rounded + at, _cast(result, rounded.dtype.element_ty), mask=inside)
        if NORMED:
            tl.store(normed + at, _cast(standard * scale + offset, normed.dtype.element_ty), mask=inside)
    number = tl.program_id(0).to(tl.int64) * 3
    _store_sums(sums, number, to_weight, column, columns)
    _store_sums(sums, number + 1, to_shift, column, columns)
    _store_sums(sums, number + 2, of_x, column, columns)


@triton.jit
def _gelu(x):
    """The tanh form of GELU and its derivative: x · σ(2p) with p = √(2/π) · (x + 0.044715 x³)."""
    square = x * x
    # −2p/ln 2 = x · (a + b x²): a power of two takes one instruction less than one of e.
    share = 1.0 / (1.0 + tl.exp2(x * (-2.302208198144325 - 0.10294323957002349 * square)))
    value = x * share
    return value, share + (value - value * share) * (1.5957691216057308 + 0.21406444881780073 * square)


@_kernel
def gelu_rows(
    hidden, bias, rows, columns, blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """In place: hidden, (rows, columns), becomes gelu(hidden + bias); `blocks` of columns."""
    row, column, at = _part_of(tl.program_id(0) // blocks, tl.program_id(0) % blocks, columns, ROWS, COLUMNS)
    inside = (row < rows) & (column < columns)
    value, _ = _gelu(_real(hidden + at, inside) + _real(bias + column, column < columns))
    tl.store(hidden + at, _cast(value, hidden.dtype.element_ty), mask=inside)


@_kernel
def gelu_rows_backward(
    hidden, grad, bias, sums, rows, columns, blocks, per_program, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """In place: hidden becomes gelu(hidden + bias), and grad, of that, the gradient of hidden.

    sums: (programs of a block of columns, columns) float32, parts of the gradient of the bias.
    """
    block, part = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    column = block * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    shift = _real(bias + column, column < columns)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for i in range(per_program):
        row, _, at = _part_of(part * per_program + i, block, columns, ROWS, COLUMNS)
        inside = (row < rows) & (column < columns)
        value, slope = _gelu(_real(hidden + at, inside) + shift)
        gradient = _real(grad + at, inside) * slope
        total += gradient
        tl.store(hidden + at, _cast(value, hidden.dtype.element_ty), mask=inside)
        tl.store(grad + at, _cast(gradient, grad.dtype.element_ty), mask=inside)
    _store_sums(sums, part.to(tl.int64), total, column, columns)


@_kernel
def round_rows(
    x, rounded, sums, rows, columns, blocks, per_program,
    ROUNDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums over the rows of x, (rows, columns), parts as in `gelu_rows_backward`; with ROUNDED x in another dtype."""
    block, part = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    column = block * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for i in range(per_program):
        row, _, at = _part_of(part * per_program + i, block, columns, ROWS, COLUMNS)
        inside = (row < rows) & (column < columns)
        value = _real(x + at, inside)
        total += value
        if ROUNDED:
            tl.store(rounded + at, _cast(value, rounded.dtype.element_ty), mask=inside)
    _store_sums(sums, part.to(tl.int64), total, column, columns)


@triton.jit
def _logits(normed, embedding, column, columns, ROWS: tl.constexpr):
    """(ROWS, TOKENS): each row times each of the embedding's."""
    logits = tl.zeros((ROWS, TOKENS), tl.float32)
    for token in range(TOKENS):  # a loop to the compiler, which would hold all vectors in registers at one time
        vector = _real(embedding + token * columns + column, column < columns)
        of_token = tl.sum(normed * vector, axis=1, keep_dims=True)
        logits = tl.where(tl.arange(0, TOKENS)[None, :] == token, of_token, logits)
    return logits


@_kernel
def head_rows(
    x, weight, shift, embedding, targets, weights, losses, rows, columns, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Weighted cross-entropy of each row's target, from the final norm and the tied head.

    x: (rows, columns); weight, shift: (columns,); embedding: (TOKENS, columns); targets: (rows,) of any integers;
    weights, losses: (rows,) float32.
    """
    row, column, at = _rows_of(tl.program_id(0), columns, ROWS, COLUMNS)
    is_column, is_row = column < columns, row < rows
    standard, _ = _standard(_real(x + at, is_row & is_column), is_column, columns, eps)
    normed = standard * _real(weight + column, is_column) + _real(shift + column, is_column)
    logits = _logits(normed, embedding, column, columns, ROWS)
    logits -= tl.max(logits, axis=1, keep_dims=True)
    target = tl.load(targets + row, mask=is_row, other=0).to(tl.int32)
    of_target = tl.where(tl.arange(0, TOKENS)[None, :] == target, logits, 0.0)
    loss = tl.log(tl.sum(tl.exp(logits), axis=1, keep_dims=True)) - tl.sum(of_target, axis=1, keep_dims=True)
    tl.store(losses + row, loss * _real(weights + row, is_row), mask=is_row)


@_kernel
def head_rows_backward(
    x, weight, shift, embedding, targets, weights, grad, grad_x, sums, counts, rows, columns, eps, per_program,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Back from the gradients of `head_rows`' losses, grad (rows,), to x; `per_program` tiles a program.

    sums: (programs, TOKENS, columns) and counts: (programs, TOKENS) float32, parts of Σ dᵀ · s and Σ d over the rows,
    with d the gradient of the logits and s the rows at mean 0 and variance 1. The gradients of weight, shift and
    embedding follow from these, which take fewer registers than they.
    """
    column, token = tl.arange(0, COLUMNS)[None, :], tl.arange(0, TOKENS)
    is_column = column < columns
    scale, offset = _real(weight + column, is_column), _real(shift + column, is_column)
    total, count = tl.zeros((TOKENS, COLUMNS), tl.float32), tl.zeros((ROWS, TOKENS), tl.float32)
    for i in range(per_program):
        row, _, at = _rows_of(tl.program_id(0) * per_program + i, columns, ROWS, COLUMNS)
        is_row = row < rows
        standard, factor = _standard(_real(x + at, is_row & is_column), is_column, columns, eps)
        logits = _logits(standard * scale + offset, embedding, column, columns, ROWS)
        share = tl.exp(logits - tl.max(logits, axis=1, keep_dims=True))
        share /= tl.sum(share, axis=1, keep_dims=True)
        target = tl.load(targets + row, mask=is_row, other=0).to(tl.int32)
        of_loss = _real(weights + row, is_row) * _real(grad + row, is_row)
        of_logits = (share - tl.where(token[None, :] == target, 1.0, 0.0)) * of_loss
        count += of_logits
        total = tl.dot(tl.trans(of_logits), standard, acc=total, input_precision="tf32x3")
        vectors = _real(embedding + token[:, None] * columns + column, is_column & (token[:, None] < TOKENS))
        gradient = tl.dot(of_logits, vectors, input_precision="tf32x3")
        result = _through_norm(gradient * scale, standard, factor, columns)
        tl.store(grad_x + at, _cast(result, grad_x.dtype.element_ty), mask=is_row & is_column)
    number = tl.program_id(0).to(tl.int64) * TOKENS + token
    tl.store(sums + number[:, None] * columns + column, total, mask=is_column & (token[:, None] < TOKENS))
    tl.store(counts + number, tl.sum(count, axis=0))
