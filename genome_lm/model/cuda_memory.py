"""How much memory a batch needs on a GPU, counted from shapes.

The counts are those of `tests/model/test_cuda_memory.py`, which runs the model on tensors without data and adds up
what exists at one time. Weights, gradients and the optimiser's state are left out, and so is what CUDA itself takes
(about 0.5 GB). A unit is one byte per position and channel of a batch: batch · length · d_model bytes.
"""

from typing import NamedTuple

import torch

from genome_lm.config import ModelConfig
from genome_lm.kernels.dispatch import Backend
from genome_lm.kernels.triton.costs import worthwhile

STREAM = 4
"""Units of the residual stream, which is float32."""
MARGIN = 0.9
"""Share of the free memory that may be planned for: the allocator's pieces don't fit into each other without loss."""
FILTER_VALUES, FILTER_BYTES = 36, 20
"""What a block's filter stores: bytes per position and hidden channel, and bytes per position for its features."""
FFT_WORKSPACE = 16
"""Units that cuFFT may take beside its operands: a padded signal and its spectrum. No test counts these."""


class Units(NamedTuple):
    """What a block takes in one precision, with one implementation of the long convolution."""

    stored: int  # units that the backward pass needs, beside the MLP's and the filter's
    hidden: int  # bytes per position and hidden channel of the MLP that the backward pass needs
    filters: int  # bytes per position and channel, whatever the batch, that the backward pass needs
    temporary: int  # units that exist besides while a block is gone back through
    forward: int  # units that exist at one time without gradients


UNITS: dict[tuple[Backend, torch.dtype], Units] = {
    ("triton", torch.float32): Units(44, 8, 8, 16, 44),
    ("triton", torch.bfloat16): Units(26, 4, 8, 10, 28),
    ("reference", torch.float32): Units(68, 8, 20, 16, 52),
    ("reference", torch.bfloat16): Units(48, 4, 20, 10, 48),
}


class GpuBatch(NamedTuple):
    """A batch on a GPU.

    Attributes:
        config: Of the model.
        batch: Sequences.
        length: Positions of each.
        dtype: Of the products: float32, or bfloat16 within autocast.
        has_triton: Whether the Triton kernels work there; they are used where they are worthwhile.
    """

    config: ModelConfig
    batch: int
    length: int
    dtype: torch.dtype = torch.float32
    has_triton: bool = True

    @property
    def unit(self) -> int:
        """One byte per position and channel."""
        return self.batch * self.length * self.config.d_model

    def forward_bytes(self) -> int:
        """Most bytes that exist at one time in a forward pass without gradients."""
        units, workspace = self._units(training=False)
        return (units.forward + workspace) * self.unit

    def training_bytes(self, recompute: bool = False) -> int:
        """Most bytes that exist at one time in a forward and a backward pass.

        Args:
            recompute: Whether each block is computed again in the backward pass instead of stored.
        """
        units, workspace = self._units(training=True)
        config = self.config
        block = (
            units.stored * self.unit * (config.order + 1) // 3
            + units.hidden * self.batch * self.length * config.d_inner
            + units.filters * self.length * config.d_model * (config.order - 1)
            + self.length * (FILTER_VALUES * config.filter_order + FILTER_BYTES)
        )
        streams, blocks = (config.n_layer, 1) if recompute else (1, config.n_layer)
        kept = streams * STREAM * self.unit + blocks * block
        dropout_mask = self.unit if config.embed_dropout else 0
        return kept + (units.temporary + workspace) * self.unit + dropout_mask

    def must_recompute(self, free: int) -> bool:
        """Whether storing what the backward pass needs takes more than the `free` bytes of a GPU allow."""
        return self.training_bytes() > MARGIN * free

    def _units(self, training: bool) -> tuple[Units, int]:
        """The block's units, and those of cuFFT's workspace."""
        ours = self.has_triton and worthwhile(self.length, self.dtype, self.batch, training)
        return UNITS["triton" if ours else "reference", self.dtype], 0 if ours else FFT_WORKSPACE


def free_bytes(device: torch.device) -> int:
    """Bytes that PyTorch can still take on a GPU: what the driver has, and what the allocator holds unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
