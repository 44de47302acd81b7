"""In-silico saturation mutagenesis: what every substitution in a region does to the likelihood of what follows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from genome_lm import __version__
from genome_lm.alphabet import NUCLEOTIDES, Tokens, decode, reverse_complement
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_folder, require_suffix
from genome_lm.formats.tables import save_table
from genome_lm.genome import GenomeStore, Interval
from genome_lm.genome.places import place_text
from genome_lm.genome.variants import Variant
from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.inference.one_hot import OneHot
from genome_lm.inference.variants import Layout, score_variants
from genome_lm.model import HyenaLM
from genome_lm.optional import require
from genome_lm.progress import progress
from genome_lm.strands import Strands, check_strand, orientations

Method = Literal["substitutions", "gradient"]
BASES = "ACGT"
PIECE = 1 << 14
"""Bases whose substitutions are held at one time."""
SUFFIXES = (".zarr", ".tsv")


@dataclass(frozen=True)
class Mutagenesis:
    """The effects of all substitutions of a region.

    Attributes:
        contig: Name of the contig.
        start: First base, 0-based.
        reference: The region's letters, upper case.
        llr: (n, 4) float32. ln p(window with A, C, G or T there) − ln p(reference window), in nats:
            0 for the reference's own base, NaN where the reference is not A, C, G or T.
        method: "substitutions", each one scored, or "gradient", the first-order approximation.
    """

    contig: str
    start: int
    reference: str
    llr: npt.NDArray[np.float32]
    method: Method

    @property
    def importance(self) -> npt.NDArray[np.float32]:
        """(n,) float32. How much likelier the reference base is than the mean of the other three: −mean LLR."""
        return np.asarray(-self.llr.sum(1) / (len(BASES) - 1), dtype=np.float32)


def parse_region(text: str, store: GenomeStore) -> tuple[str, int, int]:
    """A region as samtools writes it, chr:start-end, 1-based, both ends in it; a name alone is the contig.

    Returns:
        Contig, first base, 0-based, and one after the last.

    Raises:
        GenomeLMError: If it is no region of this genome.
    """
    if text in store.contigs:
        return text, 0, int(store.contigs.lengths[store.contigs.index(text)])
    contig, colon, span = text.rpartition(":")
    first, dash, last = span.replace(",", "").partition("-")
    if not (colon and dash and first.isdecimal() and last.isdecimal()):
        raise GenomeLMError(f"region {text!r}: use chr:start-end, 1-based, both ends in it: chr1:1,001-1,200")
    limit = int(store.contigs.lengths[store.contigs.index(contig)])
    if not 1 <= int(first) <= int(last) <= limit:
        raise GenomeLMError(f"region {text!r}: {contig} is 1-{limit:,}; the start comes first")
    return contig, int(first) - 1, int(last)


def mutagenesis(
    model: HyenaLM,
    store: GenomeStore,
    region: Interval,
    layout: Layout,
    *,
    method: Method = "substitutions",
    strand: Strands = "both",
    batch_tokens: int = BATCH_TOKENS,
) -> Mutagenesis:
    """Score all substitutions of a region.

    "substitutions" scores each one as `score_variants` does, 3 passes over a flank a base. "gradient" takes one pass
    forward and backward a strand: with X the one-hot sequence and ℓ the log-likelihood of the window, LLR(i, b) ≈
    ∂ℓ/∂X(i, b) − ∂ℓ/∂X(i, reference) (Simonyan et al. 2013, https://arxiv.org/abs/1312.6034, for ∂/∂X). The change of
    what is predicted at i itself is exact in it; that of what follows is of first order, and is summed up to the
    window's end, `flank` bases beyond the region. Models that read both ways are asked for what they expect at a
    hidden site, by substitutions alone.

    Args:
        model: In eval mode.
        store: The genome.
        region: What is mutated.
        layout: How windows lie.
        method: "substitutions" or "gradient".
        strand: "both" for the mean with the reverse complement.
        batch_tokens: As in `score_variants`.

    Returns:
        The effects.

    Raises:
        GenomeLMError: On an unknown method, contig or strand, a region beyond the contig, without A, C, G or T, or,
            for gradients, too long for the model.
    """
    if method not in get_args(Method):
        raise GenomeLMError(f"method {method!r}: use {', '.join(get_args(Method))}")
    check_strand(strand, Strands)
    contig, start, end, *_ = region
    reference = decode(store.fetch(contig, start, end))
    bases = sum(map(reference.count, BASES))
    if not bases:
        raise GenomeLMError(
            f"{place_text(contig, start, end)}: there is no A, C, G or T in it, nothing to substitute"
        )
    if method == "gradient":
        model.config.direction.require_causal("the method gradient")
        llr = _gradients(model, store, region, layout, strand)
    else:
        with progress("mutagenesis", 3 * bases, "substitutions") as bar:
            options: dict[str, Any] = {"strand": strand, "batch_tokens": batch_tokens, "advance": bar.advance}
            pieces = [Interval(contig, at, min(at + PIECE, end)) for at in range(start, end, PIECE)]
            llr = np.concatenate([_substitutions(model, store, piece, layout, options) for piece in pieces])
    llr[[base not in BASES for base in reference]] = np.nan
    return Mutagenesis(contig, start, reference, llr.astype(np.float32), method)


def _substitutions(
    model: HyenaLM, store: GenomeStore, region: Interval, layout: Layout, options: dict[str, Any]
) -> npt.NDArray[np.float64]:
    """LLR of each base at each position of a region, (end − start, 4); 0 for what is no substitution."""
    contig, start, end, *_ = region
    reference = decode(store.fetch(contig, start, end))
    cells = [(i, b) for i, base in enumerate(reference) if base in BASES for b in range(4) if base != BASES[b]]
    variants = [Variant(contig, start + i, reference[i], BASES[b]) for i, b in cells]
    llr = np.zeros((len(reference), 4))
    for (i, b), score in zip(cells, score_variants(model, store, variants, layout, **options).llr, strict=True):
        llr[i, b] = score
    return llr


def _gradients(
    model: HyenaLM, store: GenomeStore, region: Interval, layout: Layout, strand: Strands
) -> npt.NDArray[np.float64]:
    contig, start, end, *_ = region
    limit = int(store.contigs.lengths[store.contigs.index(contig)])
    if (most := model.config.max_length - layout.flank - 1) < end - start:
        raise GenomeLMError(
            f"a region of {end - start:,} bases is too long for gradients in this model: at most {most:,}; cut it, "
            "or use the method substitutions"
        )
    # As much context as the layout gives, less where the region itself takes the room.
    context = min(layout.context, model.config.max_length - layout.flank - (end - start))
    readings = []
    for reverse in orientations(strand):
        before, after = (layout.flank, context) if reverse else (context, layout.flank)
        left, right = max(0, start - before), min(limit, end + after)
        tokens = store.fetch(contig, left, right)
        if reverse:
            turned = _gradient(model, reverse_complement(tokens), right - end, right - start)
            readings.append(turned[::-1, ::-1])
        else:
            readings.append(_gradient(model, tokens, start - left, end - left))
    return np.asarray(np.mean(readings, axis=0))


def _gradient(model: HyenaLM, tokens: Tokens, start: int, end: int) -> npt.NDArray[np.float64]:
    """First-order LLR of each base at positions [start, end) of a window, (L,) token ids: (end − start, 4)."""
    ids = torch.from_numpy(tokens).to(model.backbone.embedding.weight.device)
    one_hot = (ids == ids.new_tensor(NUCLEOTIDES)[:, None]).to(model.backbone.embedding.weight.dtype)[None]
    with torch.enable_grad():
        one_hot.requires_grad_()
        (gradient,) = torch.autograd.grad(OneHot(model)(one_hot).sum(), one_hot)
    effect = gradient[0].T[start:end]
    bases = (ids[start:end, None].long() - NUCLEOTIDES[0]).clamp(0, 3)
    return (effect - effect.gather(-1, bases)).double().cpu().numpy()


def write_mutagenesis(out: Path, result: Mutagenesis) -> None:
    """Write the effects, whole or not at all.

    .tsv: one line per base with contig, pos (1-based, as in VCF), ref, and the LLR of A, C, G and T. .zarr: the array
    `llr`, (n, 4) float32, and contig, start (0-based), reference and method as attributes.
    """
    if require_suffix(out, SUFFIXES) == ".zarr":
        with replacing_folder(out) as folder:
            group = require("zarr").open_group(folder, mode="w", zarr_format=3)
            group.create_array("llr", shape=result.llr.shape, dtype="float32")[...] = result.llr
            group.attrs.update(
                contig=result.contig,
                start=result.start,
                reference=result.reference,
                method=result.method,
                bases=BASES,
                genome_lm_version=__version__,
            )
        return
    table = {
        "contig": result.contig,
        "pos": np.arange(result.start, result.start + len(result.reference)) + 1,
        "ref": list(result.reference),
        **dict(zip(BASES, result.llr.T, strict=True)),
    }
    save_table(out, require("pandas").DataFrame(table))
