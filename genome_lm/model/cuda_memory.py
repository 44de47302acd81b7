"""How much memory a batch needs on a GPU, counted from shapes.

The counts are those of `tests/model/test_cuda_memory.py`, which runs the model on tensors without data and adds up
what exists at one time. Weights, gradients and the optimiser's state are left out, and so is what CUDA itself takes
(about 0.5 GB). A unit is one byte per position and channel of a batch: batch · length · d_model bytes.
"""

import torch

from genome_lm.model.mixer import GpuBatch, Units
from genome_lm.model.mixers import mixer_class
from genome_lm.model.ngram import ngrams_held

STREAM = 4
"""Units of the residual stream, which is float32."""
MARGIN = 0.9
"""Share of the free memory that may be planned for: the allocator's pieces don't fit into each other without loss."""


def cuda_forward_bytes(batch: GpuBatch) -> int:
    """Most bytes that exist at one time in a forward pass without gradients."""
    return max(units.forward for units in _units(batch, training=False)) * batch.unit


def cuda_training_bytes(batch: GpuBatch, recompute: bool = False) -> int:
    """Most bytes that exist at one time in a forward and a backward pass.

    Args:
        batch: What is computed.
        recompute: Whether each block is computed again in the backward pass instead of stored.
    """
    config, positions = batch.config, batch.batch * batch.length
    blocks = _units(batch, training=True)
    stored = [
        int(units.stored * batch.unit) + units.hidden * positions * config.d_inner + units.per_position * batch.length
        for units in blocks
    ]
    kept = STREAM * batch.unit * len(blocks) + max(stored) if recompute else STREAM * batch.unit + sum(stored)
    dropout_mask = batch.unit if config.embed_dropout else 0
    ngrams = ngrams_held(config, positions).kept
    return kept + max(units.temporary for units in blocks) * batch.unit + dropout_mask + ngrams


def must_recompute(batch: GpuBatch, free: int) -> bool:
    """Whether storing what the backward pass needs takes more than the `free` bytes of a GPU allow."""
    return cuda_training_bytes(batch) > MARGIN * free


def _units(batch: GpuBatch, training: bool) -> list[Units]:
    """What each block takes."""
    return [mixer_class(name).gpu_units(batch, training) for name in batch.config.mixers]


def free_bytes(device: torch.device) -> int:
    """Bytes that PyTorch can still take on a GPU: what the driver has, and what the allocator holds unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
