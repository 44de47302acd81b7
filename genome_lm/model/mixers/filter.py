"""The implicit long filter of a Hyena operator."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.kernels import (
    Convolutions,
    FilterNetwork,
    FilterRows,
    FilterWeights,
    bins,
    by_spectra,
    changes,
    core_spectra,
    core_spectra_bytes,
    decay_window,
    filter_times,
    implicit_filter,
    is_watched,
    outside_autocast,
    positional_features,
    precision_of,
    recomputed,
    sine_layers,
    spectrum,
)

FAST_DECAY, SLOW_DECAY, DECAY_TARGET, WINDOW_SHIFT = 0.3, 1.5, 1e-2, 0.05
"""The window falls to `DECAY_TARGET` at these fractions of the span, in the fastest and the slowest channel."""

SPECTRUM_BYTES = 3 << 30
"""Budget for the cached spectra of all filters of a model, beyond which there is no cache: those of medium-160k take
2.6 GB, and save an eighth of the time; of the 17 GB of large-1m's, a part would save next to nothing."""
SHARED_BYTES = 1 << 30
"""Budget for what the passes of a step share, with its gradients. The filters beyond it are made in every pass."""
FEATURE_CHUNK = 1_024
"""Positions that the filter's MLP takes at one time on the fused CPU path, on each thread."""


class ImplicitFilter(nn.Module):
    """Filters as a function of position: an MLP with sine activations on positional features, times a window.

    h_c(t) = MLP(z(t))_c · (exp(−t · |δ_c|) + 0.05) with t running from 0 to 1 over `filter_length` positions
    (Poli et al. 2023, https://arxiv.org/abs/2302.10866, sections 3.3 and D.3). The frequencies of the sines are
    learned and shared by all activations of a filter.
    """

    deltas: Tensor
    passes: "FilterPasses | None" = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.span = config.filter_length
        self.emb_dim, self.filters = config.emb_dim, config.order - 1
        width, channels = config.filter_order, config.d_model * (config.order - 1)
        self.freq = nn.Parameter(torch.full((width,), config.sine_frequency))
        inputs = [config.emb_dim] + [width] * config.num_inner_mlps
        self.hidden = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.out = nn.Linear(width, channels, bias=False)
        self.cache = SpectrumCache(SPECTRUM_BYTES // config.n_layer)
        decay = math.log(DECAY_TARGET)
        self.register_buffer("deltas", torch.linspace(decay / SLOW_DECAY, decay / FAST_DECAY, channels))

    def times(self, length: int) -> Tensor:
        """Time of the first `length` positions, 0 to 1 over the span: (length,) float32."""
        return filter_times(length, self.span, self.freq.device)

    def features(self, length: int) -> Tensor:
        """Positional features of the first `length` positions: (length, emb_dim), see `positional_features`."""
        return positional_features(self._layers()[0][0], length, self.span)

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        return [(layer.weight, layer.bias) for layer in self.hidden]  # type: ignore[misc]

    def _hidden(self, x: Tensor) -> Tensor:
        return sine_layers(x, self.freq, self._layers())

    def window(self, length: int, part: slice = slice(None)) -> Tensor:
        """The windows over the first `length` positions; arguments and shape as of `forward`."""
        rates, times = self._decay(length)
        return decay_window(self._rows(rates, part), times, WINDOW_SHIFT)

    def _decay(self, length: int) -> tuple[Tensor, Tensor]:
        """Rates of the windows, (channels,), and the times of the first `length` positions, (length,)."""
        return -self.deltas.abs(), self.times(length).to(self.deltas.dtype)

    def forward(self, length: int, part: slice = slice(None)) -> Tensor:
        """The filters over the first `length` positions: (channels, length), float32 within autocast too.

        Args:
            length: Positions.
            part: Of the model's channels, each of which has as many filters as the recurrence has steps.
        """
        rates, out = self._rows(-self.deltas.abs(), part), self._rows(self.out.weight, part)
        network = FilterNetwork(self.freq, self._layers(), out, rates, WINDOW_SHIFT)
        return self._shared(lambda n: implicit_filter(network, n, self.span), (len(out), length), 1)

    def _shared(self, make: Callable[[int], Tensor], shape: tuple[int, int], dim: int) -> Tensor:
        """What `make` gives for so many positions, which are the dimension `dim` of the shape; see `FilterPasses`."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # The weights may change after this, and not all optimisers count that: PyTorch's fused ones don't.
            self.cache.clear()
        if self.passes is None or not torch.is_grad_enabled():
            return make(shape[dim])
        return self.passes.take(self, make, shape, dim)

    def _rows(self, values: Tensor, part: slice) -> Tensor:
        """Of the filters' rows, step by step as the recurrence has them, those of some channels of each step."""
        return values.unflatten(0, (self.filters, -1))[:, part].flatten(0, 1)

    def weights(self, length: int) -> FilterWeights:
        """What the fused CPU operation makes the filters from, block by block, differentiable.

        The MLP runs over pieces of the positions, and its inner activations are computed again in the backward pass:
        kept, they would take as much memory as the two residual streams that a block keeps.
        """
        parameters = [self.freq, *self.hidden.parameters()]
        shape = length, len(self.freq)
        with outside_autocast(self.freq):
            hidden = self._shared(
                lambda n: recomputed(self._hidden, [self.features(n)], parameters, FEATURE_CHUNK), shape, 0
            )
        return FilterWeights(hidden, self.out.weight, *self._decay(length), WINDOW_SHIFT)

    def convolutions(self, length: int) -> Convolutions:
        """Convolutions of `length` positions without gradients, by spectra that are cached within a budget."""
        return self.cache.convolutions(self, length)

    def core_spectra(self, length: int, dtype: torch.dtype) -> Tensor | None:
        """The filters' `core_spectra` for streams of a dtype, cached within a budget; None where they are not kept.

        That is in training, beyond the budget, and where what is computed now has no values yet: in graphs that are
        compiled or captured, and on tensors without data.
        """
        # Blocks that are computed again in training run without gradients first.
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or is_watched():
            return None
        if self.freq.is_cuda and torch.cuda.is_current_stream_capturing():
            return None
        return self.cache.of_core(self, length, dtype)


class FilterPasses:
    """What several passes forward and backward share of their filters, between two changes of the weights.

    A filter is the same in all of them. So the passes take its values without their history, and their gradients are
    summed. The last pass makes it with its history, and its backward pass takes the sum of the others along: a step
    goes through the filter's network twice and back once, however many passes it has. Gradients are the same but for
    the order of sums.

    Attributes:
        last: Whether the pass to come is the last one.
    """

    def __init__(self, budget: int) -> None:
        self.last = False
        self._left = budget
        self._values: dict[ImplicitFilter, Tensor] = {}

    def take(self, owner: ImplicitFilter, make: Callable[[int], Tensor], shape: tuple[int, int], dim: int) -> Tensor:
        """See `ImplicitFilter._shared`. Longer ones than the first pass had are made by themselves."""
        length, nbytes = shape[dim], 2 * shape[0] * shape[1] * owner.freq.itemsize
        if owner not in self._values and not self.last and nbytes <= self._left:
            self._left -= nbytes
            with torch.no_grad():
                self._values[owner] = make(length)
            self._values[owner].requires_grad_(any(parameter.requires_grad for parameter in owner.parameters()))
        values = self._values.get(owner)
        if values is None or length > values.shape[dim]:
            return make(length)
        if not self.last or not values.requires_grad:
            return values.narrow(dim, 0, length)
        made = make(values.shape[dim])
        made.register_hook(lambda gradient: _with_sum(gradient, values))
        return made.narrow(dim, 0, length)


def _with_sum(gradient: Tensor, values: Tensor) -> Tensor:
    """The gradient and the sum that `values` has of other passes, which is taken once."""
    others, values.grad = values.grad, None
    return gradient if others is None else gradient + others


@contextmanager
def shared_filters(model: nn.Module, count: int, budget: int | None = None) -> Iterator[FilterPasses]:
    """A context for so many passes forward and backward of a model whose weights stay as they are.

    Args:
        model: The model.
        count: Passes.
        budget: Bytes of the filters that they share, with their gradients; None for `SHARED_BYTES`.
    """
    passes = FilterPasses(SHARED_BYTES if budget is None else budget)
    filters = [module for module in model.modules() if isinstance(module, ImplicitFilter)] if count > 1 else []
    for long_filter in filters:
        long_filter.passes = passes
    try:
        yield passes
    finally:
        for long_filter in filters:
            long_filter.passes = None


class _Held(NamedTuple):
    """Spectra of the filters for one use, and which of them are there already."""

    spectra: Tensor  # (channels, …)
    there: list[bool]


class SpectrumCache:
    """Spectra of one filter for the last two lengths, kept as long as the filter's tensors stay what they were.

    Two, because passes over long windows and over what changes in them take turns (`genome_lm.model.recompute`).

    A change in place is seen by the tensors' version counters, a replaced tensor by its address. PyTorch's fused
    optimisers don't count their changes, so whatever makes the filter with gradients clears the cache. Where the
    spectra of a length exceed the budget, they are computed anew each time. Copies and pickles start empty.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._state: tuple[Any, ...] = ()
        self._held: dict[tuple[Any, ...], _Held] = {}

    def __reduce__(self) -> tuple[type["SpectrumCache"], tuple[int]]:
        return SpectrumCache, (self.budget,)

    def clear(self) -> None:
        """Give the memory of all spectra back."""
        self._state, self._held = (), {}

    def convolutions(self, long_filter: ImplicitFilter, length: int) -> Convolutions:
        """See `ImplicitFilter.convolutions`."""
        weight = long_filter.out.weight
        frequencies = bins(length, weight.dtype)
        dtype = weight.dtype.to_complex()

        def room() -> Tensor:
            return torch.empty(len(weight), frequencies, dtype=dtype, device=weight.device)

        held = self._held_for(long_filter, (length,), len(weight) * frequencies * dtype.itemsize, room)
        if held is not None and all(held.there):
            return by_spectra(held.spectra)
        filters = FilterRows(long_filter.weights(length))

        def rows(start: int, stop: int) -> Tensor:
            made = spectrum(filters.of(start, stop))
            if held is None:
                return made
            held.spectra[start:stop] = made
            held.there[start:stop] = [True] * (stop - start)
            return held.spectra[start:stop]

        return by_spectra(rows, filters.pieces, filters.of if held is None else None)

    def of_core(self, long_filter: ImplicitFilter, length: int, dtype: torch.dtype) -> Tensor | None:
        """See `ImplicitFilter.core_spectra`. Each of a GPU's streams has its own, so that none waits for another."""
        weight = long_filter.out.weight
        stream = torch.cuda.current_stream(weight.device).cuda_stream if weight.is_cuda else 0
        nbytes = core_spectra_bytes(len(weight), length, dtype)
        use = length, dtype, precision_of(dtype), stream
        held = self._held_for(long_filter, use, nbytes, lambda: core_spectra(long_filter(length), dtype))
        return None if held is None else held.spectra

    def _held_for(
        self, long_filter: ImplicitFilter, use: tuple[Any, ...], nbytes: int, make: Callable[[], Tensor]
    ) -> _Held | None:
        """What is held for a use, which becomes the last one; made if need be. None where it is beyond the budget."""
        tensors = [*long_filter.parameters(), *long_filter.buffers()]
        state = tuple((tensor.data_ptr(), changes(tensor), tensor.dtype) for tensor in tensors)
        if any(counted is None for _, counted, _ in state):
            return None
        if state != self._state:
            self._state, self._held = state, {}
        if nbytes > self.budget:
            return None
        held = self._held.pop(use, None)
        # The last entry is the one used last; of the others, the latest one stays if there is room.
        self._held = {
            other: kept
            for other, kept in list(self._held.items())[-1:]
            if kept.spectra.nbytes + nbytes <= self.budget
        }
        if held is None:
            spectra = make()
            held = _Held(spectra, [False] * len(spectra))
        self._held[use] = held
        return held
