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
from genome_lm.kernels.triton import filter_plan
from genome_lm.kernels.triton import filters as kernels
from genome_lm.kernels.triton.filter_plan import CHANNELS, blocks_of_channels, blocks_of_positions, positions_of
from genome_lm.kernels.triton.launch import check_device
from genome_lm.kernels.triton.streams import bound

WIDEST = 128
"""Widest hidden layers that the kernels take: their weights must fit into shared memory."""
LEAST = 16
"""Fewest rows of a product; narrower networks are padded."""


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
    check_device(network.out)
    width, dtype = len(network.frequencies), network.out.dtype
    if not takes(network, length):
        raise GenomeLMError(
            f"the triton kernels take no filters' networks of width {width} in {dtype} over {length} positions"
        )
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
    return h.to(dtype)


def takes(network: FilterNetwork, length: int) -> bool:
    """Whether `implicit_filter` can be computed in Triton."""
    wide = len(network.frequencies) > WIDEST
    return length > 0 and not wide and network.out.dtype in (torch.float32, torch.float16, torch.bfloat16)


@torch.library.custom_op("genome_lm::implicit_filter", mutates_args=())
def _filter(
    first: Tensor, inner: Tensor, biases: Tensor, sines: Tensor, out: Tensor, rates: Tensor,
    length: int, span: int, shift: float,
) -> Tensor:  # fmt: skip
    weights = [weight.contiguous() for weight in (first, inner, biases, sines, out, rates)]
    sizes = sizes_for(len(sines))
    channels, blocks = len(out), triton.cdiv(length, sizes["POSITIONS"])
    per_program = blocks_of_channels(length, channels, len(sines))
    h = torch.empty(channels, length, dtype=torch.float32, device=out.device)
    with torch.cuda.device_of(out):
        kernels.filter_forward[(blocks * triton.cdiv(channels, CHANNELS * per_program),)](
            *weights, _bands(first), h,
            channels, length, span, shift, bound(len(biases)), bound(len(first) // 2), bound(per_program),
            **sizes, CHANNELS=CHANNELS,
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
    dh, rates, out = dh.contiguous(), rates.contiguous(), out.contiguous()
    network = first.contiguous(), inner.contiguous(), biases.contiguous(), sines.contiguous(), _bands(first)
    with torch.cuda.device_of(dh):
        x, d = _backward_hidden(dh, network, out, rates, span, shift)
        dout = _backward_out(dh, x, rates, span, shift)
        del x
        later = [_backward_inner(d, network, layer, span) for layer in reversed(range(1, len(biases)))]
        of_bias, of_sines, *of_first = _backward_first(d, network, span)
    dbiases, dsines, dinner = zip(*reversed(later), strict=True) if later else ((), (), ())
    return (
        torch.stack(of_first),
        torch.stack(dinner) if dinner else torch.empty_like(inner),
        torch.stack([of_bias, *dbiases]),
        sum(dsines, of_sines),
        dout,
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


_Network = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""What the kernels make the hidden layers from: first, inner, biases, sines, bands."""


def _backward_hidden(
    dh: Tensor, network: _Network, out: Tensor, rates: Tensor, span: int, shift: float
) -> tuple[Tensor, Tensor]:
    """What the last layer saw and its gradient, (W, length) each."""
    channels, length = dh.shape
    *_, biases, sines, bands = network
    x, d = torch.empty(2, len(sines), length, dtype=torch.float32, device=dh.device)
    sizes = sizes_for(len(sines))
    kernels.filter_backward_hidden[(triton.cdiv(length, sizes["POSITIONS"]),)](
        dh, *network[:4], out, rates, bands, x, d,
        channels, length, span, shift, bound(len(biases)), bound(len(bands)),
        bound(triton.cdiv(channels, CHANNELS)), **sizes, CHANNELS=CHANNELS,
    )  # fmt: skip
    return x, d


def _backward_out(dh: Tensor, x: Tensor, rates: Tensor, span: int, shift: float) -> Tensor:
    """The gradient of the last layer's weight, (C, W)."""
    channels, length = dh.shape
    blocks, sizes = triton.cdiv(channels, CHANNELS), sizes_for(len(x), sums=True)
    per_program, parts = blocks_of_positions(length, len(x), triton.cdiv(filter_plan.PROGRAMS, blocks))
    dout = dh.new_empty(parts, channels, len(x))
    kernels.filter_backward_out[(parts * blocks,)](
        dh, x, rates, dout, channels, length, span, shift, bound(per_program), **sizes, CHANNELS=CHANNELS
    )
    return dout.sum(0)


def _backward_inner(d: Tensor, network: _Network, layer: int, span: int) -> tuple[Tensor, Tensor, Tensor]:
    """Takes d back through a layer; the gradients of its bias, its sines and its weight."""
    width, length = d.shape
    sizes = sizes_for(width, sums=True)
    per_program, parts = blocks_of_positions(length, width, filter_plan.PROGRAMS)
    sums, dweight = d.new_empty(parts, 2, width), d.new_empty(parts, width, width)
    kernels.filter_backward_inner[(parts,)](
        d, *network, sums, dweight, length, span, bound(layer), bound(len(network[-1])), bound(per_program), **sizes
    )
    of_bias, of_sines = sums.sum(0)
    return of_bias, of_sines, dweight.sum(0)


def _backward_first(d: Tensor, network: _Network, span: int) -> Tensor:
    """The gradients of the first layer's bias, of its sines and of its features' weights: (2 + F, W)."""
    (width, length), (first, _, biases, sines, bands) = d.shape, network
    sizes = sizes_for(width)
    blocks = triton.cdiv(length, sizes["POSITIONS"])
    sums = d.new_empty(blocks, 2 + len(first), width)
    kernels.filter_backward_first[(blocks,)](
        d, first, biases, sines, bands, sums, length, span, bound(len(bands)), **sizes
    )
    return sums.sum(0)


def _bands(first: Tensor) -> Tensor:
    return wave_frequencies(len(first), first.device)


def sizes_for(width: int, sums: bool = False) -> dict[str, int]:
    """Compile-time constants for a width; `sums`: see `positions_of`."""
    warps = 4 if width <= 64 else 8
    return {"WIDTH": width, "POSITIONS": positions_of(width, sums), "num_warps": warps, "num_stages": 1}
