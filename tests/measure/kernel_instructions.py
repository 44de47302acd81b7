"""Instructions of the kernels of the long convolution, counted in what Triton compiles for an H100, without a GPU.

`python -m tests.measure.kernel_instructions` writes instructions.json and toeplitz_instructions.json in
genome_lm/kernels/triton, from which `costs` and `toeplitz_costs` there count. Run it where a kernel or its sizes
change; it takes some ten minutes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from genome_lm.gpukit.resources import TAPS, instructions, toeplitz_instructions
from genome_lm.kernels.triton import toeplitz_costs
from genome_lm.kernels.triton.costs import INSTRUCTIONS_FILE, form_of
from genome_lm.kernels.triton.plan import Plan, make_plan
from genome_lm.kernels.triton.toeplitz_plan import plans

TILES = {
    "bf16": ((16, 16, 2), (32, 16, 2), (32, 32, 2), (64, 32, 4), (64, 64, 4), (128, 64, 8)),
    "bf16x3": ((16, 16, 2), (32, 16, 2), (32, 32, 2), (64, 64, 4)),
    "bf16x6": ((16, 16, 2), (32, 16, 2), (32, 32, 2), (64, 64, 4)),
}
"""Rows, columns and warps of the tiles that plans have."""
N_COLUMNS = 2, 20, 40, 100
"""Of plans for each height of the blocks of the column passes."""
FORMS = ((TAPS, TAPS), True), ((0, TAPS), True), ((0, 0), True), ((0, 0), False)
"""Taps of the streams that are loaded, and whether these are gated."""


class Counted(NamedTuple):
    """A kernel in one form."""

    kernel: str
    plan: Plan
    taps: tuple[int, int]
    gated: bool


def counted() -> Iterator[Counted]:
    """All that costs are counted from; a form that makes no other code is left out."""
    for dot, tiles in TILES.items():
        for rows, columns, warps in tiles:
            plan = make_plan(rows * columns, dot, rows, columns, warps)  # type: ignore[arg-type]
            yield Counted("tile_spectrum", plan, (0, 0), True)
            for taps in (0, TAPS):
                yield Counted("tile_conv", plan, (taps, taps), True)
                yield Counted("tile_conv_backward", plan, (taps, taps), True)
            for kernel in ("rows_fft", "rows_conv", "rows_backward"):
                yield Counted(kernel, plan, (0, 0), True)
        for n_columns in N_COLUMNS:
            plan = make_plan(n_columns * 1_024, dot, 32, 32, 2)  # type: ignore[arg-type]
            for taps, gated in FORMS:
                yield Counted("columns_fft", plan, taps, gated)
                if taps[0] == taps[1]:
                    yield Counted("columns_ifft", plan, taps, gated)
                    if gated:
                        yield Counted("columns_ifft_backward", plan, taps, gated)
        yield Counted("taps_backward", plan, (TAPS, TAPS), True)


def of_toeplitz() -> dict[str, list[int]]:
    """Those of all forms of the products with Toeplitz matrices."""
    by_form, length, batch = {}, 1_024, 256
    for backward, taps, whole in product((False, True), (0, TAPS), (True, False)):
        kernel = "toeplitz_conv_backward" if backward else "toeplitz_conv"
        for plan in plans(length, batch, backward):
            form = toeplitz_costs.form_of(plan.sequences * plan.tiles, plan.tile, backward, taps, whole)
            by_form[form] = toeplitz_instructions(kernel, plan, whole, taps)
    return by_form


def write(path: Path, by_form: Mapping[str, Sequence[int]]) -> None:
    """One form a line, in their order."""
    lines = (f'  "{form}": {list(numbers)}' for form, numbers in sorted(by_form.items()))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write(toeplitz_costs.INSTRUCTIONS_FILE, of_toeplitz())
    write(INSTRUCTIONS_FILE, {form_of(*one): instructions(*one) for one in counted()})
