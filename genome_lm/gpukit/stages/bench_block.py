"""A whole block of the Hyena operator timed, forward and with its backward pass, with the Triton kernels and without.

These are the blocks that docs/gpu.md counts (`python -m tests.measure.block_costs`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from genome_lm.config import PRESETS
from genome_lm.gpukit.forms import Shape
from genome_lm.gpukit.kit import Case, Kit
from genome_lm.gpukit.stages.bench_step import SIDES as BACKENDS
from genome_lm.gpukit.timing import alternate
from genome_lm.kernels import Backend, forced_backend, outside_autocast
from genome_lm.model.backbone import Block
from genome_lm.model.cuda_memory import cuda_training_bytes
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.mixers import mixer_class

GELU_APART = "triton, GELU by itself"
"""Side on which the GELU is a kernel over rows, and all products are cuBLAS's."""
SIDES: dict[str, Backend] = {**BACKENDS, GELU_APART: "triton"}


def run(kit: Kit) -> None:
    """Each shape in bf16-mixed."""
    for shape in kit.form.blocks:
        with kit.case("block", shape=shape) as case:
            _measure(case, kit, shape)


def _measure(case: Case, kit: Kit, shape: Shape) -> None:
    batch, channels, length = shape
    config = replace(PRESETS["large-1m"], d_model=channels, d_inner=4 * channels, n_layer=1, max_length=length)
    if kit.on_gpu:
        kit.require_free(cuda_training_bytes(GpuBatch(config, batch, length, torch.bfloat16, has_triton=False)))
    block = Block(config, mixer_class("hyena")).to(kit.device)
    x = torch.randn(batch, length, channels, device=kit.device, requires_grad=True)
    grad = torch.randn_like(x)

    def forward(side: str, _round: int) -> None:
        with _taken(side), torch.autocast(kit.device.type, dtype=torch.bfloat16), torch.no_grad():
            block(x)

    def training(side: str, _round: int) -> None:
        with _taken(side), torch.autocast(kit.device.type, dtype=torch.bfloat16):
            y = block(x)
            with outside_autocast(y):
                torch.autograd.grad(y, [x, *block.parameters()], grad)

    # Without a GPU our kernels would take the interpreter's time.
    compared = list(SIDES) if kit.on_gpu else ["torch.fft"]
    for direction, work in (("forward", forward), ("training", training)):
        sides = {name: partial(work, name) for name in compared}
        case.record(**{direction: alternate(sides, kit.form.rounds, kit.device)})


@contextmanager
def _taken(side: str) -> Iterator[None]:
    """The kernels of a side."""
    with forced_backend(SIDES[side]):
        if side != GELU_APART:
            yield
            return
        from genome_lm.kernels.triton import product_launch

        widths = product_launch.FUSED_WIDTH, product_launch.FUSED_WIDTH_BACKWARD
        product_launch.FUSED_WIDTH = product_launch.FUSED_WIDTH_BACKWARD = 0
        try:
            yield
        finally:
            product_launch.FUSED_WIDTH, product_launch.FUSED_WIDTH_BACKWARD = widths
