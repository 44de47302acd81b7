"""Whether a model knows codons and reading frames."""

import numpy as np

from genome_lm.alphabet import A, Tokens, encode, reverse_complement
from genome_lm.dataset import Annotation, Transcript
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.analysis import Analysis, Row, Setting, Tables
from genome_lm.evaluation.losses import base_losses
from genome_lm.evaluation.measures import draw_measures, measure_row
from genome_lm.genome import GenomeStore, Interval
from genome_lm.model import HyenaLM
from genome_lm.optional import require

_BASES = "ACGT"
Synonyms = dict[tuple[int, int, int], tuple[list[int], list[int]]]
"""Codon → third bases that keep the amino acid, and those that change it to another one."""


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

    Transcripts are read in the frame that their phase says; those whose phases contradict each other are left out.

    Args:
        model: In eval mode.
        store: The genome.
        annotation: Its genes.
        intervals: Where whole coding sequences are taken from.
        genes: Coding sequences at most.
        changes: Codons of each that are changed.
        genetic_code: NCBI's number, for transcripts of which the annotation does not say one (`transl_table`).
        seed: Of everything that is drawn.

    Returns:
        Rows of measure, value and error, in nats (of the whole sequence; per base for insertions), and under
        "synonymous preferred" how often the synonymous change of a pair is the likelier one (0.5 by chance).

    Raises:
        GenomeLMError: If NCBI has no genetic code of this number.
    """
    generator = np.random.default_rng(seed)
    sequences = _coding_sequences(model, store, annotation, intervals, genes, generator)
    codes = {genetic_code, *(code for _, code in sequences if code is not None)}
    synonyms = {code: _synonyms(code) for code in sorted(codes)}
    scores: dict[str, list[float]] = {"synonymous": [], "non-synonymous": []}
    frames: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for tokens, code in sequences:
        before = base_losses(model, tokens[None])[0]
        pairs = _codon_pairs(tokens, synonyms[code or genetic_code], changes, generator)
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
    rows = [
        measure_row(f"log-likelihood change, {name}", np.array(values), "nats per sequence")
        for name, values in scores.items()
    ]
    rows.append(measure_row("synonymous preferred", (one > other).astype(float), "fraction of pairs"))
    return rows + [measure_row(f"loss after an insertion of {n}", np.array(values)) for n, values in frames.items()]


def _coding_sequences(
    model: HyenaLM,
    store: GenomeStore,
    annotation: Annotation,
    intervals: list[Interval],
    count: int,
    generator: np.random.Generator,
) -> list[tuple[Tokens, int | None]]:
    """Whole codons without N of coding sequences within the intervals, up to the context, and their genetic codes."""
    sequences: list[tuple[Tokens, int | None]] = []
    for i in generator.permutation(len(annotation.transcripts)).tolist():
        transcript = annotation.transcripts[i]
        if len(sequences) == count:
            break
        if transcript.phase is not None and _is_inside(transcript, intervals):
            tokens = _coding_tokens(store, transcript)[transcript.phase :][: model.config.max_length // 3 * 3]
            if len(tokens) >= 3 * 36 and ((tokens >= A) & (tokens < A + 4)).all():
                sequences.append((tokens[: len(tokens) // 3 * 3], transcript.genetic_code))
    return sequences


def _is_inside(transcript: Transcript, intervals: list[Interval]) -> bool:
    return any(
        i.contig == transcript.contig and all(i.start <= start and end <= i.end for start, end in transcript.segments)
        for i in intervals
    )


def _coding_tokens(store: GenomeStore, transcript: Transcript) -> Tokens:
    pieces = [store.fetch(transcript.contig, start, end) for start, end in transcript.segments]
    tokens = np.concatenate(pieces)
    return tokens if transcript.strand == "+" else reverse_complement(tokens)


def _synonyms(genetic_code: int) -> Synonyms:
    """By a genetic code of NCBI's; a change to a stop codon is neither."""
    tables = require("Bio.Data.CodonTable").unambiguous_dna_by_id
    if genetic_code not in tables:
        raise GenomeLMError(f"genetic code {genetic_code}: NCBI has {', '.join(map(str, sorted(tables)))}")
    table = tables[genetic_code].forward_table
    synonyms: Synonyms = {}
    for codon, amino in table.items():
        others = [base for base in _BASES if base != codon[2]]
        same = [base for base in others if table.get(codon[:2] + base) == amino]
        changed = [base for base in others if table.get(codon[:2] + base, amino) != amino]
        one, two, three = (int(token) for token in encode(codon))
        synonyms[one, two, three] = [A + _BASES.index(b) for b in same], [A + _BASES.index(b) for b in changed]
    return synonyms


def _codon_pairs(
    tokens: Tokens,
    synonyms: Synonyms,
    count: int,
    generator: np.random.Generator,
) -> list[tuple[Tokens, Tokens]]:
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


def _run(setting: Setting) -> Tables:
    given = setting.given
    assert given.annotation is not None
    options = {"genes": setting.number(60), "genetic_code": given.genetic_code, "seed": setting.seed}
    return Tables(codon_sensitivity(setting.lm, setting.store, given.annotation, setting.regions, **options))


ANALYSIS = Analysis(
    words="Synonymous and non-synonymous changes at third positions of codons; insertions that shift the frame "
    "(1, 2) or don't (3).",
    run=_run,
    draw=draw_measures,
    needs="annotation",
)
