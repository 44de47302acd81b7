"""What a job of embedding reads: FASTA records or places of a genome, whole or in windows.

A source is gone through twice. `spans` tells what there is, checks it, and feeds a digest of it; then `read` gives
the token ids, from any record on. Memory does not grow with the number of records.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import encode
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval
from genome_lm.genome.places import carried_columns, interval_ids, place_text
from genome_lm.genome.records import fasta_records
from genome_lm.genome.tiling import Tiling
from genome_lm.inference.embedding import FlankedSequence


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""


class Span(NamedTuple):
    """[start, end) of a contig or FASTA record, and the bases of context before and after it.

    Attributes:
        id: Of its row; no other span has it.
        contig: See above.
        start: See above.
        end: See above.
        left: Bases of context before the first base that is read: with strand "-" they lie behind `end`.
        right: Bases of context after the last base that is read.
        strand: "-" if the reverse complement is read.
        carried: Names and texts of the columns that the source carries.
    """

    id: str
    contig: str
    start: int
    end: int
    left: int = 0
    right: int = 0
    strand: str = "."
    carried: tuple[tuple[str, str], ...] = ()


class SequenceSource(Protocol):
    """Where sequences come from.

    Attributes:
        tiling: How they are cut.
        carried: Names of further columns of text, see `Span`.
    """

    tiling: Tiling
    carried: tuple[str, ...]

    def spans(self, digest: Digest) -> Iterator[Span]:
        """All spans in their order, checked; `digest` is fed with what the input is."""

    def read(self, ranges: Sequence[tuple[int, int]]) -> Iterator[list[tuple[Span, FlankedSequence]]]:
        """The spans of each range [first, stop) of their numbers, the ranges in rising order."""


class FastaSource:
    """Records of a FASTA file, plain or gzip, or windows of them; context comes from the record itself."""

    carried: tuple[str, ...] = ()

    def __init__(self, path: Path, tiling: Tiling) -> None:
        self.path, self.tiling = path, tiling.check()
        if tiling.left and tiling.window is None:
            raise GenomeLMError("--context with --fasta needs --window: a whole record has nothing around it")
        if not self.is_stream and not path.exists():
            raise GenomeLMError(f"{path}: can't read: No such file or directory")

    @property
    def is_stream(self) -> bool:
        """Whether it can be read only once: standard input (`-`), or a pipe."""
        return str(self.path) == "-" or self.path.is_fifo()

    def spans(self, digest: Digest) -> Iterator[Span]:
        """All spans.

        Raises:
            GenomeLMError: If the file can't be read, is not FASTA, or a record has no name, no sequence, letters that
                are not DNA, or the name of another one.
        """
        for record in fasta_records(self.path):
            tokens = encode(record.sequence, f"{self.path}: {record.id}")
            digest.update(f">{record.id}\n".encode())
            digest.update(tokens.tobytes())
            yield from (span for span, _ in self._spans_of(record.id, record.sequence))

    def read(self, ranges: Sequence[tuple[int, int]]) -> Iterator[list[tuple[Span, FlankedSequence]]]:
        """See `SequenceSource`."""
        every = (item for r in fasta_records(self.path) for item in self._spans_of(r.id, r.sequence))
        position = 0
        for first, stop in ranges:
            items = islice(every, first - position, stop - position)
            position = stop
            yield [(span, FlankedSequence(encode(text, span.id), span.left, span.right)) for span, text in items]

    def _spans_of(self, name: str, sequence: str) -> Iterator[tuple[Span, str]]:
        length = len(sequence)
        for start, end, left, right in self.tiling.cut(0, length, length):
            id_ = name if (start, end) == (0, length) else f"{name}/{start + 1}-{end}"
            yield Span(id_, name, start, end, left, right), sequence[start - left : end + right]


class GenomeSource:
    """Intervals of a genome, or all of it, in windows if so wished; context comes from the genome around them.

    Intervals with the strand "-" are read, and cut into windows, along the reverse complement.
    """

    def __init__(self, store: GenomeStore, intervals: Sequence[Interval] | None, tiling: Tiling) -> None:
        self.store, self.intervals, self.tiling = store, intervals, tiling.check()
        self._columns = {} if intervals is None else carried_columns(intervals)
        self._ids = [] if intervals is None else interval_ids(intervals)
        self.carried = tuple(self._columns)
        if intervals is None and tiling.window is None:
            raise GenomeLMError("give --window to cut the whole genome into windows, or --bed for places of it")

    def spans(self, digest: Digest) -> Iterator[Span]:
        """See `SequenceSource`.

        Raises:
            GenomeLMError: If an interval is of an unknown contig or reaches beyond it.
        """
        digest.update(json.dumps(self.store.provenance, sort_keys=True).encode())
        digest.update("\n".join(self.store.contigs.headers).encode())
        digest.update(np.asarray(self.store.contigs.starts).tobytes())
        digest.update(json.dumps(self.intervals).encode())
        return self._spans()

    def _spans(self) -> Iterator[Span]:
        contigs = self.store.contigs
        if self.intervals is None:
            for contig, length in zip(contigs.names, contigs.lengths.tolist(), strict=True):
                for start, end, left, right in self.tiling.cut(0, length, length):
                    yield Span(place_text(contig, start, end), contig, start, end, left, right)
            return
        for interval, id_, *carried in zip(self.intervals, self._ids, *self._columns.values(), strict=True):
            contig, first, last, _, strand, *_ = interval
            limit = int(contigs.lengths[contigs.index(contig)])
            if not 0 <= first < last <= limit:
                raise GenomeLMError(f"{place_text(contig, first, last)} is not within the contig, which is 1-{limit}")
            texts = tuple(zip(self.carried, carried, strict=True))
            whole = Span(id_, contig, first, last, strand=strand, carried=texts)
            yield from self._windows(whole, limit)

    def _windows(self, whole: Span, limit: int) -> Iterator[Span]:
        """The windows of an interval, counted along its strand."""
        is_reverse = whole.strand == "-"
        first, last = (limit - whole.end, limit - whole.start) if is_reverse else (whole.start, whole.end)
        for start, end, left, right in self.tiling.cut(first, last, limit):
            part = "" if (start, end) == (first, last) else f"/{start - first + 1}-{end - first}"
            place = (limit - end, limit - start) if is_reverse else (start, end)
            yield whole._replace(id=whole.id + part, start=place[0], end=place[1], left=left, right=right)

    def read(self, ranges: Sequence[tuple[int, int]]) -> Iterator[list[tuple[Span, FlankedSequence]]]:
        """See `SequenceSource`."""
        every, position = self._spans(), 0
        items: list[tuple[Span, FlankedSequence]] | None = None
        for first, stop in ranges:
            # The chunks of a range come from a URL while the model goes through the range before it.
            spans = self._ahead(islice(every, first - position, stop - position))
            position = stop
            if items is not None:
                yield items
            items = list(zip(spans, self._flanked(spans), strict=True))
        if items is not None:
            yield items

    def _ahead(self, spans: Iterable[Span]) -> list[Span]:
        """Spans that will be read; of a store at a URL, all their chunks are asked for together."""
        found = list(spans)
        if self.store.is_remote and found:
            self.store.announce(*self._places(found))
        return found

    def _places(
        self, spans: list[Span]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The contigs' numbers, the starts and the lengths of spans with their context, each (n,)."""
        contigs = np.array([self.store.contigs.index(span.contig) for span in spans])
        starts = np.array([span.start - (span.right if span.strand == "-" else span.left) for span in spans])
        return contigs, starts, np.array([span.end - span.start + span.left + span.right for span in spans])

    def _flanked(self, spans: list[Span]) -> list[FlankedSequence]:
        """The tokens of spans; those of one length are read together, which is many times as quick as one by one."""
        contigs, starts, lengths = self._places(spans)
        reverse = np.array([span.strand == "-" for span in spans])
        sequences = [FlankedSequence(np.empty(0, dtype=np.uint8))] * len(spans)
        for length in np.unique(lengths).tolist():
            alike = np.flatnonzero(lengths == length)
            fetched = self.store.fetch_many(contigs[alike], starts[alike], length, reverse[alike])
            for number, tokens in zip(alike.tolist(), fetched, strict=True):
                sequences[number] = FlankedSequence(tokens, spans[number].left, spans[number].right)
        return sequences
