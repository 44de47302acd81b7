"""What the Hyena sub-block on a CPU reads: its weights, those of a block of channels, and the norm of its input."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.cpu.low_precision import LowPrecisionWeight, TrainingWeight, of_channels
from genome_lm.kernels.cpu.partition import Block
from genome_lm.kernels.cpu.products import linear_channels
from genome_lm.kernels.cpu.stages import norm


class MixerWeights(NamedTuple):
    """Parameters of the sub-block without its filters, with D the model's width and K the short taps."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    w_in: Tensor  # (3D, D); this and w_out may be a `LowPrecisionWeight` without gradients, a `TrainingWeight` inside
    b_in: Tensor  # (3D,)
    taps: Tensor  # (3D, 1, K)
    tap_bias: Tensor  # (3D,)
    skip: Tensor  # (D,)
    w_out: Tensor  # (D, D)
    b_out: Tensor  # (D,)


class Normed(NamedTuple):
    """The norm of x, (B, L, D), piece by piece: computed again for every block, which costs about its reading."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def piece(self, sequences: slice, positions: slice) -> Tensor:
        """Rows of a piece: (sequences · positions, D)."""
        rows = self.x[sequences, positions].flatten(0, 1)
        return F.layer_norm(rows, rows.shape[-1:], self.weight, self.bias, self.eps)

    def operand(self, sequences: slice, positions: slice, weight: Any) -> Tensor:
        """The same as products with this weight read it."""
        if not isinstance(weight, TrainingWeight):
            return self.piece(sequences, positions)
        rows = self.x[sequences, positions].flatten(0, 1)
        out = torch.empty(rows.shape, dtype=torch.bfloat16)
        norm(rows, self.weight, self.bias, self.eps, out)
        return out


class BlockWeights(NamedTuple):
    """What projects to a block's channels, stream by stream, and convolves them."""

    w_in: Tensor  # (3C, D), or a `LowPrecisionWeight`
    b_in: Tensor  # (3, C, 1, 1)
    taps: Tensor  # (3, C, 1, K)
    tap_bias: Tensor  # (3, C, 1, 1)

    @classmethod
    def of(cls, weights: MixerWeights, block: Block) -> "BlockWeights":
        """Those of channels [start, stop)."""
        b_in, taps, tap_bias = (of_channels(part, *block) for part in (weights.b_in, weights.taps, weights.tap_bias))
        w_in = weights.w_in
        of_block = (
            w_in.of_channels(*block)
            if isinstance(w_in, LowPrecisionWeight)
            else of_channels(w_in, *block).flatten(0, 1)
        )
        return cls(of_block, b_in.view(3, -1, 1, 1), taps, tap_bias.view(3, -1, 1, 1))

    def project(self, normed: Normed, sequences: slice, positions: slice) -> tuple[Tensor, Tensor]:
        """in_proj of a piece without its bias, (3, C, sequences, positions), and of what precedes it.

        That is what the short convolution reaches back to, K − 1 positions or none at the beginning of sequences. It
        is projected twice, since another thread has the piece before.
        """
        back = min(positions.start, self.taps.shape[-1] - 1)
        reached = slice(positions.start - back, positions.stop)
        z = linear_channels(self.w_in, normed.operand(sequences, reached, self.w_in))
        z = z.view(3, len(z) // 3, len(normed.x[sequences]), -1)
        return z[..., back:], z[..., :back]
