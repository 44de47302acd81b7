"""Names of contigs in other files, such as 1 for chr1, and what the genome calls them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from genome_lm.errors import GenomeLMError
from genome_lm.files import read_lines

ContigNames = Literal["as-is", "add-chr", "strip-chr"]


def read_contig_map(path: Path) -> dict[str, str]:
    """Read a table of contig names. Each line holds a file's name, a tab, and the genome's name.

    Blank lines and lines that start with # are skipped.

    Returns:
        The file's names → the genome's names.

    Raises:
        GenomeLMError: If the table can't be read or has no names. Naming the line, if it has other than two columns,
            an empty name, or a second meaning for a name.
    """
    names: dict[str, str] = {}
    for place, name, meaning in table_lines(path):
        if names.setdefault(name, meaning) != meaning:
            raise GenomeLMError(f"{place}: {name} stands for {names[name]} in an earlier line")
    return names


def table_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """The lines of a table of names and meanings, each after its place; blank lines and those with # are skipped.

    Raises:
        GenomeLMError: If the table can't be read or has no names. Naming the line, if it has other than two columns,
            or an empty one.
    """
    empty = True
    for number, line in enumerate(map(str.rstrip, read_lines(path)), start=1):
        if not line or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        place = f"{path}: line {number}"
        if len(fields) != 2 or not all(fields):
            raise GenomeLMError(f"{place}: expected two names with a tab between, found {line[:60]!r}")
        empty = False
        yield place, fields[0], fields[1]
    if empty:
        raise GenomeLMError(f"{path}: no names in this table")


def renaming(contig_names: ContigNames = "as-is", contig_map: dict[str, str] | None = None) -> Callable[[str], str]:
    """The function from a file's contig name to the genome's. Names that a map lacks stay as they are.

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
