"""A counter of the operations that torch carries out, to hold against those counted from shapes."""

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = (aten.mm, aten.addmm, aten.bmm)
COMPOSITE = (aten.matmul, aten.linear, aten.conv1d, aten.fft_rfft, aten.fft_irfft)


class OperationCounter(TorchDispatchMode):
    """Matrix products, convolutions, FFTs by 2.5 · n · log₂ n, complex products by 6, addcmul by 2."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        packet = func.overloadpacket
        if packet in COMPOSITE:
            # In inference mode these come whole; what they are made of is counted when it comes in turn.
            with self:
                return func.decompose(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if packet in PRODUCTS:
            left, right = args[-2:]
            self.total += 2 * left.numel() * right.shape[-1]
        elif packet is aten.convolution:
            self.total += 2 * out.numel() * args[1][0].numel()
        elif packet in (aten._fft_r2c, aten._fft_c2r):
            real = args[0] if packet is aten._fft_r2c else out
            self.total += 2.5 * real.numel() * math.log2(real.shape[args[1][-1]])
        elif packet in (aten.mul, aten.mul_) and out.is_complex():
            self.total += 6 * out.numel()
        elif packet in (aten.addcmul, aten.addcmul_):
            self.total += 2 * out.numel()
        return out
