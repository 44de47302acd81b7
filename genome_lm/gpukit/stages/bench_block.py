"""A whole block of the Hyena operator timed, forward and with its backward pass, with the Triton kernels and without.

These are the blocks that docs/gpu.md counts (`python -m tests.measure.block_costs`).
"""

from dataclasses import replace
from functools import partial

import torch

from genome_lm.config import PRESETS
from genome_lm.gpukit.forms import Shape
from genome_lm.gpukit.kit import Case, Kit
from genome_lm.gpukit.stages.bench_step import SIDES
from genome_lm.gpukit.timing import alternate
from genome_lm.kernels import Backend, forced_backend, outside_autocast
from genome_lm.model.backbone import Block
from genome_lm.model.cuda_memory import cuda_training_bytes
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.mixers import mixer_class


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

    def forward(kernel: Backend, _round: int) -> None:
        with forced_backend(kernel), torch.autocast(kit.device.type, dtype=torch.bfloat16), torch.no_grad():
            block(x)

    def training(kernel: Backend, _round: int) -> None:
        with forced_backend(kernel), torch.autocast(kit.device.type, dtype=torch.bfloat16):
            y = block(x)
            with outside_autocast(y):
                torch.autograd.grad(y, [x, *block.parameters()], grad)

    # Without a GPU our kernels would take the interpreter's time.
    compared = SIDES if kit.on_gpu else {"torch.fft": SIDES["torch.fft"]}
    for direction, work in (("forward", forward), ("training", training)):
        sides = {name: partial(work, kernel) for name, kernel in compared.items()}
        case.record(**{direction: alternate(sides, kit.form.rounds, kit.device)})
