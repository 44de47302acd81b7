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
    yield labelled(10, 95, 60, "states")
    yield text(135, 16, "projection, 3 taps", "small mid")
    for y, name in ((20, "x0"), (95, "x1"), (170, "v")):
        yield arrow(70, 110, 105, y + 15) + labelled(105, y, 60, name)
    yield arrow(165, 110, 201, 110) + arrow(165, 185, 208, 121)
    yield '<circle cx="215" cy="110" r="13" class="plain"/>' + text(215, 115, "×")
    yield arrow(228, 110, 260, 110) + labelled(260, 95, 125, "long convolution", "other")
    yield arrow(385, 110, 417, 110) + arrow(165, 35, 425, 98)
    yield '<circle cx="431" cy="110" r="13" class="plain"/>' + text(431, 115, "×")
    yield arrow(444, 110, 476, 110) + labelled(476, 95, 84, "projection")
    yield labelled(235, 175, 175, "a network makes its taps", "other") + arrow(322, 175, 322, 126)


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
    yield text(10, 24, "contigs, one after the other", "")
    x = 10
    for width, name in ((200, "chr1"), (140, "chr2"), (80, "chr3"), (130, "…")):
        yield labelled(x, 34, width, name)
        x += width
    yield text(10, 94, "shards: files of 64 Mi bases", "")
    for number in range(2):
        yield labelled(10 + 275 * number, 104, 275, f"sequence/c/{number}", "other")
    yield '<path d="M10 134 L10 170 M285 134 L560 170" class="line"/>'
    for number in range(7):
        yield box(10 + 66 * number, 170, 66, 30, "other") + text(43 + 66 * number, 190, "chunk", "small mid")
    yield box(472, 170, 88, 30, "plain") + text(516, 190, "index", "small mid")
    yield text(10, 224, "chunks of 8 Ki bases, each compressed and with its CRC-32C; then their places", "")
    yield text(10, 246, "a base is a byte: 4 bits of letter (A C G T U N R Y …), 1 bit for lower case", "")


if __name__ == "__main__":
    drawing("hyena", 570, 215, "The Hyena operator of order 2", hyena())
    drawing("tiles", 490, 390, "The tiles of an online convolution over 16 positions", tiles())
    drawing("store", 570, 260, "The layout of a genome store", store())
