"""Likelihood of each base along sequences, and how tracks (bedGraph, bigWig) and tables of means are written."""

import gzip
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import PAD, Tokens, encode, reverse_complement
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file
from genome_lm.genome import GenomeStore, Interval
from genome_lm.inference.records import Record
from genome_lm.inference.variants import Strands
from genome_lm.model import HyenaLM
from genome_lm.model.likelihood import log_likelihoods
from genome_lm.optional import require

if TYPE_CHECKING:
    import pandas as pd

Bits = npt.NDArray[np.float32]
TRACKS = (".bedgraph", ".bedgraph.gz", ".bw", ".bigwig")
BIGWIG_END = (0x888FFC26).to_bytes(4, "little")
TABLES = (".tsv", ".parquet", ".json")


class Contig(NamedTuple):
    """A sequence of which parts are read: its name, its length, and what gives the token ids of [start, end)."""

    name: str
    length: int
    fetch: Callable[[int, int], Tokens]


class Region(NamedTuple):
    """[start, end) of a contig and the bits of each base, (end − start,) float32, NaN without a prediction."""

    contig: Contig
    start: int
    end: int
    bits: Bits


class Tiling(NamedTuple):
    """How long sequences are read: windows that score `stride` bases each, after `context` bases or more."""

    context: int
    stride: int

    @classmethod
    def of(cls, config: ModelConfig, context: int | None = None, stride: int | None = None) -> "Tiling":
        """By default half of the model's context each; windows lie on a grid that is fixed to the contig.

        Raises:
            GenomeLMError: If they are out of range, or together exceed the model's context.
        """
        most = config.max_length
        if stride is None:
            stride = max(1, most // 2 if context is None else most - context)
        context = most - stride if context is None else context
        if context < 0 or stride < 1 or context + stride > most:
            raise GenomeLMError(
                f"context {context:,} and stride {stride:,}: together at most the model's {most:,} bases, stride at "
                "least 1"
            )
        return cls(context, stride)


@torch.no_grad()
def bits_per_base(
    model: HyenaLM,
    contig: Contig,
    start: int,
    end: int,
    tiling: Tiling,
    *,
    strand: Strands = "forward",
    batch_tokens: int = 32_768,
    advance: Callable[[float], None] = lambda amount: None,
) -> Bits:
    """−log2 p of each base of a region, over all tokens of the model, given the contig's bases before it.

    Args:
        model: In eval mode.
        contig: The sequence, which goes on to the left and right of the region.
        start: First base, 0-based.
        end: One after the last.
        tiling: How windows lie; a base's value does not depend on the region.
        strand: "reverse" reads the reverse complement; "both" takes the mean.
        batch_tokens: Positions that go through the model at one time; a longer window goes alone.
        advance: Told how many bases are done, on a strand.

    Returns:
        (end − start,) float32; NaN for what is not A, C, G or T, and for a first base that nothing predicts.
    """
    found = []
    if strand in ("forward", "both"):
        found.append(_strand_bits(model, contig, start, end, tiling, batch_tokens, advance))
    if strand in ("reverse", "both"):
        length, fetch = contig.length, contig.fetch
        mirrored = Contig(contig.name, length, lambda a, b: reverse_complement(fetch(length - b, length - a)))
        turned = _strand_bits(model, mirrored, length - end, length - start, tiling, batch_tokens, advance)
        found.append(turned[::-1])
    if not found:
        raise GenomeLMError(f"strand {strand!r}: use forward, reverse or both")
    one, other = found[0], found[-1]
    return np.where(np.isnan(one), other, np.where(np.isnan(other), one, (one + other) / 2)).astype(np.float32)


def _strand_bits(
    model: HyenaLM,
    contig: Contig,
    start: int,
    end: int,
    tiling: Tiling,
    batch_tokens: int,
    advance: Callable[[float], None],
) -> Bits:
    bits = np.full(end - start, np.nan, dtype=np.float32)
    device = model.backbone.embedding.weight.device
    tiles = range(start // tiling.stride, -(-end // tiling.stride))
    size = max(1, batch_tokens // (tiling.context + tiling.stride))
    for first in range(0, len(tiles), size):
        places = [
            (
                max(0, tile * tiling.stride - tiling.context),
                tile * tiling.stride,
                min(end, (tile + 1) * tiling.stride),
            )
            for tile in tiles[first : first + size]
        ]
        ids = np.full((len(places), max(right - left for left, _, right in places)), PAD, dtype=np.int64)
        for row, (left, _, right) in zip(ids, places, strict=True):
            row[: right - left] = contig.fetch(left, right)
        batch = torch.from_numpy(ids).to(device)
        values = (-log_likelihoods(model(batch), batch) / math.log(2)).cpu().numpy()
        for row, (left, middle, right) in zip(values, places, strict=True):
            begin = max(start, middle)
            bits[begin - start : right - start] = row[begin - left : right - left]
            advance(right - begin)
    return bits


def fasta_contigs(records: Iterable[Record]) -> tuple[list[Contig], list[Interval]]:
    """Records of a FASTA file as contigs, and an interval over the whole of each.

    Raises:
        GenomeLMError: On a name that stands there twice, or a letter that is not DNA.
    """
    contigs: dict[str, Contig] = {}
    for record in records:
        if record.id in contigs:
            raise GenomeLMError(f"record {record.id} stands there twice; give the records names of their own")
        tokens = encode(record.sequence, record.id)
        contigs[record.id] = Contig(record.id, len(tokens), lambda a, b, tokens=tokens: tokens[a:b])  # type: ignore[misc]
    return list(contigs.values()), [Interval(name, 0, contig.length, name) for name, contig in contigs.items()]


def sha256_of(contigs: Sequence[Contig]) -> str:
    """Digest of names and token ids, hexadecimal."""
    digest = hashlib.sha256()
    for contig in contigs:
        digest.update(f">{contig.name} {contig.length}\n".encode())
        digest.update(contig.fetch(0, contig.length).tobytes())
    return digest.hexdigest()


def genome_contigs(store: GenomeStore) -> list[Contig]:
    """The contigs of a genome."""
    return [
        Contig(name, int(length), lambda a, b, name=name: store.fetch(name, a, b))  # type: ignore[misc]
        for name, length in zip(store.contigs.names, store.contigs.lengths, strict=True)
    ]


def merged(intervals: Sequence[Interval], contigs: Sequence[Contig]) -> list[Interval]:
    """What intervals cover, in the order of the contigs, each base once."""
    rank = {contig.name: number for number, contig in enumerate(contigs)}
    covered: list[Interval] = []
    for contig, start, end, _ in sorted(intervals, key=lambda interval: (rank[interval.contig], interval.start)):
        if covered and covered[-1].contig == contig and start <= covered[-1].end:
            covered[-1] = covered[-1]._replace(end=max(end, covered[-1].end))
        else:
            covered.append(Interval(contig, start, end))
    return covered


def check_track_names(track: Path | None, table: Path | None) -> None:
    """Raise a `GenomeLMError` if an output's name does not say which format is meant, or that can't be written."""
    if track is not None and not track.name.lower().endswith(TRACKS):
        raise GenomeLMError(f"{track}: the format is told by the name; end it in {', '.join(TRACKS)}")
    if track is not None and _is_bigwig(track):
        require("pyBigWig")
    if table is not None and table.suffix not in TABLES:
        raise GenomeLMError(f"{table}: the format is told by the name; end it in {', '.join(TABLES)}")
    if table is not None:
        require("pandas")


def write_track(path: Path, contigs: Sequence[Contig], found: Iterator[Region]) -> Iterator[Region]:
    """Write a track, whole or not at all, as regions pass through: bedGraph, or bigWig by the name's end.

    Bases without a value are left out.

    Yields:
        The regions; the file takes its place when all are taken.
    """
    with replacing_file(path) as temporary:
        if _is_bigwig(path):
            bases = 0
            with require("pyBigWig").open(str(temporary), "w") as wig:
                wig.addHeader([(contig.name, contig.length) for contig in contigs])
                for region in found:
                    for start, values in _runs(region):
                        wig.addEntries(region.contig.name, start, values=values, span=1, step=1)
                        bases += len(values)
                    yield region
            if not _is_whole(temporary, bases):
                raise GenomeLMError(f"{path}: can't write: the file came out cut off: No space left on device?")
        else:
            opened = gzip.open(temporary, "wt") if path.suffix == ".gz" else temporary.open("w")
            with opened as file:
                for region in found:
                    _write_bedgraph(file, region)
                    yield region


def _is_bigwig(path: Path) -> bool:
    return path.name.lower().endswith((".bw", ".bigwig"))


def _is_whole(path: Path, bases: int) -> bool:
    """Whether a bigWig file has all bases and the mark at its end: pyBigWig raises nothing where there is no room."""
    try:
        with require("pyBigWig").open(str(path)) as wig, path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == BIGWIG_END and wig.header()["nBasesCovered"] == bases
    except (RuntimeError, OSError):
        return False


def _runs(region: Region) -> Iterator[tuple[int, Bits]]:
    """Runs of bases that have a value: first position and values."""
    known = np.flatnonzero(~np.isnan(region.bits))
    for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        if len(run):
            yield region.start + int(run[0]), region.bits[run[0] : run[-1] + 1]


def _write_bedgraph(file: TextIO, region: Region) -> None:
    for start, values in _runs(region):
        name = region.contig.name
        file.writelines(
            f"{name}\t{start + i}\t{start + i + 1}\t{value:.5g}\n" for i, value in enumerate(values.tolist())
        )


def summarise(intervals: Sequence[Interval], found: Iterator[Region]) -> "pd.DataFrame":
    """A row an interval, in their order: id, contig, start, end, bases with a value, their bits and mean bits.

    Args:
        intervals: What to sum up.
        found: Regions that cover all of them, none of them twice; an interval may span several.
    """
    bases, bits = np.zeros(len(intervals), dtype=np.int64), np.zeros(len(intervals))
    places = _by_contig(intervals)
    for region in found:
        numbers, starts, ends = places[region.contig.name]
        # The furthest end so far rises with the starts: what overlaps is between the two.
        some = slice(
            np.searchsorted(np.maximum.accumulate(ends), region.start, "right"), np.searchsorted(starts, region.end)
        )
        span = [np.clip(edges[some] - region.start, 0, len(region.bits)) for edges in (starts, ends)]
        known = ~np.isnan(region.bits)
        for sums, values in ((bases, known), (bits, np.where(known, region.bits, 0))):
            before = np.concatenate([[0], np.cumsum(values, dtype=sums.dtype)])
            sums[numbers[some]] += before[span[1]] - before[span[0]]
    table: pd.DataFrame = require("pandas").DataFrame(intervals, columns=["contig", "start", "end", "id"])
    table["id"] = [name or f"{contig}:{start}-{end}" for contig, start, end, name in intervals]
    table["bases"], table["bits"] = bases, bits
    table["bits_per_base"] = np.divide(bits, bases, out=np.full(len(bits), np.nan), where=bases > 0)
    return table[["id", "contig", "start", "end", "bases", "bits", "bits_per_base"]]


def _by_contig(intervals: Sequence[Interval]) -> dict[str, tuple[npt.NDArray[np.int64], ...]]:
    """For each contig its intervals by their starts: numbers, starts and ends."""
    order = sorted(range(len(intervals)), key=lambda number: intervals[number][:2])
    return {
        contig: tuple(np.array([(number, *intervals[number][1:3]) for number in numbers]).T)
        for contig, numbers in groupby(order, key=lambda number: intervals[number].contig)
    }


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as .tsv, .parquet or .json, whole or not at all."""
    with replacing_file(path) as temporary:
        if path.suffix == ".tsv":
            table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")
        elif path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_json(temporary, orient="records", indent=1)
