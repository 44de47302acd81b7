"""Spectra for causal convolutions on a CPU, by the FFT that is fastest for the length.

There are two forms. The plain one is the FFT of the zero-padded real signal. The split one is a matrix of short FFTs
that stay in the caches, which a long FFT leaves (Bailey 1990, https://doi.org/10.1007/BF00162341). It needs no
padding, because it computes a right-angle convolution: the product of polynomials modulo X^N − i has the causal
convolution of real signals as its real part (Nussbaumer 1982, Fast Fourier Transform and Convolution Algorithms,
chapter 3).

With ω = exp(iπ/2N), the spectrum of x is the DFT of ωʲ x_j. N = R · C positions form a matrix of R rows. The
transform is: DFTs of the columns, twiddle factors, DFTs of the rows. Frequencies stay in the order that this leaves.
The inverse takes the same steps backwards, so nothing is transposed. Columns are processed in blocks. The factors ωʲ
are merged into the factors of both steps.

For float32, the split form is in C from `IN_STEPS` positions on, with MKL for the rows, where there are both
(`genome_lm.kernels.cpu.long_fft`). `_split_spectrum` and `_split_signal` are its reference. They take its place where
operations are watched. Elsewhere they take the place of the plain form from `LONG` positions on, unless MKL keeps its
tables.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.conv.fft import fast_fft_size, quick_size_for_mkl, step_sizes
from genome_lm.kernels.cpu.long_fft import LongTransform, has_long_transforms, long_transform
from genome_lm.kernels.cpu.torch_private import RealTransform, has_memory, has_real_transforms, is_watched

IN_STEPS = 512
"""Positions from which on the split form in C is faster than the plain one."""
LONG = 300_000
"""Positions from which on the split form in PyTorch is faster than the plain one, where tables are not kept."""
BLOCK = 1 << 17
"""Values of a block of columns, 1 MiB."""
KEPT = True
"""Whether to keep the tables of transforms where PyTorch has MKL. With them the split form in plain PyTorch takes
longer at all lengths up to 2,000,000, which were measured."""
PLANS = 16
"""Transforms whose tables are kept: two for each length and number of rows. Each takes about as much as a row."""


def spectrum(x: Tensor) -> Tensor:
    """The spectrum of signals.

    The product of two is the spectrum of their causal convolution; with one conjugated, of their correlation.

    Args:
        x: (..., L) float32 or float64.

    Returns:
        (..., `bins`(L)) complex.
    """
    length = x.shape[-1]
    if (in_steps := _in_steps(length, x)) is not None:
        return in_steps.spectrum(x)
    return _split_spectrum(x) if _is_split(length, x.dtype) else transform(x, points_of(length))


def signal(product: Tensor, length: int) -> Tensor:
    """The first `length` positions of the signals of which `product`, (..., `bins`(length)), is the spectrum.

    The memory of `product` may become that of the signals.
    """
    if (in_steps := _in_steps(length, product)) is not None:
        return in_steps.signal(product)
    if _is_split(length, product.dtype.to_real()):
        return _split_signal(product, length)
    return inverse_transform(product, points_of(length))[..., :length]


def convolved(u: Tensor, of_filter: Tensor) -> Tensor:
    """The causal convolutions of u, (C, B, L), with filters of the spectra `of_filter`, (C, 1, `bins`(L))."""
    length = u.shape[-1]
    if (in_steps := _in_steps(length, u)) is not None:
        return in_steps.convolved(u, of_filter)
    return signal(spectrum(u).mul_(of_filter), length)


def convolved_backward(u: Tensor, dc: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The causal convolutions c of u, (C, B, L), with filters h, (C, L), and what goes back through them.

    Args:
        u: (C, B, L) float32 or float64.
        dc: (C, B, L), the gradient of c.
        h: (C, L).

    Returns:
        c (C, B, L), and the gradients of u and of h.
    """
    length = u.shape[-1]
    if (in_steps := _in_steps(length, u)) is not None:
        return in_steps.convolved_backward(u, dc, h)
    of_filter, of_u, of_dc = spectrum(h)[:, None], spectrum(u), spectrum(dc)
    c = signal(of_u * of_filter, length)
    dh = signal(_summed(of_u.conj_physical_().mul_(of_dc)), length)
    return c, signal(of_dc.mul_(of_filter.conj_physical_()), length), dh


def _summed(x: Tensor) -> Tensor:
    """The sum over the batch, (C, B, N) → (C, N)."""
    return x[:, 0] if x.shape[1] == 1 else x.sum(1)


def transform(x: Tensor, points: int) -> Tensor:
    """`torch.fft.rfft(x, n=points)` of no more values than `points`, by tables that are kept where that can be."""
    if not _has_plan(x, torch.float32):
        return torch.fft.rfft(x, n=points)
    length = x.shape[-1]
    values = torch.empty(*x.shape[:-1], points + 2, dtype=x.dtype, device=x.device)
    values[..., :length] = x
    values[..., length:points] = 0
    _plan(points, values.numel() // (points + 2), False)(values)
    return torch.view_as_complex(values.unflatten(-1, (-1, 2)))


def inverse_transform(spectra: Tensor, points: int) -> Tensor:
    """`torch.fft.irfft(spectra, n=points)`, as `transform`. The memory of `spectra` may become that of the result."""
    if not _has_plan(spectra, torch.complex64):
        return torch.fft.irfft(spectra, n=points)
    values = torch.view_as_real(spectra.resolve_conj().contiguous()).flatten(-2)
    _plan(points, values.numel() // (points + 2), True)(values)
    return values[..., :points]


def bins(length: int, dtype: torch.dtype = torch.float32) -> int:
    """Frequencies of a spectrum of signals of this length and type."""
    return math.prod(_shape(length, dtype)) if _is_split(length, dtype) else points_of(length) // 2 + 1


def transformed_values(length: int, dtype: torch.dtype) -> int:
    """Real values as which a signal of this length and type is transformed: padded, or two for each frequency."""
    return _transformed_values(length, dtype, _keeps_tables(), has_long_transforms())  # on which the rest depends


@lru_cache(maxsize=64)
def _transformed_values(length: int, dtype: torch.dtype, *_switches: bool) -> int:
    return 2 * bins(length, dtype) if _is_split(length, dtype) else points_of(length)


def points_of(length: int) -> int:
    """Real values of a padded signal of this length, where the form is not split."""
    return quick_size_for_mkl(2 * length) if _keeps_tables() else fast_fft_size(2 * length)


def _is_split(length: int, dtype: torch.dtype) -> bool:
    return has_steps(length, dtype) or (length >= LONG and not _keeps_tables())


def has_steps(length: int, dtype: torch.dtype) -> bool:
    """Whether signals of a length and type are split as it is done in C."""
    return length >= IN_STEPS and dtype == torch.float32 and _keeps_tables() and has_long_transforms()


def _in_steps(length: int, x: Tensor) -> LongTransform | None:
    """What transforms such signals or spectra in C; None where it is done in PyTorch."""
    dtype = x.dtype.to_real() if x.is_complex() else x.dtype
    return long_transform(length) if has_steps(length, dtype) and _is_plain(x) else None


def _keeps_tables() -> bool:
    return KEPT and has_real_transforms()


@lru_cache(maxsize=PLANS)
def _plan(points: int, rows: int, inverse: bool) -> RealTransform:
    return RealTransform(points, rows, inverse)


def _has_plan(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether MKL takes it as it is."""
    return x.dtype == dtype and _is_plain(x) and _keeps_tables()


def _is_plain(x: Tensor) -> bool:
    """Whether operations on it may be others than PyTorch's."""
    has_gradients = x.requires_grad and torch.is_grad_enabled()
    return has_memory(x) and x.numel() > 0 and not has_gradients and not is_watched()


class _Tables(NamedTuple):
    """Factors of the split form, of R rows and C columns."""

    first: Tensor  # (R, 1) complex, of the rows before the DFT of the columns
    first_parts: tuple[Tensor, Tensor]  # its real and imaginary part
    twiddles: Tensor  # (R, C) complex
    inverse: Tensor  # their conjugates


def _shape(length: int, dtype: torch.dtype) -> tuple[int, int]:
    """Rows and columns: those of the form in C, or else sizes at which the FFT is fast, with the fewest values."""
    return step_sizes(length) if has_steps(length, dtype) else _near_square(length)


@lru_cache(maxsize=64)
def _near_square(length: int) -> tuple[int, int]:
    root = math.isqrt(length)
    sides = [rows for rows in range(max(1, root // 2), root + 1) if _is_fast(rows)]
    return min(((rows, _next_fast(-(-length // rows))) for rows in sides), key=math.prod)


def _next_fast(least: int) -> int:
    while not _is_fast(least):
        least += 1
    return least


def _is_fast(size: int) -> bool:
    """Whether it is 2^a · 3^b · 5^c."""
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    return size == 1


@lru_cache(maxsize=2)
def _tables(rows: int, columns: int, dtype: torch.dtype) -> _Tables:
    row = torch.arange(rows, dtype=torch.float64)[:, None]
    column = torch.arange(columns, dtype=torch.float64)
    twiddles = _on_circle(column * (1 - 4 * row) / (rows * columns), dtype)
    first = _on_circle(row / rows, dtype)
    return _Tables(
        first, (first.real.contiguous(), first.imag.contiguous()), twiddles, twiddles.conj().resolve_conj()
    )


def _on_circle(quarters: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(iπ/2 · quarters), computed in float64."""
    return torch.polar(torch.ones_like(quarters), math.pi / 2 * quarters).to(dtype.to_complex())


def _blocks(rows: int, columns: int) -> list[slice]:
    width = max(1, BLOCK // rows)
    return [slice(start, min(start + width, columns)) for start in range(0, columns, width)]


def _split_spectrum(x: Tensor) -> Tensor:
    rows, columns = _shape(x.shape[-1], x.dtype)
    tables = _tables(rows, columns, x.dtype)
    padding = rows * columns - x.shape[-1]
    out = torch.empty(*x.shape[:-1], rows * columns, dtype=x.dtype.to_complex())
    for source, target in zip(x.flatten(0, -2), out.view(-1, rows, columns), strict=True):
        matrix = (F.pad(source, (0, padding)) if padding else source).view(rows, columns)
        for block in _blocks(rows, columns):
            by_column = torch.fft.fft(matrix[:, block] * tables.first, dim=0)
            torch.mul(by_column, tables.twiddles[:, block], out=target[:, block])
        for part in target.split(BLOCK // columns):
            part.copy_(torch.fft.fft(part))
    return out


def _split_signal(product: Tensor, length: int) -> Tensor:
    dtype = product.dtype.to_real()
    rows, columns = _shape(length, dtype)
    tables = _tables(rows, columns, dtype)
    out = torch.empty(product.shape, dtype=dtype)
    for source, target in zip(product.view(-1, rows, columns), out.view(-1, rows, columns), strict=True):
        by_row = torch.fft.ifft(source)
        for block in _blocks(rows, columns):
            parts = torch.view_as_real(torch.fft.ifft(by_row[:, block] * tables.inverse[:, block], dim=0))
            real, imaginary = tables.first_parts
            torch.mul(parts[..., 0], real, out=target[:, block]).addcmul_(parts[..., 1], imaginary)
    return out[..., :length]
