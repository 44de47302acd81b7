"""Triton kernels of the gated causal convolution as products with Toeplitz matrices, for short sequences.

y = x0 · (h' ∗ u), u = x1 · v, with short convolutions before the gates as in `genome_lm.kernels.triton.conv`. h' is
the long filter with the weight of the skip added to its first number, so that the skip costs no operations.

**Products.** In tiles of T positions, the convolution is a product of rows of u with the Toeplitz matrix of the
filter: (h' ∗ u)[r + n] = Σ_k u[r + o + k] · h'[n − k − o], summed over offsets o in steps of STEP. The matrix depends
on o alone. A program has `SEQUENCES` sequences of one channel, and multiplies `TILES` tiles next to each other of all
of them at the same time: SEQUENCES · TILES rows, which fill the instructions of tensor cores where a batch is small
too. The gradient of u is the same with the transposed matrix. The gradient of the filter is a product of the columns
of u with those of dc = dy · x0, summed along its diagonals.

**Table.** Any row of a Toeplitz matrix is the filter from some place on. `toeplitz_table` writes the filter eight
times, shifted by 0 to 7 places. A row begins at a multiple of eight numbers in one of the copies, so that it is
loaded in vectors.

**Passes of a program.** First it gates the inputs and writes u (backward: and dc) in bfloat16 into a workspace. Then
come the products, whose results take the places of their operands: of the convolution from the last positions to the
first, of its adjoint from the first to the last. In the end it gates the results. What passes through the workspace
stays in L2, since the sequences of the programs that run at a time fit into it.

**Passes over elements.** A thread has segments of eight neighbouring positions, so that the streams are loaded in
vectors and the short convolutions find their neighbours in registers.

Products are of bfloat16, and sums are float32. u, dc, c = h' ∗ u and du are rounded to bfloat16 between the passes.
"""

import triton
import triton.language as tl

from genome_lm.kernels.triton.conv import (
    INTERPRETED,
    _absent,
    _before_taps,
    _cast,
    _columns_of,
    _joined,
    _kernel,
    _numbers,
    _octets,
    _taps,
    _times,
)

WIDE = tl.constexpr(8)
"""Positions of a segment, and copies of the filter in a table."""


@_kernel
def toeplitz_table(h, skip, table, length, width, first, BLOCK: tl.constexpr):
    """The table of a filter, with the weight of the skip at lag zero: a block of one copy of one channel a program.

    h: (D, L) contiguous; skip: (D,) float32; table: (D, 8, width) bfloat16. Copy s holds lag x + s − first at x,
    and zero where there is no such lag.
    """
    blocks = tl.cdiv(width, BLOCK)
    copy, x = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    channel = (copy // WIDE).to(tl.int64)
    lag = x + copy % WIDE - first
    value = tl.load(h + channel * length + lag, mask=(lag >= 0) & (lag < length), other=0.0).to(tl.float32)
    value += tl.where(lag == 0, tl.load(skip + channel), 0.0)
    tl.store(table + copy.to(tl.int64) * width + x, _cast(value, table.dtype.element_ty), mask=x < width)


@triton.jit
def _rows(pointer, mask):
    """Rows of a workspace, zero where masked. The interpreter can't multiply bfloat16, so there it is widened."""
    value = tl.load(pointer) if mask is None else tl.load(pointer, mask=mask, other=0.0)
    return value.to(tl.float32) if INTERPRETED else value


@triton.jit
def _matrix(pointer):
    """A Toeplitz matrix, of which a processor's first level of caches holds the numbers."""
    value = tl.load(pointer, cache_modifier=".ca")
    return value.to(tl.float32) if INTERPRETED else value


@triton.jit
def _segment(row, at, inside, length):
    """The columns of segments that begin at the positions `at` of the rows; zero beyond the length."""
    place = _octets(at)
    value = tl.load(row[:, None] + place, mask=inside[:, None] & (place < length), other=0.0)
    return _columns_of(value.to(tl.float32))


@triton.jit
def _store_segment(row, at, inside, length, values):
    """The inverse of `_segment`."""
    place = _octets(at)
    value = _cast(_joined(values, 8), row.dtype.element_ty)
    tl.store(row[:, None] + place, value, mask=inside[:, None] & (place < length))


@triton.jit
def _weights(short, stream, channel, channels, TAPS: tl.constexpr):
    """Weights and both biases of one channel of a stream, a number each; see `conv._taps`."""
    numbers = ()
    if TAPS > 0:
        numbers = _numbers(_taps(short, stream, channel, channels, TAPS), TAPS)
    return numbers


@triton.jit
def _raw(row, weights, at, there, length, AHEAD: tl.constexpr, TAPS: tl.constexpr):
    """A stream from TAPS − 1 positions before its segments to AHEAD positions behind them, a column each.

    Before the sequence it is what is zero with the stream's bias.
    """
    columns = ()
    if TAPS > 1:
        absent = _absent(row, weights[TAPS + 1])
        for back in tl.static_range(1, TAPS):
            place = at + (back - TAPS)
            inside = there & (place >= 0) & (place < length)
            columns = columns + (tl.load(row + place, mask=inside, other=absent).to(tl.float32),)
    return columns + _ahead(row, at, there, length, AHEAD)


@triton.jit
def _ahead(row, at, there, length, AHEAD: tl.constexpr):
    """The columns of segments and of AHEAD positions behind them; zero beyond the length."""
    columns = _segment(row, at, there, length)
    for ahead in tl.static_range(AHEAD):
        place = at + (8 + ahead)
        columns = columns + (tl.load(row + place, mask=there & (place < length), other=0.0).to(tl.float32),)
    return columns


@triton.jit
def _convolved(raw, weights, AHEAD: tl.constexpr, TAPS: tl.constexpr):
    """What `_raw` gives behind its short convolution, the segment's columns and AHEAD more.

    Beyond the length it is anything finite.
    """
    if TAPS > 0:
        columns = ()
        for column in tl.static_range(8 + AHEAD):
            value = weights[TAPS] + weights[0] * raw[column]
            for tap in tl.static_range(1, TAPS):
                value += weights[tap] * raw[column + tap]
            columns = columns + (value,)
    else:
        columns = raw
    return columns


@triton.jit
def _stream(row, weights, at, there, length, TAPS: tl.constexpr):
    """Segments of a stream behind its short convolution."""
    return _convolved(_raw(row, weights, at, there, length, 0, TAPS), weights, 0, TAPS)


@triton.jit
def _turn(turn, first, batch, SEQUENCES: tl.constexpr, SEGMENTS: tl.constexpr, N: tl.constexpr):
    """The N segments of a turn: their sequences and first positions, and which of the sequences there are."""
    number = turn * N + tl.arange(0, N)
    within, at = number // SEGMENTS, number % SEGMENTS * 8
    return (first + within).to(tl.int64), at, (within < SEQUENCES) & (first + within < batch)


@triton.jit
def _multiply(
    work, table, channel, first, batch, channels, width, pitch, start, offset, steps,
    SEQUENCES: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, STEP: tl.constexpr, ADJOINT: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """TILES tiles from `start` on of all sequences, into their own place: their products with the filter.

    They are summed over `steps` offsets from `offset` on downwards. With ADJOINT these go upwards, and the matrices
    are transposed.
    """
    row = tl.arange(0, SEQUENCES * TILES)[:, None]
    sequence, begin = first + row // TILES, start + row % TILES * T
    there = sequence < batch
    place = work + (sequence.to(tl.int64) * channels + channel) * pitch
    n, k = tl.arange(0, T), tl.arange(0, STEP)
    table += channel * WIDE * width
    if ADJOINT:
        above = (n + 7) // 8 * 8
        matrix = table + ((above - n) * width + (T - above))[:, None] + k[None, :]
    else:
        above = (k + 7) // 8 * 8
        matrix = table + ((above - k) * width + (T - above))[:, None] + n[None, :]
    total = tl.zeros((SEQUENCES * TILES, T), tl.float32)
    for step in range(steps):
        if ADJOINT:
            o = offset + step * STEP
            at = begin + o + k[None, :]
            values = _rows(place + at, None if WHOLE else there & (at < pitch))
            total = tl.dot(values, tl.trans(_matrix(matrix + o)), acc=total)
        else:
            o = offset - step * STEP
            at = begin + o + k[None, :]
            inside = None if WHOLE else there & (at >= 0) & (at < pitch)
            total = tl.dot(_rows(place + at, inside), _matrix(matrix - o), acc=total)
    at = begin + n[None, :]
    tl.debug_barrier()  # all have read what the results take the place of
    tl.store(place + at, _cast(total, work.dtype.element_ty), mask=there & (at < pitch))


@triton.jit
def _convolve(
    work, table, channel, first, batch, channels, width, pitch, blocks,
    SEQUENCES: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, STEP: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """All blocks of `_multiply`, from the last positions to the first: a block takes those before it as they were."""
    for done in range(blocks):
        block = blocks - 1 - done
        _multiply(
            work, table, channel, first, batch, channels, width, pitch, block * TILES * T, T - STEP,
            (block + 1) * TILES * (T // STEP), SEQUENCES, TILES, T, STEP, False, WHOLE,
        )  # fmt: skip


@_kernel
def toeplitz_conv(
    x0, x1, v, short, table, work, y,
    batch, channels, length, stride_b, stride_d, width, pitch, blocks,
    TAPS: tl.constexpr, SEQUENCES: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, STEP: tl.constexpr,
    SEGMENTS: tl.constexpr, N: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Forward: SEQUENCES sequences of a channel a program; programs of a channel are neighbours.

    x0, x1, v: (B, D, L) with strides (stride_b, stride_d, 1); short: see `conv._taps`; table: of `toeplitz_table`,
    from lag −T on; work: (B, D, pitch) bfloat16, may be y where the pitch is L; y: (B, D, L) contiguous. `blocks` of
    TILES tiles; a row has SEGMENTS segments, a power of two, and a turn N of them.
    """
    parts = tl.cdiv(batch, SEQUENCES)
    channel, first = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts * SEQUENCES
    turns: tl.constexpr = (SEQUENCES * SEGMENTS + N - 1) // N
    of_x1, of_v = _weights(short, 1, channel, channels, TAPS), _weights(short, 2, channel, channels, TAPS)
    for turn in range(turns):
        sequence, at, there = _turn(turn, first, batch, SEQUENCES, SEGMENTS, N)
        start, out = sequence * stride_b + channel * stride_d, (sequence * channels + channel) * pitch
        left = _stream(x1 + start, of_x1, at, there, length, TAPS)
        right = _stream(v + start, of_v, at, there, length, TAPS)
        _store_segment(work + out, at, there, pitch, _times(left, right, 8))
    tl.debug_barrier()
    _convolve(
        work, table, channel, first, batch, channels, width, pitch, blocks, SEQUENCES, TILES, T, STEP, WHOLE
    )  # fmt: skip
    tl.debug_barrier()
    of_x0 = _weights(short, 0, channel, channels, TAPS)
    for turn in range(turns):
        sequence, at, there = _turn(turn, first, batch, SEQUENCES, SEGMENTS, N)
        start, out = sequence * stride_b + channel * stride_d, sequence * channels + channel
        gate = _stream(x0 + start, of_x0, at, there, length, TAPS)
        c = _segment(work + out * pitch, at, there, pitch)
        _store_segment(y + out * length, at, there, length, _times(gate, c, 8))


@triton.jit
def _folded(tiles, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """Twice as many tiles of half the rows and columns, with the same sums along their diagonals.

    COUNT tiles of SIZE × SIZE, of columns next to each other. The sums are those of row m and column m + j modulo
    COUNT · SIZE, over all m. Half of SIZE rows further down, the columns are half of SIZE further on too.
    """
    HALF: tl.constexpr = SIZE // 2
    upper, lower = (), ()
    for number in tl.static_range(COUNT):
        parts = tl.permute(tl.reshape(tiles[number], (2, HALF, 2, HALF)), (1, 3, 0, 2))
        left, right = tl.split(parts)
        upper_left, lower_left = tl.split(left)
        upper_right, lower_right = tl.split(right)
        upper, lower = upper + (upper_left, upper_right), lower + (lower_left, lower_right)
    folded = ()
    for number in tl.static_range(2 * COUNT):
        folded = folded + (upper[number] + lower[(number + 1) % (2 * COUNT)],)
    return folded


@triton.jit
def _diagonals(x, skew, D: tl.constexpr):
    """Sums of x, (D, D), over its rows m at the columns m + j modulo D: (D,) for each j.

    skew: (D / 8, D) float32, where what is left of x after some folds is written, and read along the diagonals.
    """
    tiles = _folded(_folded(_folded((x,), 1, D), 2, D // 2), 4, D // 4)
    SIZE: tl.constexpr = D // 8
    row, column = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    tl.debug_barrier()
    for number in tl.static_range(8):
        tl.store(skew + row * D + (number * SIZE + column), tiles[number])
    tl.debug_barrier()
    return tl.sum(tl.load(skew + row * D + (row + tl.arange(0, D)[None, :]) % D), 0)


@triton.jit
def _filter_products(
    u, dc, skew, dh, channel, first, batch, channels, length, pitch, tiles,
    SEQUENCES: tl.constexpr, GRADIENTS: tl.constexpr, D: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The part of a filter's gradient that SEQUENCES sequences have, into dh, (L,) float32.

    In `tiles` tiles of D positions, the most distant ones first. Columns of u times those of dc are summed over all
    tiles so far from each other, GRADIENTS of them in a product: (D, D), from column m of u to n of dc. The D lags
    from a distance on are those of its product where n ≥ m, and where n < m those of the next distance's.
    """
    row = tl.arange(0, SEQUENCES * GRADIENTS)[:, None]
    sequence, tile = first + row // GRADIENTS, row % GRADIENTS * D
    base = (sequence.to(tl.int64) * channels + channel) * pitch
    m, n = tl.arange(0, D), tl.arange(0, D)[None, :]
    groups = (tiles + GRADIENTS - 1) // GRADIENTS
    following = tl.zeros((D, D), tl.float32)
    for nearer in range(tiles):
        distance = tiles - 1 - nearer
        total = tl.zeros((D, D), tl.float32)
        for back in range(groups - distance // GRADIENTS):
            to = tile + (groups - 1 - back) * GRADIENTS * D
            at, before = to + n, to - distance * D + n
            inside, from_start = None, None
            if not WHOLE:
                inside = (sequence < batch) & (at < pitch)
                from_start = (sequence < batch) & (before >= 0) & (before < pitch)
            total = tl.dot(
                tl.trans(_rows(u + base + before, from_start)), _rows(dc + base + at, inside), acc=total
            )  # fmt: skip
        lag = distance * D + m
        tl.store(dh + lag, _diagonals(tl.where(n >= m[:, None], total, following), skew, D), mask=lag < length)
        following = total


@triton.jit
def _back(gradient, weights, TAPS: tl.constexpr):
    """A gradient behind a short convolution, TAPS − 1 columns more than eight, in front of it."""
    before = gradient
    if TAPS > 0:
        before = _before_taps(gradient, weights, TAPS)
    return before


@triton.jit
def _add_sums(sums, gradient, before_taps, raw, TAPS: tl.constexpr):
    """Adds a turn's segments to the sums of a stream's gradients, one for each of its numbers in `conv._taps`.

    The sums with the stream lack its bias; see `_of_weights`.
    """
    added = ()
    for tap in tl.static_range(TAPS):
        value = sums[tap]
        for column in tl.static_range(8):
            value += gradient[column] * raw[column + tap]
        added = added + (value,)
    whole, before = sums[TAPS], sums[TAPS + 1]
    for column in tl.static_range(8):
        whole += gradient[column]
        before += before_taps[column]
    return added + (whole, before)


@triton.jit
def _placed(value, lane, LANES: tl.constexpr):
    """A number at its place in a row of zeros."""
    return tl.where(tl.arange(0, LANES) == lane, value, 0.0)


@triton.jit
def _of_weights(sums, weights, stream, TAPS: tl.constexpr, LANES: tl.constexpr):
    """The sums of a stream over all its positions, at their lanes."""
    whole = tl.sum(sums[TAPS])
    placed = _placed(whole, stream * (TAPS + 2) + TAPS, LANES)
    placed += _placed(tl.sum(sums[TAPS + 1]), stream * (TAPS + 2) + TAPS + 1, LANES)
    for tap in tl.static_range(TAPS):
        placed += _placed(tl.sum(sums[tap]) + weights[TAPS + 1] * whole, stream * (TAPS + 2) + tap, LANES)
    return placed


@triton.jit
def _none(N: tl.constexpr, TAPS: tl.constexpr):
    """Sums of nothing."""
    sums = ()
    for _ in tl.static_range(TAPS + 2):
        sums = sums + (tl.zeros((N,), tl.float32),)
    return sums


@_kernel
def toeplitz_conv_backward(
    dy, x0, x1, v, short, table, work, skew, dz0, dz1, dz2, dh, sums,
    batch, channels, length, stride_b, stride_d, out_stride_b, out_stride_d, width, pitch, blocks, tiles,
    TAPS: tl.constexpr, SEQUENCES: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, STEP: tl.constexpr,
    GRADIENTS: tl.constexpr, D: tl.constexpr, SEGMENTS: tl.constexpr, N: tl.constexpr, LANES: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Backward, with the same programs.

    dy: (B, D, L) contiguous; work: (2, B, D, pitch) bfloat16; skew: (programs, D / 8 · D) float32; dz0, dz1, dz2: the
    gradients of the streams, (B, D, L) with strides (out_stride_b, out_stride_d, 1); dh: (programs, L) float32, to be
    summed over those of a channel; sums: (programs, LANES) float32 with the gradients of `short`, to be summed too;
    the others as in `toeplitz_conv`.
    """
    parts = tl.cdiv(batch, SEQUENCES)
    channel, first = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts * SEQUENCES
    program = tl.program_id(0).to(tl.int64)
    skew += program * (D // 8 * D)
    dh += program * length
    sums += program * LANES
    turns: tl.constexpr = (SEQUENCES * SEGMENTS + N - 1) // N
    of_x0, of_x1 = _weights(short, 0, channel, channels, TAPS), _weights(short, 1, channel, channels, TAPS)
    of_v = _weights(short, 2, channel, channels, TAPS)
    work_dc = work + batch.to(tl.int64) * channels * pitch
    for turn in range(turns):
        sequence, at, there = _turn(turn, first, batch, SEQUENCES, SEGMENTS, N)
        start, out = sequence * stride_b + channel * stride_d, sequence * channels + channel
        left = _stream(x1 + start, of_x1, at, there, length, TAPS)
        right = _stream(v + start, of_v, at, there, length, TAPS)
        _store_segment(work + out * pitch, at, there, pitch, _times(left, right, 8))
        gate = _stream(x0 + start, of_x0, at, there, length, TAPS)
        gradient = _segment(dy + out * length, at, there, length)
        _store_segment(work_dc + out * pitch, at, there, pitch, _times(gate, gradient, 8))
    tl.debug_barrier()
    _filter_products(
        work, work_dc, skew, dh, channel, first, batch, channels, length, pitch, tiles, SEQUENCES, GRADIENTS, D, WHOLE
    )  # fmt: skip
    _convolve(
        work, table, channel, first, batch, channels, width, pitch, blocks, SEQUENCES, TILES, T, STEP, WHOLE
    )  # fmt: skip
    for block in range(blocks):
        _multiply(
            work_dc, table, channel, first, batch, channels, width, pitch, block * TILES * T, 0,
            (blocks - block) * TILES * (T // STEP), SEQUENCES, TILES, T, STEP, True, WHOLE,
        )  # fmt: skip
    tl.debug_barrier()
    of_x0, of_x1 = _weights(short, 0, channel, channels, TAPS), _weights(short, 1, channel, channels, TAPS)
    of_v = _weights(short, 2, channel, channels, TAPS)  # to load them again takes fewer registers than to hold them
    ahead: tl.constexpr = TAPS - 1 if TAPS > 0 else 0
    sums0, sums1, sums2 = _none(N, TAPS), _none(N, TAPS), _none(N, TAPS)
    for turn in range(turns):
        sequence, at, there = _turn(turn, first, batch, SEQUENCES, SEGMENTS, N)
        start, out = sequence * stride_b + channel * stride_d, sequence * channels + channel
        to = sequence * out_stride_b + channel * out_stride_d
        c = _ahead(work + out * pitch, at, there, pitch, ahead)
        gradient = _times(c, _ahead(dy + out * length, at, there, length, ahead), 8 + ahead)
        before = _back(gradient, of_x0, TAPS)
        _store_segment(dz0 + to, at, there, length, before)
        if TAPS > 0:
            raw = _raw(x0 + start, of_x0, at, there, length, 0, TAPS)
            sums0 = _add_sums(sums0, gradient, before, raw, TAPS)
        du = _ahead(work_dc + out * pitch, at, there, length, ahead)
        raw1 = _raw(x1 + start, of_x1, at, there, length, ahead, TAPS)
        raw2 = _raw(v + start, of_v, at, there, length, ahead, TAPS)
        gradient = _times(du, _convolved(raw2, of_v, ahead, TAPS), 8 + ahead)
        before = _back(gradient, of_x1, TAPS)
        _store_segment(dz1 + to, at, there, length, before)
        if TAPS > 0:
            sums1 = _add_sums(sums1, gradient, before, raw1, TAPS)
        gradient = _times(du, _convolved(raw1, of_x1, ahead, TAPS), 8 + ahead)
        before = _back(gradient, of_v, TAPS)
        _store_segment(dz2 + to, at, there, length, before)
        if TAPS > 0:
            sums2 = _add_sums(sums2, gradient, before, raw2, TAPS)
    if TAPS > 0:
        total = _of_weights(sums0, of_x0, 0, TAPS, LANES) + _of_weights(sums1, of_x1, 1, TAPS, LANES)
        tl.store(sums + tl.arange(0, LANES), total + _of_weights(sums2, of_v, 2, TAPS, LANES))
