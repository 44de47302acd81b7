import numpy as np
import pytest
from numcodecs import blosc

from genome_lm.genome.bit_planes import ChunkDecoder
from genome_lm.genome.codes import CODE_TO_TOKEN, LETTERS, MASK_BIT, Codes


def drawn(kind: str, chunk: int, generator: np.random.Generator) -> Codes:
    """Codes of a chunk: of certain bases, with what genomes have beside them, or of any kind."""
    if kind == "any codes":
        return generator.integers(0, 2 * len(LETTERS), chunk, dtype=np.uint8)
    codes = generator.integers(0, 4, chunk, dtype=np.uint8)
    edges = np.sort(generator.integers(0, chunk + 1, 6))
    if kind == "N and U":
        codes[edges[0] : edges[1]] = LETTERS.index("N")
        codes[edges[2] : edges[3]] = LETTERS.index("U")
    if kind in ("masked", "N and U"):
        codes[edges[1] : edges[4]] |= MASK_BIT
    if kind == "repeats":
        codes = np.resize(codes[:5], chunk)
    return codes


@pytest.mark.parametrize("level", [5, 7])
@pytest.mark.parametrize("kind", ["certain", "masked", "N and U", "repeats", "any codes"])
@pytest.mark.parametrize("chunk", [8, 64, 100, 8_192, 32_768])
def test_a_part_is_that_of_the_whole_chunk(chunk: int, kind: str, level: int) -> None:
    generator = np.random.default_rng(chunk)
    for _ in range(4):
        codes = drawn(kind, chunk, generator)
        packed = blosc.compress(codes, b"lz4", level, blosc.BITSHUFFLE)
        for table in (None, CODE_TO_TOKEN):
            decoder = ChunkDecoder(chunk, table)
            expected = codes if table is None else table[codes]
            parts = [(0, chunk), *np.sort(generator.integers(0, chunk + 1, (20, 2)), axis=1).tolist()]
            for first, last in parts:
                for decode in (decoder, decoder.plain):
                    part = decode(packed, first, last)
                    np.testing.assert_array_equal(part, expected[first:last])
                    part[:] = 0  # it is the caller's own


@pytest.mark.parametrize("kind", ["certain", "masked", "repeats"])
def test_usual_chunks_are_read_by_their_planes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ChunkDecoder, "plain")
    codes = drawn(kind, 8_192, np.random.default_rng(1))
    packed = blosc.compress(codes, b"lz4", 7, blosc.BITSHUFFLE)
    tokens = ChunkDecoder(8_192, CODE_TO_TOKEN)(packed, 1_003, 2_003)
    np.testing.assert_array_equal(tokens, CODE_TO_TOKEN[codes[1_003:2_003]])


@pytest.mark.parametrize("other", [b"", b"\2\1", bytes(30), "longer", "cut", "garbled"])
def test_damaged_and_other_frames(other: bytes | str) -> None:
    codes = drawn("certain", 8_192, np.random.default_rng(2))
    packed = blosc.compress(codes, b"lz4", 7, blosc.BITSHUFFLE)
    if other == "longer":
        other = blosc.compress(np.zeros(16_384, np.uint8), b"lz4", 7, blosc.BITSHUFFLE)
    elif isinstance(other, str):
        other = packed[:-60] if other == "cut" else packed[:24] + bytes([255] * 40) + packed[64:]
    with pytest.raises((RuntimeError, ValueError)):
        ChunkDecoder(8_192)(other, 0, 10)
