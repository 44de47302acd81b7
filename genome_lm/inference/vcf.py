"""VCF in, scored VCF out: the records as they were, with the scores in INFO.

pysam reads and validates the records; they are written as text with the new fields appended, because htslib ends the
process when it translates a record that uses an undeclared tag, of which real files have many.
"""

import contextlib
import gzip
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pysam

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file
from genome_lm.genome import GenomeStore
from genome_lm.inference.variants import (
    REASONS,
    Layout,
    Strands,
    Variant,
    VariantScores,
    score_variants,
    why_not,
)
from genome_lm.model import HyenaLM
from genome_lm.progress import progress

ContigNames = Literal["as-is", "add-chr", "strip-chr"]
RECORDS = 2_000
"""Records that are scored and written at one time."""
LARGEST_TBI = 1 << 29
"""A contig of this many bases or more needs a CSI index."""
SETTINGS, SHARD = "##genome_lm_score=", "##genome_lm_shard="
PREFIX = "GLM_"

_NATS = "in nats, over all tokens of the model"
_FIELDS = {
    "LLR": ("A", "Float", f"ln p(ALT window) - ln p(REF window), {_NATS}, mean of the strands"),
    "LLR_FWD": ("A", "Float", "the same on the forward strand"),
    "LLR_REV": ("A", "Float", "the same on the reverse complement"),
    "LP_FWD": ("4", "Float", "ln p of A, C, G and T at POS, given the reference before it"),
    "LP_REV": ("4", "Float", "ln p of A, C, G and T (letters of the forward strand) at POS, given what follows it"),
    "CTX": ("2", "Integer", "bases of context read before the variant: forward, reverse complement"),
    "N_FWD": ("A", "Integer", "bases compared on the forward strand, from the variant's first on"),
    "N_REV": ("A", "Integer", "bases compared on the reverse complement"),
    "SKIP": (".", "String", "why an ALT was not scored: " + "; ".join(f"{key}: {REASONS[key]}" for key in REASONS)),
}


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
    """

    out: str
    records: int
    alleles: int
    scored: int
    skipped: dict[str, int]
    first_mismatch: str
    was_sorted: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def read_contig_map(path: Path) -> dict[str, str]:
    """Read a table of contig names, a line each: the VCF's name, a tab, the genome's.

    Raises:
        GenomeLMError: If it can't be read, or a line has not two columns or gives a name a second meaning.
    """
    names: dict[str, str] = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GenomeLMError(f"{path}: can't read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise GenomeLMError(f"{path}: line {number}: expected two names between a tab, found {line[:60]!r}")
        if names.setdefault(fields[0], fields[1]) != fields[1]:
            raise GenomeLMError(f"{path}: line {number}: {fields[0]} stands there a second time")
    return names


def renaming(contig_names: ContigNames = "as-is", contig_map: dict[str, str] | None = None) -> Callable[[str], str]:
    """The function from a VCF's contig name to the genome's; names that a map lacks stay as they are.

    Raises:
        GenomeLMError: On an unknown way.
    """
    if contig_map is not None:
        return lambda name: contig_map.get(name, name)
    ways: dict[str, Callable[[str], str]] = {
        "as-is": lambda name: name,
        "add-chr": lambda name: f"chr{name}",
        "strip-chr": lambda name: name.removeprefix("chr"),
    }
    if contig_names not in ways:
        raise GenomeLMError(f"contig names {contig_names!r}: use {', '.join(ways)}")
    return ways[contig_names]


def vcf_shard_path(out: Path, number: int, of: int) -> Path:
    """Where a shard of a scored VCF goes: all.vcf.gz → all.shard-1-of-4.vcf.gz."""
    return out.with_name(f"{out.name.removesuffix('.vcf.gz')}.shard-{number}-of-{of}.vcf.gz")


def check_vcf_name(out: Path) -> None:
    """Raise a `GenomeLMError` if the output's name does not end as the format does."""
    if not out.name.endswith(".vcf.gz"):
        raise GenomeLMError(f"{out}: a scored VCF is compressed and indexed; end its name in .vcf.gz")


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
) -> VcfSummary:
    """Score a VCF and write it with the scores in INFO, bgzip-compressed and indexed, whole or not at all.

    Records that can't be scored pass through with a reason. Those of an unsorted file are sorted, in memory.

    Args:
        model: In eval mode.
        store: The genome.
        vcf: VCF or BCF, plain, gzip or bgzip; - is standard input.
        out: .vcf.gz; the index goes beside it.
        layout: How windows lie.
        checkpoint: Name of the model, for the header.
        rename: From the VCF's contig names to the genome's; the records keep theirs.
        strand: As in `score_variants`.
        batch_tokens: As in `score_variants`.
        shard: (i, n) scores the i-th of n parts of the records alone, 1 ≤ i ≤ n; see `gather_vcf`.

    Returns:
        What was scored and what was not.

    Raises:
        GenomeLMError: If the VCF can't be read (the record is named), none of its contigs is in the genome, or most
            of its REFs are not what the genome has.
    """
    check_vcf_name(out)
    with _readable(vcf) as path:
        survey = _survey(path, vcf, store, rename)
        survey.check(vcf, store)
        first, stop = (survey.records * part // shard[1] for part in (shard[0] - 1, shard[0]))
        settings = {
            "version": version("genome-lm"), "checkpoint": checkpoint, "genome": store.path.name, "strand": strand,
            "context": layout.context, "flank": layout.flank, "stride": layout.stride,
        }  # fmt: skip
        order = "in the order of the genome" if survey.is_sorted else "unsorted"
        mark = "" if shard == (1, 1) else f"{SHARD}{shard[0]}/{shard[1]} of {survey.records} records, {order}"
        header = _header(survey.header, settings, mark)
        counts: Counter[str] = Counter()

        def lines() -> Iterator[str]:
            records = islice(_records(path, vcf), first, stop)
            total = survey.alleles * (stop - first) / max(1, survey.records) * (2 if strand == "both" else 1)
            with progress("score", total, "alleles") as bar:
                while some := list(islice(records, RECORDS)):
                    alleles = [_alleles(record, rename) for record in some]
                    flat = [allele for of_record in alleles for allele in of_record]
                    scores = score_variants(
                        model, store, flat, layout, strand=strand, batch_tokens=batch_tokens, advance=bar.advance
                    )
                    at = 0
                    for record, of_record in zip(some, alleles, strict=True):
                        span = range(at, at + len(of_record))
                        reasons = [_reason(record, scores.reasons[number]) for number in span]
                        counts.update(reasons)
                        yield _scored_line(record, scores, span, reasons)
                        at = span.stop

        _write(out, header, lines(), survey.contigs, survey.is_sorted)
    scored = counts.pop("", 0)
    skipped = dict(counts.most_common())
    return VcfSummary(
        str(out), stop - first, scored + sum(skipped.values()), scored, skipped, survey.mismatch, survey.is_sorted
    )


def vcf_alleles(vcf: Path) -> Iterator[tuple[str, int, str, str]]:
    """(contig, 0-based position, REF, ALT) of the records of a VCF or BCF that have one ALT.

    Raises:
        GenomeLMError: If it can't be read; the record is named.
    """
    with _readable(vcf) as path:
        for record in _records(path, vcf):
            if record.ref is not None and record.alts is not None and len(record.alts) == 1:
                yield record.chrom, record.pos - 1, record.ref, record.alts[0]


@contextlib.contextmanager
def _readable(vcf: Path) -> Iterator[Path]:
    """A path that htslib can read twice: it can't seek in plain gzip, nor in a pipe."""
    try:
        if str(vcf) == "-":
            packed = False
        else:
            with vcf.open("rb") as file:
                start = file.read(14)
            # A bgzip file is gzip with an extra field that begins with BC.
            packed = start[:2] == b"\x1f\x8b" and start[12:14] != b"BC"
            if not packed:
                yield vcf
                return
        with tempfile.TemporaryDirectory(prefix="genome-lm-") as folder:
            copy = Path(folder) / "in.vcf"
            source: Any = gzip.open(vcf) if packed else sys.stdin.buffer
            with source as file, copy.open("wb") as plain:
                shutil.copyfileobj(file, plain)
            yield copy
    except (OSError, EOFError) as error:
        raise GenomeLMError(f"{vcf}: can't read: {getattr(error, 'strerror', None) or error}") from error


def _records(path: Path, name: Path) -> Iterator["pysam.VariantRecord"]:
    with _opened(path, name) as file:
        yield from _records_of(file, name)


@contextlib.contextmanager
def _opened(path: Path, name: Path) -> Iterator["pysam.VariantFile"]:
    # htslib's own messages would stand between ours; what they say is in the errors.
    before = pysam.set_verbosity(0)
    try:
        with pysam.VariantFile(str(path)) as file:
            yield file
    except (OSError, ValueError) as error:
        raise GenomeLMError(f"{name}: not a readable VCF: {error}") from error
    finally:
        pysam.set_verbosity(before)


def _records_of(file: "pysam.VariantFile", name: Path) -> Iterator["pysam.VariantRecord"]:
    count, last = 0, "the header"
    records = iter(file)
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise GenomeLMError(
                f"{name}: record {count + 1:,} (after {last}) can't be read: {error}; is the file cut off?"
            ) from error
        count, last = count + 1, f"{record.chrom}:{record.pos}"
        yield record


class _Survey(NamedTuple):
    """A first look at all records."""

    header: str  # with what the records use undeclared
    contigs: dict[str, tuple[int, int]]  # the VCF's names: rank, and length if the header tells it, else 0
    records: int
    alleles: int
    is_sorted: bool
    reasons: Counter[str]  # what is wrong with REF or its place, by record
    strange: str  # the first contig that the genome lacks
    mismatch: str  # the first record whose REF differs

    def check(self, vcf: Path, store: GenomeStore) -> None:
        """Raise a `GenomeLMError` if this is no VCF of this genome."""
        unknown = self.reasons["unknown_contig"]
        wrong = self.reasons["ref_mismatch"] + self.reasons["outside_contig"]
        if unknown and unknown == self.records:
            raise GenomeLMError(
                f"{vcf}: none of its contigs is in {store.path}: {self.strange!r} is the VCF's first, "
                f"{store.contigs.names[0]!r} the genome's; if only the names differ, give --contig-names add-chr or "
                "strip-chr, or --contig-map with a table of both"
            )
        if 2 * wrong > self.records - unknown:
            raise GenomeLMError(
                f"{vcf}: {wrong:,} of {self.records - unknown:,} REFs are not what {store.path} has there: "
                f"{self.mismatch}; this VCF is of another assembly"
            )


def _survey(path: Path, name: Path, store: GenomeStore, rename: Callable[[str], str]) -> _Survey:
    count, alleles, is_sorted, reasons = 0, 0, True, Counter[str]()
    strange = mismatch = ""
    before, finished = ("", 0), set[str]()
    with _opened(path, name) as file:
        for record in _records_of(file, name):
            count, alleles = count + 1, alleles + max(1, len(record.alts or ()))
            if record.chrom != before[0]:
                is_sorted &= record.chrom not in finished
                finished.add(record.chrom)
            elif record.pos < before[1]:
                is_sorted = False
            before = record.chrom, record.pos
            # The longest REF is no longer than this flank, and any ALT will do.
            ref = Variant(rename(record.chrom), record.start, record.ref or "", "A")
            reason = why_not(store, ref, sys.maxsize)
            reasons[reason] += 1
            if reason == "unknown_contig":
                strange = strange or record.chrom
            elif reason in ("ref_mismatch", "outside_contig"):
                mismatch = mismatch or _mismatch(store, ref, f"{record.chrom}:{record.pos} {record.id or ''}".strip())
        contigs = {
            contig.name: (rank, contig.length or 0) for rank, contig in enumerate(file.header.contigs.values())
        }
        return _Survey(str(file.header), contigs, count, alleles, is_sorted, reasons, strange, mismatch)


def _mismatch(store: GenomeStore, variant: Variant, place: str) -> str:
    limit = int(store.contigs.lengths[store.contigs.index(variant.contig)])
    end = variant.start + len(variant.ref)
    if variant.start < 0 or end > limit:
        return f"{place} lies outside of the contig's {limit:,} bases"
    here = store[variant.contig, variant.start : end].tobytes().decode()
    return f"{place} has REF {_short(variant.ref)}, the genome {_short(here)}"


def _short(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:20]}… ({len(allele):,} bases)"


def _alleles(record: "pysam.VariantRecord", rename: Callable[[str], str]) -> list[Variant]:
    alts = record.alts or (".",)
    return [Variant(rename(record.chrom), record.start, record.ref or "", alt) for alt in alts]


def _reason(record: "pysam.VariantRecord", reason: str) -> str:
    return "no_alt" if not record.alts and reason == "missing" else reason


def _header(original: str, settings: dict[str, Any], mark: str) -> list[str]:
    """The lines of the header: the input's, less what an earlier scoring left there, and ours."""
    ours = (f"##INFO=<ID={PREFIX}", SETTINGS, SHARD)
    *lines, columns = [line for line in original.splitlines() if not line.startswith(ours)]
    for name, (number, kind, text) in _FIELDS.items():
        lines.append(f'##INFO=<ID={PREFIX}{name},Number={number},Type={kind},Description="{text}">')
    lines.append(SETTINGS + " ".join(f"{name}={value}" for name, value in settings.items()))
    return [*lines, *([mark] if mark else []), columns]


def _scored_line(record: "pysam.VariantRecord", scores: VariantScores, span: range, reasons: list[str]) -> str:
    """The record as a line of VCF with the scores of its alleles, `span` of `scores`."""
    columns = str(record).rstrip("\n").split("\t")
    kept = [field for field in columns[7].split(";") if field != "." and not field.startswith(PREFIX)]
    values: dict[str, str] = {}
    numbers = [number for number, reason in zip(span, reasons, strict=True) if not reason]
    if numbers:
        at = slice(span.start, span.stop)
        values = {
            "LLR": _joined(scores.llr[at]),
            "LLR_FWD": _joined(scores.llr_forward[at]),
            "LLR_REV": _joined(scores.llr_reverse[at]),
            "LP_FWD": _joined(_first(scores.site_forward, numbers)),
            "LP_REV": _joined(_first(scores.site_reverse, numbers)),
            "CTX": ",".join(map(str, scores.context[numbers].max(0))),
            "N_FWD": _counts(scores.scored[at, 0]),
            "N_REV": _counts(scores.scored[at, 1]),
        }
    if any(reasons):
        values["SKIP"] = ",".join(reason or "." for reason in reasons)
    columns[7] = ";".join(
        [*kept, *(f"{PREFIX}{name}={value}" for name, value in values.items() if value.strip(".,"))]
    )
    return "\t".join(columns) + "\n"


def _first(sites: npt.NDArray[np.float64], numbers: list[int]) -> npt.NDArray[np.float64]:
    """What the alleles of a record have in common, from the first one that has it."""
    known = [number for number in numbers if not np.isnan(sites[number]).any()]
    return sites[known[0] if known else numbers[0]]


def _joined(values: npt.NDArray[np.float64]) -> str:
    return ",".join("." if np.isnan(value) else f"{value:.6g}" for value in values)


def _counts(values: npt.NDArray[np.int64]) -> str:
    return ",".join(str(value) if value else "." for value in values)


def _write(
    out: Path, header: Sequence[str], lines: Iterable[str], contigs: dict[str, tuple[int, int]], is_sorted: bool
) -> None:
    """Write a compressed VCF and its index; both take their places together."""
    if not is_sorted:
        lines = sorted(lines, key=lambda line: _position(line, contigs))
    large = any(length >= LARGEST_TBI for _, length in contigs.values())
    index = out.with_name(out.name + (".csi" if large else ".tbi"))
    with replacing_file(index) as new_index, replacing_file(out) as new_out:
        with pysam.BGZFile(str(new_out), "wb", None) as file:
            file.write("".join(f"{line}\n" for line in header).encode())
            for line in lines:
                file.write(line.encode())
        pysam.tabix_index(str(new_out), preset="vcf", force=True, csi=large)
        Path(f"{new_out}{index.suffix}").rename(new_index)
        out.with_name(out.name + (".tbi" if large else ".csi")).unlink(missing_ok=True)


def _position(line: str, contigs: dict[str, tuple[int, int]]) -> tuple[int, int]:
    contig, position, _ = line.split("\t", maxsplit=2)
    return contigs[contig][0], int(position)


def gather_vcf(parts: Sequence[Path], out: Path) -> int:
    """Join the shards of a scored VCF, in order, compressed and indexed.

    Args:
        parts: All n shards, in any order.
        out: .vcf.gz.

    Returns:
        Records written.

    Raises:
        GenomeLMError: If a shard can't be read, is missing or given twice, or is of another job.
    """
    check_vcf_name(out)
    by_number: dict[int, Path] = {}
    headers: dict[Path, list[str]] = {}
    for part in parts:
        with _opened(part, part) as file:
            headers[part] = str(file.header).splitlines()
        marks = [line.removeprefix(SHARD) for line in headers[part] if line.startswith(SHARD)]
        if not marks:
            raise GenomeLMError(f"{part}: not a shard; `genome-lm score --shard i/n` writes them")
        number = int(marks[0].split("/")[0])
        if number in by_number:
            raise GenomeLMError(f"{part}: shard {number} is given twice, as {by_number[number]} too")
        by_number[number] = part
    if not by_number:
        raise GenomeLMError("no shards to gather")
    ordered = [by_number[number] for number in sorted(by_number)]
    common = {_common(headers[part]) for part in ordered}
    if len(common) > 1:
        odd = next(part for part in ordered if _common(headers[part]) != _common(headers[ordered[0]]))
        raise GenomeLMError(f"{odd}: of another job than {ordered[0]}: their headers differ")
    of = int(next(iter(common))[0].split(" ")[0])
    if missing := sorted(set(range(1, of + 1)) - by_number.keys()):
        raise GenomeLMError(f"shards missing: {', '.join(f'{number}/{of}' for number in missing)}")
    header = [line for line in headers[ordered[0]] if not line.startswith(SHARD)]
    with _opened(ordered[0], ordered[0]) as file:
        contigs = {
            contig.name: (rank, contig.length or 0) for rank, contig in enumerate(file.header.contigs.values())
        }
    lines = (str(record) for part in ordered for record in _records(part, part))
    _write(out, header, lines, contigs, is_sorted=not next(iter(common))[0].endswith("unsorted"))
    return int(next(iter(common))[0].split(" ")[2])


def _common(header: list[str]) -> tuple[str, ...]:
    """What all shards of a job have the same: n and the number of records first, then the other lines."""
    mark = next(line for line in header if line.startswith(SHARD))
    return mark.split("/", maxsplit=1)[1], *(line for line in header if not line.startswith(SHARD))
