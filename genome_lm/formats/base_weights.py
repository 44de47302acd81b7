"""Weights of a genome's bases in the loss, from BED, bedGraph and bigWig files.

They are a pure function of the place in the genome, so that workers, devices and resumed runs see the same.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.files import require_suffix
from genome_lm.formats.bigwig import BigWig
from genome_lm.formats.signals import (
    BED,
    BEDGRAPH,
    BigWigSignal,
    Pieces,
    Signal,
    number_of,
    read_bed_pieces,
    read_bedgraph,
)
from genome_lm.formats.tracks import BIGWIG
from genome_lm.genome import GenomeStore, Interval, Windows
from genome_lm.mixture_config import MOST_WEIGHT, BaseWeightsConfig

Values = npt.NDArray[np.float32]

_BLOCK = 1 << 20
"""Bases looked at in one go."""
_NAMES = 5
"""Contigs that an error names."""


def open_base_weights(config: BaseWeightsConfig, store: GenomeStore, regions: Sequence[Interval]) -> "BaseWeights":
    """Open the weights of a genome's bases.

    Args:
        config: The file, and how its values become weights.
        store: The genome.
        regions: What is trained on.

    Raises:
        GenomeLMError: If the file can't be read or is of another assembly, a value gives no weight, or the weights
            of the regions say nothing: none has a value, all are zero, or all are alike.
    """
    path = Path(config.track)
    suffix = require_suffix(path, (*BED, *BEDGRAPH, *BIGWIG), any_case=True)
    if not path.is_file():
        raise GenomeLMError(f"{path}: can't read: there is no such file")
    if suffix in BIGWIG:
        track: Signal = _open_bigwig(path, config, store, regions)
    elif suffix in BED:
        track = _read_bed(path, config, store)
    else:
        track = read_bedgraph(path, store, partial(_value, config=config))
    weights = BaseWeights(track, config, store)
    weights.require_value(regions)
    weights.require_weight(regions)
    return weights


class BaseWeights:
    """Weights of the bases of windows.

    Args:
        track: Their values.
        config: How these become weights.
        store: The genome.
    """

    def __init__(self, track: Signal, config: BaseWeightsConfig, store: GenomeStore) -> None:
        self._track, self._config, self._contigs = track, config, store.contigs

    def __call__(self, windows: Windows) -> Values:
        """The weights in the order of each window's strand: (n, length) float32, 0 beyond the contig.

        Raises:
            GenomeLMError: If the file can't be read, or a value gives no weight.
        """
        rows = np.zeros((len(windows.starts), windows.length), dtype=np.float32)
        limits = self._contigs.lengths[windows.contigs]
        firsts, lasts = np.clip(windows.starts, 0, limits), np.clip(windows.starts + windows.length, 0, limits)
        for row, contig, start, first, last in zip(rows, windows.contigs, windows.starts, firsts, lasts, strict=True):
            if first < last:
                row[first - start : last - start] = self._weights(int(contig), int(first), int(last))
        rows[windows.reverse] = rows[windows.reverse, ::-1]
        return rows

    def _weights(self, contig: int, start: int, end: int) -> Values:
        weights = _scaled(self._config, self._track.values(contig, start, end))
        weights[np.isnan(weights)] = _of_missing(self._config)
        wrong = ~_is_weight(weights)
        if wrong.any():
            place = f"{self._contigs.names[contig]}, position {start + int(np.argmax(wrong)) + 1:,}"
            raise _no_weight(f"{self._config.track}: {place}", float(weights[np.argmax(wrong)]))
        return weights

    def require_value(self, regions: Sequence[Interval]) -> None:
        """Raise a `GenomeLMError` if no base of the regions has a value."""
        if all(np.isnan(self._track.values(*block)).all() for block in self._blocks(regions)):
            raise GenomeLMError(
                f"{self._config.track}: no base of the training regions has a value; "
                "is this file of another assembly?"
            )

    def require_weight(self, regions: Sequence[Interval]) -> None:
        """Raise a `GenomeLMError` if every base of the regions weighs zero."""
        if not any(self._weights(*block).any() for block in self._blocks(regions)):
            raise GenomeLMError(
                f"{self._config.track}: every base of the training regions weighs zero, so that nothing would be "
                "learned; change clip or missing"
            )

    def _blocks(self, regions: Sequence[Interval]) -> Iterator[tuple[int, int, int]]:
        """Places that cover the regions, one after the other: what is looked for mostly stands in the first."""
        for region in regions:
            contig = self._contigs.index(region.contig)
            for start in range(region.start, region.end, _BLOCK):
                yield contig, start, min(region.end, start + _BLOCK)


def _scaled(config: BaseWeightsConfig, values: Values) -> Values:
    """Weights of values; NaN stays."""
    weights = values * np.float32(config.scale)
    if config.clip is not None:
        weights = np.clip(weights, np.float32(config.clip[0]), np.float32(config.clip[1]))
    return weights


def _of_missing(config: BaseWeightsConfig) -> float:
    return 1.0 if config.missing is None else config.missing


def _is_weight(weights: Any) -> Any:
    return (weights >= 0) & (weights <= np.float32(MOST_WEIGHT))


def _no_weight(place: str, weight: float) -> GenomeLMError:
    return GenomeLMError(
        f"{place}: the value gives the weight {weight:g}, and weights are from 0 to {MOST_WEIGHT:,.0f}; "
        "give base_weights a clip, such as [0, 1]"
    )


def _read_bed(path: Path, config: BaseWeightsConfig, store: GenomeStore) -> Pieces:
    pieces = read_bed_pieces(path, store)
    if _scaled(config, np.ones(1, dtype=np.float32)) == np.float32(_of_missing(config)):
        raise GenomeLMError(
            f"{path}: the bases of a BED file have the value 1, and those outside weigh as much; give base_weights "
            "a scale, or another weight for missing"
        )
    return pieces


def _value(text: str, place: str, config: BaseWeightsConfig) -> float:
    """The value of a bedGraph's line."""
    value = number_of(text, place)
    if config.clip is None and not _is_weight(value * config.scale):
        raise _no_weight(place, value * config.scale)
    return value


def _open_bigwig(
    path: Path, config: BaseWeightsConfig, store: GenomeStore, regions: Sequence[Interval]
) -> BigWigSignal:
    signal = BigWigSignal(path, store)
    file = signal.file
    trained = dict.fromkeys(region.contig for region in regions)
    lacking = [name for name in trained if name not in file.lengths]
    if lacking and config.missing is None:
        more = f" and {len(lacking) - _NAMES:,} more" if len(lacking) > _NAMES else ""
        raise GenomeLMError(
            f"{path}: no contig {', '.join(lacking[:_NAMES])}{more} in this track (its first is "
            f"{next(iter(file.lengths), 'none')}); give base_weights missing, the weight of bases without a value"
        )
    if config.clip is None:
        # Said now, not hours later when a window comes upon it.
        if not all(_is_weight(value * config.scale) for value in file.extremes or ()):
            for name in trained.keys() - set(lacking):
                _require_weights(file, name, config)
    return signal


def _require_weights(file: BigWig, name: str, config: BaseWeightsConfig) -> None:
    """Raise a `GenomeLMError` if a value of a contig gives no weight."""
    for start in range(0, file.lengths[name], _BLOCK):
        values = _scaled(config, file.values(name, start, min(file.lengths[name], start + _BLOCK)))
        values = values[~np.isnan(values)]
        if not (good := _is_weight(values)).all():
            raise _no_weight(f"{file.path}: {name}", float(values[np.argmin(good)]))
