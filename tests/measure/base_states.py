"""Which part of a gene each base is, by an annotation, and a hidden Markov model that tells it: what models of bases
are trained and compared on.

A base is outside genes, or on one of the strands at a position of a codon or in an intron, whose first and last bases
have states of their own. Only coding sequence is exon here: the annotation of U. maydis has no untranslated exons.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import A, T, reverse_complement
from genome_lm.dataset import Annotation, Example, LabelledSet, Transcript
from genome_lm.dataset.examples import reverse_complement_text
from genome_lm.genome import GenomeStore, Interval, Windows, tile
from genome_lm.genome.places import place_text

States = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]
MISSING = -1
"""State of a base that the annotation leaves open, or that has two."""
SIGNAL = 6
"""Bases at each end of an intron that have states of their own."""
PARTS = 2 * SIGNAL + 1
"""Of an intron: its first bases, the middle, its last ones."""
STRANDED = 3 + 3 * PARTS
"""States of a strand: positions of the codon, then parts of introns that follow each of them."""
COUNT = 1 + 2 * STRANDED
OTHER_STRAND = np.concatenate([[0], 1 + STRANDED + np.arange(STRANDED), 1 + np.arange(STRANDED)])
"""What each state is on the reverse complement."""
PIECE, FLANK = 1 << 15, 2_000
"""Bases whose posteriors are held, and those around them that are read too."""
FRAMES = ("none", "+1", "+2", "+3", "-1", "-2", "-3")
"""Classes of the coding frame: the position in the codon, and on which strand."""
PLACES = ("intergenic", "exon+", "intron+", "exon-", "intron-")
"""Classes of the annotator."""


class Classes(NamedTuple):
    """What a model tells apart.

    Attributes:
        names: Of the classes; one that ends in + has a partner on the other strand, or begins with it.
        of_state: (COUNT,) The class of each state.
    """

    names: tuple[str, ...]
    of_state: States

    @property
    def other_strand(self) -> States:
        """(classes,) The class that each is on the reverse complement."""
        signs = str.maketrans("+-", "-+")
        return np.array([self.names.index(name.translate(signs)) for name in self.names])

    def of(self, states: States) -> States:
        """The class of each base, `MISSING` where there is none."""
        return np.where(states == MISSING, MISSING, self.of_state[states])


def _strand_classes(codon: Sequence[int], intron: int) -> list[int]:
    return [*codon, *[intron] * (3 * PARTS)]


FRAME = Classes(FRAMES, np.array([0, *_strand_classes((1, 2, 3), 0), *_strand_classes((4, 5, 6), 0)]))
PLACE = Classes(PLACES, np.array([0, *_strand_classes((1, 1, 1), 2), *_strand_classes((3, 3, 3), 4)]))


def states_of(store: GenomeStore, annotation: Annotation) -> dict[str, States]:
    """The state of each base of each contig that has a gene."""
    states = {}
    for contig, genic in annotation.genic.items():
        states[contig] = np.zeros(int(store.contigs.lengths[store.contigs.index(contig)]), dtype=np.int64)
        for start, end in genic.tolist():
            states[contig][start:end] = MISSING  # unless a transcript says what it is
    painted = {contig: np.zeros(len(each), dtype=bool) for contig, each in states.items()}
    for transcript in annotation.transcripts:
        positions, own = _states_of_transcript(transcript)
        of_contig, is_painted = states[transcript.contig], painted[transcript.contig]
        own[is_painted[positions] & (of_contig[positions] != own)] = MISSING
        of_contig[positions], is_painted[positions] = own, True
    return states


def _states_of_transcript(transcript: Transcript) -> tuple[States, States]:
    """Positions of a transcript from its first coding base to the last one, and their states."""
    step = 1 if transcript.strand == "+" else -1
    segments = transcript.segments[::step]
    base, phase = (1 if step == 1 else 1 + STRANDED), transcript.phase
    positions, states, coded, before = [], [], 0, None
    for start, end in segments:
        if before is not None and (gap := np.arange(*sorted((before, start if step == 1 else end)))[::step]).size:
            positions.append(gap)
            states.append(_states_of_intron(len(gap), base, None if phase is None else (coded - phase) % 3))
        segment = np.arange(start, end)[::step]
        positions.append(segment)
        frame = (np.arange(coded, coded + len(segment)) - (phase or 0)) % 3
        states.append(np.full(len(segment), MISSING) if phase is None else base + frame)
        coded, before = coded + len(segment), end if step == 1 else start
    return np.concatenate(positions), np.concatenate(states)


def _states_of_intron(length: int, base: int, codon: int | None) -> States:
    """States of an intron in the order of its strand, before a base with this position in the codon."""
    if codon is None or length < PARTS:
        return np.full(length, MISSING)
    parts = np.full(length, SIGNAL)
    parts[:SIGNAL], parts[length - SIGNAL :] = np.arange(SIGNAL), np.arange(SIGNAL + 1, PARTS)
    return base + 3 + PARTS * codon + parts


def drawn_windows(
    store: GenomeStore, states: Mapping[str, States], regions: Sequence[Interval], length: int, count: int, seed: int
) -> list[Interval]:
    """Windows of regions that share no base, on contigs with genes, up to so many."""
    windows, inside = tile(store, [region for region in regions if region.contig in states], length, length)
    whole = np.flatnonzero(inside == length)
    return list(_places(store, windows.take(np.sort(np.random.default_rng(seed).permutation(whole)[:count]))))


def _places(store: GenomeStore, windows: Windows) -> Iterator[Interval]:
    for contig, start in zip(windows.contigs, windows.starts, strict=True):
        yield Interval(store.contigs.names[int(contig)], int(start), int(start) + windows.length)


def labelled(
    store: GenomeStore, states: Mapping[str, States], windows: Mapping[str, Sequence[Interval]], classes: Classes
) -> LabelledSet:
    """Windows with the class of each base. Those that are not of the test are read on either strand."""
    examples = []
    for split, places in windows.items():
        turned = np.random.default_rng(len(places)).random(len(places)) < (0 if split == "test" else 0.5)
        for (contig, start, end, *_), is_turned in zip(places, turned.tolist(), strict=True):
            of_bases, strand = states[contig][start:end], "-" if is_turned else "+"
            if is_turned:
                of_bases = np.where(of_bases == MISSING, MISSING, OTHER_STRAND[of_bases])[::-1]
            names = " ".join("." if number == MISSING else classes.names[number] for number in classes.of(of_bases))
            sequence = store.fetch(contig, start, end, strand, output="letters").tobytes().decode().upper()  # type: ignore[arg-type]
            name = place_text(contig, start, end, strand)
            examples.append(Example(name, sequence, (names,), split, contig, start, end, strand))
    return LabelledSet(examples, ("label",))


def both_strands(
    predict: Callable[[list[str]], Sequence[npt.NDArray[np.floating]]], sequences: list[str], classes: Classes
) -> list[Array]:
    """Predictions, (L, classes) of each sequence, averaged with those of the reverse complements.

    The classes of the other strand are exchanged for that, which averaging in `genome_lm` does not do.
    """
    turned = predict([reverse_complement_text(sequence) for sequence in sequences])
    order = classes.other_strand
    pairs = zip(predict(sequences), turned, strict=True)
    return [(np.asarray(one, dtype=float) + other[::-1, order]) / 2 for one, other in pairs]


class Chain(NamedTuple):
    """States that follow each other.

    Attributes:
        first: (S,) Probability of each state at the first base.
        steps: (S, S) Of the state in a column after that in a row.
    """

    first: Array
    steps: Array

    @classmethod
    def fit(cls, sequences: Sequence[States], count: int) -> "Chain":
        """From sequences of states; steps from and to missing ones do not count. No other step is ever possible."""
        steps, occurring = np.zeros((count, count)), np.zeros(count)
        for states in sequences:
            follows = (states[:-1] != MISSING) & (states[1:] != MISSING)
            numbers = states[:-1][follows] * count + states[1:][follows]
            steps += np.bincount(numbers, minlength=count**2).reshape(count, count)
            occurring += np.bincount(states[states != MISSING], minlength=count)
        return cls(occurring / occurring.sum(), steps / np.maximum(1, steps.sum(1, keepdims=True)))

    def posterior(self, likelihoods: Array) -> Array:
        """Probability of each state at each base (forward-backward): (L, S), scaled likelihoods → (L, S)."""
        forward, backward = np.empty_like(likelihoods), np.empty_like(likelihoods)
        state = self.first * likelihoods[0]
        for base in range(len(likelihoods)):
            if base:
                state = (state @ self.steps) * likelihoods[base]
            total = state.sum()
            # Where what was read is impossible, the chain begins anew.
            state = state / total if total > 0 else self.first
            forward[base] = state
        state = np.ones(len(self.first))
        back = np.ascontiguousarray(self.steps.T)
        for base in reversed(range(len(likelihoods))):
            backward[base] = state
            state = (state * likelihoods[base]) @ back
            total = state.sum()
            state = state / total if total > 0 else np.ones(len(state))
        both = forward * backward
        totals = both.sum(1, keepdims=True)
        return np.divide(both, totals, out=forward, where=totals > 0)


class GeneModel(NamedTuple):
    """A hidden Markov model of genes: each state emits bases by a Markov chain of its own.

    It has no length distributions, and no signals of where genes start and end but what its words of bases tell.

    Attributes:
        chain: How states follow each other.
        emissions: (words of `order` bases, 4, COUNT) Probability of a base after the word.
        order: Bases that an emission depends on.
    """

    chain: Chain
    emissions: Array
    order: int

    @classmethod
    def fit(cls, pairs: Sequence[tuple[npt.NDArray[np.uint8], States]], order: int = 5) -> "GeneModel":
        """From token ids and states of stretches of the forward strand, each read on both strands."""
        both = [pair for ids, states in pairs for pair in ((ids, states), _turned(ids, states))]
        # Introns emit the same whatever the codon that they interrupt.
        tied = np.arange(COUNT)
        for strand in (1, 1 + STRANDED):
            introns = strand + 3 + np.arange(3 * PARTS)
            tied[introns] = strand + 3 + np.arange(3 * PARTS) % PARTS
        emissions = np.full((1, 4, COUNT), 0.25)
        for length in range(order + 1):
            counts = np.zeros((4**length, 4, COUNT))
            for ids, states in both:
                words, bases = _words(ids, length), _bases(ids)
                read = (words >= 0) & (bases >= 0) & (states != MISSING)
                numbers = (4 * words[read] + bases[read]) * COUNT + tied[states[read]]
                counts += np.bincount(numbers, minlength=counts.size).reshape(counts.shape)
            # A word's last bases are the shorter word, whose estimate stands for 10 counts.
            shorter = np.tile(emissions, (4 if length else 1, 1, 1))
            emissions = (counts + 10 * shorter) / (counts.sum(1, keepdims=True) + 10)
        return cls(Chain.fit([states for _, states in both], COUNT), emissions[:, :, tied], order)

    def probabilities(self, ids: npt.NDArray[np.uint8], classes: Classes) -> Array:
        """Probability of each class at each base: (L,) token ids → (L, classes). It reads in pieces."""
        words, bases = _words(ids, self.order), _bases(ids)
        pieces = []
        for start in range(0, len(ids), PIECE):
            first, last = max(0, start - FLANK), min(len(ids), start + PIECE + FLANK)
            word, base = words[first:last], bases[first:last]
            likelihoods = self.emissions[np.maximum(0, word), np.maximum(0, base)]
            likelihoods[(word < 0) | (base < 0)] = 1.0
            posterior = self.chain.posterior(likelihoods)[start - first :][:PIECE]
            of_classes = range(len(classes.names))
            pieces.append(np.stack([posterior[:, classes.of_state == number].sum(1) for number in of_classes], 1))
        return np.concatenate(pieces)


def _turned(ids: npt.NDArray[np.uint8], states: States) -> tuple[npt.NDArray[np.uint8], States]:
    return reverse_complement(ids), np.where(states == MISSING, MISSING, OTHER_STRAND[states])[::-1]


def _bases(ids: npt.NDArray[np.uint8]) -> States:
    """0 to 3, and −1 for what is no base."""
    return np.where((ids >= A) & (ids <= T), ids.astype(np.int64) - A, -1)


def _words(ids: npt.NDArray[np.uint8], length: int) -> States:
    """The number of the word of so many bases before each base; −1 if it is not whole."""
    bases = _bases(ids)
    words, whole = np.zeros(len(ids), dtype=np.int64), np.ones(len(ids), dtype=bool)
    for back in range(length, 0, -1):
        before = np.concatenate([np.full(back, -1), bases])[: len(ids)]
        words, whole = 4 * words + before, whole & (before >= 0)
    return np.where(whole, words, -1)
