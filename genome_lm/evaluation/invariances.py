"""What a model of DNA should know without labels: strands, codons, reading frames, order beyond dinucleotides."""

from typing import Any

import numpy as np

from genome_lm.alphabet import A, encode, reverse_complement
from genome_lm.dataset import Annotation, Transcript
from genome_lm.evaluation.losses import base_losses, mean_and_error, sample_windows
from genome_lm.genome import GenomeStore, Interval
from genome_lm.genome.codes import Codes
from genome_lm.model import HyenaLM
from genome_lm.optional import require

Row = dict[str, Any]
_BASES = "ACGT"


def strand_consistency(
    model: HyenaLM, store: GenomeStore, intervals: list[Interval], windows: int = 100, seed: int = 0
) -> list[Row]:
    """Mean loss of windows and of their reverse complements, and how well the two go together.

    Returns:
        Rows of measure, value and error: the loss on each strand, their mean absolute difference, in nats a base, and
        Pearson's correlation over the windows.
    """
    tokens = sample_windows(store, intervals, model.config.max_length, windows, np.random.default_rng(seed))
    forward = np.nanmean(base_losses(model, tokens), axis=1)
    reverse = np.nanmean(base_losses(model, reverse_complement(tokens)), axis=1)
    rows = [_row("loss, forward", forward), _row("loss, reverse complement", reverse)]
    rows.append(_row("absolute difference", np.abs(forward - reverse)))
    correlation = float(np.corrcoef(forward, reverse)[0, 1]) if len(tokens) > 2 else float("nan")
    return [*rows, {"measure": "correlation", "value": correlation, "error": float("nan"), "cases": len(tokens)}]


def shuffle_sensitivity(
    model: HyenaLM, store: GenomeStore, intervals: list[Interval], windows: int = 100, seed: int = 0
) -> list[Row]:
    """Loss of windows and of shuffles that keep every dinucleotide's count: order beyond these is what differs.

    Returns:
        Rows of measure, value and error, in nats a base: the loss of either, and the paired difference.
    """
    generator = np.random.default_rng(seed)
    tokens = sample_windows(store, intervals, model.config.max_length, windows, generator)
    shuffled = np.stack([dinucleotide_shuffle(row, generator) for row in tokens])
    real, other = (np.nanmean(base_losses(model, each), axis=1) for each in (tokens, shuffled))
    return [_row("loss, real", real), _row("loss, shuffled", other), _row("shuffled − real", other - real)]


def dinucleotide_shuffle(tokens: Codes, generator: np.random.Generator) -> Codes:
    """A random sequence of the same dinucleotides with the same ends: (L,) uint8 → (L,) uint8.

    A random Eulerian path (Altschul and Erickson 1985, Molecular Biology and Evolution 2:526): the last edges out of
    the letters form a tree towards the last letter, drawn by a loop-erased walk (Kandel et al. 1996); the other edges
    come in random order.
    """
    edges = {letter: tokens[1:][tokens[:-1] == letter] for letter in np.unique(tokens).tolist()}
    last: dict[int, int] = {}
    reached = {int(tokens[-1])}
    for letter in edges:
        walk, node = {}, letter
        while node not in reached:
            walk[node] = int(generator.integers(len(edges[node])))
            node = int(edges[node][walk[node]])
        node = letter
        while node not in reached:
            last[node] = walk[node]
            reached.add(node)
            node = int(edges[node][walk[node]])
    order = {}
    for letter, targets in edges.items():
        rest = np.delete(targets, last[letter]) if letter in last else targets
        rest = generator.permutation(rest)
        order[letter] = [*rest.tolist(), *([int(targets[last[letter]])] if letter in last else [])]
    path, used = [int(tokens[0])], dict.fromkeys(edges, 0)
    while len(path) < len(tokens):
        node = path[-1]
        path.append(order[node][used[node]])
        used[node] += 1
    return np.array(path, dtype=np.uint8)


def codon_sensitivity(
    model: HyenaLM,
    store: GenomeStore,
    annotation: Annotation,
    intervals: list[Interval],
    *,
    genes: int = 60,
    changes: int = 8,
    genetic_code: int = 1,
    seed: int = 0,
) -> list[Row]:
    """Changes in coding sequence: third positions of codons, synonymous or not, and small insertions and deletions.

    At the third position of a codon that allows both, a synonymous and a non-synonymous change are drawn at random;
    the score is the log-likelihood of the changed coding sequence less that of the original one, over the changed
    base and all that follows it in the window. An insertion of 1 or 2 random bases shifts the frame, one of 3 does
    not; theirs is the mean loss of the 60 bases after it less what they had.

    Returns:
        Rows of measure, value and error, in nats (of the whole sequence; a base for insertions), and under
        "synonymous preferred" how often the synonymous change of a pair is the likelier one (0.5 by chance).
    """
    generator = np.random.default_rng(seed)
    sequences = _coding_sequences(model, store, annotation, intervals, genes, generator)
    synonyms = _synonyms(genetic_code)
    scores: dict[str, list[float]] = {"synonymous": [], "non-synonymous": []}
    frames: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for tokens in sequences:
        before = base_losses(model, tokens[None])[0]
        pairs = _codon_pairs(tokens, synonyms, changes, generator)
        if pairs:
            changed = np.stack([row for pair in pairs for row in pair])
            after = base_losses(model, changed)
            gained = np.nansum(before[None] - after, axis=1).reshape(-1, 2)
            scores["synonymous"] += gained[:, 0].tolist()
            scores["non-synonymous"] += gained[:, 1].tolist()
        place = 3 * int(generator.integers(10, len(tokens) // 3 - 24))
        for inserted in frames:
            bases = generator.integers(A, A + 4, inserted).astype(np.uint8)
            moved = np.concatenate([tokens[:place], bases, tokens[place:]])[: len(tokens)]
            after = base_losses(model, moved[None])[0]
            shifted = after[place + inserted + 3 : place + inserted + 63]
            frames[inserted].append(float(shifted.mean() - before[place + 3 : place + 63].mean()))
    one, other = np.array(scores["synonymous"]), np.array(scores["non-synonymous"])
    rows = [_row(f"log-likelihood change, {name}", np.array(values)) for name, values in scores.items()]
    rows.append(_row("synonymous preferred", (one > other).astype(float)))
    return rows + [_row(f"loss after an insertion of {n}", np.array(values)) for n, values in frames.items()]


def _coding_sequences(
    model: HyenaLM,
    store: GenomeStore,
    annotation: Annotation,
    intervals: list[Interval],
    count: int,
    generator: np.random.Generator,
) -> list[Codes]:
    """Coding sequences within the intervals from their start codons on, as long as the context, without N."""
    found: list[Codes] = []
    for i in generator.permutation(len(annotation.transcripts)).tolist():
        transcript = annotation.transcripts[i]
        if len(found) == count:
            break
        if _is_inside(transcript, intervals):
            tokens = _coding_tokens(store, transcript)[: model.config.max_length // 3 * 3]
            if len(tokens) >= 3 * 36 and ((tokens >= A) & (tokens < A + 4)).all():
                found.append(tokens[: len(tokens) // 3 * 3])
    return found


def _is_inside(transcript: Transcript, intervals: list[Interval]) -> bool:
    start, end = transcript.segments[0][0], transcript.segments[-1][1]
    return any(i.contig == transcript.contig and i.start <= start and end <= i.end for i in intervals)


def _coding_tokens(store: GenomeStore, transcript: Transcript) -> Codes:
    pieces = [store.fetch(transcript.contig, start, end) for start, end in transcript.segments]
    tokens = np.concatenate(pieces)
    return tokens if transcript.strand == "+" else reverse_complement(tokens)


def _synonyms(genetic_code: int) -> dict[tuple[int, int, int], tuple[list[int], list[int]]]:
    """Codon → third bases that keep the amino acid, and those that change it to another one (not to a stop)."""
    table = require("Bio.Data.CodonTable").unambiguous_dna_by_id[genetic_code].forward_table
    found = {}
    for codon, amino in table.items():
        others = [base for base in _BASES if base != codon[2]]
        same = [base for base in others if table.get(codon[:2] + base) == amino]
        changed = [base for base in others if table.get(codon[:2] + base, amino) != amino]
        ids = tuple(int(token) for token in encode(codon))
        found[ids[0], ids[1], ids[2]] = ([A + _BASES.index(b) for b in same], [A + _BASES.index(b) for b in changed])
    return found


def _codon_pairs(
    tokens: Codes,
    synonyms: dict[tuple[int, int, int], tuple[list[int], list[int]]],
    count: int,
    generator: np.random.Generator,
) -> list[tuple[Codes, Codes]]:
    """The sequence with a synonymous change of a codon, and with one that is not, at the same position."""
    pairs = []
    for codon in generator.permutation(np.arange(10, len(tokens) // 3 - 1)).tolist():
        place = 3 * codon
        same, other = synonyms.get((int(tokens[place]), int(tokens[place + 1]), int(tokens[place + 2])), ([], []))
        if same and other:
            one, two = tokens.copy(), tokens.copy()
            one[place + 2], two[place + 2] = generator.choice(same), generator.choice(other)
            pairs.append((one, two))
            if len(pairs) == count:
                break
    return pairs


def _row(measure: str, values: np.ndarray) -> Row:
    value, error = mean_and_error(values)
    return {"measure": measure, "value": value, "error": error, "cases": int((~np.isnan(values)).sum())}
