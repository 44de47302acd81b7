"""Scoring a VCF as a job: in parts, resumable, in shards if so wished."""

import shutil
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from genome_lm import __version__
from genome_lm.checkpoint import weights_sha256
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore
from genome_lm.inference.parts import PARTS, PartsFolder, open_parts, working_in
from genome_lm.inference.variants import Layout, Strands, Variant, VariantScores, score_variants
from genome_lm.inference.vcf import (
    Survey,
    alleles_of,
    check_vcf_name,
    info_of,
    read_records,
    readable,
    scored_header,
    scored_line,
    survey_records,
    write_vcf,
)
from genome_lm.inference.vcf_shards import Shard
from genome_lm.model import HyenaLM
from genome_lm.progress import progress

if TYPE_CHECKING:
    import pysam

RECORDS = 2_000
"""Records of a part at most."""
PART_POSITIONS = 1 << 19
"""Positions of a strand that go through the model for a part, about: what a killed job has to do again."""
PART_WINDOWS = 8
"""Windows of a part at least, about: those at its ends may be read for the next one as well."""


@dataclass(frozen=True)
class VcfSummary:
    """What became of a VCF.

    Attributes:
        out: The file written.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def score_vcf(
    model: HyenaLM,
    store: GenomeStore,
    vcf: Path,
    out: Path,
    layout: Layout,
    *,
    checkpoint: str = "",
    rename: Callable[[str], str] = lambda name: name,
    strand: Strands = "both",
    batch_tokens: int = 32_768,
    shard: tuple[int, int] = (1, 1),
    force: bool = False,
) -> VcfSummary:
    """Score a VCF and write it with the scores in INFO, bgzip-compressed and indexed, whole or not at all.

    Records that can't be scored pass through with a reason. Those of an unsorted file are sorted, in memory. What is
    done lies in a folder beside the output, OUT.parts, until the end: if the job is killed, calling this again goes
    on with what is missing.

    Args:
        model: In eval mode.
        store: The genome.
        vcf: VCF or BCF, plain, gzip or bgzip, or a pipe; - is standard input.
        out: .vcf.gz; the index goes beside it.
        layout: How windows lie.
        checkpoint: Name of the model, for the header.
        rename: From the VCF's contig names to the genome's; the records keep theirs.
        strand: As in `score_variants`.
        batch_tokens: As in `score_variants`.
        shard: (i, n) scores the i-th of n parts of the records alone, 1 ≤ i ≤ n; see `gather_vcf`.
        force: Throw away what another unfinished job left.

    Returns:
        What was scored and what was not.

    Raises:
        GenomeLMError: If the VCF can't be read (the record is named), none of its contigs is in the genome, most of
            its REFs are not what the genome has, parts of another job are there, or it can't be written.
    """
    check_vcf_name(out)
    folder = out.with_name(out.name + PARTS)
    with working_in(folder), readable(vcf, folder) as path:
        survey = survey_records(path, vcf, store, rename, layout.stride)
        survey.check(vcf, store)
        first, stop = (survey.records * part // shard[1] for part in (shard[0] - 1, shard[0]))

        def records() -> Iterator["pysam.VariantRecord"]:
            return islice(read_records(path, vcf), first, stop)

        job: dict[str, Any] = {
            "version": __version__,
            "model": model.config.to_dict(),
            "weights_sha256": weights_sha256(model),
            "genome": store.provenance,
            "strand": strand,
            "layout": asdict(layout),
            "input_sha256": survey.sha256,
            "rows": _rows(survey, stop - first, layout),
        }
        parts = open_parts(folder, job, None if shard == (1, 1) else shard, force)
        missing = {number for number in range(len(job["rows"])) if not parts.has(number)}
        with progress("score", 0, "alleles") as bar:
            of_record = survey.alleles / max(1, survey.records) * (2 if strand == "both" else 1)
            left = sum(job["rows"][number] for number in missing)
            bar.start(of_record * (stop - first - left), of_record * (stop - first))
            options: dict[str, Any] = {"strand": strand, "batch_tokens": batch_tokens, "advance": bar.advance}
            for number, some in _of_parts(records(), parts, missing):
                alleles = [alleles_of(record, rename) for record in some]
                flat = [allele for of in alleles for allele in of]
                parts.write(number, _table(score_variants(model, store, flat, layout, **options), some, alleles))
        counts: Counter[str] = Counter()
        mark = "" if shard == (1, 1) else Shard(*shard, survey.records, survey.is_sorted).header_line()
        settings = {"version": __version__, "checkpoint": checkpoint, "genome": store.path.name, "strand": strand}
        header = scored_header(survey.header, {**settings, **asdict(layout)}, mark)
        write_vcf(out, header, _lines(records(), parts, counts), survey.contigs, survey.is_sorted)
        shutil.rmtree(folder)
    scored = counts.pop("", 0)
    skipped = dict(counts.most_common())
    return VcfSummary(
        out=str(out),
        records=stop - first,
        alleles=scored + sum(skipped.values()),
        scored=scored,
        skipped=skipped,
        first_mismatch=survey.mismatch,
        was_sorted=survey.is_sorted,
        resumed=len(job["rows"]) - len(missing),
        parts=len(job["rows"]),
    )


def _rows(survey: Survey, records: int, layout: Layout) -> list[int]:
    """Records of each part, by what a record costs on the average."""
    cost = survey.strides * layout.window + survey.alleles * layout.flank
    most = max(PART_POSITIONS, PART_WINDOWS * layout.window)
    size = max(1, min(RECORDS, most * survey.records // max(1, cost)))
    return [min(size, records - at) for at in range(0, records, size)]


def _of_parts(
    records: Iterator["pysam.VariantRecord"], parts: PartsFolder, chosen: Container[int]
) -> Iterator[tuple[int, list["pysam.VariantRecord"]]]:
    """Number and records of the chosen parts."""
    for number, rows in enumerate(parts.job["rows"]):
        some = islice(records, rows)
        if number not in chosen:
            deque(some, maxlen=0)
            continue
        found = list(some)
        if len(found) != rows:
            raise GenomeLMError("the VCF changed while it was read; run the same command again")
        yield number, found


def _table(scores: VariantScores, records: list["pysam.VariantRecord"], alleles: list[list[Variant]]) -> pa.Table:
    """A row a record: its new fields of INFO, and for each allele, between commas, why it was not scored."""
    info, why, at = [], [], 0
    for record, of_record in zip(records, alleles, strict=True):
        span = range(at, at := at + len(of_record))
        reasons = [scores.reasons[number] for number in span]
        if not record.alts and reasons == ["missing"]:
            reasons = ["no_alt"]
        info.append(info_of(scores, span, reasons))
        why.append(",".join(reasons))
    return pa.table({"info": info, "why": why})


def _lines(records: Iterator["pysam.VariantRecord"], parts: PartsFolder, counts: Counter[str]) -> Iterator[str]:
    """The scored lines; reasons ("" where an allele is scored) are added to `counts` as they come."""
    for number, some in _of_parts(records, parts, range(len(parts.job["rows"]))):
        table = pq.read_table(parts.file(number)).to_pydict()
        for record, info, why in zip(some, table["info"], table["why"], strict=True):
            counts.update(why.split(","))
            yield scored_line(record, info)
