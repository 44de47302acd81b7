"""Fourier transforms of long signals in two steps, and convolutions by them, in C: see fft.h.

`genome_lm.kernels.conv.spectra` says what is computed, holds the plain form, and chooses between the two.
"""

import ctypes
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from genome_lm.kernels.conv.fft import LANES, step_sizes
from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.torch_private import ComplexTransform, has_complex_transforms
from genome_lm.kernels.cpu.workspace import workspace

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t
_MOST_PASSES = 8
_BATCH = 4_096
"""Complex values of the rows that the second step takes at one time, 32 KiB."""
KEPT_TABLES = 8
"""Lengths of which tables are kept. Those of a length take an eighth of a signal's memory, and up to 200 KiB."""


class _Steps(ctypes.Structure):
    _fields_ = [
        *((name, _SIZE) for name in ("rows", "columns", "length", "batch", "passes")),
        ("radices", _SIZE * _MOST_PASSES),
        *((name, _POINTER) for name in ("twist", "twist_back", "near", "far", "inner", "order")),
        *((name, _POINTER) for name in ("forward", "backward", "handle")),
    ]  # fmt: skip


class LongTransform:
    """Spectra, signals and convolutions of one length; threads may use one at the same time.

    Signals are float32, (channels, sequences, positions). Spectra are complex64, with rows · columns values in the
    place of the positions. Each method has a plain form of its name in `genome_lm.kernels.conv.spectra`.

    Args:
        library: The compiled stages.
        length: Positions.
        sizes: Rows and columns.

    Attributes:
        bins: Values of a spectrum, rows · columns.
        steps: `Steps` of fft.h.
    """

    def __init__(self, library: ctypes.CDLL, length: int, sizes: tuple[int, int] | None = None) -> None:
        self.library, self.length = library, length
        rows, columns = step_sizes(length) if sizes is None else sizes
        self.bins = rows * columns
        self._tables = [*_step_factors(rows, columns), *_pass_factors(rows)]
        batch = min(rows, max(1, 1 << (_BATCH // columns).bit_length() >> 1))
        self._of_rows = ComplexTransform(columns, batch)
        radices = _radices(rows)
        self.steps = _Steps(
            rows, columns, length, batch, len(radices), (_SIZE * _MOST_PASSES)(*radices),
            *(table.data_ptr() for table in self._tables),
            self._of_rows.forward, self._of_rows.backward, self._of_rows.handle,
        )  # fmt: skip

    def spectrum(self, x: Tensor) -> Tensor:
        """The spectra of signals."""
        out = x.new_empty(*x.shape[:-1], self.bins, dtype=torch.complex64)
        self._call("spectra_in_steps", (x, out), x)
        return out

    def signal(self, product: Tensor) -> Tensor:
        """The signals of spectra, whose memory is written over."""
        out = product.new_empty(*product.shape[:-1], self.length, dtype=torch.float32)
        self._call("signals_in_steps", (product.resolve_conj().contiguous(), out), out)
        return out

    def convolved(self, u: Tensor, of_filter: Tensor) -> Tensor:
        """Convolutions of signals with filters of the spectra `of_filter`, (channels, 1, bins)."""
        out = u.new_empty(u.shape)
        self._call("convolved_in_steps", (u, of_filter.resolve_conj(), out), u, spectra=1)
        return out

    def convolved_backward(self, u: Tensor, dc: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The convolutions of u with filters h, (channels, positions), and the gradients of u and h for theirs."""
        c, du, dh = u.new_empty(u.shape), u.new_empty(u.shape), u.new_empty(h.shape)
        spectra = 3 + (u.shape[1] > 1)
        self._call("convolved_back_in_steps", (u, dc, h[:, None], c, du, dh[:, None]), u, spectra)
        return c, du, dh

    def _call(self, name: str, given: Sequence[Tensor], like: Tensor, spectra: int = 0) -> None:
        """Call a function in C for each channel and sequence of `like`, with room for so many spectra."""
        of_rows = [_rows(each) for each in given]
        arguments = [*map(stages.View.of, of_rows)]
        room = workspace.take("long_fft.room", (spectra * self.bins,), torch.complex64) if spectra else None
        at = [] if room is None else [_POINTER(room.data_ptr())]
        getattr(self.library, name)(ctypes.byref(self.steps), *arguments, *at, stages.Shape.of(_rows(like)))


def long_transform(length: int) -> LongTransform | None:
    """The transform of a length, whose tables are kept; None where there is no compiler, or no MKL."""
    library = stages.library()
    return None if library is None or not has_complex_transforms() else _long_transform(library, length)


def has_long_transforms() -> bool:
    """Whether there are any."""
    return stages.is_compiled() and has_complex_transforms()


@lru_cache(maxsize=KEPT_TABLES)
def _long_transform(library: ctypes.CDLL, length: int) -> LongTransform:
    return LongTransform(library, length)


def _rows(x: Tensor) -> Tensor:
    """Real or complex values as real numbers in rows, (channels, sequences, …)."""
    if x.is_complex():
        x = torch.view_as_real(x).flatten(-2)
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        x = x.contiguous()
    return x[(None,) * (3 - x.dim())] if x.dim() < 3 else x.flatten(0, -3)


def _step_factors(rows: int, columns: int) -> Iterator[Tensor]:
    """`twist`, `twist_back`, `near` and `far` of fft.h: factors of `conv.spectra`, of single rows and columns."""
    row, column = (torch.arange(size, dtype=torch.float64, device="cpu") for size in (rows, columns))
    twist = _on_circle(row / rows)
    yield _pairs(twist)
    yield _pairs(twist / (rows * columns))
    speed = (1 - 4 * row) / (rows * columns)
    near = _on_circle(speed[:, None] * column[:LANES])
    yield torch.stack((near.real, near.imag), 1).float()
    yield _pairs(_on_circle(column[::LANES, None] * speed))


def _pass_factors(rows: int) -> Iterator[Tensor]:
    """`inner` and `order` of fft.h."""
    factors, span = [], rows
    place = torch.arange(rows, device="cpu")
    frequency, weight = torch.zeros_like(place), 1
    for radix in _radices(rows):
        step = span // radix
        q, i = place[:step, None], place[1:radix]
        factors.append(_on_circle(-4 * (q * i).double() / span).flatten())
        frequency += place // step % radix * weight
        span, weight = step, weight * radix
    # Those of the last pass are all 1.
    yield _pairs(torch.cat(factors[:-1]))
    yield frequency


def _radices(rows: int) -> list[int]:
    """8 and 4, of which the product is `rows`, a power of two from 16 on."""
    power = rows.bit_length() - 1
    fours = -power % 3
    return [8] * ((power - 2 * fours) // 3) + [4] * fours


def _on_circle(quarters: Tensor) -> Tensor:
    """exp(iπ/2 · quarters) in float64."""
    angles = math.pi / 2 * quarters
    return torch.polar(torch.ones_like(angles), angles)


def _pairs(values: Tensor) -> Tensor:
    """Complex values as pairs in float32: (…) → (…, 2)."""
    return torch.view_as_real(values.resolve_conj()).float().contiguous()
