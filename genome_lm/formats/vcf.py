"""VCF in, scored VCF out: the records as they were, with the scores in INFO.

pysam reads and validates the records; they are written as text with the new fields appended, because htslib ends the
process when it translates a record that uses an undeclared tag, of which real files have many.
"""

import contextlib
import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.files import GZIP_MAGIC, read_blocks, replacing_file
from genome_lm.genome import GenomeStore
from genome_lm.genome.variants import REASONS, Variant, VariantScores, why_not
from genome_lm.optional import require

if TYPE_CHECKING:
    import pysam

LARGEST_TBI = 1 << 29
"""A contig of this many bases or more needs a CSI index."""
OURS = "##genome_lm_"
"""What the lines of a header that we write begin with, but for those of INFO."""
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


def check_vcf_name(out: Path) -> None:
    """Raise a `GenomeLMError` if the output's name does not end as the format does."""
    if not out.name.endswith(".vcf.gz"):
        raise GenomeLMError(f"{out}: a scored VCF is compressed and indexed; end its name in .vcf.gz")


def vcf_alleles(vcf: Path) -> Iterator[tuple[str, int, str, str]]:
    """(contig, 0-based position, REF, ALT) of the records of a VCF or BCF that have one ALT.

    Raises:
        GenomeLMError: If it can't be read; the record is named.
    """
    with readable(vcf) as path:
        for record in read_records(path, vcf):
            if record.ref is not None and record.alts is not None and len(record.alts) == 1:
                yield record.chrom, record.pos - 1, record.ref, record.alts[0]


@contextlib.contextmanager
def readable(vcf: Path, folder: Path | None = None) -> Iterator[Path]:
    """A path that htslib can read twice: of plain gzip, in which it can't seek, and of pipes a copy is made.

    Args:
        vcf: The file; - is standard input.
        folder: Where the copy goes; by default a temporary folder.
    """
    is_stream = str(vcf) == "-" or vcf.is_fifo()
    start = b""
    try:
        if not is_stream:
            with vcf.open("rb") as file:
                start = file.read(14)
    except OSError as error:
        raise GenomeLMError(f"{vcf}: can't read: {error.strerror or error}") from error
    # A bgzip file is gzip with an extra field that begins with BC.
    if not is_stream and (not start.startswith(GZIP_MAGIC) or start[12:14] == b"BC"):
        yield vcf
        return
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genome-lm-")))
        copy = place / "in.vcf"
        stack.callback(copy.unlink, missing_ok=True)
        try:
            with copy.open("wb") as plain:
                plain.writelines(read_blocks(vcf))
        except OSError as error:
            raise GenomeLMError(f"{copy}: can't copy {vcf} there: {error.strerror or error}") from error
        yield copy


def read_records(path: Path, name: Path) -> Iterator["pysam.VariantRecord"]:
    """The records of a VCF or BCF.

    Raises:
        GenomeLMError: If it can't be read; the record and the file's own `name` are named.
    """
    with open_vcf(path, name) as file:
        yield from _records_of(file, name)


@contextlib.contextmanager
def open_vcf(path: Path, name: Path) -> Iterator["pysam.VariantFile"]:
    """A VCF or BCF that htslib can read; errors call it `name`."""
    pysam = require("pysam")
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


class Survey(NamedTuple):
    """A first look at all records.

    Attributes:
        header: With what the records use undeclared.
        contigs: The VCF's names: rank, and length if the header tells it, else 0.
        records: How many there are.
        alleles: ALT alleles; a record without ALT counts as one.
        strides: How often the next record lies in another stretch of `stride` bases than the one before.
        is_sorted: Whether they come in order.
        sha256: Digest of what scores depend on: place, REF and ALT of every record.
        reasons: What is wrong with REF or its place, by record.
        strange: The first contig that the genome lacks.
        mismatch: The first record whose REF differs.
    """

    header: str
    contigs: dict[str, tuple[int, int]]
    records: int
    alleles: int
    strides: int
    is_sorted: bool
    sha256: str
    reasons: Counter[str]
    strange: str
    mismatch: str

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


def survey_records(path: Path, name: Path, store: GenomeStore, rename: Callable[[str], str], stride: int) -> Survey:
    """Look through all records.

    Args:
        path: VCF or BCF that htslib can read, see `readable`.
        name: What errors call it.
        store: The genome.
        rename: From the VCF's contig names to the genome's.
        stride: Of the windows that will be scored.

    Raises:
        GenomeLMError: If it can't be read; the record is named.
    """
    count, alleles, strides, is_sorted, reasons = 0, 0, 0, True, Counter[str]()
    strange = mismatch = ""
    before, finished, digest = ("", 0), set[str](), hashlib.sha256()
    with open_vcf(path, name) as file:
        for record in _records_of(file, name):
            variants = alleles_of(record, rename)
            digest.update(f"{variants}\n".encode())
            count, alleles = count + 1, alleles + len(variants)
            strides += (record.chrom, record.start // stride) != (before[0], before[1] // stride)
            if record.chrom != before[0]:
                is_sorted &= record.chrom not in finished
                finished.add(record.chrom)
            elif record.start < before[1]:
                is_sorted = False
            before = record.chrom, record.start
            # The longest REF is no longer than this flank, and any ALT will do.
            ref = variants[0]._replace(alt="A")
            reason = why_not(store, ref, sys.maxsize)
            reasons[reason] += 1
            if reason == "unknown_contig":
                strange = strange or record.chrom
            elif reason in ("ref_mismatch", "outside_contig"):
                mismatch = mismatch or _mismatch(store, ref, f"{record.chrom}:{record.pos} {record.id or ''}".strip())
        header, contigs, sha256 = str(file.header), contigs_of(file), digest.hexdigest()
    return Survey(header, contigs, count, alleles, strides, is_sorted, sha256, reasons, strange, mismatch)


def contigs_of(file: "pysam.VariantFile") -> dict[str, tuple[int, int]]:
    """Rank and length of each contig that the header declares; 0 for a length that it does not tell."""
    return {contig.name: (rank, contig.length or 0) for rank, contig in enumerate(file.header.contigs.values())}


def _mismatch(store: GenomeStore, variant: Variant, place: str) -> str:
    limit = int(store.contigs.lengths[store.contigs.index(variant.contig)])
    end = variant.start + len(variant.ref)
    if variant.start < 0 or end > limit:
        return f"{place} lies outside of the contig's {limit:,} bases"
    here = store[variant.contig, variant.start : end].tobytes().decode()
    return f"{place} has REF {_short(variant.ref)}, the genome {_short(here)}"


def _short(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:20]}… ({len(allele):,} bases)"


def alleles_of(record: "pysam.VariantRecord", rename: Callable[[str], str]) -> list[Variant]:
    """The ALTs of a record by the genome's names; a record without ALT has one that is `.`."""
    alts = record.alts or (".",)
    return [Variant(rename(record.chrom), record.start, record.ref or "", alt) for alt in alts]


def scored_header(original: str, settings: dict[str, Any], mark: str) -> list[str]:
    """The lines of the header: the input's, less what an earlier scoring left there, and ours."""
    ours = (f"##INFO=<ID={PREFIX}", OURS)
    *lines, columns = [line for line in original.splitlines() if not line.startswith(ours)]
    for name, (number, kind, text) in _FIELDS.items():
        lines.append(f'##INFO=<ID={PREFIX}{name},Number={number},Type={kind},Description="{text}">')
    lines.append(f"{OURS}score=" + " ".join(f"{name}={value}" for name, value in settings.items()))
    return [*lines, *([mark] if mark else []), columns]


def scored_line(record: "pysam.VariantRecord", info: str) -> str:
    """The record as a line of VCF with `info`, if it is not empty, in place of an earlier scoring's."""
    columns = str(record).rstrip("\n").split("\t")
    kept = [field for field in columns[7].split(";") if field != "." and not field.startswith(PREFIX)]
    columns[7] = ";".join([*kept, *([info] if info else [])]) or "."
    return "\t".join(columns) + "\n"


def info_of(scores: VariantScores, span: range, reasons: Sequence[str]) -> str:
    """INFO of a record whose alleles are `span` of `scores`; why each was not scored, or ""."""
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
    return ";".join(f"{PREFIX}{name}={value}" for name, value in values.items() if value.strip(".,"))


def _first(sites: npt.NDArray[np.float64], numbers: list[int]) -> npt.NDArray[np.float64]:
    """What the alleles of a record have in common, from the first one that has it."""
    known = [number for number in numbers if not np.isnan(sites[number]).any()]
    return sites[known[0] if known else numbers[0]]


def _joined(values: npt.NDArray[np.float64]) -> str:
    return ",".join("." if np.isnan(value) else f"{value:.6g}" for value in values)


def _counts(values: npt.NDArray[np.int64]) -> str:
    return ",".join(str(value) if value else "." for value in values)


def write_vcf(
    out: Path, header: Sequence[str], lines: Iterable[str], contigs: dict[str, tuple[int, int]], is_sorted: bool
) -> None:
    """Write a compressed VCF and its index; both take their places together."""
    pysam = require("pysam")
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
