"""Where to compute: the words for it, which are the same in all commands and functions, and whether it is there."""

import re
from typing import TYPE_CHECKING

from genome_lm.errors import GenomeLMError

if TYPE_CHECKING:
    import torch

WORDS = "cpu, cuda, cuda:N (the GPU with number N), mps or auto (a CUDA GPU if there is one, else cpu)"
_SPELLING = re.compile(r"cpu|mps|auto|cuda(:(0|[1-9][0-9]{0,3}))?")


def check_device_name(name: str) -> str:
    """The name as it is, if it is one of `WORDS`; whether such a device is there is not looked at.

    Raises:
        GenomeLMError: If it is none of them; it says the right word for "gpu" and for other upper and lower case.
    """
    if _SPELLING.fullmatch(name):
        return name
    lowered = name.lower().replace("gpu", "cuda")
    meant = f": did you mean {lowered}?" if _SPELLING.fullmatch(lowered) else ""
    raise GenomeLMError(f"device {name!r}{meant or ':'} use {WORDS}")


def choose_device(name: "str | torch.device | None") -> "torch.device":
    """The device of this name.

    Args:
        name: One of `WORDS`; None is "auto".

    Returns:
        The device: "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        GenomeLMError: If the name is none of them, this PyTorch can't use such a device, or none has this number.
    """
    import torch

    name = check_device_name("auto" if name is None else str(name))
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        _check_cuda(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise GenomeLMError("device mps: this PyTorch or this machine has none (it is for Apple silicon); use cpu")
    return device


def _check_cuda(device: "torch.device") -> None:
    import torch

    if not torch.cuda.is_available():
        reason = (
            f"no GPU that PyTorch can use (it is built for CUDA {torch.version.cuda}; nvidia-smi shows the driver's)"
            if torch.version.cuda
            else "this PyTorch is built without CUDA; install one for CUDA"
        )
        raise GenomeLMError(f"device {device}: {reason}, or use cpu")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise GenomeLMError(f"device {device}: the GPUs here are cuda:0 to cuda:{count - 1}")
