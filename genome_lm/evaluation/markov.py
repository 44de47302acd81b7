"""Markov chains of the genome: what a language model's perplexity has to be compared with."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import A, N, Tokens
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.stretches import Cells, Counts, Sums
from genome_lm.genome import BaseClasses, GenomeStore, Interval, Windows
from genome_lm.genome.words import is_base, with_reverse_complements, words_of
from genome_lm.progress import progress

MAX_ORDER = 11
"""Order 11 has 4^12 counts, 128 MiB; beyond that even a human genome has few observations a context."""
CHUNK = 4 << 20
"""Bases that are counted at one time."""
CONCENTRATION = 16.0
"""Pseudo-observations that the next lower order contributes to each context."""
DECAY = 0.98
"""What a base counts less in a mixture's weights than the one after it. From 0.95 to 0.995, bits hardly change."""
MIXED = "mixed Markov"
"""What names of mixtures begin with."""
_OF_PIECE = 16
"""Bytes per base of a piece that is counted: measured."""
_APART = np.array([N], dtype=np.uint8)


class MarkovModel:
    """p(base | the k bases before it), for all orders k up to one, with back-off.

    Each order's estimate is shrunk to the next lower one's,
    p_k = (n_k(context, base) + c · p_(k−1)) / (n_k(context) + c),
    the posterior mean under a Dirichlet prior centred there (MacKay and Peto 1995, Natural Language Engineering
    1:289). Both strands are counted, as the language model sees both.

    Attributes:
        tables: For each order j, (4^j, 4) float32 log-probabilities in nats; the base next to the target is the
            context's lowest digit.
    """

    def __init__(self, tables: list[npt.NDArray[np.float32]]) -> None:
        self.tables = tables

    @property
    def order(self) -> int:
        """The highest order."""
        return len(self.tables) - 1

    @property
    def names(self) -> list[str]:
        """Of what `losses` gives: each order alone, and with at least two of them their mixture."""
        alone = [f"order-{order} Markov" for order in range(self.order + 1)]
        return [*alone, f"{MIXED} to order {self.order}"] if self.order else alone

    @classmethod
    def fit(cls, store: GenomeStore, intervals: Sequence[Interval], order: int) -> "MarkovModel":
        """Count the words of `order` + 1 bases in the intervals, on both strands.

        Raises:
            GenomeLMError: If the order is not in 0 … `MAX_ORDER`.
        """
        if not 0 <= order <= MAX_ORDER:
            raise GenomeLMError(f"Markov order {order}: must be between 0 and {MAX_ORDER}")
        counts = np.zeros(4 ** (order + 1), dtype=np.int64)
        bases = sum(interval.end - interval.start for interval in intervals)
        with progress(f"count {order + 1}-mers", bases, "bases") as bar:
            # Read once from end to end, nothing is worth keeping.
            for tokens in _pieces(GenomeStore(store.path, cache_bytes=0), intervals, order):
                np.add.at(counts, words_of(tokens, order + 1), 1)
                bar.advance(len(tokens))
        return cls(_tables(with_reverse_complements(counts, order + 1), order))

    def losses(
        self,
        store: GenomeStore,
        windows: Windows,
        inside: npt.NDArray[np.int64],
        cells: Cells | None = None,
    ) -> tuple[Sums, Counts]:
        """Summed loss of each order over the targets of windows, the second base of each and those after it.

        A context that holds N, or begins before the contig does, is cut to the bases next to the target.

        The mixture averages the orders' probabilities. An order's weight is the product of the probabilities that it
        gave to the bases of the window before the target. A base counts less the farther away it is (`DECAY`). This
        is how compressors of DNA mix context models (Pratas et al. 2016, https://doi.org/10.1109/DCC.2016.60).

        Args:
            store: The genome.
            windows: n windows; the context may begin before them.
            inside: (n,) bases of each window that count.
            cells: Where the losses of the targets are added; in one place if None.

        Returns:
            (names, stretches, classes) sums in nats, and (stretches, classes) targets.
        """
        cells = Cells(store, windows, BaseClasses.none()) if cells is None else cells
        before = max(0, self.order - 1)
        rows = max(1, CHUNK // windows.length)
        total, targets = np.zeros((len(self.names), *cells.shape)), np.zeros(cells.shape, dtype=np.int64)
        for start in range(0, len(inside), rows):
            numbers = np.arange(start, min(start + rows, len(inside)))
            part = windows.take(numbers)
            tokens = store.fetch_many(part.contigs, part.starts - before, before + part.length, pad=True)
            is_target = is_base(tokens[:, before + 1 :])
            counted = is_target & (np.arange(1, part.length) < inside[numbers, None])
            of_target = cells.of(numbers, part.length - 1)[counted]
            targets += cells.counts(of_target)
            mixture = _Mixture(is_target)
            for order, log_p in enumerate(self._log_probabilities(tokens, part.length - 1)):
                total[order] -= cells.sums(of_target, log_p[counted])
                if self.order:
                    mixture.add(log_p)
            if self.order:
                total[-1] -= cells.sums(of_target, mixture.log_probabilities()[counted])
        return total, targets

    def _log_probabilities(self, tokens: Tokens, count: int) -> Iterator[npt.NDArray[np.float32]]:
        """For each order, (n, count) log-probabilities of the last `count` tokens of each row."""
        width = tokens.shape[1]
        is_letter = is_base(tokens)
        digits = np.where(is_letter, tokens - A, 0).astype(np.int64)
        target = digits[:, width - count :]
        context, valid = np.zeros_like(target), np.ones(target.shape, dtype=bool)
        log_p = self.tables[0][0][target]
        yield log_p
        for order in range(1, self.order + 1):
            shifted = slice(width - count - order, width - order)
            context = context + (digits[:, shifted] << 2 * (order - 1))
            valid = valid & is_letter[:, shifted]
            log_p = np.where(valid, self.tables[order][context, target], log_p)
            yield log_p


class _Mixture:
    """The average of models' probabilities, each weighted by what it gave to the bases before."""

    def __init__(self, is_base: npt.NDArray[np.bool_]) -> None:
        self._is_base = is_base
        self._weights = np.full(is_base.shape, -np.inf)
        self._weighted = self._weights.copy()

    def add(self, log_p: npt.NDArray[np.float32]) -> None:
        """(rows, targets), one model's."""
        from scipy.signal import lfilter  # takes half a second to import, and only mixtures need it

        # A letter that is no base tells nothing of a model.
        weights = lfilter([0, 1], [1, -DECAY], np.where(self._is_base, log_p, 0).astype(np.float64))
        np.logaddexp(self._weights, weights, out=self._weights)
        np.logaddexp(self._weighted, weights + log_p, out=self._weighted)

    def log_probabilities(self) -> npt.NDArray[np.float32]:
        """(rows, targets), of the mixture."""
        return (self._weighted - self._weights).astype(np.float32)


def _pieces(store: GenomeStore, intervals: Sequence[Interval], overlap: int) -> Iterator[Tokens]:
    """The intervals' tokens in pieces of `CHUNK` or more; those of one interval overlap, so that no word is lost.

    Intervals that share a piece are kept apart by N, so that no word reaches from one into the next.
    """
    gathered: list[Tokens] = []
    held = 0
    for contig, start, end, *_ in intervals:
        for first in range(start, end, CHUNK):
            tokens = store.fetch(contig, max(start, first - overlap), min(end, first + CHUNK))
            gathered += [tokens, _APART]
            held += len(tokens)
            if held >= CHUNK:
                yield np.concatenate(gathered)
                gathered, held = [], 0
    if gathered:
        yield np.concatenate(gathered)


def _tables(counts: npt.NDArray[np.int64], order: int) -> list[npt.NDArray[np.float32]]:
    tables: list[npt.NDArray[np.float32]] = []
    lower = np.full((1, 4), 0.25)
    for context in range(order + 1):
        # The words' last context + 1 digits: the leading ones are summed out. For the highest order there are none.
        words = counts.reshape(-1, 4**context, 4)
        observed = words[0] if len(words) == 1 else words.sum(0)
        # In place: these are as large as the counts.
        lower = np.tile(lower, (4, 1)) if context else lower.copy()
        lower *= CONCENTRATION
        lower += observed
        lower /= observed.sum(1, keepdims=True) + CONCENTRATION
        tables.append(np.log(lower, out=lower if context == order else None).astype(np.float32))
    return tables


def fit_bytes(order: int) -> int:
    """Most bytes that `MarkovModel.fit` holds at one time, by shapes.

    There are the counts, estimates and their next lower ones in their place, tables, and a piece of the genome.
    """
    return (8 + 8 + 8 + 6) * 4 ** (order + 1) + _OF_PIECE * CHUNK
