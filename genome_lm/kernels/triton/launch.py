"""The gated causal convolution in Triton as one operation of PyTorch: plans, launches, gradients.

Importing this module needs triton. Under autograd and torch.compile the operation is opaque: `genome_lm::
gated_causal_conv` and, for its gradients, `genome_lm::gated_causal_conv_backward`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.kernels.triton import conv as kernels
from genome_lm.kernels.triton.plan import Plan, plan_for
from genome_lm.kernels.triton.tables import table_for

WORKSPACE_BYTES = 16 << 20
"""What stands between the passes over a long sequence, all of it; channels are done in groups so that it fits.

An H100 has 50 MB of L2 in two halves, and what one half holds the other may hold a copy of. 16 MiB leave room for the
operands that stream by. One workspace serves all groups: of two that alternate, each would push the other's lines out
to memory, though nobody wants them anymore. A single channel may need more.
"""
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
        (B, D, L) contiguous. With bfloat16 the matrix products are bfloat16, with float32 and float16 each is split
        into three TF32 products; accumulation is always float32.

    Raises:
        GenomeLMError: If the device or the dtype is one that the kernels can't take.
    """
    if x0.device.type != "cuda" and not kernels.INTERPRETED.value:
        raise GenomeLMError(
            f"the triton kernels need a CUDA device, not {x0.device.type}: unset GENOME_LM_KERNEL, "
            "or set TRITON_INTERPRET=1 to run them slowly on the CPU"
        )
    dtype = torch.promote_types(torch.promote_types(x0.dtype, x1.dtype), v.dtype)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise GenomeLMError(f"the triton kernels take float32, float16 and bfloat16, not {dtype}")
    if plan_for(x0.shape[-1], dtype) is None:
        raise GenomeLMError(f"the triton kernels take no sequences of {x0.shape[-1]} positions in {dtype}")
    return _forward(x0.to(dtype), x1.to(dtype), v.to(dtype), h, bias)


@torch.library.custom_op("genome_lm::gated_causal_conv", mutates_args=())
def _forward(x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    x0, x1, v = _alike(x0, x1, v)
    y = torch.empty(x0.shape, dtype=x0.dtype, device=x0.device)
    if y.numel():
        plan = _plan(x0, backward=False)
        run = _tile_forward if plan.n_columns == 1 else _columns_forward
        with torch.cuda.device_of(x0):
            run(plan, x0, x1, v, h.contiguous(), bias.float().contiguous(), y)
    return y


@_forward.register_fake
def _(x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    return torch.empty(x0.shape, dtype=x0.dtype, device=x0.device)


@torch.library.custom_op("genome_lm::gated_causal_conv_backward", mutates_args=())
def _backward(
    dy: Tensor, x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x0, x1, v = _alike(x0, x1, v)
    dy = dy.contiguous()
    dx0, dx1, dv = (torch.empty(x0.shape, dtype=x0.dtype, device=x0.device) for _ in range(3))
    if not dy.numel():
        return dx0, dx1, dv, torch.zeros_like(h), torch.zeros_like(bias)
    plan = _plan(x0, backward=True)
    run = _tile_backward if plan.n_columns == 1 else _columns_backward
    with torch.cuda.device_of(x0):
        dh, dbias = run(plan, dy, x0, x1, v, h.contiguous(), bias.float().contiguous(), dx0, dx1, dv)
    return dx0, dx1, dv, dh.to(h.dtype), dbias.to(bias.dtype)


@_backward.register_fake
def _(
    dy: Tensor, x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx0, dx1, dv = (torch.empty(x0.shape, dtype=x0.dtype, device=x0.device) for _ in range(3))
    return dx0, dx1, dv, h.new_empty(h.shape), bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
    return _backward(dy, *ctx.saved_tensors)


_forward.register_autograd(_gradients, setup_context=_save)


def _alike(*gates: Tensor) -> list[Tensor]:
    """The gates with the same strides and positions side by side; copied only if they aren't so already."""
    alike = all(gate.stride() == gates[0].stride() for gate in gates) and gates[0].stride(-1) == 1
    return list(gates) if alike else [gate.contiguous() for gate in gates]


def _plan(x: Tensor, backward: bool) -> Plan:
    plan = plan_for(x.shape[-1], x.dtype, backward)
    assert plan is not None
    return plan


def _bound(n: int) -> Any:
    """An argument that bounds a loop.

    A compiled kernel learns it at run time, so that no length needs a compilation of its own. The interpreter gets a
    constant: it turns integers into tensors, and Triton 3.6's can't loop up to a tensor under numpy 2.4.
    """
    return tl.constexpr(n) if kernels.INTERPRETED.value else n


def _constants(plan: Plan) -> dict[str, Any]:
    """Compile-time constants of the kernels that work on tiles."""
    dot = tl.bfloat16 if plan.dot == torch.bfloat16 else tl.float32
    return {"R": plan.rows, "C": plan.columns, "DOT": dot, "num_warps": plan.warps, "num_stages": 1}


def _column_constants(plan: Plan) -> dict[str, Any]:
    """Compile-time constants of the column passes."""
    return {
        "ROWS": plan.block_rows, "COLUMNS": plan.block_columns, "STEP": plan.step, "DOT": _constants(plan)["DOT"],
        "num_warps": plan.column_warps, "num_stages": 2,
    }  # fmt: skip


def _tile_spectra(plan: Plan, h: Tensor, tables: Tensor) -> Tensor:
    spectra = torch.empty(h.shape[0], 2, plan.tile, dtype=torch.float32, device=h.device)
    kernels.tile_spectrum[(h.shape[0],)](h, spectra, tables, h.shape[1], **_constants(plan))
    return spectra


def _tile_forward(plan: Plan, x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor, y: Tensor) -> None:
    batch, channels, length = x0.shape
    tables = table_for(plan, x0.device).tile
    kernels.tile_conv[(batch * channels,)](
        x0, x1, v, bias, y, _tile_spectra(plan, h, tables), tables,
        batch, channels, length, x0.stride(0), x0.stride(1), **_constants(plan),
    )  # fmt: skip


def _tile_backward(
    plan: Plan, dy: Tensor, x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor,
    dx0: Tensor, dx1: Tensor, dv: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, channels, length = x0.shape
    tables = table_for(plan, x0.device).tile
    per_program = -(-batch // min(batch, -(-PROGRAMS // channels)))
    parts = triton.cdiv(batch, per_program)
    dh = torch.empty(parts, channels, length, dtype=torch.float32, device=x0.device)
    dbias = torch.empty(parts, channels, dtype=torch.float32, device=x0.device)
    kernels.tile_conv_backward[(parts * channels,)](
        dy, x0, x1, v, bias, dx0, dx1, dv, dh, dbias, _tile_spectra(plan, h, tables), tables,
        batch, channels, length, x0.stride(0), x0.stride(1), _bound(per_program), **_constants(plan),
    )  # fmt: skip
    return dh.sum(0) if parts > 1 else dh[0], dbias.sum(0)


class _Passes:
    """The passes over a group of channels [start, stop) of long sequences."""

    def __init__(self, plan: Plan, x: Tensor, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop
        self.batch, self.all_channels, self.length = x.shape
        self.channels = stop - start
        self.table = table_for(plan, x.device)

    def rooms(self, workspace: Tensor, batches: Sequence[int]) -> list[Tensor]:
        """Places in the workspace for the complex numbers between the passes, for batches of so many sequences."""
        shape = self.channels, 2, self.plan.n_columns, self.plan.tile
        places = workspace[: sum(batches) * math.prod(shape)].view(-1, *shape)
        return list(places.split(list(batches)))

    def _programs(self, batch: int) -> int:
        blocks = triton.cdiv(self.plan.n_columns, self.plan.block_rows)
        return batch * self.channels * blocks * (self.plan.tile // self.plan.block_columns)

    def _shape(self) -> tuple[Any, int, int]:
        return _bound(self.plan.n_columns), self.plan.tile, self.plan.pitch

    def here(self, x: Tensor) -> Tensor:
        """The part of (B, D, …) or (D, …) from the group's first channel on."""
        return x[..., self.start :, :] if x.ndim > 1 else x[self.start :]

    def columns(self, a: Tensor, b: Tensor | None, z: Tensor) -> None:
        """First pass over a · b, or over a alone, into z; a, b: (B, D, L)."""
        gate = a if b is None else b
        kernels.columns_fft[(self._programs(len(a)),)](
            self.here(a), self.here(gate), z, self.table.columns, self.channels, self.length,
            *a.stride()[:2], *gate.stride()[:2], *self._shape(), GATED=b is not None, **_column_constants(self.plan),
        )  # fmt: skip

    def spectrum(self, h: Tensor, z: Tensor) -> None:
        """Transform of the filters (D, L) into z, (1, channels, 2, n_columns, tile)."""
        self.columns(h[None], None, z)
        kernels.rows_spectrum[(self.channels * self.plan.n_columns,)](
            z, self.table.phases, self.table.tile, self.plan.n_columns, **_constants(self.plan)
        )

    def rows(self, z: Tensor, h: Tensor) -> None:
        """Second pass."""
        kernels.rows_conv[(self.batch * self.channels * self.plan.n_columns,)](
            z, h, self.table.phases, self.table.tile, self.channels, self.plan.n_columns, **_constants(self.plan)
        )

    def rows_backward(self, z: Tensor, g: Tensor, h: Tensor) -> None:
        """Second pass of the backward."""
        kernels.rows_conv_backward[(self.channels * self.plan.n_columns,)](
            z, g, h, self.table.phases, self.table.tile, _bound(self.batch), self.channels, self.plan.n_columns,
            **_constants(self.plan),
        )  # fmt: skip

    def inverse(self, z: Tensor, y: Tensor, gates: tuple[Tensor, Tensor, Tensor, Tensor] | None) -> None:
        """Last pass into y; gates: x0, x1, v and the bias."""
        x0, x1, v, bias = gates or (y, y, y, y)
        kernels.columns_ifft[(self._programs(len(z)),)](
            z, self.here(x0), self.here(x1), self.here(v), self.here(bias), self.here(y), self.table.columns,
            self.channels, self.all_channels, self.length, *x0.stride()[:2], *x1.stride()[:2], *self._shape(),
            GATED=gates is not None, **_column_constants(self.plan),
        )  # fmt: skip

    def inverse_backward(
        self, g: Tensor, dy: Tensor, x0: Tensor, x1: Tensor, v: Tensor, bias: Tensor, dx1: Tensor, dv: Tensor
    ) -> Tensor:
        """Last pass into dx1 and dv; returns the bias's gradient, (channels,)."""
        programs = self._programs(self.batch)
        dbias = torch.empty(programs, dtype=torch.float32, device=g.device)
        kernels.columns_ifft_backward[(programs,)](
            g, *map(self.here, (dy, x0, x1, v, bias, dx1, dv)), dbias, self.table.columns,
            self.channels, self.all_channels, self.length, *x0.stride()[:2], *self._shape(),
            **_column_constants(self.plan),
        )  # fmt: skip
        return dbias.view(self.batch, self.channels, -1).sum((0, 2))


def _groups(plan: Plan, x: Tensor, batches: Sequence[int]) -> Iterator[tuple[_Passes, list[Tensor]]]:
    """Groups of channels, with their rooms in one workspace for batches of so many complex sequences."""
    channels, sequence = x.shape[1], 2 * plan.n_columns * plan.tile
    width = min(channels, max(1, WORKSPACE_BYTES // (sum(batches) * sequence * plan.dot.itemsize)))
    workspace = torch.empty(width * sum(batches) * sequence, dtype=plan.dot, device=x.device)
    for start in range(0, channels, width):
        group = _Passes(plan, x, start, min(start + width, channels))
        yield group, group.rooms(workspace, batches)


def _columns_forward(plan: Plan, x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor, y: Tensor) -> None:
    for group, (z, spectrum) in _groups(plan, x0, (len(x0), 1)):
        group.spectrum(h, spectrum)
        group.columns(x1, v, z)
        group.rows(z, spectrum)
        group.inverse(z, y, (x0, x1, v, bias))


def _columns_backward(
    plan: Plan, dy: Tensor, x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor,
    dx0: Tensor, dx1: Tensor, dv: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dh = torch.empty(h.shape, dtype=torch.float32, device=h.device)
    dbias = torch.empty(bias.shape, dtype=torch.float32, device=h.device)
    for group, (z, g, spectrum) in _groups(plan, x0, (len(x0), len(x0), 1)):
        group.spectrum(h, spectrum)
        group.columns(x1, v, z)
        group.columns(dy, x0, g)
        group.rows_backward(z, g, spectrum)
        dbias[group.start : group.stop] = group.inverse_backward(g, dy, x0, x1, v, bias, dx1, dv)
        group.inverse(z, dx0, (dy, x1, v, bias))  # after the other inverse, as it loads the gates for the last time
        group.inverse(spectrum, dh[None], None)
    return dh, dbias
