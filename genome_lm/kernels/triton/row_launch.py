"""The kernels over rows as operations of PyTorch: sizes and launches. Their gradients are joined in `sub_blocks`.

Importing this module needs triton. Each launch is an operation of its own, `genome_lm::…_rows`, that writes to
tensors which it is given, so that tensors without data go through, as the counts of memory need.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from genome_lm.kernels.triton import rows as kernels
from genome_lm.kernels.triton.streams import bound

ELEMENTS = 2_048
"""Of a tile of rows, if a row has no more."""
HEAD_ROWS = 16
"""Rows of a tile of the head: the fewest that products of matrices take."""
PROGRAMS = 1_024
"""Programs of a launch that are enough to fill a GPU; beyond these each takes several tiles."""


class NormGradients(NamedTuple):
    """What `norm_backward` gives."""

    x: Tensor  # like x
    rounded: Tensor | None  # the same in the dtype of products, of what was added to x
    normed: Tensor | None  # the norm's output, in that dtype
    weight: Tensor  # (D,) float32
    shift: Tensor  # (D,) float32
    sums: Tensor  # (D,) float32, of x over all rows


def norm(x: Tensor, weight: Tensor, shift: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm of rows: x (…, D), weight and shift (D,) → (…, D) in `dtype`."""
    normed = torch.empty(x.shape, dtype=dtype, device=x.device)
    _norm(x, None, None, weight, shift, eps, None, normed)
    return normed


def add_norm(
    x: Tensor, branch: Tensor, bias: Tensor, weight: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + branch + bias, like x, and its norm, like branch."""
    total, normed = torch.empty_like(x), torch.empty_like(branch)
    _norm(x, branch, bias, weight, shift, eps, total, normed)
    return total, normed


def norm_backward(
    x: Tensor, grad_normed: Tensor, grad: Tensor, weight: Tensor, shift: Tensor, eps: float, has_branch: bool,
    again: bool = False,
) -> NormGradients:  # fmt: skip
    """Back through the norm of x, and the sum with what its gradient was before: grad, like x.

    With `has_branch` the result is for what was added to x too; with `again` the norm's output is given too.
    """
    grad_x = torch.empty_like(x)
    half = torch.empty_like(grad_normed) if has_branch and grad_normed.dtype != x.dtype else None
    normed = torch.empty_like(grad_normed) if again else None
    programs, _ = _shares(triton.cdiv(_count(x), _tile_rows(x.shape[-1])))
    sums = torch.empty(programs, 3, x.shape[-1], dtype=torch.float32, device=x.device)
    _norm_backward(x, grad_normed, grad, weight, shift, eps, grad_x, half, normed, sums)
    rounded = (grad_x if half is None else half) if has_branch else None
    return NormGradients(grad_x, rounded, normed, *sums.sum(0))


def gelu_(hidden: Tensor, bias: Tensor) -> None:
    """Write gelu(hidden + bias) over hidden, (…, I)."""
    _gelu(hidden, bias)


def gelu_backward_(hidden: Tensor, grad: Tensor, bias: Tensor) -> Tensor:
    """Write gelu(hidden + bias) over hidden and the gradient of hidden over its; that of the bias, (I,) float32."""
    sums = _sums_of_parts(hidden)
    _gelu_backward(hidden, grad, bias, sums)
    return sums.sum(0)


def rounded_and_sum(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x, (…, D), in `dtype`, and its sum over all rows, (D,) float32."""
    rounded, sums = x if x.dtype == dtype else torch.empty(x.shape, dtype=dtype, device=x.device), _sums_of_parts(x)
    _round(x, None if x.dtype == dtype else rounded, sums)
    return rounded, sums.sum(0)


def head(
    x: Tensor, weight: Tensor, shift: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor, eps: float
) -> Tensor:
    """Weighted losses of rows: x (N, D), embedding (16, D), targets and weights (N,) → (N,) float32."""
    losses = torch.empty(len(x), dtype=torch.float32, device=x.device)
    _head(x, weight, shift, embedding, targets, weights, eps, losses)
    return losses


def head_backward(
    x: Tensor, weight: Tensor, shift: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor, eps: float,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight, shift and embedding, the last three float32, from those of the losses, (N,)."""
    grad_x = torch.empty_like(x)
    programs, _ = _shares(triton.cdiv(len(x), HEAD_ROWS))
    sums = torch.empty(programs, *embedding.shape, dtype=torch.float32, device=x.device)
    counts = torch.empty(programs, len(embedding), 1, dtype=torch.float32, device=x.device)
    _head_backward(x, weight, shift, embedding, targets, weights, eps, grad, grad_x, sums, counts)
    total, count = sums.sum(0), counts.sum(0)
    return grad_x, (embedding * total).sum(0), (embedding * count).sum(0), total * weight + count * shift


def _count(x: Tensor) -> int:
    """Rows of (…, D)."""
    return x.numel() // x.shape[-1]


def _tile_rows(width: int) -> int:
    return max(1, ELEMENTS // _columns(width))


def _columns(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


def _shares(tiles: int) -> tuple[int, int]:
    """Programs, and tiles of each."""
    per_program = max(1, -(-tiles // PROGRAMS))
    return triton.cdiv(tiles, per_program), per_program


def _constants(width: int) -> dict[str, Any]:
    """Compile-time constants of the kernels that take whole rows."""
    columns = _columns(width)
    return {"ROWS": _tile_rows(width), "COLUMNS": columns, "num_warps": min(16, max(4, columns // 512))}


def _head_constants(width: int) -> dict[str, Any]:
    return {"ROWS": HEAD_ROWS, "COLUMNS": _columns(width), "num_warps": 8, "num_stages": 1}


def _block_constants(width: int) -> dict[str, Any]:
    """Those of the kernels that take blocks of columns."""
    columns = min(128, _columns(width))
    return {"ROWS": ELEMENTS // columns, "COLUMNS": columns, "num_warps": 4}


def _blocks(x: Tensor) -> tuple[int, int, int]:
    """Blocks of columns; programs of each, and their tiles."""
    constants = _block_constants(x.shape[-1])
    return triton.cdiv(x.shape[-1], constants["COLUMNS"]), *_shares(triton.cdiv(_count(x), constants["ROWS"]))


def _sums_of_parts(x: Tensor) -> Tensor:
    return torch.empty(_blocks(x)[1], x.shape[-1], dtype=torch.float32, device=x.device)


# The operations. A kernel is given some tensor in the place of one that it does not read.


@torch.library.custom_op("genome_lm::norm_rows", mutates_args=("total", "normed"))
def _norm(
    x: Tensor, branch: Tensor | None, bias: Tensor | None, weight: Tensor, shift: Tensor, eps: float,
    total: Tensor | None, normed: Tensor,
) -> None:  # fmt: skip
    width, constants = x.shape[-1], _constants(x.shape[-1])
    if tiles := triton.cdiv(_count(x), constants["ROWS"]):
        with torch.cuda.device_of(x):
            kernels.norm_rows[(tiles,)](
                x, x if branch is None else branch, weight if bias is None else bias, weight, shift,
                x if total is None else total, normed, _count(x), width, eps, ADDED=branch is not None, **constants,
            )  # fmt: skip


@torch.library.custom_op("genome_lm::norm_rows_backward", mutates_args=("grad_x", "rounded", "normed", "sums"))
def _norm_backward(
    x: Tensor, grad_normed: Tensor, grad: Tensor, weight: Tensor, shift: Tensor, eps: float,
    grad_x: Tensor, rounded: Tensor | None, normed: Tensor | None, sums: Tensor,
) -> None:  # fmt: skip
    width, constants = x.shape[-1], _constants(x.shape[-1])
    programs, per_program = _shares(triton.cdiv(_count(x), constants["ROWS"]))
    if programs:
        with torch.cuda.device_of(x):
            kernels.norm_rows_backward[(programs,)](
                x, grad_normed, grad, weight, shift, grad_x, grad_x if rounded is None else rounded,
                grad_x if normed is None else normed, sums, _count(x), width, eps, bound(per_program),
                ROUNDED=rounded is not None, NORMED=normed is not None, **constants,
            )  # fmt: skip


@torch.library.custom_op("genome_lm::gelu_rows", mutates_args=("hidden",))
def _gelu(hidden: Tensor, bias: Tensor) -> None:
    width, constants = hidden.shape[-1], _block_constants(hidden.shape[-1])
    blocks = triton.cdiv(width, constants["COLUMNS"])
    if programs := blocks * triton.cdiv(_count(hidden), constants["ROWS"]):
        with torch.cuda.device_of(hidden):
            kernels.gelu_rows[(programs,)](hidden, bias, _count(hidden), width, blocks, **constants)


@torch.library.custom_op("genome_lm::gelu_rows_backward", mutates_args=("hidden", "grad", "sums"))
def _gelu_backward(hidden: Tensor, grad: Tensor, bias: Tensor, sums: Tensor) -> None:
    blocks, programs, per_program = _blocks(hidden)
    if programs:
        with torch.cuda.device_of(hidden):
            kernels.gelu_rows_backward[(blocks * programs,)](
                hidden, grad, bias, sums, _count(hidden), hidden.shape[-1], blocks, bound(per_program),
                **_block_constants(hidden.shape[-1]),
            )  # fmt: skip


@torch.library.custom_op("genome_lm::round_rows", mutates_args=("rounded", "sums"))
def _round(x: Tensor, rounded: Tensor | None, sums: Tensor) -> None:
    blocks, programs, per_program = _blocks(x)
    if programs:
        with torch.cuda.device_of(x):
            kernels.round_rows[(blocks * programs,)](
                x, x if rounded is None else rounded, sums, _count(x), x.shape[-1], blocks, bound(per_program),
                ROUNDED=rounded is not None, **_block_constants(x.shape[-1]),
            )  # fmt: skip


@torch.library.custom_op("genome_lm::head_rows", mutates_args=("losses",))
def _head(
    x: Tensor, weight: Tensor, shift: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor, eps: float,
    losses: Tensor,
) -> None:  # fmt: skip
    if len(x):
        with torch.cuda.device_of(x):
            kernels.head_rows[(triton.cdiv(len(x), HEAD_ROWS),)](
                x, weight, shift, embedding, targets, weights, losses, len(x), x.shape[-1], eps,
                **_head_constants(x.shape[-1]),
            )  # fmt: skip


@torch.library.custom_op("genome_lm::head_rows_backward", mutates_args=("grad_x", "sums", "counts"))
def _head_backward(
    x: Tensor, weight: Tensor, shift: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor, eps: float,
    grad: Tensor, grad_x: Tensor, sums: Tensor, counts: Tensor,
) -> None:  # fmt: skip
    programs, per_program = _shares(triton.cdiv(len(x), HEAD_ROWS))
    if programs:
        with torch.cuda.device_of(x):
            kernels.head_rows_backward[(programs,)](
                x, weight, shift, embedding, targets, weights, grad, grad_x, sums, counts, len(x),
                x.shape[-1], eps,
                bound(per_program), **_head_constants(x.shape[-1]),
            )  # fmt: skip


for _operation in (_norm, _norm_backward, _gelu, _gelu_backward, _round, _head, _head_backward):
    _operation.register_fake(lambda *tensors, **others: None)
