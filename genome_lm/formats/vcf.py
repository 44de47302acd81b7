"""VCF as text: what is not scored is written back to the letter.

htslib drops numbers beyond 32 bits, ends at bytes that are not UTF-8, and ends the process at some tags that the
header does not declare. Text is therefore read here. BCF goes through pysam, which makes text of it.
"""

import contextlib
import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.files import open_input, read_blocks
from genome_lm.genome import GenomeStore
from genome_lm.genome.variants import Variant, announced, why_not
from genome_lm.optional import require

COLUMNS = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
LONGEST_LINE = 1 << 28
"""Characters of a line at most; 60 times what a record of a million samples takes."""
PREFIX = "GLM_"
"""What the names of the fields that we add to INFO begin with."""
_INSERTED = ("SEQ", "SVINSSEQ", "INSSEQ")
"""Fields of INFO that hold the sequence of <INS>."""
_MATE = re.compile(r"([\[\]])([^\[\]]+)(:\d+[\[\]])")
_CONTIG = re.compile(r"##contig=<(?:[^\"]*,)?ID=([^,>]+)")
_LENGTH = re.compile(r"[<,]length=(\d{1,18})[,>]")


class Record(NamedTuple):
    """A record of a VCF.

    Attributes:
        contig: CHROM.
        start: POS − 1.
        name: ID.
        ref: REF, ASCII.
        alts: ALT, ASCII; empty for `.`.
        info: INFO.
        line: All of it, without the end of the line. Bytes that are not UTF-8 are surrogates (PEP 383).
    """

    contig: str
    start: int
    name: str
    ref: str
    alts: tuple[str, ...]
    info: str
    line: str

    @property
    def place(self) -> str:
        """Place and ID, as an error can print them."""
        text = f"{self.contig}:{self.start + 1} {'' if self.name == '.' else self.name}".strip()
        return text.encode(errors="backslashreplace").decode()

    @property
    def end(self) -> int:
        """The last position that an index has to hold."""
        ends = re.findall(r"(?:^|;)END=(\d{1,18})(?=;|$)", self.info) if "END=" in self.info else []
        return max(self.start + len(self.ref), *map(int, ends), 0)


def vcf_alleles(vcf: Path) -> Iterator[tuple[str, int, str, str]]:
    """(contig, 0-based position, REF, ALT) of the records of a VCF or BCF that have one ALT.

    Raises:
        GenomeLMError: If it can't be read; the record is named.
    """
    with readable(vcf) as path:
        for record in read_records(path, vcf):
            if len(record.alts) == 1:
                yield record.contig, record.start, record.ref, record.alts[0]


@contextlib.contextmanager
def readable(vcf: Path, folder: Path | None = None) -> Iterator[Path]:
    """A path that can be read twice: of standard input and of pipes a copy is made.

    Args:
        vcf: The file; - is standard input.
        folder: Where the copy goes; by default a temporary folder.
    """
    if str(vcf) != "-" and not vcf.is_fifo():
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


def read_records(path: Path, name: Path) -> Iterator[Record]:
    """The records of a VCF or BCF; see `read_vcf`."""
    yield from read_vcf(path, name)[1]


def read_vcf(path: Path, name: Path) -> tuple[list[str], Iterator[Record]]:
    """The lines of the header, the one of the columns last, and the records of a VCF or BCF.

    Args:
        path: The file.
        name: What errors call it.

    Raises:
        GenomeLMError: If it can't be read; the record is named.
    """
    header: list[str] = []
    lines = _lines(path, name)
    for line in lines:
        if header and not line:
            continue  # htslib, which makes our index, takes it for the end of the header
        if not header and not line.startswith("##fileformat=VCF"):
            break
        header.append(line)
        if line.startswith("#CHROM"):
            if line.split("\t")[: len(COLUMNS)] != COLUMNS:
                raise GenomeLMError(
                    f"{name}: not a readable VCF: between the columns of its #CHROM line must be tabs"
                )
            return header, _records(lines, name)
        if not line.startswith("##"):
            raise GenomeLMError(f"{name}: not a readable VCF: line {len(header):,} comes before the #CHROM line")
    raise GenomeLMError(
        f"{name}: not a readable VCF: it has no #CHROM line"
        if header
        else f"{name}: not a readable VCF: it does not begin with ##fileformat=VCF"
    )


def _lines(path: Path, name: Path) -> Iterator[str]:
    """The lines of a VCF, without their ends; of a BCF, as htslib writes them."""
    with open_input(path) as file:
        is_first = True
        while line := file.readline(LONGEST_LINE):
            if is_first and line.startswith(b"BCF\x02"):
                break
            is_first = False
            if len(line) == LONGEST_LINE:
                raise GenomeLMError(f"{name}: a line of more than {LONGEST_LINE:,} characters: is this a VCF?")
            yield line.rstrip(b"\r\n").decode(errors="surrogateescape")
        else:
            return
    yield from _bcf_lines(path, name)


def _bcf_lines(path: Path, name: Path) -> Iterator[str]:
    with quiet_htslib() as pysam:
        try:
            with pysam.VariantFile(str(path)) as file:
                yield from str(file.header).rstrip("\n").split("\n")
                for record in file:
                    yield str(record).rstrip("\n")
        except (OSError, ValueError) as error:
            raise GenomeLMError(f"{name}: not a readable BCF: {error}; is the file cut off?") from error


@contextlib.contextmanager
def quiet_htslib() -> Iterator[Any]:
    """pysam, whose messages would stand between ours; what they say is in the errors."""
    pysam = require("pysam")
    before = pysam.set_verbosity(0)
    try:
        yield pysam
    finally:
        pysam.set_verbosity(before)


def _records(lines: Iterator[str], name: Path) -> Iterator[Record]:
    count, last = 0, "the header"
    for line in lines:
        if not line:
            continue
        try:
            record = _parsed(line)
        except ValueError as error:
            raise GenomeLMError(f"{name}: record {count + 1:,} (after {last}) can't be read: {error}") from None
        count, last = count + 1, record.place
        yield record


def _parsed(line: str) -> Record:
    fields = line.split("\t", len(COLUMNS))
    if len(fields) < len(COLUMNS):
        raise ValueError(f"it has {len(fields)} of the {len(COLUMNS)} columns, between tabs; is the file cut off?")
    contig, position, name, ref, alts, _, _, info = fields[: len(COLUMNS)]
    if not (position.isascii() and position.isdigit() and len(position) <= 18):
        raise ValueError(f"POS is {position!r}, not a number")
    if {",", ">"} & {*contig}:
        raise ValueError(f"CHROM is {contig[:60]!r}; a header can't declare a name with , or >")
    if not (contig and ref and alts and ref.isascii() and alts.isascii()):
        raise ValueError("CHROM, REF or ALT is empty, or has letters that are none")
    return Record(contig, int(position) - 1, name, ref, () if alts == "." else tuple(alts.split(",")), info, line)


@dataclass
class Survey:
    """A first look at all records.

    Attributes:
        store: The genome.
        rename: From the VCF's contig names to the genome's.
        stride: Of the windows that will be scored.
        header: The file's lines.
        contigs: The VCF's names: rank, and length if the header tells it, else 0.
        records: How many there are.
        alleles: ALT alleles; a record without ALT counts as one.
        strides: How often the next record lies in another stretch of `stride` bases than the one before.
        is_sorted: Whether they come in order.
        digest: Of what scores depend on: place, REF and ALT of every record.
        reasons: What is wrong with REF or its place, by record.
        strange: The first contig that the genome lacks.
        mismatch: The first record whose REF differs.
        furthest: The last position that a record reaches, and which does.
        keys: Names of INFO that begin with `PREFIX`, in the header and in records, and where each is first.
    """

    store: GenomeStore
    rename: Callable[[str], str]
    stride: int
    header: list[str]
    contigs: dict[str, tuple[int, int]]
    records: int = 0
    alleles: int = 0
    strides: int = 0
    is_sorted: bool = True
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    reasons: Counter[str] = field(default_factory=Counter)
    strange: str = ""
    mismatch: str = ""
    furthest: tuple[int, str] = 0, ""
    keys: dict[str, str] = field(default_factory=dict)
    _before: tuple[str, int] = "", 0
    _finished: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Take in the next record."""
        variants = alleles_of(record, self.rename)
        self.digest.update(f"{variants}\n".encode())
        self.records, self.alleles = self.records + 1, self.alleles + len(variants)
        self._note_order(record)
        if (end := record.end) > self.furthest[0]:
            self.furthest = end, record.place
        if PREFIX in record.info:
            for key in map(key_of, record.info.split(";")):
                if key.startswith(PREFIX):
                    self.keys.setdefault(key, record.place)
        ref = variants[0]._replace(alt="A", unclear="")
        reason = why_not(self.store, ref)
        self.reasons[reason] += 1
        if reason == "unknown_contig":
            self.strange = self.strange or record.contig
        elif reason in ("ref_mismatch", "outside_contig"):
            self.mismatch = self.mismatch or _mismatch(self.store, ref, record.place)

    def _note_order(self, record: Record) -> None:
        contig, start = self._before
        self.strides += (record.contig, record.start // self.stride) != (contig, start // self.stride)
        if record.contig != contig:
            self.is_sorted &= record.contig not in self._finished
            self._finished.add(record.contig)
            if record.contig not in self.contigs:
                self.contigs[record.contig] = len(self.contigs), self._length(self.rename(record.contig))
        elif record.start < start:
            self.is_sorted = False
        self._before = record.contig, record.start

    def _length(self, contig: str) -> int:
        contigs = self.store.contigs
        return int(contigs.lengths[contigs.index(contig)]) if contig in contigs else 0

    def check(self, vcf: Path) -> None:
        """Raise a `GenomeLMError` if this is no VCF of this genome."""
        unknown, path = self.reasons["unknown_contig"], self.store.path
        wrong = self.reasons["ref_mismatch"] + self.reasons["outside_contig"]
        if unknown and unknown == self.records:
            raise GenomeLMError(
                f"{vcf}: none of its contigs is in {path}: {self.strange!r} is the VCF's first, "
                f"{self.store.contigs.names[0]!r} the genome's; if only the names differ, give --contig-names "
                "add-chr or strip-chr, or --contig-map with a table of both"
            )
        if 2 * wrong > self.records - unknown:
            raise GenomeLMError(
                f"{vcf}: {wrong:,} of {self.records - unknown:,} REFs are not what {path} has there: "
                f"{self.mismatch}; this VCF is of another assembly"
            )


def survey_records(path: Path, name: Path, store: GenomeStore, rename: Callable[[str], str], stride: int) -> Survey:
    """Look through all records of a VCF or BCF (see `readable`) that errors call `name`.

    Raises:
        GenomeLMError: If it can't be read; the record is named.
    """
    header, records = read_vcf(path, name)
    survey = Survey(store, rename, stride, header, contigs_of(header))
    for line in header:
        if line.startswith(f"##INFO=<ID={PREFIX}"):
            survey.keys[re.split("[,>]", line.removeprefix("##INFO=<ID="))[0]] = "its header"

    def place(record: Record) -> tuple[str, int, int]:
        return rename(record.contig), record.start, record.start + len(record.ref)

    for record in announced(store, records, place):
        survey.add(record)
    return survey


def contigs_of(header: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Rank and length of each contig that the lines of a header declare; 0 for a length that they do not tell."""
    contigs: dict[str, tuple[int, int]] = {}
    for line in header:
        if match := _CONTIG.match(line):
            length = _LENGTH.search(line)
            contigs.setdefault(match[1], (len(contigs), int(length[1]) if length else 0))
    return contigs


def key_of(field: str) -> str:
    """The name of a field of INFO."""
    return field.partition("=")[0]


def _mismatch(store: GenomeStore, variant: Variant, place: str) -> str:
    limit = int(store.contigs.lengths[store.contigs.index(variant.contig)])
    end = variant.start + len(variant.ref)
    if variant.start < 0 or end > limit:
        return f"{place} lies outside of the contig's {limit:,} bases"
    here = store[variant.contig, variant.start : end].tobytes().decode()
    return f"{place} has REF {_short(variant.ref)}, the genome {_short(here)}"


def _short(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:20]}… ({len(allele):,} bases)"


def alleles_of(record: Record, rename: Callable[[str], str]) -> list[Variant]:
    """The ALTs of a record by the genome's names; a record without ALT has one that is `.`."""
    contig = rename(record.contig)
    return [
        _allele(record, number, Variant(contig, record.start, record.ref, alt), rename)
        for number, alt in enumerate(record.alts or (".",))
    ]


def _allele(record: Record, number: int, variant: Variant, rename: Callable[[str], str]) -> Variant:
    """An allele with what INFO says of it, if it is symbolic or a breakend."""
    if not variant.is_structural:
        return variant
    alt = _MATE.sub(lambda match: match[1] + rename(match[2]) + match[3], variant.alt)
    info = {key: value for key, _, value in (field.partition("=") for field in record.info.split(";"))}
    exact = all(set(info.get(key, "0").split(",")) <= {"0", "."} for key in ("CIPOS", "CIEND"))
    if "IMPRECISE" in info or not (exact or "HOMLEN" in info or "HOMSEQ" in info):
        return variant._replace(alt=alt, unclear="imprecise")
    if variant.kind == "INS":
        texts = [info[key] for key in _INSERTED if key in info]
        return variant._replace(inserted=_of_allele(texts[0], number, len(record.alts)) if texts else "")
    if not variant.kind:
        return variant._replace(alt=alt)
    start = record.start + 1
    length = _integer(_of_allele(info.get("SVLEN", ""), number, len(record.alts)))
    ends = {end for end in (_integer(info.get("END", "")), None if length is None else start + abs(length)) if end}
    if len(ends) > 1:
        return variant._replace(unclear="end_differs")
    return variant._replace(end=max(ends, default=None))


def _of_allele(text: str, number: int, alleles: int) -> str:
    """The value of one allele in a field of INFO that has one for each, or one for all."""
    values = text.split(",")
    return values[number] if len(values) == alleles else text


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None
