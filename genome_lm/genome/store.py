"""The genome store: a genome as one zarr group."""

import difflib
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import PAD, TOKEN_COMPLEMENT
from genome_lm.errors import GenomeLMError
from genome_lm.genome.chunks import ChunkReader, Chunks, chunks_of
from genome_lm.genome.codes import CODE_COMPLEMENT, CODE_TO_LETTER, CODE_TO_TOKEN, OUTSIDE, Codes
from genome_lm.genome.layout import LocalFiles, read_layout
from genome_lm.genome.remote import RemoteFiles, RemoteShards
from genome_lm.genome.resident import PackedTokens, PlainTokens, ResidentTokens
from genome_lm.genome.shard_files import LocalShards
from genome_lm.store_place import StoreUrl, store_place
from genome_lm.text import html_table, some_of

CACHE_BYTES = 1 << 30
"""Memory for tokens: enough for the whole of a human genome, four bases a byte."""
_CHUNK_BYTES = 128 << 20
"""Memory for decoded chunks, where they are not all kept."""

Strand = Literal["+", "-"]
Output = Literal["tokens", "letters", "codes"]


class _View(NamedTuple):
    """What a reader keeps decoded: the codes, or what a table makes of them; the filling, and the complements."""

    table: Codes | None
    outside: int
    complement: bytes


_VIEWS = {
    "codes": _View(None, int(OUTSIDE), CODE_COMPLEMENT.tobytes()),
    "tokens": _View(CODE_TO_TOKEN, PAD, TOKEN_COMPLEMENT.tobytes().ljust(256)),
}
"""Training asks for tokens a million times over: they are made once a chunk, so that a window costs one copy."""


@dataclass(frozen=True)
class ContigTable:
    """The contigs in their order in the genome.

    Attributes:
        headers: FASTA headers without `>`; their first word is the name.
        starts: (n + 1,) int64. Where each contig starts in the concatenated sequence, and where the last one ends.
    """

    headers: tuple[str, ...]
    starts: npt.NDArray[np.int64]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the contigs."""
        return tuple(header.split(maxsplit=1)[0] for header in self.headers)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(n,) int64. Bases of each contig."""
        return np.diff(self.starts)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each contig, by name."""
        return {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.headers)

    def __contains__(self, name: object) -> bool:
        return name in self.numbers

    def index(self, name: str) -> int:
        """Number of a contig.

        Raises:
            GenomeLMError: If there is none of this name; similar names are given.
        """
        try:
            return self.numbers[name]
        except KeyError:
            others = name.removeprefix("chr"), f"chr{name}"
            close = [o for o in others if o in self.numbers] or difflib.get_close_matches(
                name, self.names[:10_000], n=3
            )
            hint = f"did you mean {' or '.join(close)}?" if close else f"the first is {self.names[0]!r}"
            raise GenomeLMError(f"no contig {name!r} in this genome ({len(self):,} contigs); {hint}") from None


class GenomeStore:
    """A genome in a zarr v3 group.

    Arrays: `sequence`, (bases,) uint8, all contigs one after the other, a code a base (see `genome_lm.genome.codes`),
    sharded and compressed; and those of `Tables`. Attributes hold the meaning of the codes, the provenance, and
    checksums: whatever is not as it was written is refused.

    `len(store)`, `for name in store` and `name in store` are of the contigs' names; `store[...]` gives letters.

    A store opens its files when it first reads, and after unpickling opens anew; reading in a forked process is safe
    after a read in its parent.

    Args:
        path: The store's folder, or a URL that fsspec opens, such as https://host/genome.zarr or s3://bucket/genome.zarr
            (pip install 'genome-lm[remote]'). There, content is verified as in a folder, and nothing is written.
        cache_bytes: Memory for bases that were read, at most. The tokens of the whole genome, a byte a base in a
            quarter of it if they fit, or four bases a byte; else decoded chunks, those last used.

    Raises:
        GenomeLMError: If there is no genome store, a damaged one, or one of another format version.
    """

    def __init__(self, path: str | Path, cache_bytes: int = CACHE_BYTES) -> None:
        self.path = store_place(path)
        self._cache_bytes = cache_bytes
        files: LocalFiles | RemoteFiles
        shards: LocalShards | RemoteShards
        if isinstance(self.path, StoreUrl):
            files = RemoteFiles(self.path)
            shards = RemoteShards(files)
        else:
            files, shards = LocalFiles(self.path), LocalShards(self.path / "sequence")
        layout = read_layout(self.path, files)
        self.provenance: dict[str, Any] = layout.provenance
        self.contigs = ContigTable(layout.headers, layout.tables.contig_starts)
        self._starts = self.contigs.starts.data  # gives a number sooner than NumPy
        self._n_runs = layout.tables.n_runs
        self._chunks = Chunks(shards, layout.sharding, layout.tables.chunk_checksums)
        self._reader = cache(self._make_reader)

    def __reduce__(self) -> tuple[type["GenomeStore"], tuple[Path | StoreUrl, int]]:
        return GenomeStore, (self.path, self._cache_bytes)

    def _make_reader(self, view: str) -> ChunkReader | ResidentTokens:
        if view == "tokens" and PlainTokens.size(self._chunks) <= self._cache_bytes // 4:
            return PlainTokens(self._chunks)
        if view == "tokens" and PackedTokens.size(self._chunks) <= self._cache_bytes:
            return PackedTokens(self._chunks, self._n_runs)
        return ChunkReader(self._chunks, min(_CHUNK_BYTES, self._cache_bytes), _VIEWS[view].table)

    @property
    def resident_bytes(self) -> int:
        """Bytes that the tokens of the genome take once all of them were read."""
        for tokens in (PlainTokens, PackedTokens):
            share = self._cache_bytes // (4 if tokens is PlainTokens else 1)
            if (size := tokens.size(self._chunks)) <= share:
                return size
        return min(_CHUNK_BYTES, self._cache_bytes)

    @property
    def bases(self) -> int:
        """Bases of all contigs."""
        return int(self.contigs.starts[-1])

    def __len__(self) -> int:
        return len(self.contigs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.contigs.names)

    def __contains__(self, name: object) -> bool:
        return name in self.contigs

    def __repr__(self) -> str:
        return f"<GenomeStore {str(self.path)!r}: {self.bases:,} bases in {len(self):,} contigs>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = {"path": self.path, "contigs": len(self), "bases": self.bases, "names": some_of(self.contigs.names)}
        return html_table("GenomeStore", rows)

    @overload
    def __getitem__(self, where: str | tuple[str, slice]) -> Codes: ...

    @overload
    def __getitem__(self, where: tuple[str, int]) -> np.uint8: ...

    def __getitem__(self, where: str | tuple[str, int | slice]) -> Codes | np.uint8:
        """Letters as they were in the FASTA, as ASCII codes.

        `store["chr1"]` and `store["chr1", 100:200]` give (n,) uint8, `store["chr1", 7]` a uint8.

        Raises:
            GenomeLMError: On anything else, an unknown contig, or a position beyond it.
        """
        contig, place = where if isinstance(where, tuple) and len(where) == 2 else (where, slice(None))
        if not isinstance(contig, str):
            raise _not_a_place(where)
        length = int(self.contigs.lengths[self.contigs.index(contig)])
        try:
            if not isinstance(place, slice):
                return self.fetch(contig, operator.index(place), operator.index(place) + 1, output="letters")[0]
            start = 0 if place.start is None else operator.index(place.start)
            end = length if place.stop is None else operator.index(place.stop)
            if place.step not in (None, 1):
                raise GenomeLMError(f"a step of {place.step} is no interval; take [start:end] and index the result")
        except TypeError:
            raise _not_a_place(where) from None
        return self.fetch(contig, start, end, output="letters")

    def fetch(
        self, contig: str, start: int, end: int, strand: Strand = "+", pad: bool = False, output: Output = "tokens"
    ) -> Codes:
        """One interval.

        Args:
            contig: Name of the contig.
            start: First base, 0-based.
            end: One after the last base.
            strand: "-" for the reverse complement.
            pad: Allow the interval to reach beyond the contig; there, tokens are [PAD] and letters N.
            output: "tokens" (token ids), "letters" (ASCII, case kept) or "codes" (as stored).

        Returns:
            (end − start,) uint8.

        Raises:
            GenomeLMError: On an unknown contig or strand, end before start, or (without `pad`) an interval that
                reaches beyond the contig.
        """
        if strand not in ("+", "-"):
            raise GenomeLMError(f"strand {strand!r}: use '+' or '-'")
        if end < start:
            raise GenomeLMError(f"{contig}:{start}-{end}: the end is before the start")
        number = self.contigs.index(contig)
        if strand == "+" and output == "tokens" and start >= 0:  # by far most
            offset = self._starts[number]
            if offset + end <= self._starts[number + 1]:
                return self._reader("tokens").window(offset + start, end - start)
        return self._fetch_one(number, start, end - start, strand == "-", pad, output)

    def fetch_many(
        self,
        contigs: npt.NDArray[np.integer],
        starts: npt.NDArray[np.integer],
        length: int,
        reverse: npt.NDArray[np.bool_] | None = None,
        pad: bool = False,
        output: Output = "tokens",
    ) -> Codes:
        """Many intervals of one length at once.

        Args:
            contigs: (n,) numbers of the contigs.
            starts: (n,) first bases, 0-based in their contigs.
            length: Bases of each.
            reverse: (n,) True for the reverse complement; None for the forward strand everywhere.
            pad: As in `fetch`.
            output: As in `fetch`.

        Returns:
            (n, length) uint8.

        Raises:
            GenomeLMError: As `fetch`.
        """
        if len(starts) == 1:
            minus = reverse is not None and bool(reverse[0])
            return self._fetch_one(int(contigs[0]), int(starts[0]), length, minus, pad, output)[None]
        offsets, limits = self.contigs.starts[contigs], self.contigs.lengths[contigs]
        inside = bool(((starts >= 0) & (starts + length <= limits)).all())
        if not inside and not pad:
            self._refuse_outside(contigs, starts, length)
        kept = "tokens" if output == "tokens" else "codes"
        reader, view = self._reader(kept), _VIEWS[kept]
        if inside:
            rows = reader.gather(offsets + starts, length)
        else:
            firsts, lasts = np.clip(starts, 0, limits), np.clip(starts + length, 0, limits)
            rows = np.full((len(starts), length), view.outside, dtype=np.uint8)
            for i in np.argsort(offsets + firsts, kind="stable").tolist():
                left, right = max(0, firsts[i] - starts[i]), max(0, lasts[i] - starts[i])
                rows[i, left:right] = reader.window(int(offsets[i] + firsts[i]), int(right - left))
        if reverse is not None and reverse.any():
            turned = rows[reverse, ::-1]
            rows[reverse] = np.frombuffer(turned.tobytes().translate(view.complement), np.uint8).reshape(turned.shape)
        return CODE_TO_LETTER[rows] if output == "letters" else rows

    def _fetch_one(self, contig: int, start: int, length: int, minus: bool, pad: bool, output: Output) -> Codes:
        """One interval, as `fetch_many` gives it: (length,) uint8. Numbers cost less than arrays of one do."""
        offset = self._starts[contig]
        limit = self._starts[contig + 1] - offset
        inside = start >= 0 and start + length <= limit
        if not inside and not pad:
            self._refuse_outside(np.array([contig]), np.array([start]), length)
        kept = "tokens" if output == "tokens" else "codes"
        reader, view = self._reader(kept), _VIEWS[kept]
        if inside:
            row = reader.window(offset + start, length)
        else:
            row = np.full(length, view.outside, dtype=np.uint8)
            first, last = min(max(start, 0), limit), min(max(start + length, 0), limit)
            row[first - start : last - start] = reader.window(offset + first, last - first)
        if minus:
            row = np.frombuffer(bytearray(row[::-1].tobytes().translate(view.complement)), dtype=np.uint8)
        return CODE_TO_LETTER[row] if output == "letters" else row

    @property
    def is_remote(self) -> bool:
        """Whether the store is at a URL."""
        return isinstance(self.path, StoreUrl)

    def announce(
        self,
        contigs: npt.NDArray[np.integer],
        starts: npt.NDArray[np.integer],
        length: int | npt.NDArray[np.integer],
    ) -> None:
        """Have the reading of windows begin whose tokens will be fetched, as far as they lie within their contigs.

        Of a store at a URL, their chunks are fetched in the background, within bounds of memory. Of one in a folder,
        the system is told.

        Args:
            contigs: As in `fetch_many`.
            starts: As in `fetch_many`.
            length: Bases of each, or of all.
        """
        offsets, limits = self.contigs.starts[contigs], self.contigs.lengths[contigs]
        firsts, lasts = (offsets + np.clip(places, 0, limits) for places in (starts, starts + length))
        numbers = chunks_of(firsts, lasts, self._chunks.chunk)
        if len(numbers):
            self._reader("tokens").announce(numbers)

    def n_count(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Ambiguous bases (N and other IUPAC codes) in [start, end) of the concatenated sequence: (n,) int64."""
        return self._n_before(ends) - self._n_before(starts)

    def _n_before(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if not len(self._n_runs):
            return np.zeros_like(positions)
        before = np.concatenate([[0], np.cumsum(self._n_runs[:, 1] - self._n_runs[:, 0])])
        run = np.searchsorted(self._n_runs[:, 0], positions, side="right")
        # Up to the end of the last run that starts before the position, less what lies beyond the position.
        overshoot = np.maximum(0, self._n_runs[run - 1, 1] - positions)
        return np.where(run > 0, before[run] - overshoot, 0)

    def _refuse_outside(self, contigs: npt.NDArray[np.integer], starts: npt.NDArray[np.integer], length: int) -> None:
        limits = self.contigs.lengths[contigs]
        i = int(np.argmax((starts < 0) | (starts + length > limits)))
        raise GenomeLMError(
            f"{self.contigs.names[contigs[i]]}:{starts[i]}-{starts[i] + length} reaches beyond the contig, which is "
            f"0-{limits[i]}; mend the coordinates, or ask for padding"
        )


def _not_a_place(where: object) -> GenomeLMError:
    return GenomeLMError(
        f"{str(where)[:60]} is no place in a genome; take genome[contig], genome[contig, position] or "
        "genome[contig, start:end]"
    )
