"""The long convolution in plain torch.fft: what every faster backend must equal, forward and backward.

A convolution is causal and linear, not circular: inputs of length L are zero-padded to at least 2L, so nothing
wraps around (Poli et al. 2023, https://arxiv.org/abs/2302.10866, section 3).

Backends differ in precision. This one computes FFTs in float64 for float64 input, and in float32 for all
other. Triton's accumulates in float32. With bfloat16 input its matrix products are bfloat16, which leaves errors of
about 6e-3 of the largest value. With float32 input each is a sum of three or six bfloat16 products, with errors of
about 1e-5 or 3e-7, by the setting of `torch.set_float32_matmul_precision`; with float16 input of three.
"""

import torch
from torch import Tensor

from genome_lm.kernels.conv.depthwise import depthwise
from genome_lm.kernels.conv.fft import fast_fft_size


def causal_conv(u: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    """Causal long convolution with a skip: y[t] = Σ_{s ≤ t} h[t − s] · u[s] + bias · u[t].

    Args:
        u: (B, D, L), any floating dtype.
        h: (D, L) filter, one per channel.
        bias: (D,) weight of the skip.

    Returns:
        (B, D, L) in the dtype of `u`. The arithmetic is float32 (float64 for float64 input), within autocast too.
    """
    length = u.shape[-1]
    size = fast_fft_size(2 * length)
    with torch.autocast(device_type=u.device.type, enabled=False):
        signal = u.to(torch.promote_types(u.dtype, torch.float32))
        spectrum = torch.fft.rfft(signal, n=size) * torch.fft.rfft(h.to(signal.dtype), n=size)
        y = torch.fft.irfft(spectrum, n=size)[..., :length] + bias.to(signal.dtype)[:, None] * signal
    return y.to(u.dtype)


def gated_causal_conv(x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    """The core of the Hyena operator: x0 · causal_conv(x1 · v, h, bias), with all gates (B, D, L)."""
    return x0 * causal_conv(x1 * v, h, bias)


def hyena_core(z: Tensor, weight: Tensor, bias: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    """The Hyena operator of order 2 between its projections: short convolutions, gates and the long convolution.

    Args:
        z: (B, 3D, L) projected streams x0, x1 and v, any floating dtype.
        weight: (3D, 1, K) of the short causal convolutions, the last tap is that of the present position.
        bias: (3D,) of the short convolutions.
        h: (D, L) long filter, one per channel.
        skip: (D,) weight of the long convolution's skip.

    Returns:
        (B, D, L) in the dtype of `z`.
    """
    x0, x1, v = depthwise(z, weight, bias).chunk(3, dim=1)
    return gated_causal_conv(x0, x1, v, h, skip)
