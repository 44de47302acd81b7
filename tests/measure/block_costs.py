"""What a whole block of the Hyena operator costs on an H100, forward and backward, counted from shapes.

`python -m tests.measure.block_costs` prints the table of docs/gpu.md. Nothing of it is measured on a card.

Products and streams are bfloat16, the residual stream and norms float32, the filter's network float32, as in
bf16-mixed training. Each operation reads its operands from memory once, and writes its results once. It takes as long
as these transfers, or as its arithmetic where that takes longer. Launches, embedding, head and loss are left out, and
what PyTorch copies around its linear layers where a batch has several sequences. The convolutions are counted in
`genome_lm.kernels.triton.costs`, which also has the rates.
"""

import json
from itertools import product
from math import log2
from pathlib import Path
from typing import NamedTuple

import torch

from genome_lm.config import PRESETS
from genome_lm.gpukit.forms import LENGTHS, WIDTHS
from genome_lm.kernels.triton import costs, rates

FLASH, FLASH_KERNELS = "eager, FlashFFTConv's scheme", "eager, FlashFFTConv's kernels"
SCHEMES = "eager, torch.fft", FLASH, FLASH_KERNELS, "ours, convolution alone", "ours", "fused floor"
BFLOAT16 = torch.bfloat16
MODEL = PRESETS["large-1m"]
"""Whose filter and short convolutions are counted; all presets have the same."""
TAPS = MODEL.short_filter_order
DIRECTIONS = False, True


class Part(NamedTuple):
    """An operation per position and channel."""

    bytes: float  # from and to memory
    matrix: float = 0.0  # operations in products of bfloat16
    plain: float = 0.0  # other operations
    least: float = 0.0  # seconds that it takes at least, counted elsewhere

    @property
    def seconds(self) -> float:
        arithmetic = self.matrix / rates.MATRIX + self.plain / rates.PLAIN
        return max(self.bytes / rates.COPY, arithmetic, self.least)


def block(scheme: str, length: int, width: int, backward: bool) -> list[Part]:
    """The operations of one direction, in batches of `batch_of(length)` sequences."""
    if scheme == "fused floor":
        return _floor(length, width, backward)
    around, projections = (_our_around, _our_projections) if scheme == "ours" else (_around, _projections)
    return [
        *around(width, backward),
        *projections(width, backward),
        _own_network(length, width, backward) if scheme == "ours" else _network(length, width, backward),
        *_core(scheme, length, backward),
    ]


def batch_of(length: int) -> int:
    """Sequences of a batch, which share the filter."""
    return max(1, costs.POSITIONS // length)


def _around(width: int, backward: bool) -> list[Part]:
    """Two norms, each with a cast; the MLP of four times the width; two residual sums."""
    layer = 2 * 4 * width
    if not backward:
        return [Part(2 * 14), Part(10, layer), Part(16), Part(10, layer), Part(2 * 10)]
    linear = [Part(10, layer), Part(10, layer)]  # gradients of the input and of the weights
    return [Part(2 * 26), *linear, Part(2), Part(24), *linear, Part(8), Part(2 * 18)]


def _our_around(width: int, backward: bool) -> list[Part]:
    """The same by the kernels over rows, norms with the sums before them; backward, fc1 is computed again.

    The GELU is done in one of our products, or over rows.
    """
    own = costs.product_costs(width, backward)
    kernels = costs.row_costs(backward, gelu=not own) | own
    layer, products = Part(10, 2 * 4 * width), 5 if backward else 2
    others = products - (0 if not own else 2 if backward else 1)
    return [*(_counted(cost, 1) for cost in kernels.values()), *[layer] * others]


def _projections(width: int, backward: bool) -> list[Part]:
    """Of 3 · width streams, and back; the bias of the way back is added in a pass of its own."""
    into, out = Part(8, 6 * width), Part(4, 2 * width)
    return [into, into, Part(6), out, out, Part(2)] if backward else [into, out, Part(4)]


def _our_projections(width: int, backward: bool) -> list[Part]:
    """The same channel-major; the core adds the bias of the streams, and the way back's comes with the sum."""
    into, out = Part(8, 6 * width), Part(4, 2 * width)
    return [into, into, out, out] if backward else [into, out]


def _network(length: int, width: int, backward: bool) -> Part:
    """The filter's network and window in plain PyTorch, once a batch."""
    hidden, layers = MODEL.filter_order, 1 + MODEL.num_inner_mlps
    share = hidden / width
    moved = 20 + (8 + 64 * layers) * share if backward else 36 + (4 + 24 * layers) * share
    return _per_batch(length, moved, (2 if backward else 1) * _network_operations(width))


def _own_network(length: int, width: int, backward: bool) -> Part:
    """The same in Triton."""
    kernels = costs.filter_costs(length, width, 1 + MODEL.num_inner_mlps, MODEL.emb_dim, backward).values()
    values = width * length * batch_of(length)
    cost = rates.Cost(*(sum(counts) / values for counts in zip(*kernels, strict=True)))
    return Part(cost.bytes, cost.matrix, cost.plain, cost.floor)


def _network_operations(width: int) -> float:
    hidden, inner = MODEL.filter_order, MODEL.num_inner_mlps
    return 2 * hidden * (MODEL.emb_dim + inner * hidden + width) / width


def _per_batch(length: int, moved: float, plain: float) -> Part:
    return Part(moved / batch_of(length), plain=plain / batch_of(length))


def _core(scheme: str, length: int, backward: bool) -> list[Part]:
    """All between the projections."""
    eager = costs.torch_fft(length, BFLOAT16, backward, TAPS)
    if scheme == "eager, torch.fft":
        return [_counted(eager, length)]
    if scheme == "ours":
        return [_counted(costs.ours(length, BFLOAT16, backward, batch_of(length), TAPS), length)]
    alone = costs.torch_fft(length, BFLOAT16, backward)
    short = Part((eager.bytes - alone.bytes) / length, plain=(eager.plain - alone.plain) / length)
    if scheme == "ours, convolution alone":
        return [short, _counted(costs.ours(length, BFLOAT16, backward, batch_of(length)), length)]
    forward = costs.flash_fft_conv(length)
    gates, between = 2 * length, forward.bytes - 4 * 2 * length
    moved = 7 * gates + 2 * between if backward else forward.bytes
    times = 2 if backward else 1  # two sequences go there and back instead of one
    least = _flash_instructions(length, backward) / rates.ISSUED if scheme == FLASH_KERNELS else 0.0
    return [
        short,
        Part(moved / length, times * forward.matrix / length, times * forward.plain / length, least),
        _flash_filter(length),
    ]


def _flash_instructions(length: int, backward: bool) -> float:
    """Of FlashFFTConv's kernels, of 32 threads, see `tests.measure.flash_instructions`."""
    counted = json.loads(Path(__file__).with_name("flash_instructions.json").read_text(encoding="utf-8"))
    of_length: dict[str, float] = counted["instructions per position and channel"][str(length)]
    return of_length["backward" if backward else "forward"]


def _counted(cost: rates.Cost, length: int) -> Part:
    return Part(cost.bytes / length, cost.matrix / length, cost.plain / length, cost.floor / length)


def _flash_filter(length: int) -> Part:
    """FlashFFTConv's filter: a complex torch.fft of a power of two, two transposes, a cast; or back, as much."""
    size = 1 << max(8, (2 * length - 1).bit_length())
    passes = 1 if size <= 4_096 else 2 if size <= 1 << 24 else 3
    padded, transform, transposes, cast = 4 * length + 8 * size, passes * 16 * size, 2 * 16 * size, 12 * size
    operations = 5 * size * log2(size)
    return _per_batch(length, (padded + transform + transposes + cast) / length, operations / length)


def _floor(length: int, width: int, backward: bool) -> list[Part]:
    """Each product with what can be done on its operands and results, the convolution in one pass over its own.

    Norms, GELU, biases and residuals take no passes of their own. The backward pass computes the MLP's hidden layer
    again. Of the convolution the real FFTs are counted, of twice the length and in float32.
    """
    into, out, layer = 6 * width, 2 * width, 8 * width
    network, transform = _network_operations(width), 2.5 * 2 * log2(2 * length)
    share = 1 / batch_of(length)
    if not backward:
        return [
            Part(6), Part(8, into), Part(8, plain=(2 + share) * transform), Part(10, out), Part(6), Part(10, layer),
            Part(16, layer), _per_batch(length, 4, network),
        ]  # fmt: skip
    return [
        Part(6), Part(10, layer), Part(20, layer), Part(12, layer), Part(10, layer), Part(10, layer), Part(14),
        Part(6, out), Part(6, out), Part(14, plain=(4 + 2 * share) * transform),
        _per_batch(length, 10, 3 * network), Part(8, into), Part(8, into), Part(14),
    ]  # fmt: skip


def milliseconds(scheme: str, length: int, width: int, backward: bool) -> float:
    """Of one layer per million positions."""
    return sum(part.seconds for part in block(scheme, length, width, backward)) * width * 1e6 * 1e3


def table() -> str:
    """As Markdown: bytes and operations per position and channel, milliseconds per layer and million positions."""
    lines = [
        "| channels | positions | sequences | scheme | bytes | operations | forward, ms | backward, ms | both, ms "
        "| times the floor |",
        "| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for width, length, scheme in product(WIDTHS, LENGTHS, SCHEMES):
        parts = [part for backward in DIRECTIONS for part in block(scheme, length, width, backward)]
        forward, back = (milliseconds(scheme, length, width, backward) for backward in DIRECTIONS)
        floor = sum(milliseconds("fused floor", length, width, backward) for backward in DIRECTIONS)
        lines.append(
            f"| {width} | {length:,} | {batch_of(length)} | {scheme} | {sum(part.bytes for part in parts):,.0f} "
            f"| {sum(part.matrix + part.plain for part in parts):,.0f} | {forward:.1f} | {back:.1f} "
            f"| {forward + back:.1f} | {(forward + back) / floor:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
