"""How much memory a batch needs on a GPU, counted from shapes.

The counts are those of `tests/model/test_cuda_memory.py`, which runs the model on tensors without data and adds up
what exists at one time. Weights, gradients and the optimiser's state are left out, and so are what CUDA itself takes
(about 0.5 GB), what stands between the passes of the Triton kernels (128 MiB, half as much again in training), the
filters that the micro-batches of a step share (at most 1 GiB), and the spectra that inference keeps (at most 3 GiB).
A unit is one byte per position and channel of a batch: batch · length · d_model bytes.
"""

from collections.abc import Collection

import torch

from genome_lm.machine import budget
from genome_lm.model.chain import Chain, Link
from genome_lm.model.mixer import GpuBatch, Units
from genome_lm.model.mixers import mixer_class
from genome_lm.model.ngram import ngrams_held
from genome_lm.model.ways import combined_bytes, rows_at_once, strands, ways
from genome_lm.model.work import forward_work

STREAM = 4
"""Units of the residual stream, which is float32."""
MARGIN = 0.9
"""Share of the free memory that may be planned for: the allocator's pieces don't fit into each other without loss."""


def cuda_forward_bytes(batch: GpuBatch) -> int:
    """Most bytes that exist at one time in a forward pass without gradients.

    In models that read both ways this is a bound: the MLP, which takes one direction, is counted as the mixer.
    """
    rows, mixed = _rows(batch)
    # What is turned around, and what is mixed of it.
    around = 0 if mixed == rows else STREAM * (rows.unit + mixed.unit)
    at_once = batch.unit * rows_at_once(batch.config)
    return max(int(units.forward * at_once) + units.blocks for units in _units(mixed, training=False)) + around


def cuda_training_bytes(batch: GpuBatch, recomputed: Collection[int] = ()) -> int:
    """Most bytes that exist at one time in a forward and a backward pass.

    Args:
        batch: What is computed.
        recomputed: Blocks that are computed again in the backward pass instead of stored.
    """
    return cuda_chain(batch).peak(recomputed)


def cuda_chain(batch: GpuBatch) -> Chain:
    """What the blocks hold in a forward and a backward pass, from which the peak of any choice among them follows."""
    config, (rows, mixed) = batch.config, _rows(batch)
    positions, blocks = rows.batch * rows.length, _units(mixed, training=True)
    filters = 2 if config.reversed_weights == "own" else 1
    at_once, size, stream = batch.unit * rows_at_once(config), batch.dtype.itemsize, STREAM * rows.unit
    # The MLP's norm and hidden layer are computed again where the kernels over rows do that.
    by_rows = batch.runs_rows
    norm, hidden = (0, 0) if by_rows else (size * rows.unit, positions * config.d_inner)
    # What stands after the mixer, the MLP's input and norm too, is gone when the mixer is gone back through.
    back = _mlp_backward_bytes(rows) if by_rows else 0
    links = []
    for block, units in enumerate(blocks):
        after = units.hidden * hidden + combined_bytes(config, size) * rows.unit
        stored = int(units.stored * mixed.unit) - size * rows.unit + norm + after
        stored += filters * units.per_position * batch.length
        temporary = max(units.temporary * mixed.unit, units.mixing * at_once - after - norm - stream, back)
        again = forward_work(config, block, batch.length, batch.batch).total
        links.append(Link(stored, stream, temporary + units.blocks, again))
    dropout_mask = rows.unit if config.embed_dropout else 0
    return Chain(stream + dropout_mask + ngrams_held(config, positions).kept, tuple(links))


def _mlp_backward_bytes(rows: GpuBatch) -> int:
    """What exists besides while these kernels go back through an MLP.

    The gradient, in the place of the last stream, and the same in the dtype of products; the norm; the hidden layer
    and its gradient.
    """
    size = rows.dtype.itemsize
    rounded = 0 if size == STREAM else size
    return (size + rounded) * rows.unit + 2 * size * rows.batch * rows.length * rows.config.d_inner


def cuda_recomputed(batch: GpuBatch, free: int) -> frozenset[int]:
    """The blocks to compute again, in the least time, so that the `free` bytes of a GPU do; all if nothing does."""
    chain = cuda_chain(batch)
    solved = chain.solve(int(MARGIN * free))
    return frozenset(range(len(chain.links))) if solved is None else solved


def _rows(batch: GpuBatch) -> tuple[GpuBatch, GpuBatch]:
    """The batch as the blocks read it, a row per strand, and as their mixers do, a row per direction of each."""
    rows = batch._replace(batch=batch.batch * strands(batch.config))
    return rows, rows._replace(batch=rows.batch * ways(batch.config))


def _units(batch: GpuBatch, training: bool) -> list[Units]:
    """What each block takes."""
    return [mixer_class(name).gpu_units(batch, training) for name in batch.config.mixers]


def free_bytes(device: torch.device) -> int:
    """Bytes that PyTorch can still take on a GPU: what the driver has, and what the allocator holds unused.

    Within a memory budget, what is left of that.
    """
    allocated = torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - allocated
    return free if (allowed := budget()) is None else max(0, min(free, allowed - allocated))
