"""FlexAttention (`torch.nn.attention.flex_attention`) on GPUs: patterns as compiled kernels that skip unseen blocks.

It compiles itself, once per pattern and kind of tensors. Where it can't, or gives wrong values, plain PyTorch is used
and a warning says why. It has not yet run on a GPU.
"""

import logging
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.attention import reference
from genome_lm.kernels.constant import constant_while_compiling

log = logging.getLogger(__name__)

HEAD_CHANNELS = 16, 32, 64, 128, 256
"""Channels of a head that its kernels take."""
SELF_TEST_LENGTH, SELF_TEST_BOUND = 200, 1e-2
"""Positions of the self-test, and its largest error relative to the largest value: products are in TF32 at worst."""


def runs_flex(q: Tensor) -> bool:
    """Whether attention runs as FlexAttention's kernels."""
    taken = q.device.type == "cuda" and q.dtype != torch.float64 and q.shape[-1] in HEAD_CHANNELS
    return taken and _flex_works(q.device)


def flex_attention(q: Tensor, k: Tensor, v: Tensor, window: int = 0) -> tuple[Tensor, Tensor]:
    """Causal attention of as many queries as keys, to the last `window` positions; 0 for all. Differentiable.

    Returns:
        (B, H, L, C), and (B, H, L) float32, the logarithms of the softmax denominators.
    """
    return _call(_compiled(), q, k, v, window)


def plain_flex_attention(q: Tensor, k: Tensor, v: Tensor, window: int = 0) -> tuple[Tensor, Tensor]:
    """`flex_attention` without compilation, on any device; on a CPU without gradients."""
    from torch.nn.attention import flex_attention as flex

    return _call(flex.flex_attention, q, k, v, window)


def _call(operation: Any, q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    mask = _mask(q.shape[2], window, q.device)
    if (request := _denominators()) is None:  # before PyTorch 2.9
        y, log_sum = operation(q, k, v, block_mask=mask, return_lse=True)
        return y, log_sum
    y, more = operation(q, k, v, block_mask=mask, return_aux=request)
    return y, more.lse


@cache
def _denominators() -> Any:
    """What asks FlexAttention for the logarithms of the denominators; None where a flag does."""
    from torch.nn.attention import flex_attention as flex

    return flex.AuxRequest(lse=True) if hasattr(flex, "AuxRequest") else None


@cache
def _compiled() -> Any:
    from torch.nn.attention import flex_attention as flex

    return torch.compile(flex.flex_attention)


@lru_cache(64)
def _mask(length: int, window: int, device: torch.device) -> Any:
    """Which blocks of keys the blocks of queries see; made once for a length and a window."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = query >= key
        return near & (query - key < window) if window else near

    return create_block_mask(sees, None, None, length, length, device=device)


@constant_while_compiling
def _flex_works(device: torch.device) -> bool:
    return not reason_against_flex(device)


@cache
def reason_against_flex(device: torch.device) -> str:
    """Why FlexAttention is not used on a device; empty if it is. Tried once per process, forward and backward."""
    try:
        phase = torch.arange(3 * 2 * SELF_TEST_LENGTH * 32, dtype=torch.float64).square()
        operands = list(phase.mul(0.1).sin().view(3, 1, 2, SELF_TEST_LENGTH, 32).unbind())
        positions, window = torch.arange(SELF_TEST_LENGTH), SELF_TEST_LENGTH // 3
        want = _with_gradients(
            lambda q, k, v: reference.attention(q, k, v, reference.local_counts(positions, positions, window)),
            operands,
        )
        results = _with_gradients(
            lambda q, k, v: flex_attention(q, k, v, window)[0], [x.to(device, torch.float32) for x in operands]
        )
        errors = [
            float((y.cpu().double() - expected).abs().max() / expected.abs().max())
            for y, expected in zip(results, want, strict=True)
        ]
        reason = "" if max(errors) <= SELF_TEST_BOUND else f"off by {max(errors):.1e} of the largest value"
    except Exception as error:  # whatever compiler, driver and launch may raise: it is the reason
        reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    if reason:
        log.warning("%s: attention runs in plain PyTorch, without FlexAttention: %s", device, reason)
    return reason


def _with_gradients(attention: Any, operands: list[Tensor]) -> list[Tensor]:
    leaves = [operand.requires_grad_() for operand in (x.detach().clone() for x in operands)]
    y = attention(*leaves)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]
