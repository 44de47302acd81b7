"""Triton kernels of the gated causal convolution y = x0 · (h ∗ u + bias · u), u = x1 · v, forward and backward.

x0, x1 and v may come from short causal convolutions of TAPS weights each, and what these read may still lack a bias
per channel. The kernels then take all this on what they load, so that neither the three results nor their product
ever stand in memory.

Needs triton; `genome_lm.kernels.triton.launch` imports this module on first use, plans the shapes and launches.

**Transform.** Real sequences of length L ≤ N are transformed at the frequencies k − 1/4 (the right-angle convolution,
Crandall and Fagin 1994, https://doi.org/10.1090/S0025-5718-1994-1185244-1):

    X[k] = Σ_n x[n] · e(−n (k − 1/4) / N),    e(t) = exp(2πi t),    0 ≤ n, k < N.

Products of such transforms belong to sequences that pick up a factor i when they wrap around N, so the real part of
the inverse transform is the causal convolution and the imaginary part is the tail beyond N, which nobody wants. Hence
N ≥ L complex points do what a padded real FFT does with 2L, no spectrum needs to be unpacked into its two halves, and
the adjoint, which the backward pass needs, is the same transform with the conjugate of the filter's.

**Matrices.** A transform of N = R · C points, laid out row by row as an R × C tile, is a product with F_R from the
left, a twiddle for each element, and a product with F_C from the right: work for tensor cores (Bailey's four-step FFT
without its transposes, since the order of the frequencies doesn't matter to a product of spectra). The input is real
and only the real part of the output is wanted, which halves the first and the last product.

**Lengths.** Up to one tile, one program does all (`tile_conv`), and memory sees the operands and the result. Longer
sequences, of N = n_columns · R · C points, take three passes: `columns_fft` gates what it loads and transforms with a
stride of R · C; `rows_conv` transforms each row as one tile, multiplies by the filter's transform and inverts;
`columns_ifft` transforms back, adds the skip and gates. n_columns is any integer, so little is padded.

**Precision.** Products of matrices are taken as DOT says (`plan.Precision`). "bf16" rounds both factors to bfloat16.
"bf16x3" takes each as a sum of two bfloat16 numbers and leaves out the product of the small ones. "bf16x6" takes a
sum of three. They accumulate in float32, in which everything else is computed too. What stands between the passes and
the matrix of the column passes are kept in bfloat16 for "bf16", else in float32. Largest errors are about 6e-3 of the
largest value with "bf16", 1e-5 with "bf16x3" and 3e-7 with "bf16x6" (`python -m tests.measure.triton_errors`). Those
of "bf16" are alike everywhere, so they are twice as large beside the small end of a filter's gradient.

float16 has no products of its own: spectra grow with the length, so that those of a million ones, or their product
with a filter's, exceed 65,504, while gradients of a mean over as many positions are below its normal numbers.
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on"))
"""Whether Triton's interpreter runs the kernels, on the CPU: TRITON_INTERPRET=1 was set when triton came in."""

GENERAL = "batch", "channels", "all_channels", "out_channels", "per_program", "blocks", "rows"
"""Arguments that make no code of their own where they are 1 or a multiple of 16: they would compile kernels anew."""


def _kernel(function):
    """A kernel that is launched on arrays of any shape."""
    general = [name for name in function.__code__.co_varnames[: function.__code__.co_argcount] if name in GENERAL]
    return triton.jit(function, do_not_specialize=general)


@triton.jit
def _product(a_re, a_im, b_re, b_im):
    """A · b of complex tiles."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def _product_conj(a_re, a_im, b_re, b_im):
    """Conj(a) · b of complex tiles."""
    return a_re * b_re + a_im * b_im, a_re * b_im - a_im * b_re


@triton.jit
def _real(pointer, mask):
    """Values in float32, zero where masked."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


# Short convolutions read each position several times. A thread therefore loads octets, eight neighbours at a time,
# and takes what is shifted from its registers: loads at shifted places would be of a single position each.


@triton.jit
def _columns_of(x):
    """The eight columns (N,) of x, (N, 8), as a tuple."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2, 2)))
    from0, from2 = tl.split(even)
    from1, from3 = tl.split(odd)
    at0, at4 = tl.split(from0)
    at1, at5 = tl.split(from1)
    at2, at6 = tl.split(from2)
    at3, at7 = tl.split(from3)
    return at0, at1, at2, at3, at4, at5, at6, at7


@triton.jit
def _joined(columns, COUNT: tl.constexpr):
    """A tuple of columns (N,) as (N, COUNT), COUNT a power of two up to 4,096."""
    number: tl.constexpr = columns[0].shape[0]
    for level in tl.static_range(1, 13):
        if COUNT >> level > 0:
            pairs = ()
            for column in tl.static_range(COUNT >> level):
                pairs = pairs + (tl.join(columns[column], columns[column + (COUNT >> level)]),)
            columns = pairs
    return tl.reshape(columns[0], (number, COUNT))


@triton.jit
def _octets(first):
    """Positions (N, 8) of the octets that begin at `first`, (N,)."""
    return first[:, None] + tl.arange(0, 8)[None, :]


@triton.jit
def _window(stream, absent, first, length, BEFORE: tl.constexpr, BEHIND: tl.constexpr):
    """A stream in float32 from BEFORE octets in front of those that begin at `first`, (N,), to BEHIND after them.

    A tuple of (N,), one for each position of an octet; `absent` where the sequence is not.
    """
    values = ()
    for octet in tl.static_range(-BEFORE, BEHIND + 1):
        at = _octets(first + 8 * octet)
        value = tl.load(stream + at, mask=(at >= 0) & (at < length), other=absent)
        values = values + _columns_of(value.to(tl.float32))
    return values


@triton.jit
def _numbers(taps, TAPS: tl.constexpr):
    """Weights and biases of one channel of a stream as a tuple, see `_taps`."""
    numbers = ()
    for number in tl.static_range(TAPS + 2):
        numbers = numbers + (tl.load(taps + number),)
    return numbers


@triton.jit
def _convolved(values, numbers, BEFORE: tl.constexpr, COUNT: tl.constexpr, TAPS: tl.constexpr):
    """A `_window` behind its short convolution: a tuple of COUNT positions from the first octet's beginning on."""
    results = ()
    for at in tl.static_range(COUNT):
        value = numbers[TAPS] + numbers[TAPS - 1] * values[8 * BEFORE + at]
        for back in tl.static_range(1, TAPS):
            value += numbers[TAPS - 1 - back] * values[8 * BEFORE + at - back]
        results = results + (value,)
    return results


@triton.jit
def _absent(stream, bias):
    """What stands for a stream where it isn't, which with its bias, one that its dtype holds exactly, is zero."""
    return _cast(-bias, stream.dtype.element_ty)


@triton.jit
def _tile_positions(row, column, width, R: tl.constexpr, C: tl.constexpr):
    """Positions (R, C) of a tile that begins at (row, column) of a matrix whose rows have `width` positions."""
    return (row + tl.arange(0, R)[:, None]) * width + column + tl.arange(0, C)[None, :]


@triton.jit
def _tile_octets(row, column, width, R: tl.constexpr, C: tl.constexpr):
    """Where the octets of the same tile begin, (R · C / 8,), row by row."""
    octet = tl.arange(0, R * C // 8)
    return (row + octet // (C // 8)) * width + column + octet % (C // 8) * 8


@triton.jit
def _stream(stream, taps, row, column, width, length, TAPS: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """A tile of a stream behind its short convolution, (R, C) float32; zero beyond its length.

    row, column, width: see `_tile_positions`. taps: TAPS weights, the last one that of the present position, the
    bias, and the bias that is still to be added to the stream in front of the convolution, float32. The first bias
    has in it what all weights make of the second, so that here only what is before the sequence needs it. Without
    TAPS: the stream.
    """
    at = _tile_positions(row, column, width, R, C)
    if TAPS == 0:
        return _real(stream + at, at < length)
    numbers = _numbers(taps, TAPS)
    absent = _absent(stream, numbers[TAPS + 1])
    if stream.dtype.element_ty == tl.float32:  # of which a load at a shifted place takes as many instructions
        value = numbers[TAPS] + numbers[TAPS - 1] * _real(stream + at, at < length)
        for back in tl.static_range(1, TAPS):
            inside = (at >= back) & (at < length)
            value += numbers[TAPS - 1 - back] * tl.load(stream + at - back, mask=inside, other=absent)
        return tl.where(at < length, value, 0.0)
    first = _tile_octets(row, column, width, R, C)
    halo: tl.constexpr = (TAPS + 6) // 8  # octets that hold the TAPS − 1 positions in front
    values = _window(stream, absent, first, length, halo, 0)
    value = _joined(_convolved(values, numbers, halo, 8, TAPS), 8)
    return tl.reshape(tl.where(_octets(first) < length, value, 0.0), (R, C))


@triton.jit
def _taps(short, stream, channel, all_channels, TAPS: tl.constexpr):
    """Weights and biases of one channel of a stream (0: x0, 1: x1, 2: v); short: (3, all_channels, TAPS + 2)."""
    return short + (stream * all_channels + channel) * (TAPS + 2)


@triton.jit
def _complex(pointer, plane):
    """Complex values in float32 from their planes of real and imaginary parts."""
    return tl.load(pointer).to(tl.float32), tl.load(pointer + plane).to(tl.float32)


@triton.jit
def _input(
    x1, v, short, channel, all_channels, row, column, width, length,
    TAPS: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """u = x1 · v, a tile as of `_stream`."""
    gate = _stream(x1, _taps(short, 1, channel, all_channels, TAPS), row, column, width, length, TAPS, R, C)
    return gate * _stream(v, _taps(short, 2, channel, all_channels, TAPS), row, column, width, length, TAPS, R, C)


@triton.jit
def _input_again(
    u, x1, v, short, channel, all_channels, length,
    TAPS: tl.constexpr, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """The `_input` of a whole tile once more, loaded behind a barrier, which takes fewer registers than to hold it.

    In bfloat16 it is held instead, rounded as the products take it.
    """
    if DOT == "bf16":
        return _bf16(u).to(tl.float32)
    tl.debug_barrier()
    return _input(x1, v, short, channel, all_channels, 0, 0, C, length, TAPS, R, C)


@triton.jit
def _positions(R: tl.constexpr, C: tl.constexpr):
    """Place of each element of a tile in memory."""
    return tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]


@triton.jit
def _matrix(table, R: tl.constexpr, C: tl.constexpr):
    """An R × C matrix from the tables.

    The barrier keeps the compiler from loading all tables of a kernel first and holding them in registers, of which
    there are not enough.
    """
    tl.debug_barrier()
    return _complex(table + _positions(R, C), R * C)


@triton.jit
def _cast(x, DTYPE: tl.constexpr):
    """Float32 values in DTYPE, rounded to nearest even, as GPUs do; the interpreter by itself cuts bfloat16 off."""
    if INTERPRETED:
        if DTYPE == tl.bfloat16:
            bits = x.to(tl.uint32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            x = bits.to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def _bf16(x):
    """x rounded to bfloat16. The interpreter can't multiply bfloat16, so there it is widened again."""
    return _cast(x.to(tl.float32), tl.bfloat16).to(tl.float32) if INTERPRETED else x.to(tl.bfloat16)


@triton.jit
def _dot_add(a, b, total, DOT: tl.constexpr):
    """Matrix product in the precision of DOT, added to a total in float32.

    Split here and not by tl.dot, whose `input_precision` the interpreter ignores and older versions of Triton lack.
    """
    a_high, b_high = _bf16(a), _bf16(b)
    if DOT != "bf16":
        a_rest, b_rest = a - a_high.to(tl.float32), b - b_high.to(tl.float32)
        a_low, b_low = _bf16(a_rest), _bf16(b_rest)
        if DOT == "bf16x6":
            total = tl.dot(_bf16(a_rest - a_low.to(tl.float32)), b_high, acc=total)
            total = tl.dot(a_high, _bf16(b_rest - b_low.to(tl.float32)), acc=total)
            total = tl.dot(a_low, b_low, acc=total)
        total = tl.dot(a_low, b_high, acc=total)
        total = tl.dot(a_high, b_low, acc=total)
    return tl.dot(a_high, b_high, acc=total)


@triton.jit
def _dot(a, b, DOT: tl.constexpr):
    """Matrix product in the precision of DOT."""
    return _dot_add(a, b, tl.zeros((a.shape[0], b.shape[1]), tl.float32), DOT)


# The tables of a tile's transform, two planes each: the twiddle (R × C) in float32, then F_R (R × R) and F_C (C × C)
# as the products take them, in bfloat16 for "bf16", else in float32.


@triton.jit
def _row_factor(tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """F_R."""
    return _factor(tables + 2 * R * C, 0, R, DOT)


@triton.jit
def _column_factor(tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """F_C."""
    return _factor(tables + 2 * R * C, 2 * R * R, C, DOT)


@triton.jit
def _factor(factors, place, N: tl.constexpr, DOT: tl.constexpr):
    """A matrix of N × N that lies behind so many numbers; the barrier is as in `_matrix`."""
    tl.debug_barrier()
    at = place + _positions(N, N)
    if DOT == "bf16":
        factors = factors.to(tl.pointer_type(tl.bfloat16))
    if DOT == "bf16" and not INTERPRETED:
        return tl.load(factors + at), tl.load(factors + N * N + at)
    else:  # noqa: RET505, for Triton, which takes what follows for another type of result
        return _complex(factors + at, N * N)


@triton.jit
def _forward_rest(re, im, tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """Twiddle and F_C, which both forward transforms end with."""
    w_re, w_im = _matrix(tables, R, C)
    re, im = _product(re, im, w_re, w_im)
    f_re, f_im = _column_factor(tables, R, C, DOT)
    return _dot_add(-im, f_im, _dot(re, f_re, DOT), DOT), _dot_add(im, f_re, _dot(re, f_im, DOT), DOT)


@triton.jit
def _forward_real(x, tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """The transform of a real tile."""
    f_re, f_im = _row_factor(tables, R, C, DOT)
    return _forward_rest(_dot(f_re, x, DOT), _dot(f_im, x, DOT), tables, R, C, DOT)


@triton.jit
def _forward(re, im, tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """The transform of a complex tile."""
    f_re, f_im = _row_factor(tables, R, C, DOT)
    re, im = _dot_add(-f_im, im, _dot(f_re, re, DOT), DOT), _dot_add(f_im, re, _dot(f_re, im, DOT), DOT)
    return _forward_rest(re, im, tables, R, C, DOT)


@triton.jit
def _inverse_rest(re, im, tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """Conj(F_C) and the twiddle undone, which both inverses begin with."""
    f_re, f_im = _column_factor(tables, R, C, DOT)
    re, im = _dot_add(im, f_im, _dot(re, f_re, DOT), DOT), _dot_add(-re, f_im, _dot(im, f_re, DOT), DOT)
    w_re, w_im = _matrix(tables, R, C)
    return _product_conj(w_re, w_im, re, im)


@triton.jit
def _inverse_real(re, im, tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """R · C times the real part of the inverse transform."""
    re, im = _inverse_rest(re, im, tables, R, C, DOT)
    f_re, f_im = _row_factor(tables, R, C, DOT)
    return _dot_add(tl.trans(f_im), im, _dot(tl.trans(f_re), re, DOT), DOT)


@triton.jit
def _inverse(re, im, tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """R · C times the inverse transform."""
    re, im = _inverse_rest(re, im, tables, R, C, DOT)
    f_re, f_im = _row_factor(tables, R, C, DOT)
    f_re, f_im = tl.trans(f_re), tl.trans(f_im)
    return _dot_add(f_im, im, _dot(f_re, re, DOT), DOT), _dot_add(-f_im, re, _dot(f_re, im, DOT), DOT)


@triton.jit
def tile_spectrum(h, spectra, tables, length, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """Transforms of the filters for L ≤ R · C, divided by R · C: h (D, L) to spectra (D, 2, R · C) float32."""
    channel = tl.program_id(0).to(tl.int64)
    at = _positions(R, C)
    x = _real(h + channel * length + at, at < length) * (1.0 / (R * C))
    re, im = _forward_real(x, tables, R, C, DOT)
    spectra += channel * 2 * R * C
    tl.store(spectra + at, re)
    tl.store(spectra + R * C + at, im)


@_kernel
def tile_conv(
    x0, x1, v, short, bias, y, spectra, tables,
    batch, channels, length, stride_b, stride_d,
    TAPS: tl.constexpr, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Forward for L ≤ R · C, a sequence of a channel a program; sequences of a channel are neighbours.

    x0, x1, v: (B, D, L) with strides (stride_b, stride_d, 1); short: see `_taps`; bias: (D,) float32; y: (B, D, L)
    contiguous.
    """
    channel, b = (tl.program_id(0) // batch).to(tl.int64), (tl.program_id(0) % batch).to(tl.int64)
    start, out = b * stride_b + channel * stride_d, (b * channels + channel) * length
    at = _positions(R, C)
    u = _input(x1 + start, v + start, short, channel, channels, 0, 0, C, length, TAPS, R, C)
    re, im = _forward_real(u, tables, R, C, DOT)
    h_re, h_im = _matrix(spectra + channel * 2 * R * C, R, C)
    re, im = _product(re, im, h_re, h_im)
    c = _inverse_real(re, im, tables, R, C, DOT)
    u = _input_again(u, x1 + start, v + start, short, channel, channels, length, TAPS, R, C, DOT)
    c += tl.load(bias + channel) * u
    tl.debug_barrier()
    gate = _stream(x0 + start, _taps(short, 0, channel, channels, TAPS), 0, 0, C, length, TAPS, R, C)
    tl.store(y + out + at, _cast(gate * c, y.dtype.element_ty), mask=at < length)


@_kernel
def tile_conv_backward(
    dy, x0, x1, v, short, bias, dx0, dx1, dv, dh, dbias, spectra, tables,
    batch, channels, length, stride_b, stride_d, per_program,
    TAPS: tl.constexpr, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Backward for L ≤ R · C; a program does `per_program` sequences of a channel, a part of the batch.

    dy, dx0, dx1, dv: (B, D, L) contiguous; dh: (parts, D, L) and dbias: (parts, D) float32, to be summed over parts;
    the others as in `tile_conv`. What goes back through the short convolutions, see `_store_gradients`.
    """
    channel, part = (tl.program_id(0) % channels).to(tl.int64), (tl.program_id(0) // channels).to(tl.int64)
    at = _positions(R, C)
    sum_re, sum_im = tl.zeros((R, C), tl.float32), tl.zeros((R, C), tl.float32)
    sum_bias = 0.0
    for i in range(per_program):
        b = part * per_program + i
        end = tl.where(b < batch, length, 0)  # the last part may be short
        inside = at < end
        start, out = b * stride_b + channel * stride_d, (b * channels + channel) * length
        u = _input(x1 + start, v + start, short, channel, channels, 0, 0, C, end, TAPS, R, C)
        u_re, u_im = _forward_real(u, tables, R, C, DOT)
        h_re, h_im = _matrix(spectra + channel * 2 * R * C, R, C)
        re, im = _product(u_re, u_im, h_re, h_im)
        c = _inverse_real(re, im, tables, R, C, DOT)
        u = _input_again(u, x1 + start, v + start, short, channel, channels, end, TAPS, R, C, DOT)
        c += tl.load(bias + channel) * u
        gradient = _real(dy + out + at, inside)
        tl.store(dx0 + out + at, _cast(gradient * c, dx0.dtype.element_ty), mask=inside)

        taps = _taps(short, 0, channel, channels, TAPS)
        dc = gradient * _stream(x0 + start, taps, 0, 0, C, end, TAPS, R, C)
        sum_bias += tl.sum(dc * u)
        re, im = _forward_real(dc, tables, R, C, DOT)
        product_re, product_im = _product_conj(u_re, u_im, re, im)
        sum_re += product_re
        sum_im += product_im
        h_re, h_im = _matrix(spectra + channel * 2 * R * C, R, C)
        re, im = _product_conj(h_re, h_im, re, im)
        du = _inverse_real(re, im, tables, R, C, DOT)
        if DOT == "bf16":
            dc = _bf16(dc).to(tl.float32)
        else:  # loaded again, as u is
            tl.debug_barrier()
            dc = _real(dy + out + at, inside) * _stream(x0 + start, taps, 0, 0, C, end, TAPS, R, C)
        du += tl.load(bias + channel) * dc
        _store_gradients(
            du, x1 + start, v + start, short, channel, channels, dx1 + out, dv + out, at, end, TAPS
        )  # fmt: skip
    place = part * channels + channel
    total = _inverse_real(sum_re, sum_im, tables, R, C, DOT) * (1.0 / (R * C))
    tl.store(dh + place * length + at, total, mask=at < length)
    tl.store(dbias + place, sum_bias)


@triton.jit
def _store_gradients(du, x1, v, short, channel, all_channels, dx1, dv, at, length, TAPS: tl.constexpr):
    """dx1 = du · v and dv = du · x1; with TAPS, du in the place of dx1, for `taps_backward` to go on from."""
    inside = at < length
    if TAPS > 0:
        tl.store(dx1 + at, _cast(du, dx1.dtype.element_ty), mask=inside)
    else:
        tl.store(dx1 + at, _cast(du * _real(v + at, inside), dx1.dtype.element_ty), mask=inside)
        tl.store(dv + at, _cast(du * _real(x1 + at, inside), dv.dtype.element_ty), mask=inside)


@triton.jit
def _times(a, b, COUNT: tl.constexpr):
    """Products of two tuples."""
    products = ()
    for number in tl.static_range(COUNT):
        products = products + (a[number] * b[number],)
    return products


@triton.jit
def _sum_of_products(a, b, SHIFT: tl.constexpr):
    """Σ a[n] · b[n + SHIFT] over an octet."""
    total = a[0] * b[SHIFT]
    for number in tl.static_range(1, 8):
        total += a[number] * b[number + SHIFT]
    return total


@triton.jit
def _sum_of(values):
    """The sum over an octet."""
    return ((values[0] + values[1]) + (values[2] + values[3])) + ((values[4] + values[5]) + (values[6] + values[7]))


@triton.jit
def _before_taps(gradient, numbers, TAPS: tl.constexpr):
    """The gradient of octets in front of a short convolution; what is given behind it has TAPS − 1 positions more."""
    before = ()
    for number in tl.static_range(8):
        value = numbers[TAPS - 1] * gradient[number]
        for ahead in tl.static_range(1, TAPS):
            value += numbers[TAPS - 1 - ahead] * gradient[number + ahead]
        before = before + (value,)
    return before


@triton.jit
def _through_taps(gradient, stream, numbers, out, at, length, BEFORE: tl.constexpr, TAPS: tl.constexpr):
    """Back through a short convolution: stores the gradient in front of it, and gives those of its numbers.

    gradient: behind it, zero beyond the length, TAPS − 1 positions farther than the octets `at`; stream: a `_window`.
    Returns the octets' parts of the sums, a tuple of TAPS + 2.
    """
    before = _before_taps(gradient, numbers, TAPS)
    tl.store(out + at, _cast(_joined(before, 8), out.dtype.element_ty), mask=at < length)
    whole, sums = _sum_of(gradient), ()
    for tap in tl.static_range(TAPS):
        with_stream = _sum_of_products(gradient, stream, 8 * BEFORE + tap + 1 - TAPS)
        sums = sums + (with_stream + numbers[TAPS + 1] * whole,)
    return sums + (whole, _sum_of(before))


@_kernel
def taps_backward(
    ds0, du, x0, x1, v, short, dz0, dz1, dz2, sums,
    channels, all_channels, length, stride_b, stride_d, out_stride_b, blocks, per_program,
    TAPS: tl.constexpr, LANES: tl.constexpr, OCTETS: tl.constexpr,
):  # fmt: skip
    """Back through the gates and the short convolutions, a block of positions of one channel of a sequence a program.

    A program does `per_program` times OCTETS octets of positions. ds0, the gradient of x0, and du: (B, channels, L)
    contiguous; x0, x1, v: (B, channels, L) in front of their short convolutions, strides (stride_b, stride_d, 1);
    dz0, dz1, dz2: their gradients, (B, channels, L) with strides (out_stride_b, L, 1). sums: (programs, LANES)
    float32, with the gradients of the weights and both biases of the three streams, to be summed over the programs of
    a channel.
    """
    block, sequence = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    b, channel = sequence // channels, sequence % channels
    start, out = b * stride_b + channel * stride_d, b * out_stride_b + channel * length
    x0, x1, v = x0 + start, x1 + start, v + start
    dz0, dz1, dz2 = dz0 + out, dz1 + out, dz2 + out
    ds0, du = ds0 + sequence * length, du + sequence * length
    numbers0 = _numbers(_taps(short, 0, channel, all_channels, TAPS), TAPS)
    numbers1 = _numbers(_taps(short, 1, channel, all_channels, TAPS), TAPS)
    numbers2 = _numbers(_taps(short, 2, channel, all_channels, TAPS), TAPS)
    absent0 = _absent(x0, numbers0[TAPS + 1])
    absent1, absent2 = _absent(x1, numbers1[TAPS + 1]), _absent(v, numbers2[TAPS + 1])
    halo: tl.constexpr = (TAPS + 6) // 8  # octets that hold the TAPS − 1 positions on a side
    ahead: tl.constexpr = 7 + TAPS
    total = tl.zeros((OCTETS, LANES), tl.float32)
    for turn in range(per_program):
        first = ((block * per_program + turn) * OCTETS + tl.arange(0, OCTETS)) * 8
        at = _octets(first)
        of_x0 = _window(ds0, 0.0, first, length, 0, halo)
        values0 = _window(x0, absent0, first, length, halo, 0)
        parts = _through_taps(of_x0, values0, numbers0, dz0, at, length, halo, TAPS)
        of_u = _window(du, 0.0, first, length, 0, halo)
        values1 = _window(x1, absent1, first, length, halo, halo)
        values2 = _window(v, absent2, first, length, halo, halo)
        of_x1 = _times(of_u, _convolved(values2, numbers2, halo, ahead, TAPS), ahead)
        parts = parts + _through_taps(of_x1, values1, numbers1, dz1, at, length, halo, TAPS)
        of_v = _times(of_u, _convolved(values1, numbers1, halo, ahead, TAPS), ahead)
        parts = parts + _through_taps(of_v, values2, numbers2, dz2, at, length, halo, TAPS)
        for _ in tl.static_range(3 * (TAPS + 2), LANES):
            parts = parts + (tl.zeros((OCTETS,), tl.float32),)
        total += _joined(parts, LANES)
    place = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    tl.store(sums + place, tl.sum(total, axis=0))


@triton.jit
def _column_tile(n_columns, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """What a program of the column passes does: its sequence, and the first of its rows and of its columns."""
    blocks, tiles = tl.cdiv(n_columns, ROWS), width // COLUMNS
    program = tl.program_id(0)
    return (program // (blocks * tiles)).to(tl.int64), program % blocks * ROWS, program // blocks % tiles * COLUMNS


@triton.jit
def _factors(pointer, pitch):
    """A tile of F, in the dtype that it is kept and multiplied in."""
    return tl.load(pointer), tl.load(pointer + pitch * pitch)


@_kernel
def columns_fft(
    a, b, z, factors, a_taps, b_taps,
    channels, length, a_stride_b, a_stride_d, b_stride_b, b_stride_d, n_columns, width, pitch,
    GATED: tl.constexpr, A_TAPS: tl.constexpr, B_TAPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """First pass: z[k, m] = Σ_n F[k, n] · (a · b)[n · width + m], ROWS values of k and COLUMNS of m a program.

    a, b: (B, channels, L), strides given, in front of their short convolutions; without GATED a alone. a_taps and
    b_taps: (channels, A_TAPS + 2) and (channels, B_TAPS + 2). z: (B, channels, 2, n_columns, width).
    factors: F, (2, pitch, pitch) in the dtype of z, zero from n_columns on.
    """
    sequence, row, column = _column_tile(n_columns, width, ROWS, COLUMNS)
    k, m = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, COLUMNS)[None, :]
    channel = sequence % channels
    a += sequence // channels * a_stride_b + channel * a_stride_d
    b += sequence // channels * b_stride_b + channel * b_stride_d
    a_taps += channel * (A_TAPS + 2)
    b_taps += channel * (B_TAPS + 2)
    re, im = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_columns, STEP):
        n = first + tl.arange(0, STEP)
        u = _stream(a, a_taps, first, column, width, length, A_TAPS, STEP, COLUMNS)
        if GATED:
            u *= _stream(b, b_taps, first, column, width, length, B_TAPS, STEP, COLUMNS)
        f_re, f_im = _factors(factors + k * pitch + n[None, :], pitch)
        re, im = _dot_add(f_re, u, re, DOT), _dot_add(f_im, u, im, DOT)
    z += sequence * 2 * n_columns * width
    tl.store(z + k * width + m, _cast(re, z.dtype.element_ty), mask=k < n_columns)
    tl.store(z + (n_columns + k) * width + m, _cast(im, z.dtype.element_ty), mask=k < n_columns)


@triton.jit
def _twiddle(phases, row, n_columns, R: tl.constexpr, C: tl.constexpr):
    """The twiddle between columns and rows, e(−m (k − 1/4) / N) for m = C · r + c in row k, from its two factors.

    phases: (2, n_columns, R), then (2, n_columns, C), float32.
    """
    r_re, r_im = _complex(phases + row * R + tl.arange(0, R), n_columns * R)
    c_re, c_im = _complex(phases + 2 * n_columns * R + row * C + tl.arange(0, C), n_columns * C)
    return _product(r_re[:, None], r_im[:, None], c_re[None, :], c_im[None, :])


@triton.jit
def _load_row(pointer, phases, row, n_columns, tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """The transform of a row of a plane pair."""
    re, im = _complex(pointer + _positions(R, C), n_columns * R * C)
    w_re, w_im = _twiddle(phases, row, n_columns, R, C)
    re, im = _product(re, im, w_re, w_im)
    return _forward(re, im, tables, R, C, DOT)


@triton.jit
def _store(re, im, pointer, plane, R: tl.constexpr, C: tl.constexpr):
    """A complex tile into its two planes."""
    at = _positions(R, C)
    tl.store(pointer + at, _cast(re, pointer.dtype.element_ty))
    tl.store(pointer + plane + at, _cast(im, pointer.dtype.element_ty))


@triton.jit
def _store_row(re, im, pointer, phases, row, n_columns, tables, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """The inverse of `_load_row`, times R · C."""
    re, im = _inverse(re, im, tables, R, C, DOT)
    w_re, w_im = _twiddle(phases, row, n_columns, R, C)
    re, im = _product_conj(w_re, w_im, re, im)
    _store(re, im, pointer, n_columns * R * C, R, C)


@triton.jit
def rows_fft(z, phases, tables, n_columns, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr):
    """Second pass without a way back, in place: z, (sequences, 2, n_columns, R · C), becomes the whole transform."""
    row, sequence = tl.program_id(0) % n_columns, (tl.program_id(0) // n_columns).to(tl.int64)
    z += (sequence * 2 * n_columns + row) * R * C
    re, im = _load_row(z, phases, row, n_columns, tables, R, C, DOT)
    _store(re, im, z, n_columns * R * C, R, C)


@_kernel
def rows_conv(
    z, h, phases, tables, channels, n_columns, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr
):  # fmt: skip
    """Second pass, in place: each row of z is transformed, multiplied by the filter's transform and inverted.

    z: (B, channels, 2, n_columns, R · C) as `columns_fft` left it, h: as `rows_fft` left it.
    """
    row, sequence = tl.program_id(0) % n_columns, (tl.program_id(0) // n_columns).to(tl.int64)
    z += (sequence * 2 * n_columns + row) * R * C
    h += (sequence % channels * 2 * n_columns + row) * R * C
    re, im = _load_row(z, phases, row, n_columns, tables, R, C, DOT)
    h_re, h_im = _complex(h + _positions(R, C), n_columns * R * C)
    re, im = _product(re, im, h_re, h_im)
    _store_row(re, im, z, phases, row, n_columns, tables, R, C, DOT)


@_kernel
def rows_backward(
    z, g, h, phases, tables, batch, channels, n_columns, R: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr
):  # fmt: skip
    """Way back of the backward's second pass, in place: u in z becomes h ∗ u, dc in g the gradient of u, h its own.

    All three as `rows_fft` left them: with the transforms in the same kernel, registers would not suffice for tiles
    of 64 × 64. A program does a row of a channel over the whole batch.
    """
    row, channel = tl.program_id(0) % n_columns, (tl.program_id(0) // n_columns).to(tl.int64)
    at, plane = _positions(R, C), n_columns * R * C
    h += (channel * 2 * n_columns + row) * R * C
    sum_re, sum_im = tl.zeros((R, C), tl.float32), tl.zeros((R, C), tl.float32)
    for b in range(batch):
        start = ((b * channels + channel) * 2 * n_columns + row) * R * C
        re, im = _complex(z + start + at, plane)
        g_re, g_im = _complex(g + start + at, plane)
        product_re, product_im = _product_conj(re, im, g_re, g_im)
        sum_re += product_re
        sum_im += product_im
        h_re, h_im = _complex(h + at, plane)
        re, im = _product(re, im, h_re, h_im)
        _store_row(re, im, z + start, phases, row, n_columns, tables, R, C, DOT)

        tl.debug_barrier()  # g and h are loaded again, which takes fewer registers than to hold them
        g_re, g_im = _complex(g + start + at, plane)
        h_re, h_im = _complex(h + at, plane)
        re, im = _product_conj(h_re, h_im, g_re, g_im)
        _store_row(re, im, g + start, phases, row, n_columns, tables, R, C, DOT)
    _store_row(sum_re, sum_im, h, phases, row, n_columns, tables, R, C, DOT)


@triton.jit
def _add_inverse(z, k, m, f_re, f_im, total, n_columns, width, DOT: tl.constexpr):
    """Re Σ_k conj(F[k, n]) · z[k, m] over some rows, added to the total."""
    inside, at = k[:, None] < n_columns, k[:, None] * width + m
    total = _dot_add(f_re, _real(z + at, inside), total, DOT)
    return _dot_add(f_im, _real(z + n_columns * width + at, inside), total, DOT)


@_kernel
def columns_ifft(
    z, x0, x1, v, short, bias, y, factors,
    channels, all_channels, length, stride_b, stride_d, n_columns, width, pitch,
    GATED: tl.constexpr, TAPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Last pass: y = x0 · (c + bias · x1 · v), c the columns' inverse transform of z; without GATED y = c.

    x0, x1, v: (B, channels, L), in front of their short convolutions; short: see `_taps`; these and the bias from the
    group's first channel on; y: (B, all_channels, L) contiguous.
    """
    sequence, row, column = _column_tile(n_columns, width, ROWS, COLUMNS)
    n, m = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, COLUMNS)[None, :]
    b, channel = sequence // channels, sequence % channels
    z += sequence * 2 * n_columns * width
    c = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_columns, STEP):
        k = first + tl.arange(0, STEP)
        f_re, f_im = _factors(factors + k[None, :] * pitch + n, pitch)
        c = _add_inverse(z, k, m, f_re, f_im, c, n_columns, width, DOT)
    c *= 1.0 / (n_columns * width)
    at = n * width + m
    if GATED:
        start = b * stride_b + channel * stride_d
        u = _input(
            x1 + start, v + start, short, channel, all_channels, row, column, width, length, TAPS, ROWS, COLUMNS
        )
        c += tl.load(bias + channel) * u
        taps = _taps(short, 0, channel, all_channels, TAPS)
        c *= _stream(x0 + start, taps, row, column, width, length, TAPS, ROWS, COLUMNS)
    tl.store(y + (b * all_channels + channel) * length + at, _cast(c, y.dtype.element_ty), mask=at < length)


@_kernel
def columns_ifft_backward(
    z, g, dy, x0, x1, v, short, bias, dx0, dx1, dv, dbias, factors,
    channels, all_channels, out_channels, length, stride_b, stride_d, n_columns, width, pitch,
    TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Last pass of the backward.

    With dc = dy · x0, u = x1 · v, c and e the columns' inverse transforms of z and g: dx0 = dy · (c + bias · u),
    du = e + bias · dc, dx1 = du · v, dv = du · x1, and dbias = Σ dc · u.

    dy: (B, all_channels, L) contiguous; dx0, dx1, dv: (B, out_channels, L) contiguous, see `_store_gradients` for
    what goes back through the short convolutions; dbias: (programs,) float32, to be summed over those of a channel;
    the others as in `columns_ifft`. Both inverses are in one kernel since they share F and the gates.
    """
    sequence, row, column = _column_tile(n_columns, width, ROWS, COLUMNS)
    n, m = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, COLUMNS)[None, :]
    b, channel = sequence // channels, sequence % channels
    z += sequence * 2 * n_columns * width
    g += sequence * 2 * n_columns * width
    c, du = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_columns, STEP):
        k = first + tl.arange(0, STEP)
        f_re, f_im = _factors(factors + k[None, :] * pitch + n, pitch)
        c = _add_inverse(z, k, m, f_re, f_im, c, n_columns, width, DOT)
        du = _add_inverse(g, k, m, f_re, f_im, du, n_columns, width, DOT)
    scale, skip = 1.0 / (n_columns * width), tl.load(bias + channel)
    at = n * width + m
    inside = at < length
    start, out = b * stride_b + channel * stride_d, (b * out_channels + channel) * length
    u = _input(x1 + start, v + start, short, channel, all_channels, row, column, width, length, TAPS, ROWS, COLUMNS)
    gradient = _real(dy + (b * all_channels + channel) * length + at, inside)
    tl.store(dx0 + out + at, _cast(gradient * (c * scale + skip * u), dx0.dtype.element_ty), mask=inside)
    taps = _taps(short, 0, channel, all_channels, TAPS)
    dc = gradient * _stream(x0 + start, taps, row, column, width, length, TAPS, ROWS, COLUMNS)
    tl.store(dbias + tl.program_id(0), tl.sum(dc * u))
    du = du * scale + skip * dc
    _store_gradients(du, x1 + start, v + start, short, channel, all_channels, dx1 + out, dv + out, at, length, TAPS)
