"""What a head of tracks predicts along genomes as a job: in parts, resumable, in shards, with bounded memory."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from genome_lm.alphabet import N
from genome_lm.checkpoint import weights_sha256
from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, replacing, require_suffix
from genome_lm.formats.arrow import numbers_array, numbers_of
from genome_lm.formats.parts import finish_as, parts_folder, read_part, working_in
from genome_lm.formats.tracks import TRACKS, Region, check_track, check_track_names, write_track
from genome_lm.genome import Interval
from genome_lm.genome.contigs import Contig
from genome_lm.genome.words import is_base
from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.inference.heads import head_outputs, predictions
from genome_lm.inference.model import GenomeLM
from genome_lm.jobs.run import Advance, Job, identity_of, run_job, shard_range
from genome_lm.jobs.score_bases import PART_BASES, ScoredSequences, check_track_memory, cut_parts, merged
from genome_lm.jobs.shards import parts_of_shards, shard_path
from genome_lm.model import Bins, Head
from genome_lm.model.room import leave_room
from genome_lm.typed import Positive, Within, typed

Values = npt.NDArray[np.float32]
_UNSAFE = re.compile(r"[^\w.+-]+")


class PredictedTracks(NamedTuple):
    """What a job wrote.

    Attributes:
        paths: A file per track; the folder of a shard.
        bins: Bins that have predictions.
        resumed: Parts that were there from an earlier run.
        parts: Parts in all.
    """

    paths: list[Path]
    bins: int
    resumed: int
    parts: int


class _Place(NamedTuple):
    """Whole bins of a contig."""

    contig: str
    start: Annotated[int, Within(0, 2**62)]
    end: Annotated[int, Within(0, 2**62)]


class _NamedLength(NamedTuple):
    name: str
    length: Annotated[int, Within(0, 2**62)]


@dataclass(frozen=True)
class _Prediction:
    """What writing its tracks needs of the description of a job."""

    OPEN: ClassVar[bool] = True
    tracks: tuple[str, ...]
    bin: Positive
    contigs: tuple[_NamedLength, ...]
    places: tuple[tuple[_Place, ...], ...]


def predict_tracks(
    model: GenomeLM,
    sequences: ScoredSequences,
    out: Path,
    *,
    window: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    shard: tuple[int, int] | None = None,
    force: bool = False,
) -> PredictedTracks:
    """Write what a model predicts in each bin that an interval touches, as one bigWig or bedGraph file per track.

    Bins begin at multiples of their size from the start of each contig; a contig's last bases, fewer than a bin, have
    none. Windows lie on a grid too, so that the values of a bin do not depend on the intervals. Beyond the ends of a
    contig the model reads N. Bins with more than half N have no value. Strands of intervals do not count.

    What is done lies in a folder beside the output, OUT.parts, until the end. If the job is killed, calling this
    again goes on with what is missing.

    Args:
        model: Tuned to tracks.
        sequences: What is predicted along.
        out: Its end says the format. Of several tracks, the name of each comes before the end: OUT.NAME.bw.
        window: Bases that the model reads at one time, context among them; None for as many as in training.
        batch_tokens: Positions that go through the model at one time.
        shard: (i, n): predict only the i-th of n parts, to the folder that `shard_path` names.
        force: Replace outputs that are there, and what another unfinished job left.

    Raises:
        GenomeLMError: If the model has no head of tracks, the window does not fit, no interval holds a bin, parts of
            another job are there, or an output can't be written.
    """
    head, bins = _checked(model, window)
    window = window or bins.window
    check_track_names(out, None)
    check_track(out, sequences.contigs)
    outputs = track_paths(out, head.config.outputs) if shard is None else [shard_path(out, *shard)]
    for path in outputs:
        refuse_existing(path, force)
    parts = list(_parts(sequences, bins, window))
    if not parts:
        raise GenomeLMError(f"{out}: no interval holds a bin of {bins.size:,} bases")
    numbers = range(len(parts)) if shard is None else shard_range(len(parts), *shard)
    rows = [sum(place.end - place.start for place in part) // bins.size for part in parts]
    if shard is None:
        check_track_memory(out, sum(rows))
    identity = identity_of(
        model.model, head=json.dumps(head.config.to_dict()), head_sha256=weights_sha256(head),
        source=sequences.identity, window=window, rows=rows, tracks=list(head.config.outputs), bin=bins.size,
        contigs=[[contig.name, contig.length] for contig in sequences.contigs],
        places=[[list(place) for place in part] for part in parts],
    )  # fmt: skip
    compute = partial(_tables, model, head, {contig.name: contig for contig in sequences.contigs}, parts)
    job = Job("predict", "bases", identity, numbers, [count * bins.size for count in rows],
              partial(compute, (window, batch_tokens)), shard)  # fmt: skip
    with working_in(parts_folder(out if shard is None else outputs[0])) as folder:
        done, resumed = run_job(job, folder, force)
        leave_room(model.backbone)
        if shard is None:
            _write(out, identity, [done.file(number) for number in numbers])
        else:
            finish_as(folder, outputs[0])
    return PredictedTracks(outputs, sum(rows[number] for number in numbers), resumed, len(numbers))


def gather_tracks(shards: Sequence[Path], out: Path, force: bool = False) -> PredictedTracks:
    """Write the tracks of a job whose shards are all there; see `parts_of_shards`."""
    require_suffix(out, TRACKS, any_case=True)
    job, files = parts_of_shards(shards, out, partial(typed, _Prediction))
    for path in track_paths(out, job["tracks"]):
        refuse_existing(path, force)
    check_track_memory(out, sum(job["rows"]))
    return PredictedTracks(_write(out, job, files), sum(job["rows"]), 0, len(files))


def track_paths(out: Path, names: Sequence[str]) -> list[Path]:
    """The files of tracks: OUT of one, OUT.NAME.bw of several.

    Raises:
        GenomeLMError: If two would have one name.
    """
    if len(names) == 1:
        return [out]
    suffix = require_suffix(out, TRACKS, any_case=True)
    stem = out.name[: len(out.name) - len(suffix)]
    paths = [out.with_name(f"{stem}.{_UNSAFE.sub('_', name)}{out.name[len(stem) :]}") for name in names]
    if len({*paths}) < len(paths):
        raise GenomeLMError(f"{out}: two tracks would be written to one file; their names are {', '.join(names)}")
    return paths


def _checked(model: GenomeLM, window: int | None) -> tuple[Head, Bins]:
    head = model.tuned_head if model.head_names else model.head
    if head is None or (bins := head.config.bins) is None:
        raise GenomeLMError("the model was not tuned to tracks, which are what bigWig and bedGraph files are made of")
    bins.check_length("--window", window or bins.window)
    most = model.config.max_length - head.config.prompt
    if (window or bins.window) > most:
        raise GenomeLMError(f"--window {window:,}: more than the model's context of {most:,} bases")
    return head, bins


def _parts(sequences: ScoredSequences, bins: Bins, window: int) -> Iterator[list[_Place]]:
    """Places in groups that are cut where windows are."""
    lengths = {contig.name: contig.length // bins.size * bins.size for contig in sequences.contigs}
    touched = []
    for name, start, end, *_ in sequences.intervals:
        first, last = start // bins.size * bins.size, min(-(-end // bins.size) * bins.size, lengths[name])
        if first < last:
            touched.append(Interval(name, first, last))
    inner = window - 2 * bins.context
    for part in cut_parts(merged(touched, sequences.contigs), max(1, PART_BASES // inner) * inner):
        yield [_Place(*interval[:3]) for interval in part]


def _tables(
    model: GenomeLM,
    head: Head,
    contigs: dict[str, Contig],
    parts: Sequence[Sequence[_Place]],
    sizes: tuple[int, int],
    numbers: Sequence[int],
    advance: Advance,
) -> Iterator[Iterable[pa.Table]]:
    def of_part(places: Sequence[_Place]) -> Iterator[pa.Table]:
        for place in places:
            for piece in _pieces(place, head, sizes):
                values = _predicted(model, head, contigs[piece.contig], piece, sizes)
                advance(piece.end - piece.start)
                columns = enumerate(head.config.outputs)
                yield pa.table({name: numbers_array(values[:, column]) for column, name in columns})

    return (of_part(parts[number]) for number in numbers)


def _pieces(place: _Place, head: Head, sizes: tuple[int, int]) -> Iterator[_Place]:
    """A place, cut where windows are, in pieces that go through the model at one time."""
    window, batch_tokens = sizes
    assert head.config.bins is not None
    most = max(1, batch_tokens // window) * (window - 2 * head.config.bins.context)
    for at in range(place.start // most * most, place.end, most):
        yield _Place(place.contig, max(place.start, at), min(place.end, at + most))


def _predicted(model: GenomeLM, head: Head, contig: Contig, place: _Place, sizes: tuple[int, int]) -> Values:
    """(bins, tracks) of a place."""
    window, batch_tokens = sizes
    bins = head.config.bins
    assert bins is not None
    inner = window - 2 * bins.context
    first = place.start // inner * inner
    firsts = range(first, place.end, inner)
    tokens = [_padded(contig, start - bins.context, start - bins.context + window) for start in firsts]
    values = np.concatenate(predictions(head, head_outputs(model.backbone, head, tokens, batch_tokens)))
    counted = np.concatenate([is_base(ids[bins.context : bins.context + inner]) for ids in tokens])
    values[2 * counted.reshape(-1, bins.size).sum(1) < bins.size] = np.nan
    return values[(place.start - first) // bins.size :][: (place.end - place.start) // bins.size]


def _padded(contig: Contig, start: int, end: int) -> npt.NDArray[np.uint8]:
    """Token ids of [start, end), N beyond the contig."""
    tokens = np.full(end - start, N, dtype=np.uint8)
    first, last = max(0, start), min(end, contig.length)
    if first < last:
        tokens[first - start : last - start] = contig.fetch(first, last)
    return tokens


def _write(out: Path, description: dict[str, Any], files: Sequence[Path]) -> list[Path]:
    """Write one track after the other from the parts."""
    job = typed(_Prediction, description, f"{out}: job")
    contigs = {name: Contig(name, length, _no_tokens) for name, length in job.contigs}
    outputs = track_paths(out, job.tracks)
    with replacing(files=outputs) as temporaries:
        for temporary, name in zip(temporaries, job.tracks, strict=True):
            regions = _regions(job, name, contigs, files)
            for _ in write_track(temporary, [*contigs.values()], regions, sum(description["rows"])):
                pass
    return outputs


def _regions(job: _Prediction, track: str, contigs: dict[str, Contig], files: Sequence[Path]) -> Iterator[Region]:
    for places, file in zip(job.places, files, strict=True):
        values, at = numbers_of(read_part(file, [track])[track]), 0
        for name, start, end in places:
            count = (end - start) // job.bin
            yield Region(contigs[name], start, end, values[at : at + count], job.bin)
            at += count


def _no_tokens(start: int, end: int) -> npt.NDArray[np.uint8]:
    raise AssertionError("tracks are written without sequences")
