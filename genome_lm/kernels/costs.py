"""Bytes and operations of the long convolution on a GPU, counted from shapes: ours, FlashFFTConv's scheme, torch.fft.

`python -m genome_lm.kernels.costs` prints the table. These are counts, not measurements: the floor is what a GPU that
did nothing but these transfers, or nothing but these operations, at full rate would need. Each count is for one
sequence of one channel, of a batch so large that what belongs to the filter alone (its transform, its gradient's
inverse) is shared.
"""

from itertools import product
from typing import NamedTuple

import torch

from genome_lm.kernels.fft import fast_fft_size
from genome_lm.kernels.plan import Plan, plan_for

COPY = 3.0e12
"""Bytes a second that an H100 reads and writes."""
RATES = {"bfloat16": 800e12, "tf32": 400e12, "float32": 67e12}
"""Operations a second of an H100: products of matrices in bfloat16 and TF32, and everything else in float32."""


class Cost(NamedTuple):
    """What one sequence of one channel costs."""

    bytes: int  # read from and written to memory
    matrix: int  # operations in products of matrices, in TF32 three times those of float32
    plain: int  # other operations, float32
    rate: float  # operations a second of the products

    @property
    def memory_floor(self) -> float:
        """Seconds that the transfers take."""
        return self.bytes / COPY

    @property
    def floor(self) -> float:
        """Seconds that the slower of transfers and operations takes."""
        return max(self.memory_floor, self.matrix / self.rate + self.plain / RATES["float32"])


def kernel_costs(length: int, dtype: torch.dtype, backward: bool = False) -> dict[str, Cost]:
    """Each kernel of the forward or of the backward on one sequence of one channel.

    Raises:
        ValueError: If the kernels can't take the length or the dtype.
    """
    plan = plan_for(length, dtype, backward)
    if plan is None:
        raise ValueError(f"no plan for {length} positions in {dtype}")
    parts, rate = (1, RATES["bfloat16"]) if plan.dot == torch.bfloat16 else (3, RATES["tf32"])
    return (_tile_costs if plan.n_columns == 1 else _column_costs)(
        plan, length, dtype.itemsize, parts, rate, backward
    )


def _tile_costs(plan: Plan, length: int, item: int, parts: int, rate: float, backward: bool) -> dict[str, Cost]:
    """All in one program.

    A transform and its inverse are a real product from the left and a complex one from the right each; twiddles and
    the filter's spectrum take 6 operations a point.
    """
    matrix = plan.tile * 2 * parts * (4 * plan.rows + 8 * plan.columns)
    if not backward:
        return {"tile_conv": Cost(4 * length * item, matrix, plan.tile * (3 * 6 + 4), rate)}
    # Both u and dc go there and back: four twiddles, two products with the filter, one summed for its gradient.
    return {"tile_conv_backward": Cost(7 * length * item, 2 * matrix, plan.tile * (6 * 6 + 8 + 9), rate)}


def _column_costs(plan: Plan, length: int, item: int, parts: int, rate: float, backward: bool) -> dict[str, Cost]:
    """Three passes, with complex numbers between them."""
    points = plan.tile * plan.n_columns
    column = 2 * 2 * parts * plan.pitch * plan.tile * plan.pitch  # two real products with a padded matrix
    row = points * 8 * 2 * parts * (plan.rows + plan.columns)
    between = 2 * points * plan.dot.itemsize
    if not backward:
        return {
            "columns_fft": Cost(2 * length * item + between, column, length, rate),
            "rows_conv": Cost(2 * between, row, points * 7 * 6, rate),
            "columns_ifft": Cost(4 * length * item + between, column, 4 * length, rate),
        }
    return {
        "columns_fft (twice)": Cost(4 * length * item + 2 * between, 2 * column, 2 * length, rate),
        "rows_conv_backward": Cost(4 * between, 2 * row, points * (14 * 6 + 8), rate),
        "columns_ifft": Cost(4 * length * item + between, column, 4 * length, rate),
        "columns_ifft_backward": Cost(6 * length * item + between, column, 7 * length, rate),
    }


def ours(length: int, dtype: torch.dtype, backward: bool = False) -> Cost:
    """All kernels together."""
    return _total(list(kernel_costs(length, dtype, backward).values()))


def flash_fft_conv(length: int) -> Cost:
    """FlashFFTConv's scheme in half precision, forward.

    After its cost model (Fu et al. 2023, https://arxiv.org/abs/2311.05908, equation 2): a transform of N points, a
    power of two of at least 2L, and its inverse cost 16 · N · N_i operations for each of the factors N_i of N (at
    most 32, as even as may be). Up to N = 32,768 one kernel reads the gates and writes y. Beyond, the outermost
    factor is a pass of its own on either side, with N complex numbers in half precision in between, as in the
    published code.
    """
    size = 1 << max(8, (2 * length - 1).bit_length())
    bits, half = size.bit_length() - 1, 2
    factors = max(2, -(-bits // 5))
    sizes = [1 << (bits * (i + 1) // factors - bits * i // factors) for i in range(factors)]
    passes = 1 if size <= 32_768 else 3
    between = (passes - 1) * 2 * size * 2 * half
    matrix = sum(16 * size * n for n in sizes)
    return Cost(4 * length * half + between, matrix, 10 * size, RATES["bfloat16"])


def torch_fft(length: int, dtype: torch.dtype, backward: bool = False) -> Cost:
    """The reference: each operation of PyTorch reads and writes memory; transforms are float32, of 2L points.

    A transform of up to 4,096 points is counted as one pass over memory and a longer one as two, or three beyond 16
    million, the fewest that its plan can have; 2.5 · n · log2(n) operations. In its backward, PyTorch takes the
    gradient of a real transform by a complex one of the same size, whose second half it fills with zeros.
    """
    size, item = fast_fft_size(2 * length), dtype.itemsize
    passes = 1 if size <= 4_096 else 2 if size <= 1 << 24 else 3
    wide, spectrum = 4 * length, 4 * size
    convert = 0 if item == 4 else length * item + wide
    transform = 2.5 * size * (size.bit_length() - 1)
    real, gate = passes * 8 * size, 3 * length * item
    moved = {
        "gate": gate,
        "to float32": convert,
        "pad": wide + 4 * size,
        "rfft": real,
        "product": 3 * spectrum,  # the filter's spectrum too, which no cache holds
        "irfft": real,
        "skip": 5 * wide,  # bias · u, and the sum
        "to dtype": convert,
        "gate again": gate,
    }
    if not backward:
        return Cost(sum(moved.values()), 0, int(2 * transform) + 3 * size + 4 * length, RATES["float32"])
    moved = {
        "gate again": 2 * gate,
        "to float32": convert,
        "skip": 2 * wide + 4 * wide,  # bias · dc; dc · u, and its sum
        "pad": wide + 4 * size,
        "irfft": real + 2 * spectrum,  # by an rfft, of which all but the ends is doubled
        "product": 2 * 3 * spectrum + 2 * 2 * spectrum,  # of the conjugates, which are written out
        "filter": spectrum,  # the sum of its gradient over the batch
        "rfft": spectrum + 2 * spectrum + passes * 16 * size + wide,  # filled up, complex, its real part kept
        "sum of gradients": 3 * wide,
        "to dtype": convert,
        "gate": 2 * gate,
    }
    return Cost(sum(moved.values()), 0, int(3 * transform) + 10 * size + 8 * length, RATES["float32"])


def worthwhile(length: int, dtype: torch.dtype) -> bool:
    """Whether the counts promise a quicker forward with our kernels than with torch.fft; False where they have none.

    In float32 the dense products of the column passes, thrice each, outgrow what is saved in bytes at some length.
    """
    return plan_for(length, dtype) is not None and ours(length, dtype).floor < torch_fft(length, dtype).floor


def _total(costs: list[Cost]) -> Cost:
    return Cost(
        sum(cost.bytes for cost in costs), sum(cost.matrix for cost in costs), sum(cost.plain for cost in costs),
        costs[0].rate,
    )  # fmt: skip


def table(lengths: list[int]) -> str:
    """The counts as a Markdown table; for one channel of one sequence, floors in microseconds."""
    lines = [
        "| length | dtype | direction | scheme | bytes a base | operations a base | memory floor, µs | floor, µs |",
        "|---:|---|---|---|---:|---:|---:|---:|",
    ]
    for length, dtype, backward in product(lengths, (torch.bfloat16, torch.float32), (False, True)):
        rows = kernel_costs(length, dtype, backward)
        rows |= {"**ours**": ours(length, dtype, backward)} if len(rows) > 1 else {}
        if dtype == torch.bfloat16 and not backward:
            rows["FlashFFTConv's scheme"] = flash_fft_conv(length)
        rows["torch.fft"] = torch_fft(length, dtype, backward)
        of = f"| {length:,} | {str(dtype).removeprefix('torch.')} | {'backward' if backward else 'forward'}"
        lines += [
            f"{of} | {name} | {cost.bytes / length:.1f} | {(cost.matrix + cost.plain) / length:,.0f} "
            f"| {cost.memory_floor * 1e6:.3f} | {cost.floor * 1e6:.3f} |"
            for name, cost in rows.items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([1_024, 32_768, 160_000, 450_000, 1_000_000]))
