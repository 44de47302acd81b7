"""Implicit filters in Triton as an operation of PyTorch, `genome_lm::implicit_filter`: launches, gradients.

Importing this module needs triton.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.kernels.conv.implicit import FilterNetwork, wave_frequencies
from genome_lm.kernels.triton import conv
from genome_lm.kernels.triton import filters as kernels
from genome_lm.kernels.triton.launch import _bound

WIDEST = 128
"""Widest hidden layers that the kernels take: their weights must fit into shared memory."""
LEAST = 16
"""Fewest rows of a product; narrower networks are padded."""
POSITIONS, CHANNELS = 64, 64
"""What a program takes at one time."""
PROGRAMS = 512
"""Programs of a launch that are enough to fill a GPU, and parts that the gradients of weights are summed from."""


def implicit_filter(network: FilterNetwork, length: int, span: int) -> Tensor:
    """As `genome_lm.kernels.conv.implicit.implicit_filter`, in Triton.

    Args:
        network: On a CUDA device (or, interpreted, on the CPU), at most `WIDEST` wide, in any floating dtype. The
            kernels compute in float32, its products split into three TF32 products.
        length: Positions, at least one.
        span: Positions over which the time runs from 0 to 1.

    Returns:
        (C, length) contiguous in the dtype of the network. Differentiable once, in all but the rates.

    Raises:
        GenomeLMError: If the network is one that the kernels can't take.
    """
    width = len(network.frequencies)
    if width > WIDEST:
        raise GenomeLMError(f"the triton kernels take filters' networks up to {WIDEST} wide, not {width}")
    if network.out.device.type != "cuda" and not conv.INTERPRETED.value:
        raise GenomeLMError(f"the triton kernels need a CUDA device, not {network.out.device.type}")
    pad = max(LEAST, triton.next_power_of_2(width)) - width
    (first, _), *later = network.hidden
    inner = [F.pad(weight, (0, pad, 0, pad)) for weight, _ in later]
    h: Tensor = _filter(
        F.pad(first, (0, 0, 0, pad)).float().T.contiguous(),
        torch.stack(inner).float() if inner else first.new_empty(0, width + pad, width + pad, dtype=torch.float32),
        torch.stack([F.pad(bias, (0, pad)) for _, bias in network.hidden]).float(),
        F.pad(network.frequencies, (0, pad)).float(),
        F.pad(network.out, (0, pad)).float(),
        network.rates.float(), length, span, network.shift,
    )  # fmt: skip
    return h.to(network.out.dtype)


@torch.library.custom_op("genome_lm::implicit_filter", mutates_args=())
def _filter(
    first: Tensor, inner: Tensor, biases: Tensor, sines: Tensor, out: Tensor, rates: Tensor,
    length: int, span: int, shift: float,
) -> Tensor:  # fmt: skip
    weights = [weight.contiguous() for weight in (first, inner, biases, sines, out, rates)]
    channels, blocks = len(out), triton.cdiv(length, POSITIONS)
    channel_blocks = triton.cdiv(channels, CHANNELS)
    per_program = triton.cdiv(channel_blocks, min(channel_blocks, triton.cdiv(PROGRAMS, blocks)))
    h = torch.empty(channels, length, dtype=torch.float32, device=out.device)
    with torch.cuda.device_of(out):
        kernels.filter_forward[(blocks * triton.cdiv(channel_blocks, per_program),)](
            *weights, _bands(first), h,
            channels, length, span, shift, _bound(len(biases)), _n_bands(first), _bound(per_program),
            **_sizes(sines, CHANNELS=CHANNELS),
        )  # fmt: skip
    return h


@_filter.register_fake
def _(
    first: Tensor, inner: Tensor, biases: Tensor, sines: Tensor, out: Tensor, rates: Tensor,
    length: int, span: int, shift: float,
) -> Tensor:  # fmt: skip
    return out.new_empty(len(out), length)


@torch.library.custom_op("genome_lm::implicit_filter_backward", mutates_args=())
def _backward(
    dh: Tensor, first: Tensor, inner: Tensor, biases: Tensor, sines: Tensor, out: Tensor, rates: Tensor,
    span: int, shift: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dh, rates, first, inner, biases, sines, out = (
        x.contiguous() for x in (dh, rates, first, inner, biases, sines, out)
    )
    channels, length = dh.shape
    hidden = first, inner, biases, sines
    at = length, span
    n_bands, bands, sizes = _n_bands(first), _bands(first), _sizes(sines)
    blocks, channel_blocks = triton.cdiv(length, POSITIONS), triton.cdiv(channels, CHANNELS)
    x, d = torch.empty(2, len(sines), length, dtype=torch.float32, device=dh.device)
    with torch.cuda.device_of(dh):
        kernels.filter_backward_hidden[(blocks,)](
            dh, *hidden, out, rates, bands, x, d,
            channels, *at, shift, _bound(len(biases)), n_bands, _bound(channel_blocks), **sizes, CHANNELS=CHANNELS,
        )  # fmt: skip
        parts, per_program = _parts(blocks, triton.cdiv(PROGRAMS, channel_blocks))
        dout = dh.new_empty(parts, *out.shape)
        kernels.filter_backward_out[(parts * channel_blocks,)](
            dh, x, rates, dout, channels, *at, shift, _bound(per_program), **sizes, CHANNELS=CHANNELS
        )
        dbiases, dsines, dinner = [], torch.zeros_like(sines), []
        parts, per_program = _parts(blocks, PROGRAMS)
        for layer in reversed(range(1, len(biases))):
            sums, dweight = dh.new_empty(parts, 2, len(sines)), dh.new_empty(parts, *inner.shape[1:])
            kernels.filter_backward_inner[(parts,)](
                d, *hidden, bands, sums, dweight, *at, _bound(layer), n_bands, _bound(per_program), **sizes
            )
            of_bias, of_sines = sums.sum(0)
            dbiases.append(of_bias)
            dinner.append(dweight.sum(0))
            dsines += of_sines
        sums = dh.new_empty(blocks, 2 + len(first), len(sines))
        kernels.filter_backward_first[(blocks,)](d, first, biases, sines, bands, sums, *at, n_bands, **sizes)
    of_bias, of_sines, *of_first = sums.sum(0)
    return (
        torch.stack(of_first),
        torch.stack(dinner[::-1]) if dinner else torch.empty_like(inner),
        torch.stack([of_bias, *dbiases[::-1]]),
        dsines + of_sines,
        dout.sum(0),
    )


@_backward.register_fake
def _(
    dh: Tensor, first: Tensor, inner: Tensor, biases: Tensor, sines: Tensor, out: Tensor, rates: Tensor,
    span: int, shift: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    first, inner, biases, sines, out = (x.new_empty(x.shape) for x in (first, inner, biases, sines, out))
    return first, inner, biases, sines, out


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, ctx.span, ctx.shift = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(dh, *ctx.saved_tensors, ctx.span, ctx.shift), None, None, None, None


_filter.register_autograd(_gradients, setup_context=_save)


def _n_bands(first: Tensor) -> Any:
    return _bound((len(first) - 1) // 2)


def _bands(first: Tensor) -> Tensor:
    return wave_frequencies(len(first), first.device)


def _sizes(sines: Tensor, **more: int) -> dict[str, int]:
    """Compile-time constants."""
    return {"WIDTH": len(sines), "POSITIONS": POSITIONS, "num_warps": 4, "num_stages": 1, **more}


def _parts(blocks: int, most: int) -> tuple[int, int]:
    """Into how many programs so many blocks are parted, and how many blocks each has."""
    per_program = triton.cdiv(blocks, most)
    return triton.cdiv(blocks, per_program), per_program
