"""Triton kernels of implicit filters, forward and backward: from positions and weights to filters.

Needs triton; `genome_lm.kernels.triton.filter_launch` imports this module and launches.

A program takes a block of POSITIONS. Hidden values are (WIDTH, POSITIONS), so that weights multiply from the left as
they lie in memory, and filters come out channel-major. Features and hidden layers stand in registers: the forward
reads weights and writes h. The backward computes the layers again. It goes through them from the last one on, a
kernel each, and holds two arrays of (WIDTH, length) between the kernels.

Everything is float32; each product of matrices is split into three TF32 products. A program sums the gradients of
weights over its blocks of positions, and PyTorch then sums over the programs: the same bits each time.

The arguments that the kernels share:

- first: (1 + 2 · n_bands, WIDTH) weight of the first layer, transposed.
- inner: (layers − 1, WIDTH, WIDTH) weights of the later layers; biases: (layers, WIDTH) of all.
- sines: (WIDTH,) factors within the sines; bands: (n_bands,) turns over the span of each pair of features.
- out: (channels, WIDTH) weight of the last layer; rates: (channels,) of the windows exp(rate · time) + shift.
- x, d: (WIDTH, length), what the last layer sees and the gradient of a layer's values.
"""

import triton
import triton.language as tl

TURN = tl.constexpr(6.283185307179586)
PI = tl.constexpr((3.140625, 9.67502593994140625e-4, 1.509957990978376432e-7))
"""Parts of pi, of which the first two are short, so that products with small integers are exact."""
SINE = tl.constexpr((2.608789372970932e-06, -1.981105306185782e-04, 8.333087898790836e-03, -0.16666659712791443))
"""Coefficients of r⁹, r⁷, r⁵ and r³ in sin(r) for |r| ≤ pi/2, to 5e-9: a weighted least-squares fit."""
GENERAL = "channels", "length", "span", "layers", "layer", "n_bands", "n_blocks", "per_program"
"""Arguments that make no code of their own where they are 1 or a multiple of 16."""


def _kernel(function):
    """A kernel that is launched on networks and lengths of any size."""
    general = [name for name in function.__code__.co_varnames[: function.__code__.co_argcount] if name in GENERAL]
    return triton.jit(function, do_not_specialize=general)


@triton.jit
def _dot(a, b):
    """Matrix product of float32 tiles."""
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _dot_add(a, b, total):
    """Matrix product of float32 tiles added to total."""
    return tl.dot(a, b, acc=total, input_precision="tf32x3")


@triton.jit
def _wave(x, COSINE: tl.constexpr):
    """Sine or cosine of angles: to 2e-7 up to 8,192, beyond which float32 angles are themselves off by more.

    Triton's own has a branch for any angle, which doubles the kernels' code.
    """
    whole = tl.floor(x * 0.3183098861837907 + (0.0 if COSINE else 0.5))
    part = whole + 0.5 if COSINE else whole
    rest = ((x - part * PI[0]) - part * PI[1]) - part * PI[2]
    square = rest * rest
    value = ((SINE[0] * square + SINE[1]) * square + SINE[2]) * square + SINE[3]
    value = rest + rest * square * value
    return tl.where((whole.to(tl.int32) & 1 == 1) != COSINE, -value, value)


@triton.jit
def _sin(x):
    return _wave(x, COSINE=False)


@triton.jit
def _cos(x):
    return _wave(x, COSINE=True)


@triton.jit
def _column(pointer, WIDTH: tl.constexpr):
    """(WIDTH, 1) values of a layer."""
    return tl.load(pointer + tl.arange(0, WIDTH))[:, None]


@triton.jit
def _time(at, span):
    """Time of positions, 0 to 1 over the span."""
    return at.to(tl.float32) / tl.maximum(span - 1, 1).to(tl.float32)


@triton.jit
def _angle(bands, band, at, span):
    """Angle of a pair of features at positions."""
    return tl.load(bands + band) * (TURN * at.to(tl.float32) / span.to(tl.float32))


@triton.jit
def _first_layer(first, biases, bands, at, span, n_bands, WIDTH: tl.constexpr):
    """The first layer before its sine."""
    x = _column(biases, WIDTH) + _column(first, WIDTH) * _time(at, span)[None, :]
    for band in range(n_bands):
        angle = _angle(bands, band, at, span)
        x += _column(first + (1 + band) * WIDTH, WIDTH) * _cos(angle)[None, :]
        x -= _column(first + (1 + n_bands + band) * WIDTH, WIDTH) * _sin(angle)[None, :]
    return x


@triton.jit
def _square(weights, WIDTH: tl.constexpr):
    """Places of an inner layer's weight, (WIDTH, WIDTH)."""
    return weights + tl.arange(0, WIDTH)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _inner_layer(x, inner, biases, layer, WIDTH: tl.constexpr):
    """A later layer before its sine."""
    tl.debug_barrier()
    weight = tl.load(_square(inner + (layer - 1) * WIDTH * WIDTH, WIDTH))
    return _dot(weight, x) + _column(biases + layer * WIDTH, WIDTH)


@triton.jit
def _hidden(first, inner, biases, sines, bands, at, span, n_bands, layers, WIDTH: tl.constexpr):
    """The first `layers` layers, at least one, behind the sine of the last one."""
    x = _sin(_column(sines, WIDTH) * _first_layer(first, biases, bands, at, span, n_bands, WIDTH))
    for layer in range(1, layers):
        x = _sin(_column(sines, WIDTH) * _inner_layer(x, inner, biases, layer, WIDTH))
    return x


@triton.jit
def _window(rates, channel, at, channels, span, shift):
    """The windows of some channels, (CHANNELS, POSITIONS)."""
    rate = tl.load(rates + channel, mask=channel < channels, other=0.0)
    return tl.exp(rate[:, None] * _time(at, span)[None, :]) + shift


@triton.jit
def _places(channel, at, channels, length):
    """Places of some channels and positions in (channels, length), and which there are."""
    inside = (channel < channels)[:, None] & (at < length)[None, :]
    return channel.to(tl.int64)[:, None] * length + at[None, :], inside


@_kernel
def filter_forward(
    first, inner, biases, sines, out, rates, bands, h,
    channels, length, span, shift, layers, n_bands, per_program,
    WIDTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """h, (channels, length): a block of positions and `per_program` blocks of channels a program."""
    blocks = tl.cdiv(length, POSITIONS)
    at = tl.program_id(0) % blocks * POSITIONS + tl.arange(0, POSITIONS)
    start = tl.program_id(0) // blocks * per_program * CHANNELS
    x = _hidden(first, inner, biases, sines, bands, at, span, n_bands, layers, WIDTH)
    lane = tl.arange(0, WIDTH)
    for block in range(per_program):
        channel = start + block * CHANNELS + tl.arange(0, CHANNELS)
        weight = tl.load(
            out + channel[:, None] * WIDTH + lane[None, :], mask=(channel < channels)[:, None], other=0.0
        )
        values = _dot(weight, x) * _window(rates, channel, at, channels, span, shift)
        place, inside = _places(channel, at, channels, length)
        tl.store(h + place, values, mask=inside)


@_kernel
def filter_backward_hidden(
    dh, first, inner, biases, sines, out, rates, bands, x, d,
    channels, length, span, shift, layers, n_bands, n_blocks,
    WIDTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What the last layer saw, x, and its gradient d; dh: (channels, length), in n_blocks blocks of channels."""
    at = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    lane = tl.arange(0, WIDTH)
    place, inside = _places(lane, at, WIDTH, length)
    values = _hidden(first, inner, biases, sines, bands, at, span, n_bands, layers, WIDTH)
    tl.store(x + place, values, mask=inside)
    total = tl.zeros((WIDTH, POSITIONS), tl.float32)
    for block in range(n_blocks):
        channel = block * CHANNELS + tl.arange(0, CHANNELS)
        weight = tl.load(
            out + channel[None, :] * WIDTH + lane[:, None], mask=(channel < channels)[None, :], other=0.0
        )
        total = _dot_add(weight, _raw_gradient(dh, rates, channel, at, channels, length, span, shift), total)
    tl.store(d + place, total, mask=inside)


@triton.jit
def _raw_gradient(dh, rates, channel, at, channels, length, span, shift):
    """The gradient of what the last layer makes, before the window: (CHANNELS, POSITIONS)."""
    place, inside = _places(channel, at, channels, length)
    return tl.load(dh + place, mask=inside, other=0.0) * _window(rates, channel, at, channels, span, shift)


@_kernel
def filter_backward_out(
    dh, x, rates, dout,
    channels, length, span, shift, per_program,
    WIDTH: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient of the last layer: dout, (parts, channels, WIDTH), a block of channels and a part a program."""
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    part = tl.program_id(0) // blocks
    lane = tl.arange(0, WIDTH)
    total = tl.zeros((CHANNELS, WIDTH), tl.float32)
    for block in range(per_program):
        at = (part * per_program + block) * POSITIONS + tl.arange(0, POSITIONS)
        place, inside = _places(lane, at, WIDTH, length)
        values = tl.load(x + place, mask=inside, other=0.0)
        gradient = _raw_gradient(dh, rates, channel, at, channels, length, span, shift)
        total = _dot_add(gradient, tl.trans(values), total)
    row = part.to(tl.int64) * channels + channel
    tl.store(dout + row[:, None] * WIDTH + lane[None, :], total, mask=(channel < channels)[:, None])


@triton.jit
def _through_sine(before, gradient, sines, WIDTH: tl.constexpr):
    """Back through sin(s · before): the gradient of `before`, and that of s per position."""
    factor = _column(sines, WIDTH)
    slope = gradient * _cos(factor * before)
    return slope * factor, slope * before


@triton.jit
def _store_row(sums, number, values, WIDTH: tl.constexpr):
    """(WIDTH,) values as a program's row `number`."""
    tl.store(sums + number * WIDTH + tl.arange(0, WIDTH), values)


@_kernel
def filter_backward_inner(
    d, first, inner, biases, sines, bands, sums, dweight,
    length, span, layer, n_bands, per_program,
    WIDTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Back through a later layer: d, of its result, becomes that of its input.

    sums: (programs, 2, WIDTH), the gradients of its bias and of its sines; dweight: (programs, WIDTH, WIDTH).
    """
    bias, sine = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    total = tl.zeros((WIDTH, WIDTH), tl.float32)
    for block in range(per_program):
        at = (tl.program_id(0) * per_program + block) * POSITIONS + tl.arange(0, POSITIONS)
        place, inside = _places(tl.arange(0, WIDTH), at, WIDTH, length)
        x = _hidden(first, inner, biases, sines, bands, at, span, n_bands, layer, WIDTH)
        before = _inner_layer(x, inner, biases, layer, WIDTH)
        gradient, of_sine = _through_sine(before, tl.load(d + place, mask=inside, other=0.0), sines, WIDTH)
        bias += tl.sum(gradient, axis=1)
        sine += tl.sum(of_sine, axis=1)
        total = _dot_add(gradient, tl.trans(x), total)
        tl.debug_barrier()
        weight = tl.load(_square(inner + (layer - 1) * WIDTH * WIDTH, WIDTH))
        tl.store(d + place, _dot(tl.trans(weight), gradient), mask=inside)
    sums += tl.program_id(0) * 2 * WIDTH
    _store_row(sums, 0, bias, WIDTH)
    _store_row(sums, 1, sine, WIDTH)
    tl.store(_square(dweight + tl.program_id(0) * WIDTH * WIDTH, WIDTH), total)


@_kernel
def filter_backward_first(
    d, first, biases, sines, bands, sums,
    length, span, n_bands,
    WIDTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Back through the first layer.

    sums: (programs, 3 + 2 · n_bands, WIDTH), the gradients of its bias, of its sines and of its weight.
    """
    at = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    place, inside = _places(tl.arange(0, WIDTH), at, WIDTH, length)
    before = _first_layer(first, biases, bands, at, span, n_bands, WIDTH)
    gradient, of_sine = _through_sine(before, tl.load(d + place, mask=inside, other=0.0), sines, WIDTH)
    sums += tl.program_id(0).to(tl.int64) * (3 + 2 * n_bands) * WIDTH
    _store_row(sums, 0, tl.sum(gradient, axis=1), WIDTH)
    _store_row(sums, 1, tl.sum(of_sine, axis=1), WIDTH)
    _store_row(sums, 2, tl.sum(gradient * _time(at, span)[None, :], axis=1), WIDTH)
    for band in range(n_bands):
        angle = _angle(bands, band, at, span)
        _store_row(sums, 3 + band, tl.sum(gradient * _cos(angle)[None, :], axis=1), WIDTH)
        _store_row(sums, 3 + n_bands + band, -tl.sum(gradient * _sin(angle)[None, :], axis=1), WIDTH)
