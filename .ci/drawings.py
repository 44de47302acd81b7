"""The drawings of docs/how-it-works.md: `python .ci/drawings.py` writes them into docs/."""

from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
STYLE = """<style>
  text { font: 13px sans-serif; fill: #24292f; } .small { font-size: 11px; } .mid { text-anchor: middle; }
  .box { fill: #dbe9f4; stroke: #0b6e99; } .other { fill: #f6e3c5; stroke: #b5761a; }
  .plain { fill: none; stroke: #7a838c; } .line { stroke: #7a838c; fill: none; }
</style>"""


def text(x: float, y: float, words: str, kind: str = "mid") -> str:
    """Words, around x if `kind` has "mid", else from there on."""
    return f'<text x="{x}" y="{y}" class="{kind}">{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "box") -> str:
    """A rectangle by its left upper corner."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{kind}"/>'


def labelled(x: float, y: float, width: float, words: str, kind: str = "box") -> str:
    """A rectangle with words in it."""
    return box(x, y, width, 30, kind) + text(x + width / 2, y + 20, words)


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a tip."""
    return f'<path d="M{x1} {y1} L{x2} {y2}" class="line" marker-end="url(#tip)"/>'


def drawing(name: str, width: int, height: int, title: str, parts: Iterable[str]) -> None:
    """Write a drawing on a light sheet, which is readable on light and dark pages."""
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{title}</title>",
        STYLE,
        f'<defs>{tip}<path d="M0 0 L8 4 L0 8 z" fill="#7a838c"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
        *parts,
        "</svg>\n",
    ]
    (DOCS / f"{name}.svg").write_text("\n".join(lines))


def hyena() -> Iterable[str]:
    """The streams of one Hyena operator of order 2."""
    yield labelled(20, 95, 90, "states x")
    for y, name in ((20, "x0"), (95, "x1"), (170, "v")):
        yield arrow(110, 110, 150, y + 15)
        yield labelled(150, y, 170, f"projection, 3 taps: {name}")
    yield arrow(320, 110, 366, 110) + arrow(320, 185, 373, 121)
    yield '<circle cx="380" cy="110" r="13" class="plain"/>' + text(380, 115, "×")
    yield arrow(393, 110, 430, 110) + labelled(430, 95, 150, "long convolution", "other")
    yield arrow(580, 110, 616, 110) + arrow(320, 35, 623, 99)
    yield '<circle cx="630" cy="110" r="13" class="plain"/>' + text(630, 115, "×")
    yield arrow(643, 110, 680, 110) + labelled(680, 95, 90, "projection")
    yield labelled(415, 180, 180, "a network makes the filter", "other") + arrow(505, 180, 505, 126)


def tiles() -> Iterable[str]:
    """Which tile carries an input to a later output, for 16 positions."""
    cell, left, top = 21, 130, 40
    for i in range(1, 17):
        size = i & -i
        reach = min(size, 16 - i)
        if reach:
            x, y = left + i * cell, top + (i - size) * cell
            yield box(x, y, reach * cell, size * cell, "box" if size > 1 else "other")
            if size > 1:
                yield text(x + reach * cell / 2, y + size * cell / 2 + 5, f"{size} × {reach}")
    for i in range(16):
        yield box(left + i * cell, top + i * cell, cell, cell, "plain")
    yield text(left + 8 * cell, 22, "output at position 1 … 16") + text(60, top + 8 * cell, "input at")
    yield text(60, top + 8 * cell + 16, "1 … 16")
    for y, words in ((250, "diagonal: the present base,"), (266, "when its output is asked for")):
        yield text(left + 2, top + y - 20, words, "small")


def store() -> Iterable[str]:
    """How contigs lie in shards and chunks."""
    yield text(20, 30, "contigs, one after the other", "")
    x = 20
    for width, name in ((260, "chr1"), (170, "chr2"), (90, "chr3"), (200, "…")):
        yield labelled(x, 40, width, name)
        x += width
    yield text(20, 105, "shards: files of 64 Mi bases", "")
    for number in range(3):
        yield labelled(20 + 240 * number, 115, 240, f"sequence/c/{number}", "other")
    yield '<path d="M260 145 L20 190 M500 145 L740 190" class="line"/>'
    for number in range(9):
        yield box(20 + 70 * number, 190, 70, 30, "other") + text(55 + 70 * number, 210, "chunk", "small mid")
    yield box(650, 190, 90, 30, "plain") + text(695, 210, "index", "small mid")
    yield text(20, 245, "chunks of 32 Ki bases, each compressed and with its CRC-32C; then their places", "")
    yield text(20, 270, "a base is a byte: 4 bits of letter (A C G T U N R Y …), 1 bit for lower case", "")


if __name__ == "__main__":
    drawing("hyena", 790, 225, "The Hyena operator of order 2", hyena())
    drawing("tiles", 490, 390, "The tiles of an online convolution over 16 positions", tiles())
    drawing("store", 760, 290, "The layout of a genome store", store())
