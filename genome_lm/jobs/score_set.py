"""Scoring a list of variants as a job, for evaluation: in parts, resumable, with states for probes if so wished."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from genome_lm.alphabet import Tokens, decode, encode
from genome_lm.formats.parts import read_part
from genome_lm.genome import GenomeStore
from genome_lm.genome.variants import Variant
from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.inference.model import GenomeLM
from genome_lm.inference.readouts import Readouts
from genome_lm.inference.variants import Layout, score_variants
from genome_lm.jobs.run import Advance, Job, identity_of, run_job
from genome_lm.strands import Strands

ROWS = 1_000
"""Variants of a part."""


@dataclass(frozen=True)
class SetRequest:
    """How variants are scored.

    Attributes:
        context: See `Layout.of`.
        flank: See `Layout.of`.
        strand: As in `score_variants`.
        layer: Of the hidden states; see `Readouts`.
        states: Whether to embed each allele too.
        batch_tokens: As in `score_variants`.
        force: Throw away what another unfinished job left.
    """

    context: int | None = None
    flank: int | None = None
    strand: Strands = "both"
    layer: int | None = None
    states: bool = True
    batch_tokens: int = BATCH_TOKENS
    force: bool = False


@dataclass(frozen=True)
class ScoredSet:
    """Scores of n variants.

    Attributes:
        values: By name, (n,) float64 each: llr, in nats, and of causal models l2_site, l2_flank, cosine_site and
            cosine_flank; NaN where there is none.
        reasons: n keys of `genome_lm.genome.variants.REASONS`; "" where a variant has a score.
        states: (n, 2 × d_model) float32: the mean of the reference's states in its window, and the alternative's less
            that; None if they were not asked for. A variant without a score has zeros.
        layout: How windows lay.
    """

    values: dict[str, npt.NDArray[np.float64]]
    reasons: list[str]
    states: npt.NDArray[np.float32] | None
    layout: Layout


def score_set(
    model: GenomeLM, store: GenomeStore, variants: Sequence[Variant], digest: str, folder: Path, request: SetRequest
) -> ScoredSet:
    """Score variants, or go on with what an earlier run has left in a folder.

    Args:
        model: The model.
        store: The genome.
        variants: n variants; in the order of the genome they share most windows.
        digest: SHA-256 of them.
        folder: Of the parts, which `genome_lm.formats.parts.working_in` holds.
        request: How.

    Raises:
        GenomeLMError: If the layout does not fit the model, another job's parts are there, or one can't be written.
    """
    layout = Layout.of(model.config, request.context, request.flank)
    is_causal = not model.config.direction.sees_following
    wanted = Readouts.of(("llr", "l2", "cosine") if is_causal else ("llr",), request.layer, model.config)
    rows = [min(ROWS, len(variants) - at) for at in range(0, len(variants), ROWS)]
    identity = identity_of(
        model.model,
        genome=store.provenance,
        strand=request.strand,
        layout=asdict(layout),
        readouts={"names": list(wanted.names), "layer": wanted.layer},
        states=request.states,
        input_sha256=digest,
        rows=rows,
    )
    options: dict[str, Any] = {"strand": request.strand, "batch_tokens": request.batch_tokens, "readouts": wanted}

    def compute(numbers: Sequence[int], advance: Advance) -> Iterator[Iterable[pa.Table]]:
        for number in numbers:
            some = variants[number * ROWS : (number + 1) * ROWS]
            scores = score_variants(model.model, store, some, layout, advance=advance, **options)
            columns = {"llr": scores.llr} | {name: scores.readout(name) for name in wanted.values}
            if request.states:
                states = _states(model, store, some, scores.reasons, request, layout.flank)
                columns["states"] = pa.FixedSizeListArray.from_arrays(states.reshape(-1), states.shape[1])
            yield [pa.table(columns | {"reason": scores.reasons})]

    job = Job("score", "variants", identity, range(len(rows)), rows, compute)
    parts, _ = run_job(job, folder, request.force)
    table = pa.concat_tables(read_part(parts.file(number)) for number in job.numbers).combine_chunks()
    values = {name: table[name].to_numpy() for name in ("llr", *wanted.values)}
    flat = table["states"].combine_chunks().flatten().to_numpy() if request.states else None
    states = None if flat is None else flat.reshape(len(variants), -1)
    return ScoredSet(values, table["reason"].to_pylist(), states, layout)


def _states(
    model: GenomeLM,
    store: GenomeStore,
    variants: Sequence[Variant],
    reasons: Sequence[str],
    request: SetRequest,
    flank: int,
) -> npt.NDArray[np.float32]:
    """`ScoredSet.states` of variants, whose windows reach `flank` bases to either side, N beyond a contig."""
    states = np.zeros((len(variants), 2 * model.config.d_model), dtype=np.float32)
    scored = [number for number, reason in enumerate(reasons) if not reason]
    if not scored:
        return states
    pairs = [alleles_in(store, variants[number], flank, model.config.max_length) for number in scored]
    embedded = [
        np.asarray(
            model.embed(
                [decode(window) for window in windows],
                layer=request.layer,
                strand="both" if request.strand == "both" else "forward",
                batch_tokens=request.batch_tokens,
            )
        )
        for windows in zip(*pairs, strict=True)
    ]
    states[scored] = np.concatenate([embedded[0], embedded[1] - embedded[0]], axis=1)
    return states


def alleles_in(store: GenomeStore, variant: Variant, flank: int, most: int) -> tuple[Tokens, Tokens]:
    """The window of a variant with the reference and with the alternative: token ids.

    It reaches `flank` bases to either side, or less: as far as the contig goes, and so that neither has more than
    `most` bases. An allele that is longer alone is cut.
    """
    flank = min(flank, max(0, most - max(len(variant.ref), len(variant.alt))) // 2)
    limit = int(store.contigs.lengths[store.contigs.index(variant.contig)])
    end = variant.start + len(variant.ref)
    left = store.fetch(variant.contig, max(0, variant.start - flank), variant.start)
    right = store.fetch(variant.contig, end, min(limit, end + flank))
    with_ref, with_alt = (
        np.concatenate([left, encode(allele), right])[:most] for allele in (variant.ref, variant.alt)
    )
    return with_ref, with_alt
