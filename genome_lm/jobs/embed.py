"""Embedding as a job: a whole input to a file, in parts, resumable, in shards if so wished."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from genome_lm.alphabet import A, N
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.files import read_blocks, refuse_existing
from genome_lm.formats.arrow import column_array, numbers_array, repeated_text
from genome_lm.formats.embeddings import check_suffix, write_parts
from genome_lm.formats.parts import Parts, column_kinds, finish_as, parts_folder, working_in
from genome_lm.inference.batches import BatchSize, check_length
from genome_lm.inference.embedding import FlankedSequence, Floats, Recipe, embed_flanked, fit_batches
from genome_lm.inference.model import GenomeLM
from genome_lm.jobs.plan import InputPlan, model_length, plan_input
from genome_lm.jobs.run import Advance, Job, identity_of, run_job, shard_range
from genome_lm.jobs.shards import parts_of_shards, shard_path
from genome_lm.jobs.sources import FastaSource, SequenceSource, Span
from genome_lm.model.room import leave_room
from genome_lm.typed import Positive, Within, typed

Items = Sequence[tuple[Span, FlankedSequence]]
"""Records of the input with what the model reads of them."""
STREAM = "stream.fa"
"""Copy of an input that comes through a pipe."""


class Embedded(NamedTuple):
    """What a job wrote.

    Attributes:
        path: The file or folder.
        records: Records in it.
        bases: Bases that were pooled.
        row_shape: Shape of a row of each layer.
        resumed: Parts that were there from an earlier run.
        parts: Parts in all.
    """

    path: Path
    records: int
    bases: int
    row_shape: tuple[int, ...]
    resumed: int
    parts: int


@dataclass(frozen=True)
class _Embedding:
    """What joining its shards needs of the description of a job."""

    OPEN: ClassVar[bool] = True
    model: ModelConfig
    layers: tuple[int | None, ...]
    row_shape: tuple[Positive, ...]
    rows: Annotated[tuple[Positive, ...], Within(1, 2**31)]
    columns: dict[str, str]


def embed_to_file(
    model: GenomeLM,
    source: SequenceSource,
    out: Path,
    recipe: Recipe,
    batch_tokens: int | None = None,
    shard: tuple[int, int] | None = None,
    force: bool = False,
) -> Embedded:
    """Embed all of an input, with bounded memory.

    What is done lies in a folder beside the output, OUT.parts, until the end. If the job is killed, calling this
    again goes on with what is missing: no record is lost or doubled. Records come in the order of the input.

    Args:
        model: The model.
        source: The input; it is looked through before anything is computed. See `FastaSource` and `GenomeSource`.
        out: .npz, .parquet, .zarr or .h5ad, see `genome_lm.formats.embeddings`.
        recipe: How to embed.
        batch_tokens: Positions of a batch; None for as many as pay off and fit.
        shard: (i, n): embed only the i-th (from 1) of n parts of the input, to the folder that `shard_path` names;
            `gather` joins them.
        force: Replace an output that is there, and what another unfinished job left.

    Returns:
        What was written.

    Raises:
        GenomeLMError: If the output is there, something is wrong with the input, the options or the place, a record
            is too long, memory does not do for one record, or the parts that are there are of another job.
    """
    check_suffix(out)
    target = out if shard is None else shard_path(out, *shard)
    refuse_existing(target, force)
    with working_in(parts_folder(target)) as folder:
        source = _readable_twice(source, folder)
        plan = _checked_plan(source, model, recipe)
        numbers = range(len(plan.parts)) if shard is None else shard_range(len(plan.parts), *shard)
        size = BatchSize.automatic(model.config, model.device) if batch_tokens is None else BatchSize(batch_tokens)
        fit_batches(model.backbone, recipe, size, model_length(plan.longest))
        job = Job(
            verb="embed",
            unit="bases",
            identity=_identity(model, source, recipe, plan),
            numbers=numbers,
            work=[part.bases for part in plan.parts],
            compute=partial(_tables, model, source, recipe, plan, size),
            shard=shard,
        )
        parts, resumed = run_job(job, folder, force)
        leave_room(model.backbone)
        if shard is None:
            write_parts(out, Parts(parts.job, [parts.file(number) for number in numbers]))
        else:
            (folder / STREAM).unlink(missing_ok=True)
            finish_as(folder, target)
    done = [plan.parts[number] for number in numbers]
    records, bases = sum(part.stop - part.first for part in done), sum(part.bases for part in done)
    return Embedded(target, records, bases, recipe.shape(model.config), resumed, len(done))


def gather(shards: Sequence[Path], out: Path, force: bool = False) -> int:
    """Join all shards of a job to one output, in the order of the input, with bounded memory; the shards stay.

    Args:
        shards: Folders that `embed_to_file` wrote, in any order.
        out: .npz, .parquet, .zarr or .h5ad.
        force: Replace an output that is there.

    Returns:
        Rows written.

    Raises:
        GenomeLMError: If a shard is missing, unfinished, there twice, or of another job.
    """
    check_suffix(out)
    refuse_existing(out, force)
    job, files = parts_of_shards(shards, out, partial(typed, _Embedding))
    parts = Parts(job, files)
    write_parts(out, parts)
    return parts.rows


def _readable_twice(source: SequenceSource, folder: Path) -> SequenceSource:
    """The source, or if it is standard input or a pipe, which can be read only once, a copy of it in the folder."""
    if not isinstance(source, FastaSource) or not source.is_stream:
        return source
    copy = folder / STREAM
    try:
        with copy.open("wb") as file:
            file.writelines(read_blocks(source.path))
    except OSError as error:
        raise GenomeLMError(f"{copy}: can't copy {source.path} there: {error.strerror or error}") from error
    return FastaSource(copy, source.tiling)


def _checked_plan(source: SequenceSource, model: GenomeLM, recipe: Recipe) -> InputPlan:
    """The plan, and no record in it that would stop the job hours later."""
    values = len(recipe.layers) * int(np.prod(recipe.shape(model.config)))
    plan = plan_input(source, values, recipe.pooling.kind == "none")
    check_length(plan.longest.id, model_length(plan.longest), model.config.max_length)
    if (bases := plan.shortest.end - plan.shortest.start) < recipe.pooling.bins:
        raise GenomeLMError(f"{plan.shortest.id}: {bases} bases can't be cut into {recipe.pooling.bins} bins")
    return plan


def _identity(model: GenomeLM, source: SequenceSource, recipe: Recipe, plan: InputPlan) -> dict[str, Any]:
    return identity_of(
        model.model,
        pool=list(recipe.pooling),
        layers=list(recipe.layers),
        strand=recipe.strand,
        row_shape=list(recipe.shape(model.config)),
        columns=column_kinds(_schema(source, recipe, model.config)),
        windows=source.tiling._asdict(),
        input_sha256=plan.sha256,
        rows=[part.rows for part in plan.parts],
    )


def _tables(
    model: GenomeLM,
    source: SequenceSource,
    recipe: Recipe,
    plan: InputPlan,
    size: BatchSize,
    numbers: Sequence[int],
    advance: Advance,
) -> Iterator[Iterable[pa.Table]]:
    """The rows of parts, one part after the other."""
    schema = _schema(source, recipe, model.config)

    def of_part(items: Items) -> Iterator[pa.Table]:
        for piece in _pieces(items, recipe, size):
            embedded = embed_flanked(model.backbone, [sequence for _, sequence in piece], recipe, size, advance)
            yield (_base_table if recipe.pooling.kind == "none" else _table)(schema, piece, embedded)

    ranges = [plan.parts[number][:2] for number in numbers]
    for (first, stop), items in zip(ranges, source.read(ranges), strict=True):
        if len(items) != stop - first:
            raise GenomeLMError("the input changed while it was read; run the same command again")
        yield of_part(items)


def _pieces(items: Items, recipe: Recipe, size: BatchSize) -> Iterator[Items]:
    """The records of a part that are embedded, and written, together.

    All of them; or without pooling, where the result of a base is as large as its state, those of a batch.
    """
    first = positions = 0
    for number, (_, sequence) in enumerate(items):
        positions += len(sequence.tokens)
        if recipe.pooling.kind == "none" and number > first and positions > size.tokens:
            yield items[first:number]
            first, positions = number, len(sequence.tokens)
    yield items[first:]


def _schema(source: SequenceSource, recipe: Recipe, config: ModelConfig) -> pa.Schema:
    """The columns of a part, what is known of records, and the embeddings."""
    text, number, fraction = pa.string(), pa.int64(), pa.float32()
    fields = [("id", text), ("contig", text)]
    if recipe.pooling.kind == "none":
        fields += [("position", number), *((name, text) for name in source.carried if name == "strand")]
    else:
        fields += [("start", number), ("end", number), *((name, text) for name in source.carried)]
        fields += [("gc_fraction", fraction), ("n_fraction", fraction)]
    layers = ["final" if layer is None else str(layer) for layer in recipe.layers]
    names = ["embedding"] if len(layers) == 1 else [f"embedding_{layer}" for layer in layers]
    vector = pa.list_(pa.float32(), math.prod(recipe.shape(config)))
    return pa.schema([*fields, *((name, vector) for name in names)])


def _table(schema: pa.Schema, items: Items, embedded: list[list[Floats]]) -> pa.Table:
    """The rows of records that are pooled: one each."""
    facts = list(schema)[: -len(embedded)]
    arrays = [column_array(_facts(field.name, items), field.type) for field in facts]
    arrays += [_lists(np.stack(rows)) for rows in embedded]
    return pa.table(arrays, schema=schema)


def _facts(name: str, items: Items) -> list[Any]:
    """A column that holds neither embedding nor position: a value for each record."""
    if name in ("id", "contig", "start", "end"):
        return [getattr(span, name) for span, _ in items]
    if name in ("gc_fraction", "n_fraction"):
        return [_fraction(name, sequence) for _, sequence in items]
    return [dict(span.carried)[name] for span, _ in items]


def _base_table(schema: pa.Schema, items: Items, embedded: list[list[Floats]]) -> pa.Table:
    """The rows of records that are not pooled: one per base. The arrays of `embedded` are not copied."""
    lengths = [span.end - span.start for span, _ in items]
    columns: list[Iterator[pa.Array]] = []
    for name in schema.names[: -len(embedded)]:
        if name == "position":
            columns.append(_positions(items))
        else:
            columns.append(chain.from_iterable(map(repeated_text, _facts(name, items), lengths)))
    columns += [map(_lists, rows) for rows in embedded]
    chunked = [pa.chunked_array(list(c), field.type) for c, field in zip(columns, schema, strict=True)]
    return pa.table(chunked, schema=schema)


def _positions(items: Items) -> Iterator[pa.Array]:
    """Where the bases of each record lie, in the order of their rows."""
    for span, _ in items:
        ahead = np.arange(span.start, span.end)
        yield numbers_array(ahead[::-1] if span.strand == "-" else ahead)


def _lists(values: Floats) -> pa.Array:
    """(n, ...) as n lists."""
    return pa.FixedSizeListArray.from_arrays(numbers_array(values.ravel()), values[0].size)


def _fraction(name: str, sequence: FlankedSequence) -> float:
    """N among the bases that are pooled, or G and C among their A, C, G and T; NaN if there are none."""
    pooled = sequence.tokens[sequence.left : len(sequence.tokens) - sequence.right]
    a, c, g, t, n = np.bincount(pooled, minlength=N + 1)[A : N + 1].tolist()
    if name == "n_fraction":
        return n / len(pooled)
    return (g + c) / (a + c + g + t) if a + c + g + t else math.nan
