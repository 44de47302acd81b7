"""Files of sequences → genome store, and back to FASTA."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genome_lm import __version__
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_output, replacing_file, replacing_folder
from genome_lm.genome.chunks import write_shard
from genome_lm.genome.codes import Codes, is_ambiguous
from genome_lm.genome.fasta import Header
from genome_lm.genome.flat_annotation import write_annotation
from genome_lm.genome.layout import Sharding, Tables, write_layout
from genome_lm.genome.sequence_files import sequence_file
from genome_lm.genome.store import GenomeStore
from genome_lm.progress import progress
from genome_lm.text import printable

CHUNK = 8 << 10
"""Bases that are decompressed together: a first window of 1,000 bases costs less than in chunks of 32 Ki, and the
store is 3 % larger."""
SHARD = 64 << 20
"""Bases in one file: what a build holds in memory, and 50 files for a human genome."""
EXPORT_BASES = 1 << 20
"""Bases written at one time."""


def build_store(
    sources: Sequence[Path], out: Path, assembly: str | None = None, annotation: Path | None = None
) -> GenomeStore:
    """Build a genome store from files of sequences.

    The files are read once, in a stream; memory does not grow with the genome. The store appears under its name when
    it is whole. See `GenomeStore` for the layout; building twice gives the same bytes.

    Args:
        sources: Files of the forms that `sequence_file` tells apart; their contigs follow one another.
        out: The store's folder; one that is there is replaced.
        assembly: Name of the assembly, for the provenance.
        annotation: GFF3 file to write, with the features of flat files; see `write_annotation`.

    Returns:
        The store.

    Raises:
        GenomeLMError: See `sequence_file`; also for a contig name that comes twice.
    """
    with contextlib.ExitStack() as stack:
        if annotation is not None:
            write_annotation(sources, stack.enter_context(replacing_file(annotation)))
        folder = stack.enter_context(replacing_folder(out))
        writer = stack.enter_context(_Writer(folder))
        hashed = [writer.add(source) for source in sources]
        writer.finish(
            {"sources": hashed, "assembly": assembly and printable(assembly), "genome_lm_version": __version__}
        )
    return GenomeStore(out)


class _Writer(contextlib.AbstractContextManager["_Writer"]):
    """Collects codes to whole shards, and the tables of contigs and of runs of N."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checksums: list[npt.NDArray[np.uint32]] = []
        self._shard = np.empty(SHARD, dtype=np.uint8)
        self._filled = self._flushed = 0
        self._headers: list[str] = []
        self._starts: list[int] = []
        self._seen: dict[str, str] = {}
        self._run_edges: list[npt.NDArray[np.int64]] = []

    def __exit__(self, *_: object) -> None:
        del self._shard

    def add(self, source: Path) -> dict[str, str | int]:
        """Append a file; its name, size and SHA-256."""
        size = os.path.getsize(source) if os.path.exists(source) else 0
        with progress(source.name, size, "B") as bar:
            file = sequence_file(source, bar.advance)
            for item in file:
                if isinstance(item, Header):
                    self._open_contig(item)
                else:
                    self._append(item)
        return {"name": printable(source.name), "bytes": file.bytes_read, "sha256": file.sha256}

    def _open_contig(self, header: Header) -> None:
        name = header.name
        if name in self._seen:
            raise GenomeLMError(
                f"{header.place}: contig {name!r} was there before, at {self._seen[name]}; names must differ "
                "in a genome: rename one, or build two genomes"
            )
        self._seen[name] = header.place
        self._headers.append(header.text)
        self._starts.append(self._flushed + self._filled)

    def _append(self, codes: Codes) -> None:
        while len(codes):
            taken = codes[: SHARD - self._filled]
            self._shard[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            codes = codes[len(taken) :]
            if self._filled == SHARD:
                self._flush()

    def _flush(self) -> None:
        codes = self._shard[: self._filled]
        shard = self._folder / "sequence" / "c" / str(self._flushed // SHARD)
        self._checksums.append(write_shard(shard, codes, CHUNK, SHARD))
        for start in range(0, len(codes), CHUNK):
            inside = np.concatenate([[False], is_ambiguous(codes[start : start + CHUNK]), [False]])
            if inside.any():
                self._run_edges.append(np.flatnonzero(inside[1:] != inside[:-1]) + self._flushed + start)
        self._flushed += self._filled
        self._filled = 0

    def finish(self, provenance: dict[str, Any]) -> None:
        """Write what is left, and the tables."""
        if self._filled:
            self._flush()
        edges = np.concatenate([np.empty(0, dtype=np.int64), *self._run_edges])
        # A run cut by the border of two chunks ends and starts at the same position: both edges cancel.
        positions, counts = np.unique(edges, return_counts=True)
        tables = Tables(
            contig_headers=np.frombuffer("\n".join(self._headers).encode(), dtype=np.uint8),
            contig_starts=np.array([*self._starts, self._flushed], dtype=np.int64),
            n_runs=positions[counts == 1].astype(np.int64).reshape(-1, 2),
            chunk_checksums=np.concatenate(self._checksums),
        )
        write_layout(self._folder, tables, Sharding(self._flushed, CHUNK, SHARD), provenance)


def export_fasta(store: GenomeStore, out: Path, width: int = 60) -> None:
    """Write a store as FASTA, letter for letter as it was read; bgzip if the name ends in .gz.

    Args:
        store: The genome.
        out: The file; one that is there is replaced.
        width: Bases a line.
    """
    step = EXPORT_BASES // width * width
    with replacing_file(out) as temporary, contextlib.ExitStack() as stack:
        file = stack.enter_context(open_output(temporary, "wb"))
        bar = stack.enter_context(progress(f"export {out.name}", store.bases, "bases"))
        for index, header in enumerate(store.contigs.headers):
            file.write(f">{header}\n".encode())
            for start in range(0, length := int(store.contigs.lengths[index]), step):
                letters = store[store.contigs.names[index], start : min(start + step, length)]
                file.write(b"".join(_lines(letters, width)))
                bar.advance(len(letters))


def _lines(letters: Codes, width: int) -> Iterator[bytes]:
    text = letters.tobytes()
    return (text[start : start + width] + b"\n" for start in range(0, len(text), width))
