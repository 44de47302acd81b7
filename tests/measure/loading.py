"""Random windows from a genome store against pyfaidx on the same FASTA: `python -m tests.measure.loading [--sweep]`.

The FASTA is made of the real genomes in $GENOME_LM_TEST_GENOMES, or of random DNA where there are none, repeated with
mutations up to 64 Mbp. Both sides read the same windows in turn, A B A B, in one process and on one thread, with the
files in the system's cache; the rate is that of the median round by the thread's CPU time, which other processes
disturb less than wall time. pyfaidx reads its fastest way (`as_raw`), "letters" as text, "tokens" made into the token
ids that a model takes, by `bytes.translate`; the store gives token ids, of a genome that was read before. "plain"
keeps a byte a base (genomes up to 268 Mbp), "packed" four bases a byte (up to 4.3 Gbp, a human genome), "chunks" 1/16
of the genome (those that are larger yet).
`--sweep` does so for stores of several chunk and shard sizes.
"""

import argparse
import gzip
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyfaidx

from genome_lm.alphabet import LETTER_TO_TOKEN
from genome_lm.genome import GenomeStore, build, build_store

GENOMES = Path(os.environ.get("GENOME_LM_TEST_GENOMES", "/work/shared/genomes"))
TABLE = LETTER_TO_TOKEN.tobytes()
BASES = 64_000_000
LENGTHS = {1_000: 256, 32_000: 8, 1_000_000: 1}
"""Windows of each length in a round: about the 262,144 bases of a training step."""


class Row(NamedTuple):
    """Rates in bases a second: pyfaidx to letters and to token ids, the store by what it keeps in memory."""

    length: int
    letters: float
    tokens: float
    plain: float
    packed: float
    chunks: float

    def __str__(self) -> str:
        rates = " ".join(f"{rate / 1e6:8,.0f}" for rate in self[1:])
        return f"{self.length:9,} {rates}  " + "".join(f"{rate / self.tokens:6.1f} ×" for rate in self[3:])


def compare(fasta: Path, store: Path, rounds: int = 60, seed: int = 0) -> list[Row]:
    """Rates of pyfaidx and of the store with several sizes of memory, on the same random windows."""
    indexed, plain = pyfaidx.Fasta(str(fasta), as_raw=True), GenomeStore(store)
    packed, chunks = (GenomeStore(store, cache_bytes=plain.bases // part) for part in (2, 16))
    for start in range(0, plain.bases, 1_000_000):  # training has read the whole genome after its first steps
        for opened in (plain, packed):
            opened.fetch_many(*_windows(plain, np.array([start]), 1_000_000), 1_000_000)
    generator, rows = np.random.default_rng(seed), []
    for length, count in LENGTHS.items():
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            contigs, starts = _windows(plain, generator.integers(0, plain.bases, count), length)
            names = [plain.contigs.names[contig] for contig in contigs]
            places = [(name, start, start + length) for name, start in zip(names, starts.tolist(), strict=True)]
            ways: dict[str, Callable[[], object]] = {
                "letters": lambda places=places: [indexed[name][start:end] for name, start, end in places],
                "tokens": lambda places=places: np.stack(
                    [_tokens(indexed[n][start:end]) for n, start, end in places]
                ),
                "plain": lambda c=contigs, s=starts, n=length: plain.fetch_many(c, s, n),
                "packed": lambda c=contigs, s=starts, n=length: packed.fetch_many(c, s, n),
                "chunks": lambda c=contigs, s=starts, n=length: chunks.fetch_many(c, s, n),
            }
            for name, way in ways.items():
                since = time.thread_time()
                way()
                seconds[name].append(time.thread_time() - since)
        rates = {name: count * length / statistics.median(times) for name, times in seconds.items()}
        rows.append(Row(length, **rates))
    return rows


def _tokens(letters: str) -> np.ndarray:
    return np.frombuffer(letters.encode().translate(TABLE), dtype=np.uint8)


def _windows(store: GenomeStore, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows near these positions of the concatenated sequence that lie within a contig."""
    contigs = np.searchsorted(store.contigs.starts, positions, side="right") - 1
    starts = positions - store.contigs.starts[contigs]
    return contigs, np.minimum(starts, store.contigs.lengths[contigs] - length)


def make_fasta(path: Path, bases: int = BASES, seed: int = 0) -> None:
    """A FASTA of at least so many bases in few contigs."""
    generator, written = np.random.default_rng(seed), 0
    real = np.frombuffer(b"".join(_real_contigs()), dtype=np.uint8)
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    if not len(real):
        real = letters[generator.integers(0, 4, 8_000_000)]
    with path.open("wb") as file:
        while written < bases:
            dna = real.copy()
            mutated = np.flatnonzero((generator.random(len(dna)) < 0.05) & (dna != ord("N")))
            dna[mutated] = letters[generator.integers(0, 4, len(mutated))]
            dna = dna[: len(dna) // 80 * 80]
            lines = np.pad(dna.reshape(-1, 80), ((0, 0), (0, 1)), constant_values=ord("\n"))
            file.write(b">copy_%d\n" % written + lines.tobytes())
            written += len(dna)


def _real_contigs() -> Iterator[bytes]:
    for source in sorted(GENOMES.glob("*.fa.gz")):
        yield b"".join(line.strip() for line in gzip.open(source) if not line.startswith(b">"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sweep", action="store_true", help="several chunk and shard sizes")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    sizes = [(build.CHUNK, build.SHARD)]
    if arguments.sweep:
        sizes = [(chunk << 10, 64 << 20) for chunk in (4, 8, 16, 32, 64, 256)] + [(build.CHUNK, 4 << 20)]
    with tempfile.TemporaryDirectory() as name:
        fasta, store = Path(name) / "genome.fa", Path(name) / "genome.zarr"
        make_fasta(fasta)
        print("    bases  letters   tokens    plain   packed   chunks   Mbases/s; the last three against tokens")
        for build.CHUNK, build.SHARD in sizes:
            bases = build_store([fasta], store).bases
            stored = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
            print(f"chunk {build.CHUNK >> 10} KiB, shard {build.SHARD >> 20} MiB: {stored / bases:.4f} bytes a base")
            print(*compare(fasta, store, arguments.rounds), sep="\n", flush=True)


if __name__ == "__main__":
    main()
