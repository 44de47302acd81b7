"""Values of a genome's bases from files: bigWig, bedGraph, BED and BAM, each opened alike.

A value is a function of the place in the genome, so that workers, devices and resumed runs see the same.
"""

import logging
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.files import require_suffix
from genome_lm.formats.bigwig import BigWig
from genome_lm.formats.tracks import BIGWIG
from genome_lm.genome import GenomeStore
from genome_lm.genome.intervals import bed_lines
from genome_lm.optional import require

Values = npt.NDArray[np.float32]
CheckValue = Callable[[str, str], float]
"""From a bedGraph's text of a value and its place in the file to the value; raises a `GenomeLMError`."""

log = logging.getLogger(__name__)
BED = (".bed", ".bed.gz")
BEDGRAPH = (".bedgraph", ".bedgraph.gz", ".bg", ".bg.gz")
BAM = (".bam", ".cram")
MOST_INTERVALS = 50_000_000
"""Of a BED or bedGraph file: they take 24 bytes each in memory, and twice that while they are sorted."""
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_MOST_VALUE = 1e30
_LEFT_OUT = 0x4 | 0x100 | 0x200 | 0x400
"""Flags of reads that don't count, as in `samtools depth`: unmapped, secondary, failed and duplicate ones."""


class Signal(Protocol):
    """Values of a genome's bases."""

    def values(self, contig: int, start: int, end: int) -> Values:
        """Values of [start, end) of a contig by its number, (end − start,) float32, NaN without one."""


def open_signal(path: Path, store: GenomeStore) -> Signal:
    """Open a file of values; the end of its name says the format.

    bigWig and bedGraph have the values that they list. A BED file, such as one of peaks, is 1 within its intervals
    and 0 elsewhere. BAM and CRAM are the number of reads over each base.

    Raises:
        GenomeLMError: If it can't be read, or is of another assembly; one that lacks all contigs is, others are told.
    """
    suffix = require_suffix(path, tuple(name for names in _READERS for name in names), any_case=True)
    if not path.is_file():
        raise GenomeLMError(f"{path}: can't read: there is no such file")
    signal = next(reader for names, reader in _READERS.items() if suffix in names)(path, store)
    if isinstance(signal, BigWigSignal | Coverage):
        _tell_of_lacking(path, signal.lengths, store)
    return signal


class Pieces:
    """Values that are constant within pieces of the concatenated contigs.

    Args:
        starts: (n,) int64 first bases, ascending.
        ends: (n,) int64; none is beyond the next start.
        values: (n,) float32.
        store: The genome.
        between: The value outside of the pieces.
    """

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        values: Values,
        store: GenomeStore,
        between: float = np.nan,
    ) -> None:
        self._offsets = store.contigs.starts
        # Piece i lies between edges i and i + 1; every other one is a gap, of no bases where intervals touch.
        self._edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [store.bases]])
        self._values = np.full(len(self._edges) - 1, between, dtype=np.float32)
        self._values[1::2] = values

    def values(self, contig: int, start: int, end: int) -> Values:
        """See `Signal`."""
        first, last = self._offsets[contig] + start, self._offsets[contig] + end
        low = int(np.searchsorted(self._edges, first, side="right")) - 1
        high = int(np.searchsorted(self._edges, last, side="left"))
        edges = np.clip(self._edges[low : high + 1], first, last)
        return np.repeat(self._values[low:high], np.diff(edges))


def read_bed_pieces(path: Path, store: GenomeStore, outside: float = np.nan) -> Pieces:
    """A BED file as values: 1 within its intervals, which may overlap, and `outside` elsewhere."""
    firsts, lasts, _ = _sorted_intervals(path, store, None)
    lasts = np.maximum.accumulate(lasts)
    firsts[1:] = np.maximum(firsts[1:], lasts[:-1])
    return Pieces(firsts, lasts, np.ones(len(firsts), dtype=np.float32), store, outside)


def read_bedgraph(path: Path, store: GenomeStore, value: CheckValue) -> Pieces:
    """The values of a bedGraph file.

    Raises:
        GenomeLMError: If a base has two values; see `CheckValue` and `bed_lines` too.
    """
    firsts, lasts, values = _sorted_intervals(path, store, value)
    overlaps = firsts[1:] < lasts[:-1]
    if overlaps.any():
        start = int(firsts[1:][np.argmax(overlaps)])
        contig = int(np.searchsorted(store.contigs.starts, start, side="right")) - 1
        place = f"{store.contigs.names[contig]}, position {start - int(store.contigs.starts[contig]) + 1:,}"
        raise GenomeLMError(f"{path}: {place}, has two values; intervals of a bedGraph file must not overlap")
    return Pieces(firsts, lasts, values, store)


def _sorted_intervals(path: Path, store: GenomeStore, value: CheckValue | None) -> tuple[Any, Any, Values]:
    """First bases and ends in the concatenated contigs, and values if they are asked for."""
    starts, ends, values = array("q"), array("q"), array("f")
    for place, interval in bed_lines(path, store):
        if len(starts) == MOST_INTERVALS:
            raise GenomeLMError(f"{path}: more than {MOST_INTERVALS:,} intervals; make a bigWig file of it")
        offset = int(store.contigs.starts[store.contigs.index(interval.contig)])
        starts.append(offset + interval.start)
        ends.append(offset + interval.end)
        if value is not None:
            values.append(value(interval.name, place))
    order = np.argsort(np.frombuffer(starts, np.int64), kind="stable")
    kept = np.frombuffer(values, np.float32)[order] if value is not None else np.empty(0, dtype=np.float32)
    return np.frombuffer(starts, np.int64)[order], np.frombuffer(ends, np.int64)[order], kept


def number_of(text: str, place: str) -> float:
    """The value of a bedGraph's line.

    Raises:
        GenomeLMError: If it is no finite number.
    """
    if not _NUMBER.fullmatch(text) or not abs(value := float(text)) <= _MOST_VALUE:
        raise GenomeLMError(f"{place}: column 4 is {text[:40]!r}; bedGraph has a finite number there")
    return value


class BigWigSignal:
    """Values of a bigWig file, whose contigs go by their numbers in the genome.

    Attributes:
        file: The file.
        lengths: Bases of its contigs.

    Raises:
        GenomeLMError: If the file can't be read, or a contig has another length than in the genome.
    """

    def __init__(self, path: Path, store: GenomeStore) -> None:
        self.file, self._names = BigWig(path), store.contigs.names
        self.lengths = self.file.lengths
        _require_lengths(path, self.lengths, store)

    def values(self, contig: int, start: int, end: int) -> Values:
        """See `Signal`."""
        return self.file.values(self._names[contig], start, end)


class Coverage:
    """How many reads of a BAM or CRAM file lie over each base; deletions and skipped parts don't count."""

    def __init__(self, path: Path, store: GenomeStore) -> None:
        self._path, self._names = path, store.contigs.names
        try:
            self._file = require("pysam").AlignmentFile(str(path))
            has_index = self._file.has_index()
        except (OSError, ValueError) as error:
            raise GenomeLMError(f"{path}: can't read: {error}") from error
        if not has_index:
            raise GenomeLMError(f"{path}: there is no index; make it with `samtools index {path}`")
        self.lengths = dict(zip(self._file.references, self._file.lengths, strict=True))
        _require_lengths(path, self.lengths, store)

    def values(self, contig: int, start: int, end: int) -> Values:
        """See `Signal`."""
        if (name := self._names[contig]) not in self.lengths:
            return np.full(end - start, np.nan, dtype=np.float32)
        change = np.zeros(end - start + 1, dtype=np.int64)
        try:
            for read in self._file.fetch(name, start, end):
                if not read.flag & _LEFT_OUT:
                    for edges, step in zip(zip(*read.get_blocks(), strict=True), (1, -1), strict=False):
                        np.add.at(change, np.clip(np.array(edges) - start, 0, end - start), step)
        except (OSError, ValueError) as error:
            raise GenomeLMError(f"{self._path}: can't read the reads of {name}: {error}") from error
        return np.cumsum(change)[:-1].astype(np.float32)


def _require_lengths(path: Path, lengths: dict[str, int], store: GenomeStore) -> None:
    for name, length in lengths.items():
        if name in store and length != (expected := int(store.contigs.lengths[store.contigs.index(name)])):
            raise GenomeLMError(
                f"{path}: {name} has {length:,} bases there and {expected:,} in the genome; "
                "is this track of another assembly?"
            )
    if others := [name for name in lengths if name not in store]:
        log.info("%s: %s of its contigs are not in the genome, such as %s", path, f"{len(others):,}", others[0])


def _tell_of_lacking(path: Path, lengths: dict[str, int], store: GenomeStore) -> None:
    lacking = [name for name in store.contigs.names if name not in lengths]
    if len(lacking) == len(store.contigs.names):
        raise GenomeLMError(
            f"{path}: none of the genome's contigs is in this file: it has {next(iter(lengths), 'none')}, and the "
            f"genome {lacking[0]}; rename one's contigs, or get the track of this assembly"
        )
    if lacking:
        log.warning("%s: %s contigs are not in this file, such as %s", path, f"{len(lacking):,}", lacking[0])


_READERS: dict[Sequence[str], Callable[[Path, GenomeStore], Signal]] = {
    BIGWIG: BigWigSignal,
    BEDGRAPH: lambda path, store: read_bedgraph(path, store, number_of),
    BED: lambda path, store: read_bed_pieces(path, store, 0.0),
    BAM: Coverage,
}
