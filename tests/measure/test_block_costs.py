from itertools import product
from pathlib import Path

from tests.measure import block_costs
from tests.measure.block_costs import DIRECTIONS, FLASH, FLASH_KERNELS, LENGTHS, SCHEMES, WIDTHS, block, milliseconds


def test_the_table_in_the_docs_is_what_the_command_prints() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    assert block_costs.table() in text
    assert "Counted, not measured on a card" in text


def test_nothing_is_below_the_floor_and_ours_gains_by_what_is_fused() -> None:
    for length, width, backward in product(LENGTHS, WIDTHS, DIRECTIONS):
        times = {scheme: milliseconds(scheme, length, width, backward) for scheme in SCHEMES}
        assert min(times, key=times.__getitem__) == "fused floor"
        assert times[FLASH] <= times[FLASH_KERNELS]
        assert times["ours"] < times["ours, convolution alone"] < times["eager, torch.fft"]


def test_products_of_a_layer_are_those_of_its_weights() -> None:
    """12 · D² weights in four layers, two operations each, twice as many on the way back; the floor has fc1 again."""
    for width in WIDTHS:
        of_layers = 2 * 12 * width
        for backward, times in ((False, 1), (True, 2)):
            eager = sum(part.matrix for part in block("eager, torch.fft", 1_024, width, backward))
            assert eager == times * of_layers
            floor = sum(part.matrix for part in block("fused floor", 1_024, width, backward))
            assert floor == times * of_layers + (8 * width if backward else 0)
