"""First touch of random windows of a genome that is not in memory: `python -m tests.measure.cold --folder DIR`.

Makes a FASTA of random DNA of `--gbp` billion bases and its store in the folder, unless they are there. Each round
opens both anew and reads the same random windows in turn, as token ids: pyfaidx as text that is translated, the store
`--batch` windows at one time, with its usual cache of 1 GiB and with one of 64 MiB. With `--chunk 32`, a store in
chunks of 32 Ki bases takes part. Before each turn, its files are
dropped from the system's cache (posix_fadvise). The order of the sides changes from round to round. Reported are
medians of wall time, of CPU time and of the bytes that the system read (`/proc/self/io`), per window.
With `--masked`, half of the bases are lower-case letters, in runs of about 1,000, and a hundredth are N. With
`--warm`, the files are read before each turn in place of being dropped: what is left is the work of the processor.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyfaidx

from genome_lm.alphabet import LETTER_TO_TOKEN
from genome_lm.genome import GenomeStore, build, build_store

TABLE = LETTER_TO_TOKEN.tobytes()
LINE = 80
CONTIG = 100_000_000
Tokens = list[npt.NDArray[np.uint8]]


def make_genome(folder: Path, bases: int, sizes: Sequence[int], masked: bool) -> tuple[Path, dict[int, Path]]:
    """A FASTA, and its stores in chunks of so many Ki bases; made unless they are there."""
    name = f"{'masked' if masked else 'random'}-{bases}"
    fasta = folder / f"{name}.fa"
    stores = {size: folder / f"{name}-{size}.zarr" for size in sizes}
    generator, letters = np.random.default_rng(0), np.frombuffer(b"ACGT", dtype=np.uint8)
    if not fasta.exists():
        partial = fasta.with_suffix(".partial")
        with partial.open("wb") as file:
            for number in range(bases // CONTIG):
                lines = letters[generator.integers(0, 4, (CONTIG // LINE, LINE), dtype=np.uint8)]
                if masked:
                    lines[: CONTIG // LINE // 100] = ord("N")
                    edges = np.bincount(generator.integers(0, CONTIG, CONTIG // 1_000), minlength=CONTIG)
                    lines |= (np.cumsum(edges) % 2 * 0x20).astype(np.uint8).reshape(lines.shape)
                file.write(b">c%d\n" % number + np.pad(lines, ((0, 0), (0, 1)), constant_values=10).tobytes())
        partial.rename(fasta)
    for size, store in stores.items():
        if not store.exists():
            with patch.object(build, "CHUNK", size << 10):
                build_store([fasta], store)
    pyfaidx.Fasta(str(fasta))  # makes the index
    return fasta, stores


def files(path: Path) -> list[Path]:
    """The file, or all in a folder."""
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def keep(path: Path) -> None:
    """Have the system read a file, or all in a folder, into its cache."""
    for file in files(path):
        with file.open("rb") as content:
            while content.read(1 << 24):
                pass


def drop(path: Path) -> None:
    """Have the system forget the pages of a file, or of all in a folder."""
    for file in files(path):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read_bytes() -> int:
    """Bytes that this process had the system read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def from_store(
    store: GenomeStore, contigs: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], length: int, batch: int
) -> Tokens:
    """Token ids of windows, so many at a time; single ones by `fetch`, as from_fasta does."""
    if batch == 1:
        names = store.contigs.names
        places = zip(contigs.tolist(), starts.tolist(), strict=True)
        return [store.fetch(names[contig], start, start + length) for contig, start in places]
    parts = (slice(i, i + batch) for i in range(0, len(starts), batch))
    return [row for part in parts for row in store.fetch_many(contigs[part], starts[part], length)]


def from_fasta(indexed: pyfaidx.Fasta, places: list[tuple[str, int]], length: int) -> Tokens:
    """The same by pyfaidx."""
    texts = (indexed[name][start : start + length] for name, start in places)
    return [np.frombuffer(text.encode().translate(TABLE), dtype=np.uint8) for text in texts]


def measure(fasta: Path, stores: dict[int, Path], options: argparse.Namespace) -> dict[str, list[float]]:
    """Of each side: median wall and CPU microseconds, and bytes read, per window."""
    length, count, batch = options.length, options.windows, options.batch
    usual_chunk = build.CHUNK >> 10
    store = stores[usual_chunk]
    generator, contigs = np.random.default_rng(1), len(GenomeStore(store))
    spent: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for number in range(options.rounds):
        numbers, starts = generator.integers(0, contigs, count), generator.integers(0, CONTIG - length, count)
        usual, small = GenomeStore(store), GenomeStore(store, cache_bytes=64 << 20)
        indexed = pyfaidx.Fasta(str(fasta), as_raw=True)
        places = list(zip((usual.contigs.names[n] for n in numbers), starts.tolist(), strict=True))
        sides: dict[str, tuple[Path, Callable[[], Tokens]]] = {
            "genome-lm": (store, partial(from_store, usual, numbers, starts, length, batch)),
            "genome-lm, 64 MiB": (store, partial(from_store, small, numbers, starts, length, batch)),
            **{
                f"in chunks of {size} Ki": (
                    other,
                    partial(from_store, GenomeStore(other), numbers, starts, length, batch),
                )
                for size, other in stores.items()
                if size != usual_chunk
            },
            "pyfaidx": (fasta, partial(from_fasta, indexed, places, length)),
        }
        results = []
        for name in list(sides)[:: 1 if number % 2 else -1]:
            path, read = sides[name]
            (keep if options.warm else drop)(path)
            before, wall, cpu = read_bytes(), time.perf_counter(), time.thread_time()
            results.append(read())
            spent[name].append((time.perf_counter() - wall, time.thread_time() - cpu, read_bytes() - before))
        assert all(np.array_equal(result, results[0]) for result in results)
    return {
        name: [statistics.median(column) / count for column in zip(*rows, strict=True)]
        for name, rows in spent.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the genome is made")
    parser.add_argument("--gbp", type=float, default=2.0)
    parser.add_argument("--length", type=int, default=1_000)
    parser.add_argument("--windows", type=int, default=1_000, help="of a round")
    parser.add_argument("--batch", type=int, default=256, help="windows that the store is asked for at one time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chunk", type=int, nargs="*", default=[], help="Ki bases of a chunk of another store")
    parser.add_argument("--masked", action="store_true", help="a genome with N and lower-case letters")
    parser.add_argument("--warm", action="store_true", help="with the files in the system's cache")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    sizes = [build.CHUNK >> 10, *options.chunk]
    fasta, stores = make_genome(options.folder, int(options.gbp * 1e9), sizes, options.masked)
    figures = measure(fasta, stores, options)
    for name, (wall, cpu, size) in figures.items():
        print(f"{name:20} {wall * 1e6:8.1f} µs  CPU {cpu * 1e6:8.1f} µs  {size / 1e3:8.1f} kB read  per window")
    theirs = figures["pyfaidx"]
    for name in list(figures):
        if name != "pyfaidx":
            wall, cpu = theirs[0] / figures[name][0], theirs[1] / figures[name][1]
            print(f"pyfaidx takes {wall:.2f} times the time of {name}, {cpu:.2f} times its processor time")


if __name__ == "__main__":
    main()
