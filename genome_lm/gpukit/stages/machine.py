"""What the machine is, and what it can reach: the ceilings that the other stages' times are held against."""

import os
import platform
import shutil
import subprocess
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from genome_lm.gpukit.kit import Kit, needs_gpu
from genome_lm.gpukit.timing import alternate

_LIBRARIES = "torch", "triton", "numpy", "lightning"
_QUERY = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,memory.used,utilization.gpu"


def run(kit: Kit) -> None:
    """Versions and card, the rate of copies, and that of matrix products."""
    with kit.case("versions") as case:
        case.record(python=platform.python_version(), cuda=torch.version.cuda, cores=os.cpu_count())
        case.record(**{name: _version(name) for name in _LIBRARIES}, compiler=shutil.which("cc"))
    with kit.case("card") as case:
        needs_gpu(kit)
        properties = torch.cuda.get_device_properties(kit.device)
        case.record(
            gpu=properties.name, memory_GB=round(properties.total_memory / 1e9, 1),
            processors=properties.multi_processor_count, capability=f"{properties.major}.{properties.minor}",
            **_nvidia_smi(),
        )  # fmt: skip
    with kit.case("copy") as case:
        source = torch.zeros(kit.form.copied, dtype=torch.uint8, device=kit.device)
        target = torch.empty_like(source)
        spread = alternate({"copy": lambda _: target.copy_(source)}, 10, kit.device)["copy"]
        case.record(ms=spread, TB_per_s=round(2 * kit.form.copied / spread.median / 1e9, 3))
    size = kit.form.square
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        with kit.case("matrix product", dtype=str(dtype).removeprefix("torch."), size=size) as case:
            a, b = torch.randn(2, size, size, device=kit.device).to(dtype)
            spread = alternate({"product": partial(_product, a, b)}, 5, kit.device)["product"]
            case.record(ms=spread, TFLOP_per_s=round(2 * size**3 / spread.median / 1e9, 2))


def _product(a: torch.Tensor, b: torch.Tensor, _round: int) -> torch.Tensor:
    return a @ b


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _nvidia_smi() -> dict[str, str]:
    """Driver, clocks and load of the first card as nvidia-smi gives them; nothing where it is missing."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return {}
    names = [name.replace(".", "_") for name in _QUERY.split(",")]
    return {name: value.strip() for name, value in zip(names, line.split(","), strict=True) if name != "name"}
