"""The stages of the CPU kernels between matrix products and FFTs, each in one pass over memory.

A stage is a function in plain PyTorch, which takes up to a dozen passes. For float32 on a CPU, and short convolutions
of `TAPS` taps, the function of the same name in stages.c takes its place where there is a compiler; `.__wrapped__`
is the plain form. All write to the tensors that they are given, without gradients.

Shapes are those of a group of C channels and B sequences of L positions. With z (3, C, B, L) what the in-projection
gives, (x0, x1, v) is its short convolution, u = x1 · v goes through the long one, whose result is c = h ∗ u, and the
operator gives y = x0 · (c + skip · u). Of each channel there are the short convolution's taps (3, C, 1, K) and
tap_bias (3, C, 1, 1), and skip (C, 1, 1). A name with a d before it is the gradient with respect to the rest.
"""

import ctypes
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVarTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.compiler import compiled
from genome_lm.errors import GenomeLMError
from genome_lm.kernels.cpu.torch_private import has_memory, layer_norm, layer_norm_backward, openmp_library
from genome_lm.kernels.cpu.workspace import workspace

TAPS = 3
"""Taps of the short convolution that stages.c is written for."""
LARGEST = 127
"""8-bit integer that the largest value of a row becomes; −128 is not used, so that signs are alike."""
MOST_TAPS = 16
"""Taps of an explicit filter that stages.c takes at most."""
COMPILED = True
"""Whether to look for a compiler."""
BFLOAT16 = "_bfloat16"
"""Ending of the names of C functions that read and write some tensors in bfloat16."""
_READ_IN_C = torch.float32, torch.int32, torch.int8
_Given = TypeVarTuple("_Given")


class View(ctypes.Structure):
    """A tensor whose last dimension is dense, with 0 as distance along what it has once or lacks."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("stream", ctypes.c_ssize_t),
        ("channel", ctypes.c_ssize_t),
        ("sequence", ctypes.c_ssize_t),
        ("length", ctypes.c_ssize_t),
    ]  # fmt: skip

    @classmethod
    def of(cls, tensor: Tensor | None) -> "View":
        """Of up to four dimensions; streams, channels, sequences, positions; without data for None."""
        if tensor is None:
            return cls()
        shape, steps, count = tensor.shape, tensor.stride(), tensor.dim()
        streams = channels = sequences = 1
        stream = channel = sequence = 0
        # Written out, since a step of training makes dozens of them. A matrix is rows of channels.
        if count == 3:
            (channels, sequences, length), (channel, sequence, _) = shape, steps
        elif count == 2:
            (channels, length), (channel, _) = shape, steps
        elif count == 4:
            (streams, channels, sequences, length), (stream, channel, sequence, _) = shape, steps
        else:
            (length,) = shape
        stream, channel = stream if streams > 1 else 0, channel if channels > 1 else 0
        return cls(tensor.data_ptr(), stream, channel, sequence if sequences > 1 else 0, length)


class Shape(ctypes.Structure):
    """Channels, sequences and positions."""

    _fields_ = [(name, ctypes.c_ssize_t) for name in ("channels", "sequences", "length")]

    @classmethod
    def of(cls, tensor: Tensor) -> "Shape":
        """That of (…, channels, sequences, positions), or of (channels, positions)."""
        channels, *sequences, length = tensor.shape[-3:]
        return cls(channels, *(sequences or [1]), length)


@functools.cache
def _library_or_reason() -> tuple[ctypes.CDLL | None, str]:
    openmp = openmp_library()
    if openmp is None:
        return None, "PyTorch runs without an OpenMP library"
    try:
        return compiled(Path(__file__).with_suffix(".c"), "genome_lm.kernels.cpu.proof", openmp), ""
    except GenomeLMError as error:
        return None, str(error)


def library() -> ctypes.CDLL | None:
    """The functions in C; None where they are not to be used or can't be."""
    return _library_or_reason()[0] if COMPILED else None


def is_compiled() -> bool:
    """Whether stages run in C where their tensors allow it."""
    return COMPILED and _library_or_reason()[0] is not None


def why_plain() -> str:
    """Why no stage runs in C; empty if they do where their tensors allow it."""
    return _library_or_reason()[1] if COMPILED else "switched off"


def in_c(library: ctypes.CDLL, name: str, given: Sequence["Tensor | float | None"]) -> None:
    """Call a stage of a library; it takes what the plain form takes, and the shape of the first tensor."""
    first = given[0]
    assert isinstance(first, Tensor)
    getattr(library, name)(*map(_as_argument, given), Shape.of(first))


def _in_one_pass(plain: Callable[[*_Given], None]) -> Callable[[*_Given], None]:
    """Let the C function of this name do it if it can."""
    names = list(inspect.signature(plain).parameters)
    of_taps = names.index("taps") if "taps" in names else None

    @functools.wraps(plain)
    def stage(*given: *_Given) -> None:
        arguments: tuple[Any, ...] = given
        taken = of_taps is None or arguments[of_taps].shape[-1] == TAPS
        if taken and all(map(_fits, arguments)) and (in_use := library()) is not None:
            in_c(in_use, plain.__name__, arguments)
        else:
            plain(*given)

    return stage


def also_in_bfloat16(*rounded: str) -> Callable[[Callable[[*_Given], None]], Callable[[*_Given], None]]:
    """As `_in_one_pass`; a second C function, whose name ends in `BFLOAT16`, takes these parameters in bfloat16."""

    def both(plain: Callable[[*_Given], None]) -> Callable[[*_Given], None]:
        names = list(inspect.signature(plain).parameters)
        places = {names.index(name) for name in rounded}
        in_float32 = _in_one_pass(plain)

        @functools.wraps(plain)
        def stage(*given: *_Given) -> None:
            arguments: tuple[Any, ...] = given
            if any(arguments[place].dtype != torch.bfloat16 for place in places):
                in_float32(*given)
                return
            fit = all(_fits(each, place in places) for place, each in enumerate(arguments))
            if fit and (in_use := library()) is not None:
                in_c(in_use, plain.__name__ + BFLOAT16, arguments)
            else:
                plain(*given)

        return stage

    return both


def _fits(given: Tensor | float | None, is_rounded: bool = False) -> bool:
    if not isinstance(given, Tensor):
        return True
    read = given.dtype == torch.bfloat16 if is_rounded else given.dtype in _READ_IN_C
    return has_memory(given) and read and (given.shape[-1] == 1 or given.stride(-1) == 1)


def _as_argument(given: Tensor | float | None) -> ctypes.Structure | ctypes.c_float:
    return ctypes.c_float(given) if isinstance(given, float) else View.of(given)


@also_in_bfloat16("hidden")
def gelu(hidden: Tensor) -> None:
    """Write the GELU of `hidden`, (N, I), in the tanh form, over it."""
    torch.ops.aten.gelu.out(hidden, approximate="tanh", out=hidden)


@also_in_bfloat16("out")
def narrow(x: Tensor, out: Tensor) -> None:
    """Write x, (N, K), to `out`, rounded to bfloat16."""
    out.copy_(x)


@_in_one_pass
def quantise(x: Tensor, values: Tensor, scales: Tensor) -> None:
    """Write the rows of x, (N, K), as 8-bit integers to `values`, and what they are times to `scales`, (N,).

    The largest value of a row becomes ±127. A row of zeros stays one.
    """
    _quantise(x, values, scales)


@_in_one_pass
def gelu_quantise(hidden: Tensor, scales: Tensor, bias: Tensor, values: Tensor) -> None:
    """`quantise` the GELU of hidden · scales + bias, in the tanh form, to `values`, (N, I) int8; over `scales`, (N,).

    `hidden`, (N, I), holds the GELU in the end; bias (I,).
    """
    hidden.mul_(scales[:, None]).add_(bias)
    torch.ops.aten.gelu.out(hidden, approximate="tanh", out=hidden)
    _quantise(hidden, values, scales)


@_in_one_pass
def dequantise(product: Tensor, scales: Tensor, column_scales: Tensor, out: Tensor) -> None:
    """Write product · scales · column_scales to `out`, (M, N): product int32, scales (M,), column_scales (N,).

    `out` may be a view of the memory of `product`.
    """
    out.copy_(product * (scales[:, None] * column_scales))


@_in_one_pass
def add_scaled(product: Tensor, scales: Tensor, bias: Tensor, residual: Tensor, out: Tensor) -> None:
    """Write residual + (product · scales + bias) to `out`, which may be the residual.

    All are (N, M), but for scales (N,) and bias (M,).
    """
    torch.add(residual, torch.addcmul(bias, product, scales[:, None]), out=out)


@also_in_bfloat16("hidden", "grad")
def gelu_backward(hidden: Tensor, grad: Tensor, column_sums: Tensor) -> None:
    """Write gelu(hidden), in the tanh form, over `hidden` and its gradient grad · gelu'(hidden) over `grad`.

    Args:
        hidden: (N, I), in bfloat16 if `grad` is.
        grad: (N, I), the gradient with respect to gelu(hidden).
        column_sums: (I,), to which the sum of the result over N is added.
    """
    torch.ops.aten.gelu_backward.grad_input(grad, hidden, approximate="tanh", grad_input=grad)
    column_sums.add_(grad.sum(0, dtype=column_sums.dtype))
    torch.ops.aten.gelu.out(hidden, approximate="tanh", out=hidden)


@also_in_bfloat16("out")
def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Write the layer norm of the rows of x, (N, D), to `out`, (N, D) bfloat16."""
    out.copy_(F.layer_norm(x, x.shape[-1:], weight, bias, eps))


@_in_one_pass
def norm_backward(
    x: Tensor,
    grad: Tensor,
    direct: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor,
    weight_sums: Tensor,
    bias_sums: Tensor,
    direct_sums: Tensor,
) -> None:
    """Write direct + the gradient of x, (N, D), for that of its layer norm, `grad`, to `out`.

    The gradients of the norm's weight and bias, and the sum of `direct` over N, are added to the sums, (D,).
    """
    # The values of the bias are of no importance.
    _, mean, rstd = layer_norm(x, weight, weight, eps)
    through, of_weight, of_bias = layer_norm_backward(grad, x, mean, rstd, weight, weight)
    torch.add(direct, through, out=out)
    for total, value in ((weight_sums, of_weight), (bias_sums, of_bias), (direct_sums, direct.sum(0))):
        total.add_(value)


def decay_window(rates: Tensor, times: Tensor, shift: float) -> Tensor:
    """exp(rates · times) + shift, the window of each filter: rates (C,), times (L,) → (C, L)."""
    return torch.exp(rates[:, None] * times).add_(shift)


@_in_one_pass
def windowed(h: Tensor, rates: Tensor, times: Tensor, shift: float, out: Tensor) -> None:
    """Write h · `decay_window`(rates, times, shift) to `out`, both (C, L)."""
    torch.mul(h, decay_window(rates, times, shift), out=out)


@_in_one_pass
def gates_in(
    z: Tensor,
    bias: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    carry: Tensor | None,
    x0: Tensor,
    u: Tensor,
    kept: Tensor | None,
) -> None:
    """From a piece of z without its bias, (3, C, 1, 1), write x0 and u, and z with its bias to `kept` if it is given.

    `carry`, (3, C, 1, K − 1), is what precedes the piece in z, or zeros, and becomes what precedes the next one; None
    before pieces that are whole sequences.
    """
    z = torch.add(z, bias, out=z if kept is None else kept)
    streams = _short_conv(z, taps, tap_bias, carry)
    x0.copy_(streams[0])
    torch.mul(streams[1], streams[2], out=u)
    if carry is not None and (last := carry.shape[-1]):
        carry.copy_(torch.cat([carry, z[..., -last:]], dim=-1)[..., -last:])


@_in_one_pass
def gate_out(x0: Tensor, c: Tensor, u: Tensor, skip: Tensor, y: Tensor) -> None:
    """Write x0 · (c + skip · u) to y."""
    torch.mul(x0, torch.addcmul(c, u, skip, out=c), out=y)


@_in_one_pass
def conv_inputs(z: Tensor, dy: Tensor, taps: Tensor, tap_bias: Tensor, u: Tensor, dc: Tensor) -> None:
    """Write u and dc = dy · x0, which both go through FFTs."""
    x0, x1, v = _short_conv(z, taps, tap_bias)
    torch.mul(x1, v, out=u)
    torch.mul(dy, x0, out=dc)


@_in_one_pass
def gate_backward(
    z: Tensor,
    y: Tensor,
    c: Tensor,
    u: Tensor,
    skip: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    dx0: Tensor,
    dskip: Tensor,
) -> None:
    """Write dx0 = dy · (c + skip · u), dskip (C, 1, 1) = Σ u · dc, and y over dy, which `y` holds before."""
    x0 = _short_conv(z[:1], taps[:1], tap_bias[:1])[0]
    c = torch.addcmul(c, u, skip, out=c)
    dskip.copy_((y * x0).mul_(u).sum((1, 2), keepdim=True))
    torch.mul(y, c, out=dx0)
    torch.mul(x0, c, out=y)


@_in_one_pass
def streams_backward(
    z: Tensor,
    dx0: Tensor,
    du: Tensor,
    dc: Tensor,
    skip: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    dtaps: Tensor,
    dtap_bias: Tensor,
) -> None:
    """Write dz over z, and the gradients of the taps, (3, C, 1, K), and their bias, (3, C, 1, 1).

    `du` is what comes back through the long convolution; skip · dc, what comes through the skip, is added here.
    """
    _, x1, v = _short_conv(z, taps, tap_bias)
    du = torch.addcmul(du, dc, skip, out=du)
    # Gradients of the streams, for which the plain form takes memory of their own.
    ds = torch.stack([dx0, du * v, du * x1])
    length, last = z.shape[-1], taps.shape[-1] - 1
    dtap_bias.copy_(ds.sum((2, 3), keepdim=True))
    dtaps.zero_()
    lags = range(min(last, length - 1) + 1)
    for lag in lags:
        dtaps[..., 0, last - lag] = (ds[..., lag:] * z[..., : length - lag]).sum((2, 3))
    # dz[t] = Σ_lag tap[lag] · ds[t + lag]
    torch.mul(ds, taps[..., last, None], out=z)
    for lag in lags[1:]:
        z[..., : length - lag].addcmul_(ds[..., lag:], taps[..., last - lag, None])


@_in_one_pass
def filtered(u: Tensor, kernel: Tensor, c: Tensor) -> None:
    """Write the convolution of u with explicit filters to c: `kernel` (C, K), the present position last."""
    last = kernel.shape[-1] - 1
    torch.mul(u, kernel[:, last, None, None], out=c)
    for lag in range(1, min(last, u.shape[-1] - 1) + 1):
        c[..., lag:].addcmul_(u[..., :-lag], kernel[:, last - lag, None, None])


@_in_one_pass
def filtered_backward(u: Tensor, kernel: Tensor, dc: Tensor, du: Tensor, dkernel: Tensor) -> None:
    """Write the gradients of u and of the filters, `dkernel` (C, K)."""
    length, last = u.shape[-1], kernel.shape[-1] - 1
    torch.mul(dc, kernel[:, last, None, None], out=du)
    dkernel.zero_()
    dkernel[:, last] = (dc * u).sum((1, 2))
    for lag in range(1, min(last, length - 1) + 1):
        du[..., :-lag].addcmul_(dc[..., lag:], kernel[:, last - lag, None, None])
        dkernel[:, last - lag] = (dc[..., lag:] * u[..., :-lag]).sum((1, 2))


def _quantise(x: Tensor, values: Tensor, scales: Tensor) -> None:
    torch.amax(x.abs(), 1, out=scales)
    scales.div_(LARGEST).clamp_(min=torch.finfo(torch.float32).tiny)
    values.copy_((x / scales[:, None]).round_())


def _short_conv(z: Tensor, taps: Tensor, bias: Tensor, carry: Tensor | None = None) -> Tensor:
    """The short causal convolution of z (…, C, B, L), in a buffer; `carry` holds the K − 1 positions before z."""
    out = workspace.take("stages.streams", tuple(z.shape), z.dtype)
    last = taps.shape[-1] - 1
    torch.mul(z, taps[..., last, None], out=out).add_(bias)
    for lag in range(1, min(last, z.shape[-1] - 1) + 1):
        out[..., lag:].addcmul_(z[..., :-lag], taps[..., last - lag, None])
    if carry is not None:
        for lag in range(1, last + 1):
            reach = min(lag, z.shape[-1])
            before = carry[..., last - lag : last - lag + reach]
            out[..., :reach].addcmul_(before, taps[..., last - lag, None])
    return out
