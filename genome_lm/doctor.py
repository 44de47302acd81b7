"""What is installed, what computes, and whether it computes right."""

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genome_lm import __version__
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.gpukit import Options, run_kit
from genome_lm.gpukit.expected import random_model
from genome_lm.kernels import backend_for
from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.torch_private import plain_forms
from genome_lm.kernels.dispatch import VARIABLE, Backend, forced_backend
from genome_lm.machine import total_memory
from genome_lm.model import HyenaLM
from genome_lm.threads import Limit, available_cpus, choose, cpu_quota, free_cpus

LIBRARIES = ("torch", "triton", "lightning", "numpy", "zarr", "pyarrow", "h5py", "pyfaidx", "biopython", "snakemake")
TOLERANCE = 1e-3
"""Largest difference from float64 arithmetic, relative to the largest value, that float32 kernels may have:
about 5e-5 is usual, TF32 convolutions on a GPU have some 5e-4, and a wrong kernel is off by far more."""
GPU_SECONDS = 300.0
_SHAPE = ModelConfig(d_model=64, n_layer=2, max_length=3_000, filter_order=16)
_BATCH = 2
_LARGE = 1 << 30


class Check(NamedTuple):
    """A self-test of one device.

    Attributes:
        device: Such as "cpu" or "cuda:0".
        name: Its name.
        inference: Kernel that is chosen for long sequences without gradients.
        training: Kernel that is chosen for long sequences with gradients.
        forward: Largest difference of the hidden states from the float64 reference, relative to the largest of them.
        backward: The same of all parameters' gradients.
        error: What went wrong instead; empty if nothing did.
    """

    device: str
    name: str
    inference: str
    training: str
    forward: float
    backward: float
    error: str

    @property
    def passed(self) -> bool:
        """Whether the kernels agree with the reference."""
        return not self.error and max(self.forward, self.backward) <= TOLERANCE


def examine(limit: Limit | None = None) -> dict[str, Any]:
    """Versions, machine, devices with their kernels and self-tests, as JSON values; `passed` is the verdict.

    Args:
        limit: What decided the number of threads, where `limit_threads` was called; None to find it out.

    Returns:
        The findings.
    """
    from genome_lm.genome import first_windows  # which takes libraries that models do without

    limit = limit or choose(os.environ, available_cpus(), cpu_quota())
    free = free_cpus()  # before the checks, which take some themselves
    checks = [check_device(torch.device(name)) for name in _devices()]
    return {
        "genome_lm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        # The metadata of PyPI's builds of torch leave out which CUDA they are for.
        "libraries": {name: _version(name) for name in LIBRARIES} | {"torch": str(torch.__version__)},
        "cuda": torch.version.cuda,
        "cpu_threads": torch.get_num_threads(),
        "cpu_threads_reason": limit.reason,
        "cpus_free": free,
        "compiled_stages": not stages.why_plain(),
        "compiled_stages_reason": stages.why_plain(),
        "compiled_windows": not first_windows.why_plain(),
        "compiled_windows_reason": first_windows.why_plain(),
        "torch_functions_replaced": plain_forms(),
        "memory_bytes": total_memory(),
        "kernel_forced": os.environ.get(VARIABLE),
        "devices": [{**check._asdict(), "passed": check.passed} for check in checks],
        "passed": all(check.passed for check in checks),
    }


def prove_gpu(results: Path | None = None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the short form of the GPU kit (`genome_lm.gpukit`), which takes at most `GPU_SECONDS`.

    Args:
        results: File of results, which is whole after each stage; None for none.
        say: Takes a line whenever a stage ends.

    Returns:
        The results, see `genome_lm.gpukit.run_kit`.

    Raises:
        GenomeLMError: If there is no GPU that this PyTorch can use.
    """
    if not torch.cuda.is_available():
        built = (
            f"this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch has no CUDA"
        )
        raise GenomeLMError(f"no GPU that PyTorch can use ({built}): look at nvidia-smi, or install torch for CUDA")
    options = Options(form="short", device="cuda", deadline=GPU_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        return run_kit(results or Path(folder) / "results.json", options, say=say)


def check_device(device: torch.device) -> Check:
    """Compare the kernels that are chosen for a device with the plain form in float64 on the CPU.

    A model with random weights computes hidden states (without gradients, as at inference) and the gradients of a
    loss (as in training), each with the kernel that long sequences get there.

    Args:
        device: The device.

    Returns:
        The differences, or the error that came up.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    inference = training = ""
    try:
        kernels = _chosen(device, gradients=False), _chosen(device, gradients=True)
        inference, training = kernels
        model, ids = random_model(_SHAPE), _ids()
        with forced_backend("reference"):
            expected = _states(model.double(), ids), _gradients(model.double(), ids)
        model = model.float().to(device)
        with forced_backend(kernels[0]):
            forward = _difference(_states(model, ids.to(device)), expected[0])
        with forced_backend(kernels[1]):
            backward = _difference(_gradients(model, ids.to(device)), expected[1])
    except Exception as error:  # whatever a kernel may raise: it is the finding
        return Check(str(device), name, inference, training, torch.inf, torch.inf, f"{type(error).__name__}: {error}")
    return Check(str(device), name, inference, training, forward, backward, "")


def _devices() -> list[str]:
    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _chosen(device: torch.device, gradients: bool) -> Backend:
    """The kernel for a residual stream too large for any shortcut; expanded, so that it takes no memory."""
    with torch.set_grad_enabled(gradients):
        return backend_for(torch.empty(1, device=device).expand(1, _LARGE // _SHAPE.d_model, _SHAPE.d_model))


def _ids() -> Tensor:
    return torch.randint(7, 12, (_BATCH, _SHAPE.max_length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _states(model: HyenaLM, ids: Tensor) -> dict[str, Tensor]:
    return {"states": model.backbone(ids).cpu()}


def _gradients(model: HyenaLM, ids: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    model.loss(*model.config.direction.shifted(ids)).backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def _difference(computed: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest over all tensors of max |computed − expected| / max |expected|; NaN counts as infinite."""
    if computed.keys() != expected.keys():
        return float("inf")
    worst = 0.0
    for name, tensor in expected.items():
        scale = tensor.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        difference = float((computed[name].double() - tensor).abs().max() / scale)
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst
