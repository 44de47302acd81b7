"""Mixtures of genomes to train on: which source each window comes from, in exact proportions, and the windows.

The source of a sample is a pure function of its number, as the window within a source is (`WindowSampler`). So a run
that is resumed, or spread over workers and devices, sees the same windows.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.documents import read_yaml
from genome_lm.errors import GenomeLMError, naming
from genome_lm.genome.codes import Codes
from genome_lm.genome.sampling import Windows, WindowSampler, fetch_windows, soft_masks
from genome_lm.typed import Within, typed

PERIOD = 1 << 16
"""Samples after which the order of the sources repeats. Weights are shares of it: multiples of 1/65,536."""

Rule = Literal["bases", "equal"]
MOST_WEIGHT = 1e9
Weight = Annotated[float, Within(0, MOST_WEIGHT)]


@dataclass(frozen=True)
class BaseWeightsConfig:
    """How much each base of a genome counts in the loss.

    The weight of a base with a value is that value times `scale`, clipped. A BED file is a set: its bases have the
    value 1, whatever its columns say.

    Attributes:
        track: BED, bedGraph or bigWig file, by the name's end.
        scale: What values are multiplied by.
        clip: The least and the largest weight; without it, a negative weight is an error.
        missing: Weight of bases without a value. None is 1, and then a bigWig file must have every contig that is
            trained on.
    """

    track: str
    scale: Annotated[float, Within(0, MOST_WEIGHT, exclusive=True)] = 1.0
    clip: tuple[Weight, Weight] | None = None
    missing: Weight | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise GenomeLMError(f"base_weights: clip is {list(self.clip)}; give the least weight first")


@dataclass(frozen=True)
class SourceConfig:
    """A genome, or a part of one, to train on.

    Attributes:
        name: What logs and reports call it.
        genome: Genome store.
        intervals: BED file with the splits; `train` is learned from, `valid` is watched.
        weight: How often it is drawn, relative to the other sources; None leaves it to the mixture's rule. Weight
            0 leaves a source out, such as a species: it is watched alone, and needs `valid` regions, no `train` ones.
        base_weights: Weights of its bases in the loss; None weighs all alike.
        regions: BED file with the classes of its bases, such as that of `genome-lm genome regions`; goes with
            `classes`.
        classes: How often each class is drawn, relative to the others. The source is then as many sources, each named
            NAME/CLASS, whose regions are those of the class within the split.
    """

    name: str
    genome: str
    intervals: str
    weight: Weight | None = None
    base_weights: BaseWeightsConfig | None = None
    regions: str | None = None
    classes: dict[str, Weight] | None = None

    def __post_init__(self) -> None:
        if (self.regions is None) != (self.classes is None):
            raise GenomeLMError(f"source {self.name!r}: regions and classes go together")
        if self.classes is not None and not sum(self.classes.values()):
            raise GenomeLMError(f"source {self.name!r}: the weights of the classes sum to zero")

    @property
    def parts(self) -> dict[str, float]:
        """The names of the sources that it is, and the share of its windows that each gives."""
        if self.classes is None:
            return {self.name: 1.0}
        total = sum(self.classes.values())
        return {f"{self.name}/{name}": weight / total for name, weight in self.classes.items() if weight}


@dataclass(frozen=True)
class MixtureConfig:
    """Sources, and how often each is drawn.

    Attributes:
        sources: At least one, with names of their own.
        weights: For sources without a weight: "bases" draws each in proportion to its training bases, "equal" all
            alike.
        temperature: With "bases", weights are the bases to this power: 1 is proportional, 0 is equal.
    """

    sources: tuple[SourceConfig, ...]
    weights: Rule = "bases"
    temperature: Annotated[float, Within(0, 1)] = 1.0

    def __post_init__(self) -> None:
        names = [name for source in self.sources for name in source.parts]
        if not names:
            raise GenomeLMError("mixture: no sources")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise GenomeLMError(f"mixture: two sources are named {repeated[0]!r}; give each its own name")
        given = [source.weight for source in self.sources if source.weight is not None]
        if given and len(given) < len(self.sources):
            raise GenomeLMError("mixture: give a weight to every source, or to none")
        if given and not sum(given):
            raise GenomeLMError("mixture: the weights sum to zero")

    def shares(self, bases: Sequence[int]) -> list[float]:
        """The fraction of the windows that each source gives.

        Args:
            bases: Training bases of each source.
        """
        if self.sources[0].weight is not None:
            weights = [source.weight or 0.0 for source in self.sources]
        else:
            exponent = self.temperature if self.weights == "bases" else 0.0
            weights = [float(count) ** exponent for count in bases]
        return [weight / sum(weights) for weight in weights]


def one_source(genome: Path, intervals: Path) -> MixtureConfig:
    """The mixture of a single genome."""
    return MixtureConfig((SourceConfig("genome", str(genome), str(intervals)),))


def read_mixture(path: Path) -> MixtureConfig:
    """A mixture from a YAML file; paths in it are relative to its folder.

    Raises:
        GenomeLMError: If it can't be read, or is not a mixture.
    """
    values = read_yaml(path)
    with naming(path):
        config = typed(MixtureConfig, values, "mixture")
    return replace(config, sources=tuple(_within(path.parent, source) for source in config.sources))


def _within(folder: Path, source: SourceConfig) -> SourceConfig:
    """A source with its paths relative to a folder."""
    weights = source.base_weights
    return replace(
        source,
        genome=str(folder / source.genome),
        intervals=str(folder / source.intervals),
        base_weights=weights and replace(weights, track=str(folder / weights.track)),
        regions=source.regions and str(folder / source.regions),
    )


class Schedule:
    """The source of each sample.

    Of any number of samples from the first on, each source gives its share to within one sample. The order is that of
    the earliest deadlines among the sources that are not ahead (Tijdeman 1980, The chairman assignment problem,
    https://doi.org/10.1016/0012-365X(80)90269-1).

    Args:
        shares: (S,) fractions that sum to 1. They are rounded to multiples of 1/`PERIOD`, at least one.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.counts = _rounded(shares)

    @property
    def shares(self) -> list[float]:
        """The fractions as they are kept."""
        return [count / PERIOD for count in self.counts]

    def places(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The source of each sample, and how many samples that source gave before it; both of the same shape."""
        periods, offsets = np.divmod(samples, PERIOD)
        sources = self._order[offsets]
        return sources, periods * np.array(self.counts)[sources] + self._ranks[offsets]

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        """The source of each sample of a period."""
        if len(self.counts) == 1:
            return np.zeros(PERIOD, dtype=np.int64)
        order = np.empty(PERIOD, dtype=np.int64)
        waiting = [(0, source) for source in range(len(self.counts)) if self.counts[source]]
        given = [0] * len(self.counts)
        ready: list[tuple[int, int]] = []
        for sample in range(PERIOD):
            # A source may give its next sample once its share of the samples so far, this one included, exceeds what
            # it gave; it must before that share exceeds it by a whole sample.
            while waiting and waiting[0][0] <= sample:
                _, source = heapq.heappop(waiting)
                deadline = ((given[source] + 1) * PERIOD - 1) // self.counts[source]
                heapq.heappush(ready, (deadline, source))
            _, source = heapq.heappop(ready)
            order[sample] = source
            given[source] += 1
            heapq.heappush(waiting, (given[source] * PERIOD // self.counts[source], source))
        return order

    @cached_property
    def _ranks(self) -> npt.NDArray[np.int64]:
        """How many samples of the period the same source gave before each."""
        ranks = np.empty(PERIOD, dtype=np.int64)
        for source in range(len(self.counts)):
            own = np.flatnonzero(self._order == source)
            ranks[own] = np.arange(len(own))
        return ranks

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.counts,)


def _rebuild(counts: list[int]) -> Schedule:
    return Schedule([count / PERIOD for count in counts])


def _rounded(shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `PERIOD`, in proportion; at least 1 for a share above 0 (largest remainders)."""
    exact = np.asarray(shares, dtype=np.float64) * PERIOD
    counts = np.where(exact > 0, np.maximum(1, np.floor(exact)), 0).astype(np.int64)
    while (left := PERIOD - int(counts.sum())) != 0:
        remainders = np.where(exact > 0, exact - counts, -np.inf if left > 0 else np.inf)
        if left < 0:
            remainders = np.where(counts > 1, remainders, np.inf)
        counts[np.argmax(remainders) if left > 0 else np.argmin(remainders)] += 1 if left > 0 else -1
    return [int(count) for count in counts]


class MixedWindows(NamedTuple):
    """Windows of one length from several sources: (n,) numbers of the sources, and the windows."""

    sources: npt.NDArray[np.int64]
    windows: Windows

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | slice) -> "MixedWindows":
        """Some of the windows."""
        return MixedWindows(self.sources[rows], self.windows.take(rows))


@dataclass(frozen=True)
class Source:
    """A source that is open: its name, what draws its windows, and what gives the (n, length) weights of their bases.

    Without `weigh`, every base weighs 1.
    """

    name: str
    sampler: WindowSampler
    weigh: Callable[[Windows], npt.NDArray[np.float32]] | None = None


class Mixture:
    """Windows of several sources in an order that is a pure function of the sources, their shares and their seeds.

    Args:
        sources: At least one.
        shares: The fraction of the windows that each gives.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float]) -> None:
        self.sources, self.schedule = list(sources), Schedule(shares)

    def windows(self, first: int, count: int, length: int) -> MixedWindows:
        """Samples [first, first + count) of this length.

        Raises:
            GenomeLMError: If a source has no window of this length, naming the source.
        """
        numbers, places = self.schedule.places(np.arange(first, first + count))
        contigs, starts = (np.empty(count, dtype=np.int64) for _ in range(2))
        reverse = np.empty(count, dtype=bool)
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            # The samples of one source follow one another, whatever lies between them.
            drawn = self._drawn(number, int(places[rows[0]]), len(rows), length)
            contigs[rows], starts[rows], reverse[rows] = drawn.contigs, drawn.starts, drawn.reverse
        return MixedWindows(numbers, Windows(contigs, starts, reverse, length))

    def _drawn(self, number: int, first: int, count: int, length: int) -> Windows:
        try:
            return self.sources[number].sampler.windows(first, count, length)
        except GenomeLMError as error:
            if len(self.sources) == 1:
                raise
            raise GenomeLMError(f"source {self.sources[number].name!r}: {error}") from error

    def tokens(self, mixed: MixedWindows) -> Codes:
        """Token ids of windows, [PAD] beyond their contigs: (n, length) uint8."""
        tokens = np.empty((len(mixed.sources), mixed.windows.length), dtype=np.uint8)
        for number, rows in self._by_source(mixed):
            tokens[rows] = fetch_windows(self.sources[number].sampler.store, mixed.windows.take(rows))
        return tokens

    def soft_masks(self, mixed: MixedWindows) -> npt.NDArray[np.bool_]:
        """Which bases of windows are soft-masked: (n, length)."""
        masks = np.empty((len(mixed.sources), mixed.windows.length), dtype=bool)
        for number, rows in self._by_source(mixed):
            masks[rows] = soft_masks(self.sources[number].sampler.store, mixed.windows.take(rows))
        return masks

    def extents(self, mixed: MixedWindows) -> npt.NDArray[np.int64]:
        """Bases of each window before the padding that follows its last one: (n,)."""
        extents = np.empty(len(mixed.sources), dtype=np.int64)
        for number, rows in self._by_source(mixed):
            extents[rows] = mixed.windows.take(rows).extents(self.sources[number].sampler.store)
        return extents

    def base_weights(self, mixed: MixedWindows) -> npt.NDArray[np.float32]:
        """Weights of the bases of windows, by their sources' tracks: (n, length).

        Raises:
            GenomeLMError: If a track can't be read, or gives what is no weight, naming the source.
        """
        weights = np.ones((len(mixed.sources), mixed.windows.length), dtype=np.float32)
        for number, rows in self._by_source(mixed):
            source = self.sources[number]
            if source.weigh is not None:
                with naming(f"source {source.name!r}"):
                    weights[rows] = source.weigh(mixed.windows.take(rows))
        return weights

    def names(self, mixed: MixedWindows) -> list[str]:
        """The windows as text: contig:start-end(strand), after the source's name where there are several."""
        names = [""] * len(mixed.sources)
        for number, rows in self._by_source(mixed):
            source = self.sources[number]
            prefix = f"{source.name} " if len(self.sources) > 1 else ""
            for row, name in zip(rows, mixed.windows.take(rows).names(source.sampler.store), strict=True):
                names[row] = prefix + name
        return names

    def _by_source(self, mixed: MixedWindows) -> list[tuple[int, npt.NDArray[np.intp]]]:
        return [(number, np.flatnonzero(mixed.sources == number)) for number in np.unique(mixed.sources).tolist()]
