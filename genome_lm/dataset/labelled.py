"""Labelled sequences: one, a set of them in a temporary file, and choices from a set."""

import contextlib
import json
import tempfile
import weakref
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from threading import Lock
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore

_IN_MEMORY = 64 << 20
"""Bytes of records that are held in memory before they go to a file."""


class Example(NamedTuple):
    """A labelled sequence.

    Attributes:
        id: What messages call it.
        sequence: IUPAC letters, already of the strand that is meant.
        labels: What its label columns hold, as text, 1.0 as 1; a label at each position stands in one of them, and
            "nan" where it is missing.
        split: "train", "valid", "test", or "" if it is not assigned.
        contig: Where it comes from, "" if that is not known; [start, end) is 0-based on the forward strand.
        second: Of a pair, the second sequence; "" where there is none.
    """

    id: str
    sequence: str
    labels: tuple[str, ...]
    split: str = ""
    contig: str = ""
    start: int = 0
    end: int = 0
    strand: str = "+"
    second: str = ""

    @property
    def sequences(self) -> tuple[str, ...]:
        """Its sequence, or both of a pair."""
        return (self.sequence, self.second) if self.second else (self.sequence,)


class LabelledSet(NamedTuple):
    """Labelled sequences, and the names of their label columns."""

    examples: Sequence[Example]
    columns: tuple[str, ...]

    def of_split(self, *splits: str) -> "LabelledSet":
        """Those of one split, or of several."""
        return self.take(np.flatnonzero(np.isin(splits_of(self.examples), splits)))

    def take(self, rows: npt.NDArray[np.int64]) -> "LabelledSet":
        """The examples of these numbers, in their order."""
        return self._replace(examples=Chosen(self.examples, rows, splits_of(self.examples)[rows]))

    def with_splits(self, splits: Iterable[str]) -> "LabelledSet":
        """The same examples in other splits, one for each."""
        each = np.array([*splits], dtype=object)
        return self._replace(examples=Chosen(self.examples, np.arange(len(each)), each))


class _Examples(Sequence[Example]):
    """A sequence whose slices are choices from it."""

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> "Chosen": ...
    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            rows = np.arange(len(self))[number]
            return Chosen(self, rows, splits_of(self)[rows])
        return self._read(range(len(self))[number])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def _read(self, number: int) -> Example:
        """One of them, its number from 0."""


class Chosen(_Examples):
    """Examples of a set by their numbers, in splits of their own: 16 bytes each.

    Args:
        base: The set.
        rows: (n,) numbers of examples.
        splits: (n,) object, the split of each.
    """

    def __init__(self, base: Sequence[Example], rows: npt.NDArray[np.int64], splits: npt.NDArray[np.object_]) -> None:
        self.base: Sequence[Example] = base.base if isinstance(base, Chosen) else base
        self.rows: npt.NDArray[np.int64] = base.rows[rows] if isinstance(base, Chosen) else rows
        self.splits = splits

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, number: int) -> Example:
        return self.base[int(self.rows[number])]._replace(split=self.splits[number])


class Chain(_Examples):
    """Examples of several sets, one set after the other."""

    def __init__(self, parts: Sequence[Sequence[Example]]) -> None:
        self._parts = parts
        self._ends = [*accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self._ends[-1]

    def _read(self, number: int) -> Example:
        part = bisect_right(self._ends, number)
        return self._parts[part][number - self._ends[part] + len(self._parts[part])]


class Spool(_Examples):
    """Examples in the order in which they came, in a temporary file that ends with this object: 8 bytes each.

    A small set stays in memory. Letters of places of a genome are not kept, but fetched each time.

    Args:
        examples: What is to be kept. One without a sequence is a place of the genome, within its bounds.
        store: The genome.

    Raises:
        GenomeLMError: If there is no room for the file, in the folder that the variable TMPDIR names.
    """

    def __init__(self, examples: Iterable[Example], store: GenomeStore | None = None) -> None:
        self._store, self._lock = store, Lock()
        self._ends = array("q", [0])
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="genome-lm-")
        weakref.finalize(self, self._file.close)
        for example in examples:
            record = json.dumps(example).encode()
            with _told():
                self._file.write(record)
            self._ends.append(self._ends[-1] + len(record))
        with _told():
            self._file.flush()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _read(self, number: int) -> Example:
        start, end = self._ends[number], self._ends[number + 1]
        with self._lock:
            self._file.seek(start)
            record = self._file.read(end - start)
        name, sequence, labels, *rest = json.loads(record)
        example = Example(name, sequence, tuple(labels), *rest)
        if example.sequence or not example.contig or self._store is None:
            return example
        return example._replace(sequence=letters_of(self._store, example[4:8], example.id))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GenomeLMError(
            f"{tempfile.gettempdir()}: can't keep the examples there: {error.strerror or error}; set the variable "
            "TMPDIR to a folder with more room"
        ) from None


def spooled(examples: Iterable[Example], store: GenomeStore | None = None, split: str = "") -> Chosen:
    """A `Spool` with its splits, or all in one split."""
    names: dict[str, str] = {}
    splits: list[str] = []

    def noted() -> Iterable[Example]:
        for example in examples:
            name = split or example.split
            splits.append(names.setdefault(name, name))  # each name once in memory
            yield example

    spool = Spool(noted(), store)
    return Chosen(spool, np.arange(len(spool)), np.array(splits, dtype=object))


def splits_of(examples: Sequence[Example]) -> npt.NDArray[np.object_]:
    """(n,) object, the split of each."""
    if isinstance(examples, Chosen):
        return examples.splits
    return np.array([example.split for example in examples], dtype=object)


def letters_of(store: GenomeStore, where: tuple[str, int, int, str], place: str) -> str:
    """The sequence at a contig, start, end and strand; `place` is what errors call it."""
    contig, start, end, strand = where
    try:
        return store.fetch(contig, start, end, strand, output="letters").tobytes().decode()  # type: ignore[arg-type]
    except GenomeLMError as error:
        raise GenomeLMError(f"{place}: {error}") from None
