"""Scoring a VCF as a job: in parts, resumable, in shards if so wished."""

import contextlib
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from genome_lm import __version__
from genome_lm.dataset.consequences import Consequences
from genome_lm.errors import GenomeLMError
from genome_lm.files import sha256
from genome_lm.formats.arrow import texts_array
from genome_lm.formats.parts import job_id, parts_folder, read_part, working_in
from genome_lm.formats.tables import save_frames
from genome_lm.formats.vcf import Record, Survey, alleles_of, read_records, readable, survey_records
from genome_lm.formats.vcf_out import STDOUT, check_survey, check_vcf_name, info_of, scored, scored_header, write_vcf
from genome_lm.formats.vcf_shards import Shard, table_facts
from genome_lm.genome import GenomeStore
from genome_lm.genome.classes import BaseClasses
from genome_lm.genome.variants import CALIBRATED, EFFECTS, Variant, VariantScores
from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.inference.model import GenomeLM
from genome_lm.inference.readouts import Readouts
from genome_lm.inference.variants import Layout, score_variants
from genome_lm.jobs.calibration import FEWEST, Calibration, backgrounds_of
from genome_lm.jobs.run import Advance, Job, identity_of, run_job, shard_range
from genome_lm.optional import require
from genome_lm.strands import Strands

if TYPE_CHECKING:
    import pandas as pd

RECORDS = 2_000
"""Records of a part at most."""
PART_POSITIONS = 1 << 19
"""Positions of a strand that go through the model for a part, about: what a killed job has to do again."""
PART_WINDOWS = 8
"""Windows of a part at least, about: those at its ends may be read for the next one as well."""

_PLACES = ("contig", "start", "id", "ref", "alt")
"""The first columns of a table of alleles; `start` is 0-based."""


class VcfSummary(NamedTuple):
    """What became of a VCF.

    Attributes:
        out: The file written; - is standard output.
        records: Records of it.
        alleles: ALT alleles; a record without ALT counts as one.
        scored: Alleles with a score.
        skipped: Alleles without one, by reason (`genome_lm.inference.REASONS`).
        first_mismatch: The first record whose REF is not what the genome has, "" if there is none.
        was_sorted: Whether the records came in the order of the genome; if not, they were sorted.
        resumed: Parts that were there from an earlier run.
        parts: Parts in all.
    """

    out: str
    records: int
    alleles: int
    scored: int
    skipped: dict[str, int]
    first_mismatch: str
    was_sorted: bool
    resumed: int
    parts: int


@dataclass(frozen=True)
class VcfRequest:
    """Which variants are scored, how, and where to.

    Attributes:
        vcf: VCF or BCF, plain, gzip or bgzip, or a pipe; - is standard input.
        out: .vcf.gz; the index goes beside it.
        context: See `Layout.of`.
        flank: See `Layout.of`.
        stride: See `Layout.of`.
        strand: As in `score_variants`.
        readouts: Keys of `READOUTS`; "llr" is always given.
        layer: See `Readouts`.
        table: .tsv or .parquet, of a shard .parquet; a row for each allele, in the order of the input.
        classes: BED file of the classes of the genome's bases, for `calibrate`.
        calibrate: Random variants that each score is compared with; see `Calibration`.
        seed: Of these.
        annotation: GFF3 or GTF file, for the consequences of the variants; see `Consequences`.
        annotation_names: Its names of contigs → the genome's, where they differ.
        annotation_pattern: As `pattern` of `read_annotation`.
        rename: From the VCF's contig names to the genome's; the records keep theirs.
        checkpoint: Name of the model, for the header.
        batch_tokens: As in `score_variants`.
        shard: (i, n) scores the i-th of n parts of the records alone, 1 ≤ i ≤ n; see `gather_vcf`, `gather_tables`.
        force: Throw away what another unfinished job left.
    """

    vcf: Path
    out: Path
    context: int | None = None
    flank: int | None = None
    stride: int | None = None
    strand: Strands = "both"
    readouts: tuple[str, ...] = ("llr",)
    layer: int | None = None
    table: Path | None = None
    classes: Path | None = None
    calibrate: int | None = None
    seed: int = 0
    annotation: Path | None = None
    annotation_names: dict[str, str] | None = None
    annotation_pattern: str | None = None
    rename: Callable[[str], str] = str
    checkpoint: str = ""
    batch_tokens: int = BATCH_TOKENS
    shard: tuple[int, int] | None = None
    force: bool = False


def score_vcf(model: GenomeLM, store: GenomeStore, request: VcfRequest) -> VcfSummary:
    """Score a VCF and write it with the scores in INFO, whole or not at all; see `write_vcf`.

    Records that can't be scored pass through with a reason. Those of an unsorted file are sorted, in memory. What is
    done lies in a folder beside the output, OUT.parts, until the end. If the job is killed, calling this again goes
    on with what is missing.

    Returns:
        What was scored and what was not.

    Raises:
        GenomeLMError: If the VCF can't be read (the record is named), none of its contigs is in the genome, most of
            its REFs are not what the genome has, parts of another job are there, or it can't be written.
    """
    check_vcf_name(request.out)
    layout = Layout.of(model.config, request.context, request.flank, request.stride)
    readouts = Readouts.of(request.readouts, request.layer, model.config)
    with _folder(request.out) as folder, readable(request.vcf, folder) as path:
        survey = survey_records(path, request.vcf, store, request.rename, layout.stride)
        survey.check(request.vcf)
        check_survey(request.out, survey, path, request.vcf)
        inside = shard_range(survey.records, *request.shard) if request.shard else range(survey.records)
        rows = _rows(survey, len(inside), layout)
        records_of = partial(_records_of_parts, path, request.vcf, inside, rows)
        of_scores: dict[str, Any] = {
            "genome": store.provenance,
            "strand": request.strand,
            "layout": asdict(layout),
        }
        calibration = _calibration(model, store, request, layout, of_scores)
        identity = identity_of(
            model.model,
            **of_scores,
            annotation=_annotation_facts(request),
            calibration=None if calibration is None else calibration.facts,
            readouts={"names": list(readouts.names), "layer": readouts.layer},
            input_sha256=survey.digest.hexdigest(),
        )
        shard = None
        if request.shard is not None:
            shard = Shard(*request.shard, survey.records, survey.is_sorted, job_id(identity))
        identity |= {"columns": request.table is not None, "rows": rows}
        alleles_per_record = survey.alleles / max(1, survey.records)
        work = [alleles_per_record * records for records in rows]
        options: dict[str, Any] = {
            "strand": request.strand,
            "batch_tokens": request.batch_tokens,
            "readouts": readouts,
        }
        score = partial(score_variants, model.model, store, layout=layout, **options)
        compute = partial(_tables, score, calibration, _consequences(store, request), request, records_of)
        job = Job("score", "alleles", identity, range(len(rows)), work, compute, request.shard)
        parts, resumed = run_job(job, folder, request.force)
        reasons = Counter(reason for number in job.numbers for reason in _reasons(parts.file(number)))
        rows_of = (_scored(parts.file(number), records) for number, records in records_of(job.numbers))
        header = _header(model, request, store, layout, readouts, survey, shard)
        write_vcf(request.out, header, chain.from_iterable(rows_of), survey.is_sorted, survey.furthest[0])
        if request.table is not None:
            of_parts = records_of(job.numbers)
            frames = (_allele_frame(parts.file(number), records, request.rename) for number, records in of_parts)
            nothing = require("pandas").DataFrame(columns=_PLACES)
            save_frames(request.table, frames if job.numbers else [nothing], table_facts(header))
    alleles, scored = reasons.total(), reasons.pop("", 0)
    return VcfSummary(
        out=str(request.out),
        records=len(inside),
        alleles=alleles,
        scored=scored,
        skipped=dict(reasons.most_common()),
        first_mismatch=survey.mismatch,
        was_sorted=survey.is_sorted,
        resumed=resumed,
        parts=len(rows),
    )


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """Where the parts of an output are; those of standard output don't stay."""
    with contextlib.ExitStack() as stack:
        if out == STDOUT:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genome-lm-"))) / "stdout"
        yield stack.enter_context(working_in(parts_folder(out)))


def _rows(survey: Survey, records: int, layout: Layout) -> list[int]:
    """Records of each part, by what a record costs on the average."""
    cost = survey.strides * layout.window + survey.alleles * layout.flank
    most = max(PART_POSITIONS, PART_WINDOWS * layout.window)
    size = max(1, min(RECORDS, most * survey.records // max(1, cost)))
    return [min(size, records - at) for at in range(0, records, size)]


def _records_of_parts(
    path: Path, name: Path, inside: range, rows: Sequence[int], numbers: Container[int]
) -> Iterator[tuple[int, list[Record]]]:
    """Number and records of some parts, where the records `inside` are in parts of so many `rows`."""
    records = islice(read_records(path, name), inside.start, inside.stop)
    for number, count in enumerate(rows):
        of_part = islice(records, count)
        if number not in numbers:
            deque(of_part, maxlen=0)
            continue
        if len(kept := list(of_part)) != count:
            raise GenomeLMError("the VCF changed while it was read; run the same command again")
        yield number, kept


def _tables(
    score: Callable[..., VariantScores],
    calibration: Calibration | None,
    consequences: Consequences | None,
    request: VcfRequest,
    records_of: Callable[[Container[int]], Iterator[tuple[int, list[Record]]]],
    numbers: Sequence[int],
    advance: Advance,
) -> Iterator[Iterable[pa.Table]]:
    """The scores of parts, one part after the other."""
    for _, records in records_of(numbers):
        alleles = [alleles_of(record, request.rename) for record in records]
        flat = [allele for of_record in alleles for allele in of_record]
        scores = score(flat, advance=advance)
        if calibration is not None:
            scores = replace(scores, calibrated=calibration.calibrated(flat, scores.llr))
        if consequences is not None:
            scores = replace(scores, effects=consequences.columns(flat))
        table = _table(scores, records, alleles)
        if request.table is not None:
            sizes = np.array([0, *map(len, alleles)])
            for name, values in scores.to_frame().drop(columns="reason").items():
                of_records = pa.ListArray.from_arrays(np.cumsum(sizes).astype(np.int32), values.to_numpy())
                table = table.append_column(str(name), of_records)
        yield [table]


def _table(scores: VariantScores, records: list[Record], alleles: list[list[Variant]]) -> pa.Table:
    """One row per record: what is added to INFO, and per allele, between commas, why it was not scored."""
    info, why, at = [], [], 0
    for record, of_record in zip(records, alleles, strict=True):
        span = range(at, at := at + len(of_record))
        reasons = [scores.reasons[number] for number in span]
        if not record.alts and reasons == ["missing"]:
            reasons = ["no_alt"]
        info.append(info_of(scores, span, reasons))
        why.append(",".join(reasons))
    return pa.table({"info": texts_array(info), "why": texts_array(why)})


def _calibration(
    model: GenomeLM, store: GenomeStore, request: VcfRequest, layout: Layout, of_scores: dict[str, Any]
) -> Calibration | None:
    """The backgrounds that a request asks for; they are kept beside the file of classes."""
    if request.calibrate is None and request.classes is None:
        return None
    if request.calibrate is None or request.classes is None:
        raise GenomeLMError(
            "--calibrate N and --classes CLASSES.bed go together; `genome-lm genome regions` makes the classes"
        )
    if request.calibrate < FEWEST:
        raise GenomeLMError(f"--calibrate {request.calibrate}: at least {FEWEST}")
    options: dict[str, Any] = {"strand": request.strand, "batch_tokens": request.batch_tokens}
    return Calibration(
        store,
        BaseClasses.read(request.classes, store),
        request.calibrate,
        request.seed,
        backgrounds_of(request.classes),
        identity_of(model.model, **of_scores),
        lambda variants: score_variants(model.model, store, variants, layout, **options),
    )


def _consequences(store: GenomeStore, request: VcfRequest) -> Consequences | None:
    if request.annotation is None:
        return None
    names, pattern = request.annotation_names, request.annotation_pattern
    return Consequences.read(request.annotation, store, names, pattern)


def _annotation_facts(request: VcfRequest) -> list[Any] | None:
    """What consequences depend on, as JSON values."""
    if request.annotation is None:
        return None
    return [sha256(request.annotation), request.annotation_names, request.annotation_pattern]


def _header(
    model: GenomeLM,
    request: VcfRequest,
    store: GenomeStore,
    layout: Layout,
    readouts: Readouts,
    survey: Survey,
    shard: Shard | None,
) -> list[str]:
    names = {"checkpoint": request.checkpoint, "genome": store.path.name, "strand": request.strand}
    if model.condition is not None:
        names["condition"] = model.condition
    if model.model.precision != "float32":
        names["precision"] = model.model.precision
    if readouts.of_states:
        names["layer"] = "final" if readouts.layer is None else str(readouts.layer)
    values = readouts.values
    if request.calibrate is not None and request.classes is not None:
        values += tuple(CALIBRATED)
        names |= {"calibrate": str(request.calibrate), "classes": request.classes.name, "seed": str(request.seed)}
    if request.annotation is not None:
        values += tuple(EFFECTS)
        names["annotation"] = request.annotation.name
    mark = "" if shard is None else shard.header_line()
    direction = model.config.direction
    windows = {"window": layout.window} if direction.sees_following else asdict(layout)
    return scored_header(survey, {"version": __version__, **names, **windows}, values, mark, direction)


def _scored(part: Path, records: list[Record]) -> Iterator[Record]:
    """The records of a part with their scores."""
    return map(scored, records, read_part(part, ["info"])["info"].to_pylist())


def _allele_frame(part: Path, records: list[Record], rename: Callable[[str], str]) -> "pd.DataFrame":
    """The alleles of a part with their scores, a row for each."""
    table = read_part(part)
    names = [name for name in table.column_names if name not in ("info", "why")]
    rows = [
        (record.contig, record.start, record.name, record.ref, variant.alt)
        for record in records
        for variant in alleles_of(record, rename)
    ]
    places = dict(zip(_PLACES, zip(*rows, strict=True), strict=True))
    values = {name: table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in names}
    return require("pandas").DataFrame({**places, **values, "reason": list(_reasons(part))})


def _reasons(part: Path) -> Iterator[str]:
    """Why each allele of a part was not scored; "" where it was."""
    for reasons in read_part(part, ["why"])["why"].to_pylist():
        yield from reasons.split(",")
