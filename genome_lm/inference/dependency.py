"""Dependency maps: what a substitution at one base of a region changes in the prediction of another.

With o(j, b) the log odds of base b at position j, ln p − ln(1 − p) with p over A, C, G and T, the map is

    D(i, j) = max |o(j, b | a at i) − o(j, b | reference)| over the three substitutions a and the four bases b,

in nats. It is that of Tomaz da Silva et al. 2025 (https://doi.org/10.1038/s41588-025-02347-3, with code in
https://github.com/gagneurlab/dependencies_DNALM), who give it in bits. A causal model predicts j from what it reads
before j: the forward strand gives D where i < j, the reverse complement where i > j. A model that reads both ways
gives all of D on each strand; the base at j is hidden from it, while they show it to theirs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm import __version__
from genome_lm.alphabet import MASK, NUCLEOTIDES, Tokens, decode, reverse_complement
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file, replacing_folder, require_suffix
from genome_lm.genome import GenomeStore, Interval
from genome_lm.genome.places import place_text
from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.model import HyenaLM
from genome_lm.model import recompute as shared
from genome_lm.model.language_model import target_mask
from genome_lm.model.likelihood import HIDDEN_SETS, base_table, hidden_sets, hidden_table
from genome_lm.model.room import fitting_positions
from genome_lm.optional import require
from genome_lm.progress import progress
from genome_lm.strands import Strands, check_strand, orientations

Map = npt.NDArray[np.float64]
SUFFIXES = (".npz", ".zarr")
GROUP = 16
"""Positions whose substitutions are read together at most: all of them are read from the first of these on."""
_OTHERS = ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2))


@dataclass(frozen=True)
class DependencyMap:
    """How the bases of a region depend on one another.

    Attributes:
        contig: Name of the contig.
        start: First base, 0-based.
        reference: The region's n letters, upper case.
        values: (n, n) float32, nats. Row i, column j: what a substitution at i changes at j. 0 on the diagonal, and
            where no strand that was read has i before j; NaN where either is not A, C, G or T.
        context: Bases that were read to the left and to the right of the region, fewer than asked at a contig's ends.
        strand: "forward", "reverse" or "both".
    """

    contig: str
    start: int
    reference: str
    values: npt.NDArray[np.float32]
    context: tuple[int, int]
    strand: Strands


def symmetrised(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The mean of what i does to j and j to i: (n, n) → (n, n)."""
    return (values + values.T) / 2


def without_background(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Take off what rows and columns have in common, the average product correction: (n, n) → (n, n).

    D(i, j) − Σ D(i, ·) · Σ D(·, j) / Σ D (Dunn et al. 2008, https://doi.org/10.1093/bioinformatics/btm604). The
    diagonal stays 0, NaN stay NaN and count for no sum.
    """
    total = np.nansum(values)
    if total == 0:
        return values.copy()
    product = np.nansum(values, 1, keepdims=True) * np.nansum(values, 0, keepdims=True)
    corrected = values - product / total
    np.fill_diagonal(corrected, np.diagonal(values))
    return corrected


def dependency_map(
    model: HyenaLM,
    store: GenomeStore,
    region: Interval,
    *,
    context: int | None = None,
    strand: Strands = "both",
    batch_tokens: int = BATCH_TOKENS,
    share: bool = True,
) -> DependencyMap:
    """Map how the bases of a region depend on one another.

    Of a causal model, a strand of n bases costs one pass over the context and the region, and 3 · n passes over what
    follows each substitution within the region. Of a model that reads both ways it costs 28 · n passes over all.

    Args:
        model: In eval mode.
        store: The genome.
        region: What is mapped.
        context: Bases that are read before the region, on each strand, where the contig has them; of a model that
            reads both ways, on each side. None for all that the model can take.
        strand: "both" for i before j and j before i; of a model that reads both ways, for the mean of the strands.
        batch_tokens: Positions that go through the model at one time; a longer sequence goes alone.
        share: False reads each substitution of a causal model in full. The result is the same; for tests.

    Returns:
        The map.

    Raises:
        GenomeLMError: On an unknown contig or strand, a region beyond the contig, without A, C, G or T, or a region
            and context that are too long for the model.
    """
    reader = RegionReader.of(model, store, region, context, strand)
    with progress("dependency", reader.bases * len(reader.strands), "bases") as bar:
        rows = range(reader.bases)
        options: dict[str, Any] = {"batch_tokens": batch_tokens, "share": share, "advance": bar.advance}
        return reader.joined([each.rows(rows, **options) for each in reader.strands])


@dataclass(frozen=True)
class RegionReader:
    """Reads the map of a region on each strand, and joins the strands.

    Attributes:
        contig: Name of the contig.
        start: First base of the region, 0-based.
        reference: The region's n letters, upper case.
        strand: "forward", "reverse" or "both".
        context: Bases that are read to the left and to the right of the region.
        strands: The region on each strand that is read, the forward one first.
    """

    contig: str
    start: int
    reference: str
    strand: Strands
    context: tuple[int, int]
    strands: "tuple[StrandReader, ...]"

    @classmethod
    def of(
        cls, model: HyenaLM, store: GenomeStore, region: Interval, context: int | None, strand: Strands
    ) -> "RegionReader":
        """Look at what is to be read; arguments and errors are those of `dependency_map`."""
        check_strand(strand, Strands)
        contig, start, end, *_ = region
        reference = decode(store.fetch(contig, start, end))
        if not set(reference) & set("ACGT"):
            raise GenomeLMError(
                f"{place_text(contig, start, end)}: there is no A, C, G or T in it, nothing to substitute"
            )
        context = _context(model.config, end - start, context)
        limit = int(store.contigs.lengths[store.contigs.index(contig)])
        strands, was_read = [], (0, 0)
        for reverse in orientations(strand):
            before, after = model.config.direction.context(context, context)
            left, right = (after, before) if reverse else (before, after)
            left, right = min(left, start), min(right, limit - end)
            was_read = max(was_read[0], left), max(was_read[1], right)
            tokens = store.fetch(contig, start - left, end + right)
            tokens, first = (reverse_complement(tokens), right) if reverse else (tokens, left)
            strands.append(StrandReader(model, reverse, tokens, first, end - start))
        return cls(contig, start, reference, strand, was_read, tuple(strands))

    @property
    def bases(self) -> int:
        """n, the region's bases."""
        return len(self.reference)

    def joined(self, maps: Iterable[Map]) -> DependencyMap:
        """The region's map, of those of `strands`, (n, n) each in the order of its strand."""
        values = np.zeros((self.bases, self.bases))
        for reader, of_strand in zip(self.strands, maps, strict=True):
            values += of_strand[::-1, ::-1] if reader.reverse else of_strand
        if self.strands[0].model.config.direction.sees_following:
            values /= len(self.strands)
        is_base = np.array([letter in "ACGT" for letter in self.reference])
        values[~is_base], values[:, ~is_base] = np.nan, np.nan
        return DependencyMap(
            self.contig, self.start, self.reference, values.astype(np.float32), self.context, self.strand
        )


def _context(config: ModelConfig, bases: int, context: int | None) -> int:
    """Bases of context on a side; an error if a region of so many bases and its context don't fit the model."""
    sides = 2 if config.direction.sees_following else 1
    room = (config.max_length - bases) // sides
    if room < 0:
        raise GenomeLMError(f"a region of {bases:,} bases is longer than the model's {config.max_length:,}; cut it")
    if context is not None and not 0 <= context <= room:
        raise GenomeLMError(f"context {context:,}: use 0 to {room:,}, so that the region fits the model with it")
    return room if context is None else context


@dataclass(frozen=True)
class StrandReader:
    """Reads rows of the map of a region on one strand.

    Attributes:
        model: In eval mode.
        reverse: Whether it is the reverse complement.
        tokens: (L,) token ids of the region and its context, on that strand.
        first: Where the region begins in them.
        bases: n, the region's length.
    """

    model: HyenaLM
    reverse: bool
    tokens: Tokens
    first: int
    bases: int

    def rows(self, rows: range, *, batch_tokens: int, share: bool, advance: Callable[[float], None]) -> Map:
        """Some consecutive rows of the map, in the order of the strand: (len(rows), n).

        Args:
            rows: Which ones: positions in the region that are substituted.
            batch_tokens: As in `dependency_map`.
            share: As in `dependency_map`.
            advance: Told how many rows are done.
        """
        if self.model.config.direction.sees_following:
            return self._hidden_rows(rows, batch_tokens, advance)
        return self._causal_rows(rows, batch_tokens, share, advance)

    @cached_property
    def _ids(self) -> Tensor:
        return torch.from_numpy(self.tokens.astype(np.int64)).to(self.model.backbone.embedding.weight.device)

    @cached_property
    def _shared(self) -> shared.ReferenceStates:
        return shared.reference_states(self.model.backbone, self._ids[None], self.first)

    def _causal_rows(self, rows: range, batch_tokens: int, share: bool, advance: Callable[[float], None]) -> Map:
        """Rows of the map of a causal model: 0 where i ≥ j."""
        backbone, ids = self.model.backbone, self._ids
        reference = self._shared if share else shared.plain_reference_states(backbone, ids[None], self.first)
        read_alternatives = shared.alternative_states if share else shared.plain_alternative_states
        of_reference = self._log_odds(reference.hidden)[0, self.first - reference.begin :]
        values = np.zeros((len(rows), self.bases))
        batch_tokens = fitting_positions(backbone, batch_tokens, len(ids), shared.kept_streams(backbone.config))
        at = rows.start
        while at < min(rows.stop, self.bases - 1):  # nothing in the region follows the last base
            # The last base predicts nothing in the region.
            end = ids[self.first + at : -1]
            group = min(len(end), rows.stop - at, GROUP, max(1, batch_tokens // (3 * len(end))))
            ends = end.repeat(group, 3, 1)
            places = torch.arange(group, device=ids.device)
            ends[places, :, places] = _substitutes(end[:group])
            ends = ends.flatten(0, 1)
            of_row = torch.zeros(len(ends), dtype=torch.int64, device=ids.device)
            states = read_alternatives(backbone, reference, of_row, of_row + self.first + at, ends)
            change = (self._log_odds(states)[:, 1:] - of_reference[at + 1 : self.bases]).abs().amax(-1)
            largest = change.unflatten(0, (group, 3)).amax(1).double().cpu().numpy()
            values[at - rows.start : at - rows.start + group, at + 1 :] = largest
            advance(group)
            at += group
        advance(rows.stop - at)
        return np.triu(values, rows.start + 1)

    @torch.no_grad()
    def _log_odds(self, hidden: Tensor) -> Tensor:
        """From hidden states, (B, P, D), the log odds of each base after the first of them: (B, P + 1, 4)."""
        logits = torch.nn.functional.linear(hidden, self.model.backbone.embedding.weight)
        return _log_odds(base_table(logits))

    def _hidden_rows(self, rows: range, batch_tokens: int, advance: Callable[[float], None]) -> Map:
        """Rows of the map of a model that reads both ways, which is asked for the bases of one set after another."""
        values, region, ids = np.zeros((len(rows), self.bases)), slice(self.first, self.first + self.bases), self._ids
        sets = torch.from_numpy(hidden_sets(self.bases)).to(ids.device)
        is_hidden = (sets == torch.arange(HIDDEN_SETS, device=ids.device)[:, None]) & target_mask(ids[region])
        for row, at in zip(values, rows, strict=True):
            # What is substituted is seen. For each set the reference, and the three substitutions.
            read, hidden = ids.repeat(HIDDEN_SETS, 4, 1), is_hidden.clone()
            hidden[:, at] = False
            read[..., region].masked_fill_(hidden[:, None], MASK)
            read[:, 1:, self.first + at] = _substitutes(ids[self.first + at])
            size = max(1, fitting_positions(self.model.backbone, batch_tokens, len(ids)) // len(ids))
            tables = [hidden_table(self.model, some)[:, region] for some in read.flatten(0, 1).split(size)]
            odds = _log_odds(torch.cat(tables)).unflatten(0, (HIDDEN_SETS, 4))
            change = (odds[:, 1:] - odds[:, :1]).abs().amax((1, 3))
            row[:] = change.where(hidden, 0).sum(0).double().cpu().numpy()
            advance(1)
        return values


def _substitutes(ids: Tensor) -> Tensor:
    """The three other bases of each token, (...,) → (..., 3); any three for what is not A, C, G or T."""
    numbers = (ids - NUCLEOTIDES[0]).clamp(0, 3)
    return torch.tensor(_OTHERS, device=ids.device)[numbers] + NUCLEOTIDES[0]


def _log_odds(table: Tensor) -> Tensor:
    """ln p of the four bases → ln p − ln(1 − p), with p over the four alone: (..., 4) → (..., 4)."""
    return table - table[..., torch.tensor(_OTHERS, device=table.device)].logsumexp(-1)


def write_dependency(out: Path, result: DependencyMap) -> None:
    """Write a map, whole or not at all.

    The array is `map`, (n, n) float32. contig, start (0-based), reference, context and strand stand beside it, as
    arrays of an .npz file or attributes of a .zarr folder.
    """
    facts = {name: getattr(result, name) for name in ("contig", "start", "reference", "context", "strand")}
    facts["genome_lm_version"] = __version__
    if require_suffix(out, SUFFIXES) == ".zarr":
        with replacing_folder(out) as folder:
            group = require("zarr").open_group(folder, mode="w", zarr_format=3)
            group.create_array("map", shape=result.values.shape, dtype="float32")[...] = result.values
            group.attrs.update(facts)
        return
    with replacing_file(out) as temporary:
        arrays: dict[str, Any] = {name: np.array(fact) for name, fact in facts.items()}
        np.savez_compressed(temporary, map=result.values, **arrays)
