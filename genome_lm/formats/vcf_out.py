"""A scored VCF: the lines of the input, with the scores in INFO, as text, bgzip or BCF, with an index."""

import math
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from genome_lm.direction import CAUSAL, Direction
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_output, replacing, replacing_file, require_suffix
from genome_lm.formats.room import require_room
from genome_lm.formats.vcf import COLUMNS, PREFIX, Record, Survey, contigs_of, key_of, quiet_htslib, read_vcf
from genome_lm.genome.variants import CALIBRATED, EFFECTS, READOUTS, REASONS, VariantScores
from genome_lm.optional import require

NAMES = (".vcf.gz", ".vcf", ".bcf")
"""What an output can be called."""
STDOUT = Path("-")
LARGEST_TBI = 1 << 29
"""A contig of this many bases or more needs a CSI index."""
FURTHEST = (1 << 31) - 1
"""The last position that htslib can index, and that BCF can hold."""
OURS = "##genome_lm_"
"""What the lines of a header that we write begin with, but for those of INFO and of contigs."""

_NATS = "in nats, over all tokens of the model"
_FIELDS = {
    "LLR": (
        "A",
        "Float",
        f"ln p(ALT window) - ln p(REF window), {_NATS}, mean of the strands; both windows begin at the first base "
        "that differs, so that one change has one score wherever in a repeat it is written",
    ),
    "LLR_FWD": ("A", "Float", "the same on the forward strand"),
    "LLR_REV": ("A", "Float", "the same on the reverse complement"),
    "LP_FWD": ("4", "Float", "ln p of A, C, G and T at POS, given the reference before it"),
    "LP_REV": ("4", "Float", "ln p of A, C, G and T (letters of the forward strand) at POS, given what follows it"),
    "CTX": ("2", "Integer", "bases of context read before the first base that differs: forward, reverse complement"),
    "N_FWD": ("A", "Integer", "bases compared on the forward strand, from the first that differs on"),
    "N_REV": ("A", "Integer", "bases compared on the reverse complement"),
    "SKIP": (".", "String", "why an ALT was not scored: " + "; ".join(f"{key}: {REASONS[key]}" for key in REASONS)),
}
_OF_HIDDEN = {
    "LLR": (
        "A",
        "Float",
        f"masked marginal: ln p(ALT's bases) - ln p(REF's bases), {_NATS}, where all bases that differ are hidden, "
        "mean of the strands",
    ),
    "LP_FWD": ("4", "Float", "ln p of A, C, G and T at POS, given both sides, where it is hidden"),
    "LP_REV": ("4", "Float", "the same from the reverse complement, in letters of the forward strand"),
    "N_FWD": ("A", "Integer", "bases hidden on the forward strand"),
    "N_REV": ("A", "Integer", "bases hidden on the reverse complement"),
}
"""Fields of models that read both ways that mean something else."""
_READOUTS = {
    value: ("A", "Float", f"{text}; mean of the strands")
    for values in READOUTS.values()
    for value, text in values.items()
}
_READOUTS |= {value: ("A", "Float", text) for value, text in CALIBRATED.items()}
_READOUTS |= {value: ("A", "String", text) for value, text in EFFECTS.items()}
_KEYS = frozenset(PREFIX + name for name in (*_FIELDS, *map(str.upper, _READOUTS)))


_PLAIN = "!\"#$&'()*+-./:<>?@[]^_`{|}~"
"""What a text in INFO holds as it is, beside letters and digits; the rest is written as in VCF 4.3, such as %2C."""


def check_vcf_name(out: Path) -> None:
    """Raise a `GenomeLMError` if the output's name does not end as one of the formats does; - is standard output."""
    if out != STDOUT:
        require_suffix(out, NAMES)
    if not out.name.endswith((".vcf", "-")):
        require("pysam")


def check_survey(out: Path, survey: Survey, path: Path, name: Path) -> None:
    """Look for all that would stop the output from being written after the records are scored.

    Args:
        out: The output.
        survey: What was seen of the input.
        path: The input, see `genome_lm.formats.vcf.readable`.
        name: What errors call it.

    Raises:
        GenomeLMError: If INFO has fields of our names that we did not write, or a record can't be indexed, or made
            BCF.
    """
    taken = [] if _is_ours(survey.header) else sorted(_KEYS & survey.keys.keys())
    if taken:
        raise GenomeLMError(
            f"{name}: INFO has {taken[0]} (first in {survey.keys[taken[0]]}), a name that score writes itself; "
            f"rename it first: bcftools annotate --rename-annots TABLE, with a line INFO/{taken[0]} and the new name"
        )
    end, place = survey.furthest
    if out.name.endswith((".gz", ".bcf")) and end > FURTHEST:
        raise GenomeLMError(
            f"{name}: {place} reaches to {end:,}; positions after {FURTHEST:,} can't be indexed: write .vcf"
        )
    if out.suffix == ".bcf":
        _check_bcf(survey, path, name)


def _is_ours(header: Iterable[str]) -> bool:
    return any(line.startswith(f"{OURS}score=") for line in header)


def _check_bcf(survey: Survey, path: Path, name: Path) -> None:
    """Raise a `GenomeLMError` if the records would lose something in BCF, whose numbers have 32 bits."""
    way_out = "write .vcf.gz, which keeps the text as it is"
    with quiet_htslib() as pysam:
        try:
            with pysam.VariantFile(str(path)) as file:
                declared = set(str(file.header).split("\n"))
                for record, given in zip(file, read_vcf(path, name)[1], strict=True):
                    if not _is_same(str(record).rstrip("\n"), given.line):
                        raise GenomeLMError(f"{name}: {given.place} has a value that BCF can't hold; {way_out}")
                added = set(str(file.header).split("\n")) - declared
        except (OSError, ValueError) as error:
            raise GenomeLMError(f"{name}: it can't be made BCF: {error}; {way_out}") from error
    if missing := sorted(line for line in added if not line.startswith("##contig")):
        raise GenomeLMError(f"{name}: its header lacks {missing[0]}, which BCF needs; add it, or {way_out}")


def _is_same(one: str, other: str) -> bool:
    """Whether two lines of VCF say the same: numbers may be written in other ways, and rounded to six digits."""
    if one == other:
        return True
    fields, others = (re.split("[\t;:,=]", re.sub(r"(:\.)+(?=\t|$)", "", line)) for line in (one, other))
    return len(fields) == len(others) and all(map(_is_same_value, fields, others))


def _is_same_value(one: str, other: str) -> bool:
    try:
        return one == other or math.isclose(float(one), float(other), rel_tol=1e-5)
    except ValueError:
        return False


def scored_header(
    survey: Survey, settings: dict[str, Any], readouts: Sequence[str], mark: str, direction: Direction = CAUSAL
) -> list[str]:
    """The lines of the header: the input's, less those of an earlier scoring, the contigs that it lacks, and ours.

    Args:
        survey: What was seen of the input.
        settings: What the scores depend on.
        readouts: Values of `READOUTS`, `CALIBRATED` and `EFFECTS` that INFO has.
        mark: A line to stand before that of the columns; "" for none.
        direction: Of the model, which the values depend on.
    """
    ours = (OURS, *(f"##INFO=<ID={key}," for key in _KEYS))
    *lines, columns = [line for line in survey.header if not line.startswith(ours)]
    declared = contigs_of(lines)
    for name, (_, length) in survey.contigs.items():
        if name not in declared:
            lines.append(f"##contig=<ID={name}" + (f",length={length}>" if length else ">"))
    fields = (
        _FIELDS
        | (_OF_HIDDEN if direction.sees_following else {})
        | {value.upper(): _READOUTS[value] for value in readouts}
    )
    for name, (number, kind, text) in fields.items():
        lines.append(f'##INFO=<ID={PREFIX}{name},Number={number},Type={kind},Description="{text}">')
    lines.append(f"{OURS}score=" + " ".join(f"{name}={value}" for name, value in settings.items()))
    return [*lines, *([mark] if mark else []), columns]


def scored(record: Record, info: str) -> Record:
    """The record with `info`, if it is not empty, in place of an earlier scoring's."""
    columns = record.line.split("\t", len(COLUMNS))
    kept = [text for text in record.info.split(";") if text != "." and key_of(text) not in _KEYS]
    columns[len(COLUMNS) - 1] = ";".join([*kept, *([info] if info else [])]) or "."
    return record._replace(line="\t".join(columns))


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
            **{name.upper(): _joined(scores.readout(name)[at]) for name in scores.readouts},
            **{name.upper(): _joined(values[at]) for name, values in scores.calibrated.items()},
        }
    for name, texts in scores.effects.items():
        values[name.upper()] = ",".join(quote(texts[number], safe=_PLAIN) or "." for number in span)
    if any(reasons):
        values["SKIP"] = ",".join(reason or "." for reason in reasons)
    return ";".join(f"{PREFIX}{name}={value}" for name, value in values.items() if value.strip(".,"))


def _first(sites: npt.NDArray[np.float64], numbers: list[int]) -> npt.NDArray[np.float64]:
    """What the alleles of a record have in common, from the first one that has it."""
    with_value = [number for number in numbers if not np.isnan(sites[number]).any()]
    return sites[with_value[0] if with_value else numbers[0]]


def _joined(values: npt.NDArray[np.float64]) -> str:
    return ",".join("." if np.isnan(value) else f"{value:.6g}" for value in values)


def _counts(values: npt.NDArray[np.int64]) -> str:
    return ",".join(str(value) if value else "." for value in values)


def write_vcf(out: Path, header: Sequence[str], records: Iterable[Record], is_sorted: bool, furthest: int) -> None:
    """Write a VCF, whole or not at all; that of .vcf.gz and .bcf with its index, and both take their places together.

    Args:
        out: A name that `check_vcf_name` takes.
        header: Its lines, which declare all contigs.
        records: The records.
        is_sorted: Whether they are in the order of the genome; if not, they are sorted in memory.
        furthest: The last position that a record reaches.
    """
    contigs = contigs_of(header)
    if not is_sorted:
        records = sorted(records, key=lambda record: (contigs[record.contig][0], record.start))
    lines = chain(header, (record.line for record in records))
    text = (f"{line}\n".encode(errors="surrogateescape") for line in lines)
    if out == STDOUT:
        sys.stdout.buffer.writelines(text)
        sys.stdout.buffer.flush()
        return
    if out.suffix == ".vcf":
        with replacing_file(out) as new, new.open("wb") as file:
            file.writelines(text)
        return
    is_large = max(furthest, *(length for _, length in contigs.values()), 0) >= LARGEST_TBI
    suffix, other = (".csi", ".tbi") if is_large or out.suffix == ".bcf" else (".tbi", ".csi")
    with replacing(files=[out, out.with_name(out.name + suffix)]) as (new, index):
        (_write_bcf if out.suffix == ".bcf" else _write_bgzip)(new, text)
        with quiet_htslib() as pysam:
            pysam.tabix_index(
                str(new),
                preset="bcf" if out.suffix == ".bcf" else "vcf",
                force=True,
                csi=suffix == ".csi",
                index=str(index),
            )
    out.with_name(out.name + other).unlink(missing_ok=True)


def _write_bgzip(path: Path, text: Iterable[bytes]) -> None:
    with open_output(path, "wb") as file:
        file.writelines(text)


def _write_bcf(path: Path, text: Iterable[bytes]) -> None:
    plain = path.with_suffix(".vcf")
    with plain.open("wb") as file:
        file.writelines(text)
    # On a full disk, htslib says so late or ends the process. BCF is smaller than its text.
    require_room(path, plain.stat().st_size)
    with quiet_htslib() as pysam, pysam.VariantFile(str(plain)) as source:
        with pysam.VariantFile(str(path), "wb", header=source.header) as target:
            for record in source:
                target.write(record)
    plain.unlink()
