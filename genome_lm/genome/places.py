"""How places of a genome are called in what commands write, and what of a BED file is carried there.

Text such as chr1:101-200 counts from 1 and has both ends in it, as samtools, genome browsers and --region do. Numbers
in columns are those of BED and Python: from 0, without the end.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from genome_lm.genome.intervals import Interval

_FURTHER = ("score", "thickStart", "thickEnd", "itemRgb", "blockCount", "blockSizes", "blockStarts")
"""BED's columns 5 and 7 to 12."""


def place_text(contig: str, start: int, end: int, strand: str = ".") -> str:
    """[start, end), 0-based, as contig:first-last, 1-based, then the strand in brackets if there is one."""
    return f"{contig}:{start + 1}-{end}" + ("" if strand == "." else f"({strand})")


def interval_ids(intervals: Iterable[Interval]) -> list[str]:
    """An id for each interval: its place, after its name if it has one; the second of equal ones ends in #2."""
    seen: Counter[str] = Counter()
    ids = []
    for contig, start, end, name, strand, *_ in intervals:
        place = place_text(contig, start, end, strand)
        text = f"{name}|{place}" if name else place
        seen[text] += 1
        ids.append(f"{text}#{seen[text]}" if seen[text] > 1 else text)
    return ids


def carried_columns(intervals: Sequence[Interval]) -> dict[str, list[str]]:
    """The BED columns that outputs carry, by name: name, strand, and those further ones that an interval has.

    The further ones are named as BED names them; those beyond its twelve column_13 and so on. All are texts, empty
    where the BED file has none.
    """
    further = max((len(interval.columns) for interval in intervals), default=0)
    columns = {
        "name": [interval.name for interval in intervals],
        "strand": [interval.strand for interval in intervals],
    }
    for number in range(further):
        name = _FURTHER[number] if number < len(_FURTHER) else f"column_{number + 6}"
        columns[name] = [interval.columns[number] if number < len(interval.columns) else "" for interval in intervals]
    return columns
