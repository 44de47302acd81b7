"""The gated causal convolution in Triton as operations of PyTorch: plans, launches, gradients.

Importing this module needs triton. Under autograd and torch.compile the operations are opaque: `genome_lm::
gated_causal_conv` on streams as they are, `genome_lm::hyena_core` on streams in front of their short convolutions,
and two more for their gradients.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.kernels.triton import conv as kernels
from genome_lm.kernels.triton import costs, toeplitz_launch
from genome_lm.kernels.triton.plan import TAPS_OCTETS, TAPS_WARPS, Plan, channels_at_once, plan_for, taps_programs
from genome_lm.kernels.triton.streams import Streams, bound
from genome_lm.kernels.triton.tables import table_for

PROGRAMS = 1_024
"""Programs of a launch that are enough to fill a GPU; beyond these the backward walks through the batch instead."""


def gated_causal_conv(x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    """As `genome_lm.kernels.conv.reference.gated_causal_conv`, in Triton.

    Args:
        x0: (B, D, L) float32, float16 or bfloat16 on a CUDA device (or, interpreted, on the CPU).
        x1: Like x0.
        v: Like x0.
        h: (D, L), any floating dtype.
        bias: (D,), any floating dtype.

    Returns:
        (B, D, L) contiguous. Products of matrices are as precise as `plan.precision_of` says, for float32 by the
        setting of `torch.set_float32_matmul_precision`; errors are those of `genome_lm.kernels.triton.conv`.

    Raises:
        GenomeLMError: If the device or the dtype is one that the kernels can't take.
    """
    dtype = torch.promote_types(torch.promote_types(x0.dtype, x1.dtype), v.dtype)
    _check(x0, dtype)
    return _gated(x0.to(dtype), x1.to(dtype), v.to(dtype), h, bias)


def hyena_core(z: Tensor, weight: Tensor, bias: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    """As `genome_lm.kernels.conv.reference.hyena_core`, in Triton: z is read as it is, and nothing but y is written.

    Args:
        z: (B, 3D, L) float32, float16 or bfloat16 on a CUDA device (or, interpreted, on the CPU).
        weight: (3D, 1, K), any floating dtype; taken in float32, as are the results of the short convolutions.
        bias: (3D,), any floating dtype.
        h: (D, L), any floating dtype.
        skip: (D,), any floating dtype.

    Returns:
        (B, D, L) contiguous, in the dtype of z; precision and errors as in `gated_causal_conv`.
    """
    _check(z, z.dtype)
    return _core(z, short_of(weight, bias), h, skip)


def core_spectra(h: Tensor, dtype: torch.dtype) -> Tensor:
    """What `hyena_core` computes of its filters alone, for `hyena_core_by_spectra`.

    Args:
        h: (D, L), any floating dtype.
        dtype: Of the streams.

    Returns:
        Complex numbers as the kernels hold them, in the dtype of their products but for the shortest sequences:
        `spectra_bytes` in all.
    """
    _check(h, dtype)
    plan = plan_for(h.shape[1], dtype)
    assert plan is not None
    h = h.contiguous()
    with torch.cuda.device_of(h):
        if plan.n_columns == 1:
            return _tile_spectra(plan, h, table_for(plan, h.device).tile)
        passes = _Passes(plan, Streams(h[None], h[None], h[None], h, 0), h[:, 0], 0, len(h))
        spectra = torch.empty(1, len(h), 2, plan.n_columns, plan.tile, dtype=plan.kept, device=h.device)
        passes.filter(h, spectra)
        passes.rows(spectra)
    return spectra[0]


def spectra_bytes(channels: int, length: int, dtype: torch.dtype) -> int:
    """Bytes of `core_spectra`."""
    plan = plan_for(length, dtype)
    assert plan is not None
    item = 4 if plan.n_columns == 1 else plan.kept.itemsize
    return 2 * channels * plan.n_columns * plan.tile * item


def hyena_core_by_spectra(z: Tensor, weight: Tensor, bias: Tensor, spectra: Tensor, skip: Tensor) -> Tensor:
    """`hyena_core` without gradients, with the filters' `core_spectra` for the length and dtype of z."""
    _check(z, z.dtype)
    return _core_by_spectra(z, short_of(weight, bias), spectra, skip)


def short_of(weight: Tensor, bias: Tensor, stream_bias: Tensor | None = None) -> Tensor:
    """The short convolutions as the operations take them.

    Args:
        weight: (3D, 1, K), any floating dtype.
        bias: (3D,), any floating dtype.
        stream_bias: (3D,) to be added to the streams first, rounded to their dtype; None: nothing.

    Returns:
        (3D, K + 2) float32, differentiable in all three.
    """
    first = torch.zeros_like(bias) if stream_bias is None else stream_bias
    return torch.cat([weight[:, 0].float(), bias[:, None].float(), first[:, None].float()], dim=1)


def check_device(x: Tensor) -> None:
    """Raise the error of a device that no kernels run on."""
    if x.device.type != "cuda" and not kernels.INTERPRETED.value:
        raise GenomeLMError(
            f"the triton kernels need a CUDA device, not {x.device.type}: unset GENOME_LM_KERNEL, "
            "or set TRITON_INTERPRET=1 to run them slowly on the CPU"
        )


def _check(x: Tensor, dtype: torch.dtype) -> None:
    """Raise the error of what the kernels can't take."""
    check_device(x)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise GenomeLMError(f"the triton kernels take float32, float16 and bfloat16, not {dtype}")
    if plan_for(x.shape[-1], dtype) is None:
        raise GenomeLMError(f"the triton kernels take no sequences of {x.shape[-1]} positions in {dtype}")


@torch.library.custom_op("genome_lm::gated_causal_conv", mutates_args=())
def _gated(x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    x0, x1, v = _alike(x0, x1, v)
    return _forward(Streams(x0, x1, v, bias.float().contiguous(), 0), h, bias)


@_gated.register_fake
def _(x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    return torch.empty(x0.shape, dtype=x0.dtype, device=x0.device)


@torch.library.custom_op("genome_lm::gated_causal_conv_backward", mutates_args=())
def _gated_backward(
    dy: Tensor, x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x0, x1, v = _alike(x0, x1, v)
    streams = Streams(x0, x1, v, bias.float().contiguous(), 0)
    gradients = [torch.empty(x0.shape, dtype=x0.dtype, device=x0.device) for _ in range(3)]
    _, dh, dbias = _backward(dy.contiguous(), streams, h, bias, gradients)
    return *gradients, dh, dbias  # type: ignore[return-value]


@_gated_backward.register_fake
def _(
    dy: Tensor, x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx0, dx1, dv = (torch.empty(x0.shape, dtype=x0.dtype, device=x0.device) for _ in range(3))
    return dx0, dx1, dv, h.new_empty(h.shape), bias.new_empty(bias.shape)


@torch.library.custom_op("genome_lm::hyena_core", mutates_args=())
def _core(z: Tensor, short: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    return _forward(_short_streams(z, short), h, skip)


@_core.register_fake
def _(z: Tensor, short: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    return z.new_empty(z.shape[0], z.shape[1] // 3, z.shape[2])


@torch.library.custom_op("genome_lm::hyena_core_by_spectra", mutates_args=())
def _core_by_spectra(z: Tensor, short: Tensor, spectra: Tensor, skip: Tensor) -> Tensor:
    return _forward(_short_streams(z, short), None, skip, spectra)


@_core_by_spectra.register_fake
def _(z: Tensor, short: Tensor, spectra: Tensor, skip: Tensor) -> Tensor:
    return z.new_empty(z.shape[0], z.shape[1] // 3, z.shape[2])


@torch.library.custom_op("genome_lm::hyena_core_backward", mutates_args=())
def _core_backward(
    dy: Tensor, z: Tensor, short: Tensor, h: Tensor, skip: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dz = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    dshort, dh, dskip = _backward(dy.contiguous(), _short_streams(z, short), h, skip, dz.chunk(3, dim=1))
    return dz, dshort.reshape(short.shape), dh, dskip


@_core_backward.register_fake
def _(dy: Tensor, z: Tensor, short: Tensor, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return z.new_empty(z.shape), short.new_empty(short.shape), h.new_empty(h.shape), skip.new_empty(skip.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


_gated.register_autograd(lambda ctx, dy: _gated_backward(dy, *ctx.saved_tensors), setup_context=_save)
_core.register_autograd(lambda ctx, dy: _core_backward(dy, *ctx.saved_tensors), setup_context=_save)


def _alike(*gates: Tensor) -> list[Tensor]:
    """The gates with the same strides and positions side by side; copied only if they aren't so already."""
    alike = all(gate.stride() == gates[0].stride() for gate in gates) and gates[0].stride(-1) == 1
    return list(gates) if alike else [gate.contiguous() for gate in gates]


def _short_streams(z: Tensor, short: Tensor) -> Streams:
    z = z if z.stride(-1) == 1 else z.contiguous()
    x0, x1, v = z.chunk(3, dim=1)
    weights, bias, stream_bias = short.split([short.shape[1] - 2, 1, 1], dim=1)
    stream_bias = stream_bias.to(z.dtype).float()
    folded = torch.cat([weights, bias + weights.sum(1, keepdim=True) * stream_bias, stream_bias], dim=1)
    return Streams(x0, x1, v, folded.view(3, -1, short.shape[1]), weights.shape[1])


def _forward(streams: Streams, h: Tensor | None, bias: Tensor, spectra: Tensor | None = None) -> Tensor:
    """y, (B, D, L), with the long filters (D, L) or their spectra and the weights of the skip (D,)."""
    x = streams.x0
    if h is not None and (products := _products(x, streams.taps, backward=False)):
        return products(streams, h.contiguous(), bias.float().contiguous())
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if y.numel():
        plan = _plan(x, backward=False)
        run = _tile_forward if plan.n_columns == 1 else _columns_forward
        with torch.cuda.device_of(x):
            run(plan, streams, None if h is None else h.contiguous(), bias.float().contiguous(), y, spectra)
    return y


def _backward(
    dy: Tensor, streams: Streams, h: Tensor, bias: Tensor, gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Fills the gradients of the three streams, (B, D, L) each; those of `short`, of the filters and of the skip."""
    if not dy.numel():
        return torch.zeros_like(streams.short), torch.zeros_like(h), torch.zeros_like(bias)
    run = _products(dy, streams.taps, backward=True)
    if run is None:
        plan = _plan(dy, backward=True)
        run = partial(_tile_backward if plan.n_columns == 1 else _columns_backward, plan)
    with torch.cuda.device_of(dy):
        dshort, dh, dbias = run(dy, streams, h.contiguous(), bias.float().contiguous(), gradients)
    return dshort, dh.to(h.dtype), dbias.to(bias.dtype)


def _products(x: Tensor, taps: int, backward: bool) -> Callable[..., Any] | None:
    """What takes sequences like x as products with Toeplitz matrices; None where FFTs do."""
    plan = costs.toeplitz_plan_for(x.shape[2], x.shape[0], x.dtype, backward, taps) if x.numel() else None
    if plan is None:
        return None
    return partial(toeplitz_launch.backward if backward else toeplitz_launch.forward, plan)


def _plan(x: Tensor, backward: bool) -> Plan:
    plan = plan_for(x.shape[-1], x.dtype, backward)
    assert plan is not None
    return plan


def _constants(plan: Plan) -> dict[str, Any]:
    """Compile-time constants of the kernels that work on tiles."""
    return {"R": plan.rows, "C": plan.columns, "DOT": plan.dot, "num_warps": plan.warps, "num_stages": 1}


def _column_constants(plan: Plan, inverse: bool = False) -> dict[str, Any]:
    """Compile-time constants of the column passes. Inverses need registers for gates too: half a block each."""
    return {
        "ROWS": plan.block_rows, "COLUMNS": plan.block_columns // (2 if inverse else 1), "STEP": plan.step,
        "DOT": plan.dot, "num_warps": plan.column_warps, "num_stages": 2,
    }  # fmt: skip


def _tile_spectra(plan: Plan, h: Tensor, tables: Tensor) -> Tensor:
    spectra = torch.empty(h.shape[0], 2, plan.tile, dtype=torch.float32, device=h.device)
    kernels.tile_spectrum[(h.shape[0],)](h, spectra, tables, h.shape[1], **_constants(plan))
    return spectra


def _tile_forward(
    plan: Plan, streams: Streams, h: Tensor | None, bias: Tensor, y: Tensor, spectra: Tensor | None
) -> None:
    batch, channels, length = y.shape
    tables = table_for(plan, y.device).tile
    if spectra is None:
        assert h is not None
        spectra = _tile_spectra(plan, h, tables)
    kernels.tile_conv[(batch * channels,)](
        *streams[:4], bias, y, spectra, tables,
        batch, channels, length, *streams.x0.stride()[:2], TAPS=streams.taps, **_constants(plan),
    )  # fmt: skip


def _tile_backward(
    plan: Plan, dy: Tensor, streams: Streams, h: Tensor, bias: Tensor, gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, length = dy.shape
    tables = table_for(plan, dy.device).tile
    per_program = -(-batch // min(batch, -(-PROGRAMS // channels)))
    parts = triton.cdiv(batch, per_program)
    dh = torch.empty(parts, channels, length, dtype=torch.float32, device=dy.device)
    dbias = torch.empty(parts, channels, dtype=torch.float32, device=dy.device)
    behind = _behind(dy, streams, gradients)
    kernels.tile_conv_backward[(parts * channels,)](
        dy, *streams[:4], bias, *behind, dh, dbias, _tile_spectra(plan, h, tables), tables,
        batch, channels, length, *streams.x0.stride()[:2], per_program, TAPS=streams.taps, **_constants(plan),
    )  # fmt: skip
    dshort = _taps_backward(behind, streams, gradients, channels)
    return dshort, dh.sum(0) if parts > 1 else dh[0], dbias.sum(0)


def _behind(like: Tensor, streams: Streams, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Where the kernels put dx0, dx1 and dv: into the gradients, or with taps dx0 and du between two kernels."""
    if not streams.taps:
        return gradients
    ds0, du = torch.empty(2, *like.shape, dtype=like.dtype, device=like.device)
    return ds0, du, du


def _taps_backward(
    behind: Sequence[Tensor], streams: Streams, gradients: Sequence[Tensor], all_channels: int
) -> Tensor:
    """Take what `_behind` holds, (B, channels, L), into the gradients; returns that of `short`, (3, channels, …).

    The streams and gradients begin with the first channel of `behind`.
    """
    if not streams.taps:
        return streams.short
    ds0, du, _ = behind
    batch, channels, length = ds0.shape
    (blocks, turns), lanes = taps_programs(length), 3 * (streams.taps + 2)
    padded = triton.next_power_of_2(lanes)
    sums = torch.empty(batch, channels, blocks, padded, dtype=torch.float32, device=ds0.device)
    kernels.taps_backward[(batch * channels * blocks,)](
        ds0, du, *streams[:4], *gradients, sums,
        channels, all_channels, length, *streams.x0.stride()[:2], gradients[0].stride(0), blocks,
        bound(turns), TAPS=streams.taps, LANES=padded, OCTETS=TAPS_OCTETS, num_warps=TAPS_WARPS,
    )  # fmt: skip
    return sums.sum((0, 2))[:, :lanes].view(channels, 3, -1).transpose(0, 1)


class _Passes:
    """The passes over a group of channels [start, stop) of long sequences.

    The streams, the skip's weights and everything else of channels is taken from the group's first channel on.
    """

    def __init__(self, plan: Plan, streams: Streams, bias: Tensor, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop
        self.batch, self.all_channels, self.length = streams.x0.shape
        self.channels = stop - start
        self.table = table_for(plan, bias.device)
        self.bias = bias[start:]
        short = streams.short[:, start:] if streams.taps else self.bias
        x0, x1, v = map(self.here, streams[:3])
        self.streams = Streams(x0, x1, v, short, streams.taps)

    def rooms(self, workspace: Tensor, sequences: int) -> Tensor:
        """Places in the workspace for the complex numbers between the passes, of so many sequences a channel."""
        shape = sequences, self.channels, 2, self.plan.n_columns, self.plan.tile
        return workspace[: math.prod(shape)].view(shape)

    def _programs(self, sequences: int, constants: dict[str, Any]) -> int:
        blocks = triton.cdiv(self.plan.n_columns, constants["ROWS"])
        return sequences * self.channels * blocks * (self.plan.tile // constants["COLUMNS"])

    def _shape(self) -> tuple[Any, int, int]:
        return bound(self.plan.n_columns), self.plan.tile, self.plan.pitch

    def here(self, x: Tensor) -> Tensor:
        """The part of (B, D, …) or (D, …) from the group's first channel on."""
        return x[..., self.start :, :]

    def _columns(self, z: Tensor, a: Tensor, b: Tensor | None, streams: tuple[int | None, int | None]) -> None:
        """First pass over a · b, or over a alone, into z; `streams`: which of x0, x1 and v they are, if any."""
        gate = a if b is None else b
        shorts = [self.bias if number is None or not self.streams.taps else self.streams.short[number]
                  for number in streams]  # fmt: skip
        taps = [0 if number is None else self.streams.taps for number in streams]
        constants = _column_constants(self.plan)
        kernels.columns_fft[(self._programs(len(a), constants),)](
            a, gate, z, self.table.columns, *shorts, self.channels, self.length, *a.stride()[:2], *gate.stride()[:2],
            *self._shape(), GATED=b is not None, A_TAPS=taps[0], B_TAPS=taps[1], **constants,
        )  # fmt: skip

    def input(self, z: Tensor) -> None:
        """First pass over x1 · v."""
        self._columns(z, self.streams.x1, self.streams.v, (1, 2))

    def gradient(self, g: Tensor, dy: Tensor) -> None:
        """First pass over dy · x0."""
        self._columns(g, self.here(dy), self.streams.x0, (None, 0))

    def filter(self, h: Tensor, z: Tensor) -> None:
        """First pass over the filters (D, L)."""
        self._columns(z, self.here(h)[None], None, (None, None))

    def rows(self, z: Tensor) -> None:
        """Second pass without a way back."""
        kernels.rows_fft[(len(z) * self.channels * self.plan.n_columns,)](
            z, self.table.phases, self.table.tile, self.plan.n_columns, **_constants(self.plan)
        )

    def rows_conv(self, z: Tensor, h: Tensor) -> None:
        """Second pass and its way back."""
        kernels.rows_conv[(self.batch * self.channels * self.plan.n_columns,)](
            z, h, self.table.phases, self.table.tile, self.channels, self.plan.n_columns, **_constants(self.plan)
        )

    def rows_backward(self, z: Tensor, g: Tensor, h: Tensor) -> None:
        """Way back of the backward's second pass."""
        kernels.rows_backward[(self.channels * self.plan.n_columns,)](
            z, g, h, self.table.phases, self.table.tile, bound(self.batch), self.channels, self.plan.n_columns,
            **_constants(self.plan),
        )  # fmt: skip

    def inverse(self, z: Tensor, y: Tensor, gated: bool) -> None:
        """Last pass into y, (B, D, L)."""
        streams = self.streams if gated else Streams(y, y, y, self.bias, 0)
        constants = _column_constants(self.plan, inverse=True)
        kernels.columns_ifft[(self._programs(len(z), constants),)](
            z, *streams[:4], self.bias, self.here(y), self.table.columns,
            self.channels, self.all_channels, self.length, *streams.x0.stride()[:2], *self._shape(),
            GATED=gated, TAPS=streams.taps, **constants,
        )  # fmt: skip

    def inverse_backward(
        self, z: Tensor, g: Tensor, dy: Tensor, gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Last pass, into the streams' gradients; those of `short`, (3, channels, …), and the skip, (channels,)."""
        gradients = [self.here(gradient) for gradient in gradients]
        behind = _behind(dy[:, self.start : self.stop], self.streams, gradients)
        constants = _column_constants(self.plan, inverse=True)
        programs = self._programs(self.batch, constants)
        dbias = torch.empty(programs, dtype=torch.float32, device=g.device)
        kernels.columns_ifft_backward[(programs,)](
            z, g, self.here(dy), *self.streams[:4], self.bias, *behind, dbias, self.table.columns,
            self.channels, self.all_channels, behind[0].stride(0) // self.length, self.length,
            *self.streams.x0.stride()[:2], *self._shape(), TAPS=self.streams.taps, **constants,
        )  # fmt: skip
        dshort = _taps_backward(behind, self.streams, gradients, self.all_channels)
        return dshort, dbias.view(self.batch, self.channels, -1).sum((0, 2))


def _groups(plan: Plan, streams: Streams, bias: Tensor, sequences: int) -> Iterator[tuple[_Passes, Tensor]]:
    """Groups of channels, with their rooms in one workspace for so many complex sequences a channel."""
    channels, numbers = streams.x0.shape[1], sequences * 2 * plan.n_columns * plan.tile
    width = channels_at_once(plan, channels, sequences)
    workspace = torch.empty(width * numbers, dtype=plan.kept, device=bias.device)
    for start in range(0, channels, width):
        group = _Passes(plan, streams, bias, start, min(start + width, channels))
        yield group, group.rooms(workspace, sequences)


def _columns_forward(
    plan: Plan, streams: Streams, h: Tensor | None, bias: Tensor, y: Tensor, spectra: Tensor | None
) -> None:
    for group, rooms in _groups(plan, streams, bias, len(y) + (spectra is None)):
        z = rooms[: len(y)]
        if spectra is None:
            assert h is not None
            spectrum = rooms[-1:]
            group.filter(h, spectrum)
            group.rows(spectrum)
        else:
            spectrum = spectra[None, group.start : group.start + group.channels]
        group.input(z)
        group.rows_conv(z, spectrum)
        group.inverse(z, y, gated=True)


def _columns_backward(
    plan: Plan, dy: Tensor, streams: Streams, h: Tensor, bias: Tensor, gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    dh = torch.empty(h.shape, dtype=torch.float32, device=h.device)
    of_streams, of_skip = [], []
    for group, rooms in _groups(plan, streams, bias, 2 * len(dy) + 1):
        z, g, spectrum = rooms.split([len(dy), len(dy), 1])
        group.input(z)
        group.gradient(g, dy)
        group.filter(h, spectrum)
        group.rows(rooms)
        group.rows_backward(z, g, spectrum)
        group.inverse(spectrum, dh[None], gated=False)
        dshort, dskip = group.inverse_backward(z, g, dy, gradients)
        of_streams.append(dshort)
        of_skip.append(dskip)
    return torch.cat(of_streams, dim=1) if streams.taps else streams.short, dh, torch.cat(of_skip)
