"""Bytes and operations of the long convolution on a GPU, counted from shapes: ours, FlashFFTConv's scheme, torch.fft.

Those of our filters are counted too, by `filter_costs`, what is over rows by `row_costs` and the MLP's own products
by `product_costs`.

`python -m genome_lm.kernels.triton.costs` prints the table. These are counts, not measurements. Ours, for one
sequence of one channel, are counted by:

- bytes read from and written to memory. What stands between the passes counts too, though it should stay in L2.
- bytes that programs ask of L2. A column pass loads its operands and factors for each block of its result. Tables of
  the tiles are left out, as L1 has them after a processor's first program.
- operations, at the card's full rate, and the instructions of each kernel, whichever take longer.
- what belongs to the filter alone, its transform and its gradient's inverse, divided by the batch.
- with short convolutions before the gates, what these add, on streams that are read as they are.

A kernel takes at least the longest of these, its floor, and a pass the sum of its kernels' floors. torch.fft and
FlashFFTConv are flattered: each is counted as one kernel that is bound by memory or by operations, whichever takes
longer, with the filter's own transform left out.
"""

import json
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Literal

import torch

from genome_lm.kernels.conv.fft import fast_fft_size
from genome_lm.kernels.triton import product_plan as products
from genome_lm.kernels.triton.filter_plan import (
    CHANNELS,
    PROGRAMS,
    blocks_of_channels,
    blocks_of_positions,
    positions_of,
)
from genome_lm.kernels.triton.plan import (
    TAPS_WARPS,
    Plan,
    Precision,
    channels_at_once,
    plan_for,
    precision_of,
    taps_programs,
)
from genome_lm.kernels.triton.rates import (
    COUNTED_TAPS,
    ISSUED,
    MATRIX,
    OWN_MATRIX,
    PLAIN,
    Cost,
    cost_of,
    shared,
)
from genome_lm.kernels.triton.toeplitz_costs import floor, toeplitz_costs
from genome_lm.kernels.triton.toeplitz_plan import ToeplitzPlan, plans, takes

GELU, GELU_BACKWARD = 24, 38
"""Operations of a GELU, and of one with its derivative: twice its instructions in the kernels compiled for sm_90."""
PRODUCTS = {"bf16": 1, "bf16x3": 3, "bf16x6": 6}
"""Products of bfloat16 that one product takes in each precision."""
INSTRUCTIONS_FILE = Path(__file__).with_name("instructions.json")
"""Instructions of each kernel on tiles and columns, of 32 threads: outside of its loop, and in one turn of it.

They are counted in the kernels compiled for sm_90 (`python -m tests.measure.kernel_instructions`).
"""
FILTER_WIDTH = 64
"""Width of the filters' networks whose instructions are counted; all presets have it."""
WAVE = 18
"""Operations of a sine or cosine in the filters' kernels."""
POSITIONS = 1 << 18
"""Positions of a batch in the table."""


def kernel_costs(
    length: int,
    dtype: torch.dtype,
    backward: bool = False,
    batch: int = 1,
    taps: int = 0,
    precision: Precision | None = None,
) -> dict[str, Cost]:
    """Each kernel of the forward or of the backward on one sequence of one channel.

    Those of FFTs, or products with Toeplitz matrices where these count less. `taps` of the short convolutions before
    the gates; 0: gates as they are. `precision` None: as `precision_of` says.

    Raises:
        ValueError: If the kernels can't take the length or the dtype.
    """
    plan = toeplitz_plan_for(length, batch, dtype, backward, taps)
    if plan is not None:
        return toeplitz_costs(plan, batch, backward, taps)
    return fft_costs(length, dtype, backward, batch, taps, precision)


def fft_costs(
    length: int,
    dtype: torch.dtype,
    backward: bool = False,
    batch: int = 1,
    taps: int = 0,
    precision: Precision | None = None,
) -> dict[str, Cost]:
    """`kernel_costs` of the kernels of FFTs."""
    plan = _planned(length, dtype, backward, precision)
    count = _tile_costs if plan.n_columns == 1 else _column_costs
    costs = count(plan, length, dtype.itemsize, backward, batch, taps)
    if backward and taps:
        # Reads the gradients of x0 and u, and the three streams, of which two are convolved again. Three gradients go
        # back, and are summed with each tap, by themselves, and for the streams' bias as they are written.
        moved, operations = 8 * length * dtype.itemsize, length * (16 * taps + 8)
        programs, turns = taps_programs(length)
        seconds = _issued("taps_backward", plan, TAPS_WARPS * programs, (taps, taps), turns=turns)
        costs["taps_backward"] = cost_of(moved, moved, 0, operations, seconds)
    return costs


def _planned(length: int, dtype: torch.dtype, backward: bool, precision: Precision | None) -> Plan:
    plan = plan_for(length, dtype, backward, precision)
    if plan is None:
        raise ValueError(f"no plan for {length} positions in {dtype}")
    return plan


def launches(
    length: int, dtype: torch.dtype, backward: bool = False, batch: int = 1, channels: int = 1, taps: int = 0
) -> int:
    """Launches of our kernels for one layer, forward or backward: each kernel once for each group of channels.

    Arguments and errors as in `kernel_costs`. PyTorch's sums, two per group of the backward, come on top.
    """
    if toeplitz_plan_for(length, batch, dtype, backward, taps):
        return 2
    plan = _planned(length, dtype, backward, None)
    kernels = (2, 2) if plan.n_columns == 1 else (5, 7)
    of_group = kernels[backward] + (backward and taps > 0)
    if plan.n_columns == 1:
        return of_group
    return of_group * -(-channels // channels_at_once(plan, channels, (2 if backward else 1) * batch + 1))


def _tile_costs(plan: Plan, length: int, item: int, backward: bool, batch: int, taps: int) -> dict[str, Cost]:
    """All in one program.

    A transform, or its inverse, is a real product from the left and a complex one from the right; twiddles and the
    filter's spectrum take 6 operations a point.
    """
    tile, shorts = plan.tile, (taps, taps)
    one = tile * 2 * PRODUCTS[plan.dot] * (2 * plan.rows + 4 * plan.columns)
    moved, spectrum = 4 * length + 8 * tile, 8 * tile  # of the filter, float32
    seconds = _issued("tile_spectrum", plan, plan.warps)
    costs = {"tile_spectrum": shared(cost_of(moved, moved, one, tile * 6, seconds), batch)}
    if not backward:
        gates = 4 * length * item
        gating = tile * (3 * 6 + 4 + 10 * taps)
        seconds = _issued("tile_conv", plan, plan.warps, shorts)
        return costs | {"tile_conv": cost_of(gates, gates + spectrum, 2 * one, gating, seconds)}
    # Both u and dc go there and back: four twiddles, two products with the filter, one summed for its gradient.
    gates, gradient = (6 if taps else 7) * length * item, 4 * length / batch
    transforms, plain = 4 + 1 / batch, tile * (6 * 6 + 8 + 9 + 12 * taps + 6 / batch)
    cached = gates + 2 * spectrum + gradient
    seconds = _issued("tile_conv_backward", plan, plan.warps, shorts, outside=1 / batch)
    return costs | {"tile_conv_backward": cost_of(gates + gradient, cached, transforms * one, plain, seconds)}


def _issued(
    kernel: str,
    plan: Plan,
    warps: float,
    taps: tuple[int, int] = (0, 0),
    gated: bool = True,
    outside: float = 1.0,
    turns: float = 1.0,
) -> float:
    """Seconds to issue the instructions of so many warps.

    `outside`: share of those outside of the kernel's loop, which programs have in common; `turns` of the loop.
    """
    left, right = (COUNTED_TAPS if each else 0 for each in taps)
    before, turn = _INSTRUCTIONS[form_of(kernel, plan, (left, right), gated)]
    return warps * (outside * before + turns * turn) / ISSUED


class _ColumnPass:
    """Costs of the passes of one plan over columns."""

    def __init__(self, plan: Plan) -> None:
        depth = -(-plan.n_columns // plan.step) * plan.step
        blocks = plan.pitch // plan.block_rows
        # Two real products with a padded matrix. To split their operands takes a tenth of that, which is left out.
        self._matrix = 2 * 2 * PRODUCTS[plan.dot] * plan.pitch * plan.tile * depth
        self._programs = blocks * (plan.tile // plan.block_columns)
        self._factors = self._programs * 2 * plan.block_rows * depth * plan.kept.itemsize
        self._blocks, self._turns, self._plan = blocks, depth // plan.step, plan
        self.between = 2 * plan.n_columns * plan.tile * plan.kept.itemsize  # complex numbers between two passes

    def fft(self, operands: float, plain: float, taps: tuple[int, int] = (0, 0), gated: bool = True) -> Cost:
        """The transform of so many bytes of operands, each of which is loaded for every block of rows."""
        cached = self._factors + self._blocks * operands + self.between
        seconds = self._issued("columns_fft", self._programs, taps, gated)
        return self._cost(operands, cached, self._matrix, self._blocks * plain, seconds)

    def inverse(self, kernel: str, operands: float, plain: float, taps: int = 0, gated: bool = True) -> Cost:
        """The inverse transforms, of half a block each, with so many bytes of gates, each moved once."""
        results = 2 if kernel == "columns_ifft_backward" else 1
        between = results * self.between
        cached = 2 * self._factors + self._blocks * between + operands
        seconds = self._issued(kernel, 2 * self._programs, (taps, taps), gated)
        return self._cost(operands, cached, results * self._matrix, plain, seconds, results)

    def _issued(self, kernel: str, programs: int, taps: tuple[int, int], gated: bool) -> float:
        return _issued(kernel, self._plan, programs * self._plan.column_warps, taps, gated, turns=self._turns)

    def _cost(
        self, operands: float, cached: float, matrix: float, plain: float, seconds: float, results: int = 1
    ) -> Cost:
        between = results * self.between
        seconds = max(seconds, matrix / MATRIX + plain / PLAIN)
        return cost_of(operands + between, cached, matrix, plain, seconds, between)


def _column_costs(plan: Plan, length: int, item: int, backward: bool, batch: int, taps: int) -> dict[str, Cost]:
    """Three passes, with complex numbers between them."""
    columns = _ColumnPass(plan)
    points, gate, between = plan.tile * plan.n_columns, length * item, columns.between
    row = points * 8 * PRODUCTS[plan.dot] * (plan.rows + plan.columns)  # one way
    warps, short = plan.n_columns * plan.warps, (taps, taps)

    def rows_fft(sequences: float) -> Cost:
        moved, seconds = 2 * between * sequences, sequences * _issued("rows_fft", plan, warps)
        return cost_of(moved, moved, row * sequences, points * 2 * 6 * sequences, seconds, moved)

    costs = {"columns_fft, filter": shared(columns.fft(4 * length, 0, gated=False), batch)}
    moved = (4 + 2 / batch if backward else 2 + 1 / batch) * between  # by the rows' way back
    if not backward:
        seconds = _issued("rows_conv", plan, warps)
        return costs | {
            "rows_fft": rows_fft(1 / batch),
            "columns_fft": columns.fft(2 * gate, length * (1 + 4 * taps), short),
            "rows_conv": cost_of(moved, 3 * between, 2 * row, points * 7 * 6, seconds, moved),
            "columns_ifft": columns.inverse("columns_ifft", 4 * gate, length * (4 + 6 * taps), taps),
        }
    transforms = 2 + 1 / batch
    rows = cost_of(
        moved, (7 + 1 / batch) * between, transforms * row, points * (8 * 6 + 2 + 12 / batch),
        _issued("rows_backward", plan, warps, outside=1 / batch), moved,
    )  # fmt: skip
    of_filter = columns.inverse("columns_ifft", 4 * length, 0, gated=False)
    gates, last = (6 if taps else 7) * gate, length * (11 + 6 * taps)
    return costs | {
        "columns_fft, x1 · v": columns.fft(2 * gate, length * (1 + 4 * taps), short),
        "columns_fft, dy · x0": columns.fft(2 * gate, length * (1 + 2 * taps), (0, taps)),
        "rows_fft": rows_fft(2 + 1 / batch),
        "rows_backward": rows,
        "columns_ifft, filter": shared(of_filter, batch),
        "columns_ifft_backward": columns.inverse("columns_ifft_backward", gates, last, taps),
    }


def ours(
    length: int,
    dtype: torch.dtype,
    backward: bool = False,
    batch: int = 1,
    taps: int = 0,
    precision: Precision | None = None,
) -> Cost:
    """All kernels together, one after the other; arguments and errors as in `kernel_costs`."""
    costs = kernel_costs(length, dtype, backward, batch, taps, precision).values()
    return Cost(*map(sum, zip(*costs, strict=True)))


def row_costs(backward: bool = False, inner: int = 4, item: int = 2, gelu: bool = True) -> dict[str, Cost]:
    """Each kernel over rows that a block takes, per position and channel; see `genome_lm.kernels.triton.rows`.

    A block that another one follows, which adds what this one's MLP makes.

    Args:
        backward: Whether of the backward pass, which computes the MLP's norm and hidden layer again.
        inner: Width of the MLP in those of the model.
        item: Bytes of a number in the products; the residual stream has 4.
        gelu: Whether the GELU has a kernel over rows, and is not in the products.
    """
    rounded = 0 if item == 4 else item  # of a gradient in the dtype of products
    if not backward:
        counts = {"norm_rows, mixer": (8 + 2 * item, 10), "norm_rows, MLP": (8 + 2 * item, 10)}
        of_gelu = {"gelu_rows": (2 * inner * item, GELU * inner)}
    else:
        counts = {
            "norm_rows": (4 + item, 8),
            "norm_rows_backward, MLP": (12 + item + rounded, 22),
            "norm_rows_backward, mixer": (12 + 2 * item + rounded, 24),
        }
        of_gelu = {"gelu_rows_backward": (4 * inner * item, GELU_BACKWARD * inner)}
    return {
        name: cost_of(moved, moved, 0, operations, operations / PLAIN)
        for name, (moved, operations) in (counts | (of_gelu if gelu else {})).items()
    }


def product_costs(width: int, backward: bool = False, inner: int = 4) -> dict[str, Cost]:
    """The kernel of the MLP's products around its GELU, per position and channel, in half precision.

    None for a model so wide that it takes cuBLAS's. Programs load their operands from L2; see
    `genome_lm.kernels.triton.products`.
    """
    if width > (products.FUSED_WIDTH_BACKWARD if backward else products.FUSED_WIDTH):
        return {}
    item, times = 2, 2 if backward else 1  # results, with two operands each
    columns = products.COLUMNS_BACKWARD if backward else products.COLUMNS
    written, loaded = times * inner * item, times * inner * item * width * (1 / products.ROWS + 1 / columns)
    matrix, plain = times * 2 * inner * width, inner * (GELU_BACKWARD if backward else GELU)
    cost = cost_of(times * item + written, loaded + written, matrix, plain, matrix / OWN_MATRIX + plain / PLAIN)
    return {"linear_gelu_backward" if backward else "linear_gelu": cost}


def filter_costs(length: int, channels: int, layers: int, features: int, backward: bool = False) -> dict[str, Cost]:
    """Each kernel that makes the filters of all channels, or goes back through them; networks of `FILTER_WIDTH`.

    Seconds are those of instructions, counted in the compiled kernels for sm_90: for a block of positions those that
    are there anyway, and those of a pair of features, of a layer and of a block of channels.
    """
    width, bands = FILTER_WIDTH, (features - 1) // 2
    blocks, wide = -(-length // positions_of(width)), -(-channels // CHANNELS)
    filters, hidden, square = 4 * length * channels, 4 * length * width, 2 * 3 * width * width * length

    def kernel(moved: float, loaded: float, products: float, plain: float, instructions: float) -> Cost:
        """`loaded`: weights, of L2."""
        return cost_of(moved, moved + loaded, products, plain, 4 * instructions / ISSUED)

    def network(count: int) -> float:
        return length * (width * (2 * features + count * (WAVE + 2)) + 2 * bands * WAVE)

    inner, last, window = 4 * width * width, 4 * width * channels, 8 * length * channels
    if not backward:
        per_program = blocks_of_channels(length, channels, width)
        parts = -(-wide // per_program)  # each makes the hidden layers
        return {
            "filter_forward": kernel(
                filters, blocks * (parts * (layers - 1) * inner + last),
                parts * (layers - 1) * square + square * channels / width, parts * network(layers) + window,
                blocks * parts * (1_450 + 180 * bands + 1_060 * (layers - 1) + 1_011 * per_program),
            )
        }  # fmt: skip
    _, parts = blocks_of_positions(length, width, PROGRAMS)
    _, parts_of_out = blocks_of_positions(length, width, -(-PROGRAMS // wide))
    halves = -(-length // positions_of(width, sums=True))
    costs = {
        "filter_backward_hidden": kernel(
            filters + 2 * hidden, blocks * ((layers - 1) * inner + last),
            (layers - 1) * square + square * channels / width, network(layers) + window,
            blocks * (1_650 + 180 * bands + 1_061 * (layers - 1) + 1_067 * wide),
        ),
        "filter_backward_out": kernel(
            filters + hidden + 2 * parts_of_out * last, (wide - 1) * hidden, square * channels / width, window,
            halves * wide * 539,
        ),
    }  # fmt: skip
    for layer in range(1, layers):
        costs[f"filter_backward_inner, {layer}"] = kernel(
            2 * hidden + 2 * parts * inner, halves * (layer + 1) * inner, (layer + 2) * square,
            network(layer) + length * width * (WAVE + 7), halves * (2_482 + 116 * bands + 665 * (layer - 1)),
        )  # fmt: skip
    sums = 2 * 4 * blocks * (2 + features) * width
    plain = length * (width * (2 * features + WAVE + 4 + 2 * features) + 4 * bands * WAVE)
    costs["filter_backward_first"] = kernel(hidden + sums, 0, 0, plain, blocks * (2_493 + 1_155 * bands))
    return costs


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
    moved = 4 * length * half + between
    return cost_of(moved, 0, matrix, 10 * size, matrix / MATRIX + 10 * size / PLAIN)


def torch_fft(length: int, dtype: torch.dtype, backward: bool = False, taps: int = 0) -> Cost:
    """The reference: each operation of PyTorch reads and writes memory; transforms are float32, of 2L points.

    `taps` of the short convolutions before the gates, which pad their input first; 0: gates as they are.

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
        if taps:
            moved["short convolutions"] = 3 * (3 + 2) * length * item  # zeros and a copy into them, then convolved
        plain = 2 * transform + 3 * size + (4 + 3 * 2 * taps) * length
        return cost_of(sum(moved.values()), 0, 0, plain, plain / PLAIN)
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
    plain = 3 * transform + 10 * size + 8 * length
    if taps:
        # The three gradients are joined; those of the input, the weights and the biases; the padding is cut off.
        moved["short convolutions"] = 3 * (2 + 2 + 2 + 1 + 2) * length * item
        plain += 3 * (4 * taps + 1) * length
    return cost_of(sum(moved.values()), 0, 0, plain, plain / PLAIN)


def form_of(kernel: str, plan: Plan, taps: tuple[int, int], gated: bool) -> str:
    """Name of a kernel in one of the forms that it is compiled in, see `INSTRUCTIONS_FILE`."""
    if kernel.startswith("columns"):
        sizes = f"{plan.block_rows} rows"
    else:
        sizes = "" if kernel == "taps_backward" else f"{plan.rows} × {plan.columns}"
    gates = "" if gated else "ungated"
    return ", ".join(part for part in (kernel, plan.dot, sizes, f"taps {taps[0]} {taps[1]}", gates) if part)


# Both are read on import, for torch.compile, which traces what asks for them, can't read files.
_INSTRUCTIONS: dict[str, tuple[int, int]] = json.loads(INSTRUCTIONS_FILE.read_text(encoding="utf-8"))
_MEASURED: dict[str, tuple[int, int]] = json.loads(
    Path(__file__).with_name("crossover.json").read_text(encoding="utf-8")
)["faster"]


def measured_crossover() -> dict[str, tuple[int, int]]:
    """Shortest and longest length at which our kernels were measured to be faster; empty where nothing was measured.

    The keys are "dtype direction". A direction is `forward`, or `training` for forward and backward. Where they were
    faster at no length, both lengths are 0. `tests/gpu/report.py` writes the file from the results on a GPU.
    """
    return _MEASURED


def worthwhile(length: int, dtype: torch.dtype, batch: int = 1, training: bool = False, taps: int = 0) -> bool:
    """Whether our kernels should be quicker than torch.fft: as measured, or by the counts where nothing was.

    `taps` of the short convolutions before the gates count on both sides; they were there in what was measured. In
    training the forward and the backward count together. Dense products of the column passes grow with the square
    of the length, so that torch.fft wins in the end. False where our kernels can't take the length or the dtype.
    """
    if plan_for(length, dtype) is None:
        return False
    measured = measured_crossover().get(f"{_name(dtype)} {'training' if training else 'forward'}")
    if measured is not None:
        return measured[0] <= length <= measured[1]
    return _counts_less(length, dtype, precision_of(dtype), batch, training, taps)


@lru_cache(maxsize=4096)
def _counts_less(
    length: int, dtype: torch.dtype, precision: Precision, batch: int, training: bool, taps: int
) -> bool:
    directions = (False, True) if training else (False,)
    mine = sum(ours(length, dtype, backward, batch, taps, precision).floor for backward in directions)
    return mine < sum(torch_fft(length, dtype, backward, taps).floor for backward in directions)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


LEAST_BATCH = 16
"""Sequences of a batch from which on a measurement decides, which was made with many."""
CHOICE: Literal["auto", "products", "FFTs"] = "auto"
"""What takes the sequences that both can take; other than auto for tests and measurements."""


def toeplitz_plan_for(length: int, batch: int, dtype: torch.dtype, backward: bool, taps: int) -> ToeplitzPlan | None:
    """The plan of products with Toeplitz matrices where they should be quicker than FFTs, by measurement or by count.

    None where FFTs should be, and where the products don't take the sequences.
    """
    if CHOICE == "FFTs" or not takes(length, dtype):
        return None
    plan, counts_less = _best(length, batch, backward, taps)
    measured = measured_crossover().get(f"bfloat16 {'training' if backward else 'forward'}, products")
    if CHOICE == "auto" and measured is not None and batch >= LEAST_BATCH:
        counts_less = measured[0] <= length <= measured[1]
    return plan if counts_less or CHOICE == "products" else None


@lru_cache(maxsize=4096)
def _best(length: int, batch: int, backward: bool, taps: int) -> tuple[ToeplitzPlan, bool]:
    """The plan that counts least, and whether that is less than FFTs."""
    best, *others = plans(length, batch, backward)
    for other in others:  # min with a key is nothing that torch.compile traces
        if floor(other, batch, backward, taps) < floor(best, batch, backward, taps):
            best = other
    by_fft = sum(cost.floor for cost in fft_costs(length, torch.bfloat16, backward, batch, taps).values())
    return best, floor(best, batch, backward, taps) < by_fft


_SHOWN: tuple[tuple[torch.dtype, Precision], ...] = (
    (torch.bfloat16, "bf16"), (torch.float32, "bf16x3"), (torch.float32, "bf16x6"),
)  # fmt: skip


def table(lengths: list[int]) -> str:
    """The counts as a Markdown table; for one channel of one sequence, floors in microseconds."""
    lines = [
        "| length | batch | products | direction | scheme | bytes per base | of L2 | operations per base "
        "| memory floor, µs | floor, µs |",
        "|---:|---:|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for length, (dtype, precision), backward in product(lengths, _SHOWN, (False, True)):
        batch = max(1, POSITIONS // length)
        rows = kernel_costs(length, dtype, backward, batch, precision=precision)
        rows["**ours**"] = ours(length, dtype, backward, batch, precision=precision)
        if dtype == torch.bfloat16 and not backward:
            rows["FlashFFTConv's scheme"] = flash_fft_conv(length)
        rows["torch.fft"] = torch_fft(length, dtype, backward)
        of = f"| {length:,} | {batch} | {precision} | {'backward' if backward else 'forward'}"
        lines += [
            f"{of} | {name} | {cost.bytes / length:.1f} | {f'{cost.cached / length:.1f}' if cost.cached else '–'} "
            f"| {(cost.matrix + cost.plain) / length:,.0f} | {cost.memory_floor * 1e6:.3f} | {cost.floor * 1e6:.3f} |"
            for name, cost in rows.items()
        ]
    return "\n".join(lines)


def table_of_launches(lengths: list[int], channels: int = 256) -> str:
    """Launches of one layer in bfloat16 as a Markdown table, beside the least milliseconds of its kernels."""
    lines = [
        f"| length | batch | direction | launches for {channels} channels | floor, ms | floor within L2, ms |",
        "|---:|---:|---|---:|---:|---:|",
    ]
    for length, backward in product(lengths, (False, True)):
        batch, taps = max(1, POSITIONS // length), 3
        count = launches(length, torch.bfloat16, backward, batch, channels, taps)
        cost = ours(length, torch.bfloat16, backward, batch, taps)
        floor, resident = (seconds * batch * channels * 1e3 for seconds in (cost.floor, cost.resident))
        direction = "backward" if backward else "forward"
        lines.append(f"| {length:,} | {batch} | {direction} | {count} | {floor:.2f} | {resident:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    lengths = [1_024, 8_192, 32_768, 160_000, 450_000, 1_000_000]
    print(table(lengths), table_of_launches(lengths), sep="\n\n")
