import math

import numpy as np
import pytest

from genome_lm.alphabet import decode, encode, reverse_complement
from genome_lm.genome.contigs import Contig
from genome_lm.inference import memorisation as module
from genome_lm.inference.memorisation import find_memorised


def reverse(sequence: str) -> str:
    return decode(reverse_complement(encode(sequence)))


def by_search(query: str, contigs: dict[str, str], k: int) -> tuple[int, float]:
    """Length of the longest match and the fraction of k-mers, by looking for each word."""
    longest = 0
    for strand in (query, reverse(query)):
        for contig in contigs.values():
            for start in range(len(strand)):
                while start + longest < len(strand):
                    word = strand[start : start + longest + 1]
                    if "N" in word or word not in contig:
                        break
                    longest += 1
    words = [word for i in range(len(query) - k + 1) if "N" not in (word := query[i : i + k])]
    occurs = [any(word in contig or reverse(word) in contig for contig in contigs.values()) for word in words]
    return longest, float(np.mean(occurs)) if occurs else math.nan


def random_dna(generator: np.random.Generator, most: int) -> str:
    return "".join(generator.choice(list("ACGTN"), generator.integers(1, most), p=[0.245] * 4 + [0.02]))


def with_copies(generator: np.random.Generator, query: str, contigs: dict[str, str]) -> str:
    """Put pieces of the contigs, of either strand, into the query."""
    for _ in range(generator.integers(0, 3)):
        contig = contigs[generator.choice(list(contigs))]
        start = generator.integers(len(contig))
        piece = contig[start : generator.integers(start, len(contig)) + 1]
        piece = reverse(piece) if generator.random() < 0.5 else piece
        query = query[: generator.integers(len(query) + 1)] + piece + query[generator.integers(len(query) + 1) :]
    return query


@pytest.mark.parametrize("seed", range(60))
def test_equals_a_plain_search(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(seed)
    contigs = {f"c{number}": random_dna(generator, 250) for number in range(generator.integers(1, 4))}
    queries = [with_copies(generator, random_dna(generator, 100), contigs) for _ in range(2)]
    k = int(generator.choice([1, 3, 8, 19, 20, 21, 32]))
    monkeypatch.setattr(module, "PIECE", int(generator.choice([7, 50, 1 << 20])))
    results = find_memorised(
        [encode(query) for query in queries], (Contig.of_tokens(n, encode(c)) for n, c in contigs.items()), k
    )
    for query, result in zip(queries, results, strict=True):
        longest, fraction = by_search(query, contigs, k)
        assert (result.longest.length if result.longest else 0) == longest
        assert result.kmer_fraction == pytest.approx(fraction, nan_ok=True)
        if match := result.longest:
            copied = contigs[match.contig][match.start : match.end]
            assert (copied if match.strand == "+" else reverse(copied)) in query


def test_repeats_cost_no_more_than_their_length() -> None:
    """Every word of the one is every word of the other; pairs of places would be 10¹⁰."""
    genome, query = encode("AC" * 50_000 + "G"), encode("T" + "AC" * 50_000)
    result = find_memorised([query], [Contig.of_tokens("repeat", genome)])[0]
    assert result.longest is not None
    assert result.longest.length == 100_000
    assert result.kmer_fraction == pytest.approx(1, abs=1e-4)


def test_n_and_ends_match_nothing() -> None:
    for query, contig in (("N" * 50, "N" * 50), ("ACGTNN", "NNNN")):
        result = find_memorised([encode(query)], [Contig.of_tokens("n", encode(contig))], 2)[0]
        assert result.longest is None
        assert not result.kmer_fraction > 0
    joined = find_memorised(
        [encode("AAAACCCC")], [Contig.of_tokens("a", encode("GAAAA")), Contig.of_tokens("b", encode("CCCCA"))]
    )[0]
    assert joined.longest is not None
    assert joined.longest.length == 4
