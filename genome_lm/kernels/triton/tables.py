"""Constants of the Triton kernels, made on their device in float64 and kept there in the dtype of their use.

Complex numbers are planes of real and imaginary parts. Making a table takes PyTorch's operations alone, none of which
waits for the device, so that a first call can be captured in a CUDA graph.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from genome_lm.kernels.triton.plan import Plan

CACHE_BYTES = 64 << 20
"""Tables kept a device: those of a million positions take some 20 MB."""

Key = tuple[torch.device, str, tuple[int | torch.dtype, ...]]


class Table(NamedTuple):
    """Constants of a plan on a device; float32 but for the columns."""

    tile: Tensor  # twiddle, then F_R and F_C as the products take them: two numbers in the place of one in bfloat16
    phases: Tensor  # factors of the twiddle between columns and rows; empty without columns
    columns: Tensor  # (2, pitch, pitch) in the dtype of the products, zero beyond n_columns; empty without columns


class _Made(NamedTuple):
    tensor: Tensor
    stream: torch.cuda.Stream | None  # that it was made on; None on the CPU
    ready: torch.cuda.Event | None


class TableCache:
    """Tensors by key: those used last, up to a number of bytes a device.

    A tensor is shared among streams: others wait until it is made, and its memory is not used again before they are
    done. What a CUDA graph was captured with is kept for good, as the graph holds its address; it counts for nothing
    in the bound. What is made during a capture has its content only when the graph is replayed, so it isn't kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Key, _Made] = OrderedDict()
        self._pinned: dict[Key, _Made] = {}
        self._lock = Lock()

    def get(self, key: Key, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of the key, from `make` if it isn't there."""
        capturing = _is_capturing(key[0])
        with self._lock:
            made = self._find(key)
            if made is None and capturing:
                return make()
            if made is None:
                made = self._keep(key, make())
            if capturing:
                self._pinned[key] = made
                self._kept.pop(key, None)
        if not capturing:
            _share(made)
        return made.tensor

    def bytes(self, device: torch.device) -> int:
        """What is kept on a device, pinned tensors aside."""
        return sum(made.tensor.nbytes for key, made in self._kept.items() if key[0] == device)

    def _find(self, key: Key) -> _Made | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        return self._pinned.get(key)

    def _keep(self, key: Key, tensor: Tensor) -> _Made:
        """Adds a tensor, which stays whatever its size, and drops those used longest ago."""
        stream = torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None
        made = self._kept[key] = _Made(tensor, stream, stream.record_event() if stream else None)
        for old in [other for other in self._kept if other[0] == key[0] and other != key]:
            if self.bytes(key[0]) <= self._limit:
                break
            del self._kept[old]
        return made


def _is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _share(made: _Made) -> None:
    """Lets the current stream use what another made. A capture need not: `torch.cuda.graph` waits for all first."""
    if made.ready is None:
        return
    current = torch.cuda.current_stream(made.tensor.device)
    if current != made.stream:
        current.wait_event(made.ready)
        made.tensor.record_stream(current)


_cache = TableCache(CACHE_BYTES)


def table_for(plan: Plan, device: torch.device) -> Table:
    """The constants of a plan. Lengths of as many columns share them."""
    rows, columns, count = plan.rows, plan.columns, plan.n_columns
    # Frequencies of a whole sequence are shifted by 1/4. With columns these take the shift, and rows have none.
    shift = 0.25 if count == 1 else 0.0
    tile = _cache.get(
        (device, "tile", (rows, columns, int(count == 1), plan.kept)),
        lambda: _tile_table(rows, columns, shift, plan.kept, device),
    )
    if count == 1:
        return Table(tile, tile[:0], tile[:0])
    phases = _cache.get((device, "phases", (rows, columns, count)), lambda: _phases(rows, columns, count, device))
    factors = _cache.get(
        (device, "columns", (count, plan.pitch, plan.kept)), lambda: _factors(count, plan.pitch, plan.kept, device)
    )
    return Table(tile, phases, factors)


def _tile_table(n_rows: int, n_columns: int, shift: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    rows, columns = _range(n_rows, device), _range(n_columns, device)
    shifted = (rows - shift)[:, None]
    twiddle = _root(shifted * columns / (n_rows * n_columns)).flatten()
    factors = [_root(part).flatten() for part in (shifted * rows / n_rows, columns[:, None] * columns / n_columns)]
    return torch.cat([twiddle, torch.cat(factors).to(dtype).view(torch.float32)])


def _phases(n_rows: int, n_columns: int, count: int, device: torch.device) -> Tensor:
    k = (_range(count, device) - 0.25)[:, None]
    of_rows, of_columns = k * _range(n_rows, device) / (count * n_rows), k * _range(n_columns, device)
    return torch.cat([_root(of_rows).flatten(), _root(of_columns / (count * n_rows * n_columns)).flatten()])


def _factors(count: int, pitch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    n = _range(count, device)
    factors = torch.zeros(2, pitch, pitch, dtype=dtype, device=device)
    factors[:, :count, :count] = _root((n - 0.25)[:, None] * n / count)
    return factors


def _range(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, dtype=torch.float64, device=device)


def _root(turns: Tensor) -> Tensor:
    """Planes of exp(−2πi · turns), (2, …) float32. Whole turns are taken off first, so that the sine is exact."""
    angle = -2 * math.pi * turns.remainder(1.0)
    return torch.stack([angle.cos(), angle.sin()]).float()
