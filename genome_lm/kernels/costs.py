"""Bytes and operations of the long convolution on a GPU, counted from shapes: ours, FlashFFTConv's scheme, torch.fft.

`python -m genome_lm.kernels.costs` prints the table. These are counts, not measurements: the floor is what a GPU that
did nothing but these transfers, or nothing but these operations, at full rate would need. Each count is for one
sequence of one channel, of a batch so large that the filter's own transform is shared, and forward only.
"""

from typing import NamedTuple

import torch

from genome_lm.kernels.fft import fast_fft_size
from genome_lm.kernels.plan import plan_for

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


def kernel_costs(length: int, dtype: torch.dtype) -> dict[str, Cost]:
    """Each kernel of the forward on one sequence of one channel.

    Raises:
        ValueError: If the kernels can't take the length or the dtype.
    """
    plan = plan_for(length, dtype)
    if plan is None:
        raise ValueError(f"no plan for {length} positions in {dtype}")
    item, dot = dtype.itemsize, plan.dot.itemsize
    parts, rate = (1, RATES["bfloat16"]) if plan.dot == torch.bfloat16 else (3, RATES["tf32"])
    points = plan.tile * plan.n_columns
    left, right = 2 * parts * plan.rows, 2 * parts * plan.columns
    if plan.n_columns == 1:
        # A real product from the left, a complex one from the right, and back; twiddles, filter, gates, skip.
        return {"tile_conv": Cost(4 * length * item, points * (4 * left + 8 * right), points * (3 * 6 + 4), rate)}
    column = 2 * 2 * parts * plan.pitch * plan.tile * plan.pitch  # two real products with a padded matrix
    complex_ = 2 * points * dot
    return {
        "columns_fft": Cost(2 * length * item + complex_, column, length, rate),
        "rows_conv": Cost(2 * complex_, points * 8 * (left + right), points * 7 * 6, rate),
        "columns_ifft": Cost(4 * length * item + complex_, column, 4 * length, rate),
    }


def ours(length: int, dtype: torch.dtype) -> Cost:
    """All kernels of the forward together."""
    return _total(list(kernel_costs(length, dtype).values()))


def flash_fft_conv(length: int) -> Cost:
    """FlashFFTConv's scheme in half precision, as its cost model counts (Fu et al. 2023, arXiv:2311.05908).

    A real transform of N points, a power of two of at least 2L, costs 16 · N · N_i operations for each of its
    factors N_i (at most 32, as even as may be). Up to N = 32,768 one kernel reads the gates and writes y. Beyond,
    the outermost factor is a pass of its own on either side, with N/2 complex numbers in half precision in between.
    """
    size = 1 << max(8, (2 * length - 1).bit_length())
    bits, half = size.bit_length() - 1, 2
    factors = max(2, -(-bits // 5))
    sizes = [1 << (bits * (i + 1) // factors - bits * i // factors) for i in range(factors)]
    passes = 1 if size <= 32_768 else 3
    between = (passes - 1) * 2 * (size // 2) * 2 * half
    matrix = sum(16 * size * n for n in sizes)
    return Cost(4 * length * half + between, matrix, 10 * size, RATES["bfloat16"])


def torch_fft(length: int, dtype: torch.dtype) -> Cost:
    """The reference: each operation of PyTorch reads and writes memory; transforms are float32, of 2L points.

    A transform of up to 4,096 points is counted as one pass over memory and a longer one as two, or three beyond 16
    million, the fewest that its plan can have; 2.5 · n · log2(n) operations.
    """
    size, item = fast_fft_size(2 * length), dtype.itemsize
    passes = 1 if size <= 4_096 else 2 if size <= 1 << 24 else 3
    wide = 4 * length
    moved = {
        "gate": 3 * length * item,
        "to float32": 0 if item == 4 else length * item + wide,
        "pad": wide + 4 * size,
        "rfft": passes * 8 * size,
        "product": 3 * 4 * size,  # the filter's spectrum too, which no cache holds
        "irfft": passes * 8 * size,
        "skip": 5 * wide,  # bias · u, and the sum
        "to dtype": 0 if item == 4 else length * item + wide,
        "gate again": 3 * length * item,
    }
    plain = int(2 * 2.5 * size * (size.bit_length() - 1)) + 3 * size + 4 * length
    return Cost(sum(moved.values()), 0, plain, RATES["float32"])


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
        "| length | dtype | scheme | bytes a base | operations a base | memory floor, µs | floor, µs |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    for length in lengths:
        for dtype in (torch.bfloat16, torch.float32):
            rows = kernel_costs(length, dtype)
            rows |= {"**ours**": ours(length, dtype)} if len(rows) > 1 else {}
            if dtype == torch.bfloat16:
                rows["FlashFFTConv's scheme"] = flash_fft_conv(length)
            rows["torch.fft"] = torch_fft(length, dtype)
            lines += [
                f"| {length:,} | {str(dtype).removeprefix('torch.')} | {name} | {cost.bytes / length:.1f} "
                f"| {(cost.matrix + cost.plain) / length:,.0f} | {cost.memory_floor * 1e6:.3f} "
                f"| {cost.floor * 1e6:.3f} |"
                for name, cost in rows.items()
            ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([1_024, 32_768, 160_000, 450_000, 1_000_000]))
