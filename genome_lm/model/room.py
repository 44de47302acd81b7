"""What a pass without gradients may take at one time within the memory budget: sequences, and cached spectra."""

from functools import lru_cache
from typing import Literal, NamedTuple

from genome_lm.allocator import give_back_holes
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import Precision, release_buffers
from genome_lm.machine import budget, require_memory
from genome_lm.model.backbone import HyenaBackbone
from genome_lm.model.context_memory import MARGIN, shared_chain
from genome_lm.model.low_precision import precision_of
from genome_lm.model.memory import cuda_forward_total, forward_bytes, process_bytes
from genome_lm.model.mixers.filter import SPECTRUM_BYTES, ImplicitFilter
from genome_lm.model.ways import strands
from genome_lm.model.work import pass_work

FLOAT = 4


class _Fit(NamedTuple):
    """Sequences at one time, and the bytes of spectra that are cached."""

    rows: int
    spectra: int


def fitting_positions(backbone: HyenaBackbone, positions: int, length: int, kept_streams: float = 0) -> int:
    """Positions that may go through a model at one time: those that are asked for, or as many as the budget allows.

    Outside of `genome_lm.machine.memory_budget` it changes nothing. Within it, the caches of spectra follow too.

    Args:
        backbone: The model.
        positions: Of a batch at most; a longer sequence goes alone.
        length: Of the longest sequence.
        kept_streams: Numbers per position and channel that the caller keeps besides, such as the states of layers.

    Raises:
        GenomeLMError: If the budget does not do for one sequence; it says what would do.
    """
    if (allowed := budget()) is None:
        return positions
    length, on_gpu = min(length, backbone.config.max_length), backbone.embedding.weight.is_cuda
    if backbone.context is not None:
        return min(positions, _fitting_shared(backbone, positions // length, length, allowed) * length)
    kind = "cuda" if on_gpu else precision_of(backbone)
    taken = 0 if on_gpu else process_bytes("forward")
    fit = _fit(backbone.config, max(1, positions // length), length, kept_streams, (allowed, taken), kind)
    if not on_gpu:
        for module in backbone.modules():
            if isinstance(module, ImplicitFilter):
                module.cache.budget = fit.spectra // backbone.config.n_layer
    return min(positions, fit.rows * length)


def _fitting_shared(backbone: HyenaBackbone, most: int, length: int, allowed: int) -> int:
    """Sequences at one time of processes that share them, at least one: a pass is taken to need a step's least."""
    assert backbone.context is not None
    room, devices = allowed - process_bytes("training"), backbone.context.devices
    least = ((rows, shared_chain(backbone.config, length, rows, devices, 0).least) for rows in range(most, 1, -1))
    return next((rows for rows, nbytes in least if MARGIN * nbytes <= room), 1)


def drop_spectra(backbone: HyenaBackbone) -> None:
    """Give the memory of cached spectra back."""
    for module in backbone.modules():
        if isinstance(module, ImplicitFilter):
            module.cache.clear()


def leave_room(backbone: HyenaBackbone) -> None:
    """Within a budget, give back what passes left in memory: for work that takes memory without the model."""
    if budget() is not None:
        drop_spectra(backbone)
        release_buffers()
        give_back_holes()


def check_output(nbytes: int, what: str, way_out: str) -> None:
    """Refuse an output that takes more memory than there is when it is written: before it is computed.

    Args:
        nbytes: What it takes beside libraries, after `leave_room`.
        what: What errors call it.
        way_out: What to do instead of giving more memory.

    Raises:
        GenomeLMError: If the budget does not do for it, or without one what is free does not. A budget that is too
            small for any work is refused with the first batch, by what that needs.
    """
    if (allowed := budget()) is None:
        require_memory(nbytes, f"{what} ({way_out} instead)")
    elif process_bytes("forward") < allowed < (least := process_bytes("forward") + nbytes):
        raise GenomeLMError(
            f"{what} needs at least {as_option(least)} of memory, the budget is {as_option(allowed, down=True)}: "
            f"give --memory {as_option(least)} or more, or {way_out}"
        )


@lru_cache(maxsize=1024)
def _fit(
    config: ModelConfig,
    most: int,
    length: int,
    kept_streams: float,
    budget_: tuple[int, int],
    kind: Precision | Literal["cuda"],
) -> _Fit:
    """The way that takes the least time per sequence, on a GPU ("cuda") or on a CPU in a precision.

    `budget_` is all that is allowed, and what the process takes of it before a model is there.
    """
    allowed, taken = budget_
    kept = int(kept_streams * FLOAT * strands(config) * config.d_model * length)

    def needed(rows: int, spectra: int) -> int:
        if kind == "cuda":
            return cuda_forward_total(config, length, rows) + rows * kept
        return taken + forward_bytes(config, length, rows, spectra, kind) + rows * kept

    fits = []
    for spectra in (0,) if kind == "cuda" else (SPECTRUM_BYTES, 0):
        # More sequences need more, so the most that fit are found by halving.
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if needed(middle, spectra) <= allowed else (low, middle - 1)
        if low:
            fits.append(_Fit(low, spectra))
    if not fits:
        least = needed(1, 0)
        raise GenomeLMError(
            f"one sequence of {length:,} bases needs at least {as_option(least)} of memory, the budget is "
            f"{as_option(allowed, down=True)}: give --memory {as_option(least)} or more, or shorter windows"
        )
    return min(fits, key=lambda fit: pass_work(config, length, fit.rows, bool(fit.spectra)).total / fit.rows)


def as_option(nbytes: int, down: bool = False) -> str:
    """Bytes as --memory takes them, in MB, rounded up or down."""
    return f"{nbytes // 10**6 if down else -(-nbytes // 10**6)}MB"
