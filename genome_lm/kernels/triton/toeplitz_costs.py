"""Bytes, operations and instructions of the products with Toeplitz matrices.

What is counted is that of `genome_lm.kernels.triton.costs`, with this besides:

- What stands between the passes of a program is counted in L2 alone, where plans see to it that it stays.
- The Toeplitz matrices are loaded through the first level of caches, which holds a channel's table. Together with
  what products write to and read from shared memory, that is bound by `SHARED`.
- The streams are read from memory again where the backward pass ends.

All products are the H100's own instructions for whole groups of warps (wgmma), at the rate of products in Triton.
"""

import json
from pathlib import Path
from typing import NamedTuple

from genome_lm.kernels.triton.rates import COUNTED_TAPS, ISSUED, OWN_MATRIX, Cost, cost_of, shared
from genome_lm.kernels.triton.toeplitz_plan import DISTANCES, ToeplitzPlan

SHARED = 132 * 128 * 1.7e9
"""Bytes per second that an H100's processors read from and write to shared memory and the first level of caches."""
INSTRUCTIONS_FILE = Path(__file__).with_name("toeplitz_instructions.json")
"""Instructions of a warp: outside of loops, and in a turn of each loop without the loops in it, in their order."""
_INSTRUCTIONS: dict[str, list[int]] = json.loads(INSTRUCTIONS_FILE.read_text(encoding="utf-8"))


class _Work(NamedTuple):
    """What products of a program do."""

    cached: float = 0.0  # bytes that are loaded from L2 and written to it
    shared: float = 0.0  # bytes of shared memory and of the first level of caches
    matrix: float = 0.0  # operations
    steps: int = 0  # turns of the loops over what is summed

    def __add__(self, other: "_Work") -> "_Work":  # type: ignore[override]
        cached, shared = self.cached + other.cached, self.shared + other.shared
        return _Work(cached, shared, self.matrix + other.matrix, self.steps + other.steps)


def _tile_products(plan: ToeplitzPlan) -> _Work:
    """The convolution of all blocks, or its adjoint."""
    rows, tile = plan.sequences * plan.tiles, plan.tile
    steps = sum(range(1, plan.blocks + 1)) * plan.tiles * tile // plan.step
    operand, matrix = 2 * rows * plan.step, 2 * plan.step * tile
    # Eight warps have two groups, which share the rows' tile or the matrix: what is shared is read twice.
    halves = plan.warps // 4
    of_rows, of_matrix = (halves, 1) if rows == 64 else (1, rows // 64)
    shared = steps * (operand * (1 + of_rows) + matrix * (2 + of_matrix))
    results = plan.blocks * 2 * rows * tile
    return _Work(steps * operand + results, shared, steps * 2 * rows * plan.step * tile, steps)


def _gradient_products(plan: ToeplitzPlan) -> _Work:
    """Those of the filter's gradient, with what is summed along their diagonals."""
    tiles, rows = plan.distances, plan.sequences * plan.gradient_tiles
    groups, operand, product = -(-tiles // plan.gradient_tiles), 2 * rows * DISTANCES, 4 * DISTANCES**2
    steps = sum(groups - distance // plan.gradient_tiles for distance in range(tiles))
    cached = steps * 2 * operand + tiles * 2 * product / 8
    shared = steps * (2 + 3) * operand + tiles * 2 * (1 + 1 / 2 + 1 / 4) * product  # the second operand is read twice
    return _Work(cached, shared, steps * 2 * rows * DISTANCES**2, steps)


def toeplitz_costs(plan: ToeplitzPlan, batch: int, backward: bool, taps: int) -> dict[str, Cost]:
    """Each kernel, for one sequence of one channel as in `costs.kernel_costs`."""
    length, share = plan.length, -(-batch // plan.sequences) / batch  # programs of a sequence
    table = 8 * 2 * plan.width
    filters = 4 * length + table
    made = cost_of(filters, filters, 0, 8 * plan.width, 5 * 8 * plan.width / 32 / ISSUED)
    products, name = _tile_products(plan), "toeplitz_conv"
    moved, cached = 8.0 * length, 12.0 * length
    if backward:
        products, name = products + products + _gradient_products(plan), "toeplitz_conv_backward"
        of_filter = 4 * share * length  # its gradient, a part for each program
        moved, cached = 22 * length + of_filter, 30 * length + of_filter
    cost = cost_of(
        moved + table / batch, cached + share * (products.cached + table), share * products.matrix, 0,
        share * max(
            products.matrix / OWN_MATRIX, products.shared / SHARED,
            _instructions(plan, batch, backward, taps) * plan.warps / ISSUED,
        ),
    )  # fmt: skip
    return {"toeplitz_table": shared(made, batch), name: cost}


def form_of(rows: int, tile: int, backward: bool, taps: int, whole: bool) -> str:
    """Name of a kernel in one of the forms that it is compiled in, see `INSTRUCTIONS_FILE`."""
    kernel = "toeplitz_conv_backward" if backward else "toeplitz_conv"
    return f"{kernel}, {rows} × {tile}, taps {taps}{'' if whole else ', masked'}"


def _instructions(plan: ToeplitzPlan, batch: int, backward: bool, taps: int) -> float:
    """Of a warp of a program."""
    rows, counted = plan.sequences * plan.tiles, COUNTED_TAPS if taps else 0
    form = form_of(rows, plan.tile, backward, counted, plan.is_whole(batch))
    turns, steps = -(-plan.sequences * plan.segments // (32 * plan.warps)), _tile_products(plan).steps
    products = [plan.blocks, steps]
    if not backward:
        trips = [1, turns, *products, turns]
    else:
        trips = [1, turns, plan.distances, _gradient_products(plan).steps, *products, *products, turns]
    return sum(count * trip for count, trip in zip(_INSTRUCTIONS[form], trips, strict=True))


def floor(plan: ToeplitzPlan, batch: int, backward: bool, taps: int) -> float:
    """Seconds of all kernels for one sequence of one channel."""
    return sum(cost.floor for cost in toeplitz_costs(plan, batch, backward, taps).values())
