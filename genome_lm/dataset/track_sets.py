"""Sets of windows of a genome with the values of tracks in bins, made in bounded memory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.formats.signals import Signal
from genome_lm.genome import SPLITS, GenomeStore, Interval
from genome_lm.genome.words import is_base
from genome_lm.optional import require
from genome_lm.typed import Positive, Seed, Within, check_fields

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float32]
_SPAN = 1 << 20
"""Bases that are read in one go."""


@dataclass(frozen=True)
class TrackRecipe:
    """How windows lie, and how the values of their bins are made.

    A bin's value is the mean of its bases that count: those that have a value, are A, C, G or T, and are not masked.
    A bin of which less than half the bases count has none (NaN).

    Attributes:
        bin: Bases of a bin.
        length: Bases of a window that have bins; windows lie so far apart.
        context: Bases before and after these that the model reads too; their bins have no values.
        missing: What a base without a value is: "mask" leaves it out, "zero" is 0.
        clip: Largest value of a bin, in the track's unit; None for no bound.
        scale: Divide each track by the mean of its training bins, after clipping.
        log1p: Take ln(1 + value), after scaling.
        most: Windows of all splits together at most, drawn at random; None for all.
        seed: Of that draw.
    """

    bin: Positive = 32
    length: Positive = 1_024
    context: Annotated[int, Within(0, 2**31)] = 0
    missing: Literal["mask", "zero"] = "mask"
    clip: Annotated[float, Within(0, 1e30, True)] | None = None
    scale: bool = False
    log1p: bool = False
    most: Positive | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self, "track set")
        if self.length % self.bin or self.context % self.bin:
            raise GenomeLMError(
                f"length {self.length:,} and context {self.context:,}: both have to be multiples of the bin, "
                f"{self.bin:,}"
            )

    @property
    def window(self) -> int:
        """Bases that the model reads."""
        return self.length + 2 * self.context


class TrackSet:
    """Windows of a genome and the values of tracks in their bins.

    Args:
        store: The genome.
        tracks: Files of values by their names.
        regions: Of the splits train, valid and test; a window with its context lies in one of them.
        recipe: How.
        masks: Bases with a value in one of these do not count.

    Attributes:
        scales: What the values of each track are divided by.
        left_out: Windows without any value, of those that `tables` has given so far.

    Raises:
        GenomeLMError: If no window has room, a track has no value in the training windows, or one that is infinite.
    """

    def __init__(
        self,
        store: GenomeStore,
        tracks: Mapping[str, Signal],
        regions: Sequence[Interval],
        recipe: TrackRecipe,
        masks: Sequence[Signal] = (),
    ) -> None:
        self._store, self._tracks, self._recipe, self._masks = store, tracks, recipe, masks
        self._regions = [r for r in regions if r.name in SPLITS and r.end - r.start >= recipe.window]
        if not self._regions:
            raise GenomeLMError(
                f"no region of a split holds a window of {recipe.window:,} bases; shorten --length or --context"
            )
        self.left_out = 0
        self._is_drawn = self._draw()
        self.scales = self._training_scales()

    def tables(self) -> Iterator["pd.DataFrame"]:
        """Rows of windows: contig, start, end, split, and a list of the bins' values per track, NaN for none.

        Windows without any value are left out.

        Raises:
            GenomeLMError: If a value is infinite, or can't be normalised.
        """
        pandas, self.left_out = require("pandas"), 0
        for span in self._spans(self._regions):
            bins = self._normalised(span)
            rows = [(start, span.values_of(bins, start, self._recipe)) for start in span.starts]
            rows = [(start, values) for start, values in rows if not np.isnan(values).all()]
            self.left_out += len(span.starts) - len(rows)
            if rows:
                places = [(span.contig, start, start + self._recipe.window, span.split) for start, _ in rows]
                table = pandas.DataFrame(places, columns=["contig", "start", "end", "split"])
                for number, name in enumerate(self._tracks):
                    table[name] = [values[:, number] for _, values in rows]
                yield table

    def _draw(self) -> npt.NDArray[np.bool_]:
        """Which windows are drawn, in the order of the regions."""
        total = sum(len(_starts(region, self._recipe)) for region in self._regions)
        if self._recipe.most is None or self._recipe.most >= total:
            return np.ones(total, dtype=bool)
        is_drawn = np.zeros(total, dtype=bool)
        is_drawn[np.random.default_rng(self._recipe.seed).choice(total, self._recipe.most, replace=False)] = True
        return is_drawn

    def _training_scales(self) -> dict[str, float]:
        sums, counts = np.zeros(len(self._tracks)), np.zeros(len(self._tracks), dtype=np.int64)
        for span in self._spans(self._regions, "train"):
            bins = self._binned(span)
            for start in span.starts:
                values = span.values_of(bins, start, self._recipe)
                sums += np.nansum(values, axis=0, dtype=np.float64)
                counts += (~np.isnan(values)).sum(0)
        for name, count, total in zip(self._tracks, counts.tolist(), sums.tolist(), strict=True):
            if not count:
                raise GenomeLMError(
                    f"track {name}: no bin of the training windows has a value; is its file of another assembly, or "
                    "is all of it masked?"
                )
            if self._recipe.scale and total <= 0:
                raise GenomeLMError(
                    f"track {name}: its training bins have the mean {total / count:g}; leave out --scale"
                )
        means = sums / counts if self._recipe.scale else np.ones(len(counts))
        return dict(zip(self._tracks, means.tolist(), strict=True))

    def _spans(self, regions: Sequence[Interval], split: str = "") -> Iterator["_Span"]:
        """Windows that are drawn, those that lie close together at one time."""
        at, together = 0, max(1, _SPAN // self._recipe.length)
        for region in regions:
            starts = _starts(region, self._recipe)
            for first in range(0, len(starts), together):
                some = starts[first : first + together]
                drawn = np.array(some)[self._is_drawn[at : at + len(some)]].tolist()
                at += len(some)
                if drawn and split in ("", region.name):
                    yield _Span(region.contig, region.name, drawn)

    def _binned(self, span: "_Span") -> Values:
        """(bins, tracks) from the first base of a span's first window on, clipped, NaN where there is no value."""
        contig = self._store.contigs.index(span.contig)
        start, end = span.starts[0], span.starts[-1] + self._recipe.window
        counts = is_base(self._store.fetch(span.contig, start, end))
        for mask in self._masks:
            counts &= np.isnan(mask.values(contig, start, end))
        columns = []
        for name, signal in self._tracks.items():
            values = signal.values(contig, start, end)
            if (is_infinite := np.isinf(values) & counts).any():
                place = f"{span.contig}, position {start + int(is_infinite.argmax()) + 1:,}"
                raise GenomeLMError(f"track {name}: {place}: the value is infinite; leave it out with --mask")
            if self._recipe.missing == "zero":
                values = np.nan_to_num(values, nan=0.0)
            columns.append(bin_means(values, counts, self._recipe.bin))
        bins = np.stack(columns, axis=1)
        return bins if self._recipe.clip is None else np.minimum(bins, np.float32(self._recipe.clip))

    def _normalised(self, span: "_Span") -> Values:
        bins = self._binned(span) / np.array([*self.scales.values()])
        if not self._recipe.log1p:
            return bins.astype(np.float32)
        if (bins < 0).any():
            row, track = np.argwhere(bins < 0)[0].tolist()
            place = f"{span.contig}, position {span.starts[0] + row * self._recipe.bin + 1:,}"
            raise GenomeLMError(
                f"track {[*self._tracks][track]}: a value below 0 in the bin at {place}; leave out --log1p"
            )
        return np.log1p(bins).astype(np.float32)


class _Span(NamedTuple):
    """Windows of one region: their first bases, context included."""

    contig: str
    split: str
    starts: list[int]

    def values_of(self, bins: Values, start: int, recipe: TrackRecipe) -> Values:
        """(bins, tracks) of a window, from those of the span; NaN in its context."""
        first, edge = (start - self.starts[0]) // recipe.bin, recipe.context // recipe.bin
        values = bins[first : first + recipe.window // recipe.bin].copy()
        values[:edge] = values[len(values) - edge :] = math.nan
        return values


def _starts(region: Interval, recipe: TrackRecipe) -> range:
    return range(region.start, region.end - recipe.window + 1, recipe.length)


def bin_means(values: Values, counts: npt.NDArray[np.bool_], size: int) -> Values:
    """Means of the bases that count, bin by bin: (bins · size,) both → (bins,) float32.

    NaN where less than half of a bin's bases count and have a value.
    """
    counts = counts & ~np.isnan(values)
    number = counts.reshape(-1, size).sum(1)
    sums = np.where(counts, values, 0).reshape(-1, size).sum(1, dtype=np.float64)
    means = np.divide(sums, number, out=np.full(len(sums), np.nan), where=2 * number >= size)
    return means.astype(np.float32)
