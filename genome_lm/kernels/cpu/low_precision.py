"""Weights whose products on a CPU are computed in bfloat16 or in 8-bit integers.

`TrainingWeight` is for the fused operations of a training step, the others are without gradients. Operands are
rounded, and sums are float32 or exact integers. What comes out is float32 (in bf16 after it was rounded once more,
where MKL can't compute `torch_private.bfloat16_product`). The result of a row of x depends on that row alone, so it
is the same in every batch. For int8 each row of x has a scale of its own, which is computed with the product
("dynamic"), and each output channel has one (the symmetric scheme of https://arxiv.org/abs/1712.05877 without zero
points).
"""

import functools
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.cpu import torch_private
from genome_lm.kernels.cpu.stages import add_scaled, dequantise, gelu, gelu_quantise, narrow, quantise

Precision = Literal["float32", "bf16", "int8"]
_Hidden = TypeVar("_Hidden")
_NEEDS: dict[Precision, tuple[tuple[str, ...], Callable[[], bool]]] = {
    "bf16": (("avx512_bf16", "amx_bf16"), torch_private.has_fused_bfloat16),
    "int8": (("avx512_vnni", "amx_int8"), torch_private.has_int8_linear),
}
"""Instructions of which one is needed, by PyTorch's names, and the proof of PyTorch's operation."""
TILE = 16
"""Rows of a tile of AMX and of vectors of AVX-512: products of other numbers of columns take half as long again."""


class LowPrecisionWeight(Generic[_Hidden]):
    """A weight (M, K) in low precision.

    Not an ABC: each operation asks a dozen weights of which kind they are, and those of an ABC answer slowly.

    Attributes:
        values: (M, K) rounded.
        tiles: `values` as products by AMX read them, once one has needed them.
    """

    values: Tensor
    tiles: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def of_channels(self, start: int, stop: int) -> Self:
        """Rows [start, stop) of each of three parts, as one weight: (3D, K) → (3 · (stop − start), K)."""
        raise NotImplementedError

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x @ weightᵀ + bias: x (N, K) float32 → (N, M) float32."""
        raise NotImplementedError

    def linear_gelu(self, x: Tensor, bias: Tensor) -> _Hidden:
        """The GELU of `linear` in the tanh form, as `add_linear` takes it."""
        raise NotImplementedError

    def add_linear(self, residual: Tensor, x: Tensor | _Hidden, bias: Tensor, out: Tensor) -> None:
        """Write residual + `linear` to `out`, (N, M) float32, which may be the residual."""
        raise NotImplementedError

    def channels(self, x: Tensor) -> Tensor:
        """weight @ xᵀ: x (N, K) float32 → (M, N) float32."""
        raise NotImplementedError


class Bfloat16Weight(LowPrecisionWeight[Tensor]):
    """A weight in bfloat16."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """A float32 weight, rounded."""
        return cls(weight.detach().bfloat16())

    def of_channels(self, start: int, stop: int) -> Self:
        """See `LowPrecisionWeight`."""
        return type(self)(of_channels(self.values, start, stop).flatten(0, 1))

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `LowPrecisionWeight`."""
        y = torch.empty(len(x), len(self.values))
        torch_private.bfloat16_product(rounded(x), self.values.T, y)
        return y if bias is None else y.add_(bias)

    def linear_gelu(self, x: Tensor, bias: Tensor) -> Tensor:
        """See `LowPrecisionWeight`; in bfloat16."""
        if torch_private.has_fused_bfloat16():
            return torch_private.fused_linear(x.bfloat16(), self.values, bias, "gelu")
        return F.gelu(self.linear(x, bias), approximate="tanh").bfloat16()

    def add_linear(self, residual: Tensor, x: Tensor, bias: Tensor, out: Tensor) -> None:
        """See `LowPrecisionWeight`."""
        torch.add(residual, bias, out=out)
        torch_private.bfloat16_product(rounded(x), self.values.T, out, add=True)

    def channels(self, x: Tensor) -> Tensor:
        """See `LowPrecisionWeight`."""
        out = torch.empty(len(self.values), len(x))
        torch_private.bfloat16_product(self.values, rounded(x).T, out)
        return out


class TrainingWeight(Bfloat16Weight):
    """A weight in bfloat16 in a training step; what only stages of the MLP read is in bfloat16 too."""

    def linear_gelu(self, x: Tensor, bias: Tensor) -> Tensor:
        """See `LowPrecisionWeight`; of `hidden`, so that the backward pass has the same."""
        hidden = self.hidden(x, bias)
        gelu(hidden)
        return hidden

    def hidden(self, x: Tensor, bias: Tensor) -> Tensor:
        """`linear` in bfloat16."""
        if torch_private.has_fused_bfloat16():
            return torch_private.fused_linear(rounded(x), self.values, bias)
        return F.linear(rounded(x), self.values, bias.bfloat16())

    def hidden_gradient(self, grad: Tensor) -> Tensor:
        """grad @ weight: grad (N, M) → (N, K) bfloat16."""
        return rounded(grad) @ self.values

    def gradient(self, grad: Tensor, out: Tensor, add: bool = False) -> None:
        """Write grad @ weight to `out`, (N, K) float32, or add it: grad (N, M)."""
        torch_private.bfloat16_product(rounded(grad), self.values, out, add)


def rounded(x: Tensor) -> Tensor:
    """A matrix in bfloat16, in the layout that it has if that is dense along its columns alone."""
    if x.dtype == torch.bfloat16:
        return x
    if x.stride(1) != 1 and x.stride(0) == 1:
        return rounded(x.T).T
    if x.is_contiguous():
        return x.bfloat16()
    out = torch.empty(x.shape, dtype=torch.bfloat16)  # of rows with gaps, which PyTorch rounds slowly
    narrow(x, out)
    return out


class Int8Weight(LowPrecisionWeight["Int8Rows"]):
    """A weight in 8-bit integers, with a scale per output channel."""

    def __init__(self, values: Tensor, scales: Tensor) -> None:
        self.values = values
        self.scales = scales  # (M,) float32
        self._packed: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """A float32 weight, rounded."""
        return cls(*Int8Rows.of(weight.detach()))

    def of_channels(self, start: int, stop: int) -> Self:
        """See `LowPrecisionWeight`."""
        return type(self)(*(of_channels(each, start, stop).flatten(0, 1) for each in (self.values, self.scales)))

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `LowPrecisionWeight`."""
        rows = Int8Rows.of(x)
        y = self._product(rows).mul_(rows.scales[:, None])
        return y if bias is None else y.add_(bias)

    def linear_gelu(self, x: Tensor, bias: Tensor) -> "Int8Rows":
        """See `LowPrecisionWeight`; as integers."""
        rows = Int8Rows.of(x)
        hidden = self._product(rows)
        values = torch.empty(hidden.shape, dtype=torch.int8)
        gelu_quantise(hidden, rows.scales, bias, values)
        return Int8Rows(values, rows.scales)

    def add_linear(self, residual: Tensor, x: "Tensor | Int8Rows", bias: Tensor, out: Tensor) -> None:
        """See `LowPrecisionWeight`."""
        rows = Int8Rows.of(x) if isinstance(x, Tensor) else x
        add_scaled(self._product(rows), rows.scales, bias, residual, out)

    def channels(self, x: Tensor) -> Tensor:
        """See `LowPrecisionWeight`."""
        values, scales = _in_tiles(x.shape), torch.empty(len(x))
        quantise(x.contiguous(), values[: len(x)], scales)
        product = torch._int_mm(self.values, values.T)[:, : len(x)]
        out = product.view(torch.float32)
        dequantise(product, self.scales, scales, out)
        return out

    def _product(self, rows: "Int8Rows") -> Tensor:
        """x @ weightᵀ over the scales of x: (N, M) float32."""
        if torch_private.has_int8_linear():
            if self._packed is None:
                self._packed = torch_private.packed_int8(self.values)
            return torch_private.int8_linear(rows.values, self._packed, self.scales)
        return F.linear(rows.values.float(), self.values.float()).mul_(self.scales)


class Int8Rows(NamedTuple):
    """Rows as 8-bit integers times a scale each."""

    values: Tensor  # (N, K) int8
    scales: Tensor  # (N,) float32

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Rows of x, (N, K) float32 or bfloat16, each by its largest value; one of zeros stays one."""
        rows = cls(torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x)))
        quantise(x.float().contiguous(), *rows)
        return rows


def _in_tiles(shape: torch.Size) -> Tensor:
    """Memory for rows of 8-bit integers, with zeros behind them up to a multiple of `TILE`."""
    count, width = shape
    rows = torch.empty(-(-count // TILE) * TILE, width, dtype=torch.int8)
    rows[count:] = 0
    return rows


def of_channels(parameter: Tensor, start: int, stop: int) -> Tensor:
    """What belongs to channels [start, stop) of the three streams: (3D, …) → (3, stop − start, …), a view."""
    count, *others = parameter.shape
    streams = parameter.view(3, count // 3, *others)  # `unflatten` takes ten times as long
    return streams if stop - start == count // 3 else streams[:, start:stop]


@functools.cache
def reason_against(precision: Precision) -> str:
    """Why this CPU should not compute in "bf16" or "int8"; empty if it should."""
    wanted, works = _NEEDS[precision]
    if not any(torch.cpu.get_capabilities().get(name) for name in wanted):
        return f"this CPU has none of {', '.join(wanted)}, without which it is no quicker"
    return "" if works() else f"PyTorch's operation for it does not work here ({precision})"


def lowered(weight: Tensor, precision: Precision) -> LowPrecisionWeight[Any]:
    """A float32 weight (M, K) in "bf16" or "int8"."""
    return Bfloat16Weight.of(weight) if precision == "bf16" else Int8Weight.of(weight)
