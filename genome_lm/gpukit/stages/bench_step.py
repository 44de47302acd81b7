"""Whole models timed: a forward pass and a training step, with the Triton kernels and with torch.fft."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.direction import CAUSAL
from genome_lm.gpukit.kit import Case, Kit
from genome_lm.gpukit.timing import alternate
from genome_lm.kernels import Backend, forced_backend, outside_autocast
from genome_lm.kernels.triton.costs import worthwhile
from genome_lm.model import HyenaLM
from genome_lm.model.cuda_memory import cuda_forward_bytes, cuda_training_bytes
from genome_lm.model.mixer import GpuBatch

SIDES: dict[str, Backend] = {"triton": "triton", "torch.fft": "reference"}
_KERNELS = 25
"""Kernels of a step that are listed, those that take most of the time."""


def run(kit: Kit) -> None:
    """Each preset, forward and training step, in bf16-mixed."""
    for config, batch, length in kit.form.steps:
        for direction in ("forward", "training"):
            shape = batch, config.d_model, length
            with kit.case("model", shape=shape, layers=config.n_layer, direction=direction) as case:
                _measure(case, kit, config, batch, direction == "training")


def _measure(case: Case, kit: Kit, config: ModelConfig, batch: int, training: bool) -> None:
    length = config.max_length
    if kit.on_gpu:
        plain = GpuBatch(config, batch, length, torch.bfloat16, has_triton=False)
        kit.require_free(
            cuda_training_bytes(plain, range(plain.config.n_layer)) if training else cuda_forward_bytes(plain)
        )
    model = HyenaLM(config).to(kit.device).train(training)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(7, 11, (batch, length + 1), device=kit.device)

    def work(kernel: Backend, _round: int = 0) -> Tensor:
        with forced_backend(kernel):
            return step()

    def step() -> Tensor:
        with torch.autocast(kit.device.type, dtype=torch.bfloat16), torch.set_grad_enabled(training):
            if not training:
                return model(CAUSAL.shifted(ids)[0])
            optimizer.zero_grad()
            loss = model.loss(*CAUSAL.shifted(ids))
            with outside_autocast(loss):
                loss.backward()
        optimizer.step()
        return loss

    # Without a GPU our kernels would take the interpreter's time for whole models.
    compared = SIDES if kit.on_gpu else {"torch.fft": SIDES["torch.fft"]}
    sides = {name: partial(work, kernel) for name, kernel in compared.items()}
    times = alternate(sides, kit.form.rounds, kit.device)
    backend = "triton" if worthwhile(length, torch.bfloat16, batch, training) else "torch.fft"
    case.record(chosen=backend)
    case.record(ms=times, bases_per_s={name: round(batch * length / t.median * 1e3) for name, t in times.items()})
    if kit.on_gpu:
        case.record(peak_GB={name: _peak(kit, partial(work, kernel)) for name, kernel in SIDES.items()})
        case.record(kernels=_kernels(partial(work, "triton")))


def _peak(kit: Kit, run: Callable[[], object]) -> float:
    torch.cuda.reset_peak_memory_stats(kit.device)
    run()
    return round(torch.cuda.max_memory_allocated(kit.device) / 1e9, 2)


def _kernels(run: Callable[[], object]) -> list[dict[str, Any]]:
    """The kernels that take most of the GPU's time: name, calls, milliseconds."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_device_time_total)[:_KERNELS]
    return [
        {"name": row.key[:80], "calls": row.count, "ms": round(row.self_device_time_total / 1e3, 3)} for row in rows
    ]
