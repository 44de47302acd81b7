"""A model on a set of labelled variants: what each readout tells, beside baselines and published figures."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genome_lm import __version__
from genome_lm.alphabet import C, G, Tokens
from genome_lm.checkpoint import weights_sha256
from genome_lm.dataset import Annotation
from genome_lm.dataset.agreement import Array, Estimate, auprc, auroc, draws, estimate, spearman
from genome_lm.dataset.baselines import predicted_by_fold
from genome_lm.dataset.variant_sets import METRICS, VariantManifest, VariantSet
from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.analysis import Row
from genome_lm.files import replacing_folder
from genome_lm.formats.bigwig import BigWig
from genome_lm.formats.parts import parts_folder, working_in
from genome_lm.formats.tables import write_table
from genome_lm.genome import GenomeStore
from genome_lm.genome.variants import Variant
from genome_lm.genome.words import is_base, kmer_frequencies
from genome_lm.inference import GenomeLM
from genome_lm.jobs.score_set import ScoredSet, SetRequest, alleles_in, score_set
from genome_lm.model.room import check_output, leave_room
from genome_lm.optional import require

if TYPE_CHECKING:
    import pandas as pd

OURS = "this model"
BASELINES = ("gc", "gene distance", "conservation", "k-mer probe")
"""Readouts that no language model has part in."""
SUMMARY = "benchmark.json"
_STRETCHES = 10
"""Folds of a set that has too few contigs for folds."""
_BATCH = 1_000
"""Variants whose windows are held in memory together."""
_SIGNED = ("-llr",)
"""Readouts with a direction: of the set's effects, lower ones where they are higher."""
_WIDTH = 4
"""Of the words that the k-mer probe counts."""


@dataclass(frozen=True)
class BenchmarkInput:
    """What a model is evaluated on, and how.

    Attributes:
        manifest: Of the set.
        variants: Its variants.
        store: The genome.
        annotation: Genes, for the baseline of the distance to the nearest one.
        conservation: A bigWig track of conservation, for another.
        request: How the variants are scored; with `states`, probes are fitted too.
        resamples: Bootstrap resamples of the variants (of the contigs, for `auprc_by_contig`).
        seed: Of everything that is drawn.
        files: What is to be known of the input files, as JSON values.
        command: What was called, for the record.
    """

    manifest: VariantManifest
    variants: VariantSet
    store: GenomeStore
    request: SetRequest
    annotation: Annotation | None = None
    conservation: Path | None = None
    resamples: int = 1_000
    seed: int = 0
    files: dict[str, str] | None = None
    command: str = ""


def run_variant_benchmark(
    model: GenomeLM, given: BenchmarkInput, out: Path, finish: Callable[[Path], None] = lambda folder: None
) -> dict[str, Any]:
    """Score a set and write a folder: benchmark.json, metrics.tsv and variants.parquet.

    What is scored lies in OUT.parts until the end. If the job is killed, calling this again goes on with what is
    missing.

    Args:
        model: The model.
        given: The set.
        out: Folder to write; one that is there is replaced.
        finish: Called with the folder before it takes its place: to add a report.

    Returns:
        What benchmark.json holds: the record, and rows of metrics.

    Raises:
        GenomeLMError: If no variant can be scored; as `score_set`.
    """
    variants = given.variants
    if given.request.states:
        nbytes = _probe_bytes(model.config.d_model) * len(variants.variants)
        check_output(nbytes, f"{out}: probes of {len(variants.variants):,} variants", "leave probes out (--no-probe)")
    track = _Conservation(given.conservation, given.store) if given.conservation is not None else None
    with working_in(parts_folder(out)) as folder:
        digest = variants.sha256
        scored = score_set(model, given.store, variants.variants, digest, folder, given.request)
        leave_room(model.backbone)
        why = Counter(scored.reasons)
        if not why[""]:
            raise GenomeLMError(f"none of {len(scored.reasons):,} variants can be scored: {dict(why.most_common(3))}")
        readouts = _readouts(given, scored, track)
        rows = [*_our_rows(given, readouts), *_published_rows(given.manifest)]
        result = {"record": _record(model, given, scored), "rows": rows}
        table = variants.to_frame().assign(**scored.values, reason=scored.reasons)
        others = {name: values for name, values in readouts.items() if name not in ("llr", *scored.values)}
        with replacing_folder(out) as new:
            (new / SUMMARY).write_text(json_text(result) + "\n", encoding="utf-8")
            write_table(new / "metrics.tsv", _frame(rows))
            write_table(new / "variants.parquet", table.assign(**others))
            finish(new)
    return result


def _probe_bytes(d_model: int) -> int:
    """Bytes per variant that probes take: states of two alleles, held six times, and word counts, held five times.

    `predicted_by_fold` took 3.8 times its features, which are there twice more.
    """
    words = 4**_WIDTH // 2 + 2 ** (_WIDTH - 1)  # with their reverse complements
    return 4 * (6 * 2 * d_model + 5 * 2 * words)


def _frame(rows: list[Row]) -> "pd.DataFrame":
    return require("pandas").DataFrame(rows)


def _record(model: GenomeLM, given: BenchmarkInput, scored: ScoredSet) -> dict[str, Any]:
    skipped = Counter(scored.reasons)
    return {
        "command": given.command, "genome_lm_version": __version__, "weights_sha256": weights_sha256(model.model),
        "model": model.config.to_dict(), "condition": model.condition, "genome": given.store.provenance,
        "precision": model.model.precision,
        "set": given.manifest.title, "source": given.manifest.source, "assembly": given.manifest.assembly,
        "files": given.files or {}, "variants": len(scored.reasons), "scored": skipped.pop("", 0),
        "skipped": dict(skipped.most_common()), "left_out": given.variants.left_out,
        "layout": asdict(scored.layout), "strand": given.request.strand, "layer": given.request.layer,
        "resamples": given.resamples, "seed": given.seed,
    }  # fmt: skip


def _readouts(
    given: BenchmarkInput, scored: ScoredSet, track: "_Conservation | None"
) -> dict[str, npt.NDArray[np.float64]]:
    """Values by readout, (n,) each: NaN for a variant without a score. High ones speak for a positive label."""
    llr = scored.values["llr"]
    readouts = {"-llr": -llr, "|llr|": np.abs(llr)}
    readouts |= {name: values for name, values in scored.values.items() if name != "llr"}
    is_scored = np.array([not reason for reason in scored.reasons])
    some = [variant for variant, is_one in zip(given.variants.variants, is_scored, strict=True) if is_one]
    places = [(variant.contig, variant.start, variant.start + len(variant.ref)) for variant in some]
    others = {}
    others["gc"], words = _of_windows(given, some, scored.layout.flank)
    if given.annotation is not None:
        others["gene distance"] = -gene_distances(given.annotation, places)
    if track is not None:
        others["conservation"] = track.means(places)
    if scored.states is not None:
        others["probe"] = _probed(given, is_scored, places, scored.states[is_scored])
        others["k-mer probe"] = _probed(given, is_scored, places, words)
    for name, values in others.items():
        readouts[name] = np.full(len(is_scored), np.nan)
        readouts[name][is_scored] = values
    return readouts


def _of_windows(
    given: BenchmarkInput, variants: Sequence[Variant], flank: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """GC of the windows around variants, (n,), and the words of the reference and what the alternative changes."""
    gc, words = [], []
    for first in range(0, len(variants), _BATCH):
        some = variants[first : first + _BATCH]
        pairs = [alleles_in(given.store, each, flank, 2 * flank + len(each.ref) + len(each.alt)) for each in some]
        gc += [_gc(window) for window, _ in pairs]
        ref, alt = (kmer_frequencies(windows, _WIDTH) for windows in zip(*pairs, strict=True))
        words.append(np.concatenate([ref, alt - ref], axis=1))
    return np.array(gc), np.concatenate(words)


def _gc(window: Tokens) -> float:
    bases = window[is_base(window)]
    return float(np.isin(bases, (C, G)).mean()) if len(bases) else math.nan


def _probed(
    given: BenchmarkInput, is_scored: npt.NDArray[np.bool_], places: Sequence[tuple[str, int, int]], features: Array
) -> npt.NDArray[np.float64]:
    """Predictions of the scored variants' labels, or effects if the set has no labels, across folds."""
    has_labels = given.manifest.labels is not None
    targets: Array = given.variants.labels[is_scored] == 1 if has_labels else given.variants.effects[is_scored]
    predicted, has_target = np.full(len(targets), np.nan), ~np.isnan(targets.astype(float))
    folds = folds_of(places)
    predicted[has_target] = predicted_by_fold(
        features[has_target], targets[has_target], folds[has_target], given.seed
    )
    return predicted


def folds_of(places: Sequence[tuple[str, int, int]]) -> npt.NDArray[np.int64]:
    """Folds of variants that keep neighbours together: contigs; of a set of fewer than three, ten stretches.

    Args:
        places: (contig, start, end) of n variants, in the order of the genome. Variants of one place stay together.
    """
    contigs = list(dict.fromkeys(place[0] for place in places))
    if len(contigs) >= 3:
        return np.array([contigs.index(place[0]) for place in places])
    starts = list(dict.fromkeys(place[:2] for place in places))
    numbers = {start: number * _STRETCHES // len(starts) for number, start in enumerate(starts)}
    return np.array([numbers[place[:2]] for place in places])


def gene_distances(annotation: Annotation, places: Sequence[tuple[str, int, int]]) -> npt.NDArray[np.float64]:
    """Bases between places and the nearest gene of any kind: 0 within one, NaN on a contig that has none."""
    distances = np.full(len(places), np.nan)
    nearest = {
        contig: (genes[:, 0], np.maximum.accumulate(genes[:, 1])) for contig, genes in annotation.genic.items()
    }
    for number, (contig, start, end) in enumerate(places):
        if contig in nearest and len(nearest[contig][0]):
            starts, ends = nearest[contig]
            behind = int(np.searchsorted(starts, end))  # the first gene that begins at or after the end
            before = start - int(ends[behind - 1]) + 1 if behind else math.inf
            after = int(starts[behind]) - end + 1 if behind < len(starts) else math.inf
            distances[number] = max(0, min(before, after))
    return distances


class _Conservation:
    """A track of values per base."""

    def __init__(self, path: Path, store: GenomeStore) -> None:
        self._track = BigWig(path)
        names = {name: (name, f"chr{name}", name.removeprefix("chr")) for name in store.contigs.names}
        self._names = {
            name: next((other for other in others if other in self._track.lengths), None)
            for name, others in names.items()
        }
        if not any(self._names.values()):
            raise GenomeLMError(f"{path}: has none of the contigs of {store.path}")

    def means(self, places: Sequence[tuple[str, int, int]]) -> npt.NDArray[np.float64]:
        """The means of places; NaN where the track has no value."""
        return np.array([self._mean(*place) for place in places])

    def _mean(self, contig: str, start: int, end: int) -> float:
        name = self._names[contig]
        if name is None or end > self._track.lengths[name]:
            return math.nan
        values = self._track.values(name, start, end).astype(np.float64)
        return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else math.nan


def _our_rows(given: BenchmarkInput, readouts: dict[str, npt.NDArray[np.float64]]) -> Iterator[Row]:
    """A row per group and readout, all variants first."""
    groups = np.array(given.variants.groups, dtype=object)
    contigs = np.array([variant.contig for variant in given.variants.variants])
    for name in ("all", *sorted({*given.variants.groups} - {""})):
        inside = np.full(len(groups), True) if name == "all" else groups == name
        for readout, values in readouts.items():
            rows = inside & ~np.isnan(values)
            model = "" if readout in BASELINES else OURS
            measured = _measured(given, readout, values[rows], rows, contigs[rows])
            yield {"group": name, "readout": readout, "model": model, **measured, "source": ""}


def _measured(given: BenchmarkInput, readout: str, values: Array, rows: npt.NDArray[np.bool_], contigs: Array) -> Row:
    """The metrics of some variants, with their intervals; None where one is undefined."""
    is_true, effects = given.variants.labels[rows] == 1, given.variants.effects[rows]
    resample = partial(_resampled, given=given)
    estimates = []
    if given.manifest.labels is not None:
        estimates += [
            resample("auprc", auprc, values, is_true),
            _by_contig(values, is_true, contigs, given),
            resample("auroc", auroc, values, is_true),
        ]
    if given.manifest.columns.effect:
        has_effect = ~np.isnan(effects)
        # What tells no direction is compared with the size of an effect. LLR is low where -llr is high.
        pair = (-values, effects) if readout in _SIGNED else (values, np.abs(effects))
        estimates.append(resample("spearman", spearman, *(each[has_effect] for each in pair)))
    facts: Row = {"variants": int(rows.sum()), "positives": int(is_true.sum())}
    of_metric = {each.metric: each.to_dict() for each in estimates}
    for metric in METRICS:
        numbers = of_metric.get(metric, {})
        facts |= {metric: numbers.get("value")}
        facts |= {f"{metric}_{end}": numbers.get(end) for end in ("low", "high")}
    return facts


def _resampled(
    name: str, metric: Callable[[Array, Array], float], one: Array, other: Array, *, given: BenchmarkInput
) -> Estimate:
    drawn = draws(len(one), given.resamples, given.seed)
    return estimate(name, metric(one, other), (metric(one[draw], other[draw]) for draw in drawn))


def _by_contig(values: Array, is_true: Array, contigs: Array, given: BenchmarkInput) -> Estimate:
    """AUPRC of each contig that has a positive, weighted by its variants; the contigs are resampled."""
    masks = [contigs == name for name in np.unique(contigs)]
    areas = np.array([auprc(values[mask], is_true[mask]) for mask in masks])
    sizes = np.array([mask.sum() for mask in masks])
    drawn = draws(len(masks), given.resamples, given.seed)
    whole = _weighted(areas, sizes)
    return estimate("auprc_by_contig", whole, (_weighted(areas[draw], sizes[draw]) for draw in drawn))


def _weighted(values: Array, weights: Array) -> float:
    """The mean of the values that are defined; NaN where none is."""
    there = ~np.isnan(values)
    return float(np.average(values[there], weights=weights[there])) if there.any() else math.nan


def _published_rows(manifest: VariantManifest) -> Iterator[Row]:
    for each in manifest.published:
        figures = {f"{metric}{end}": None for metric in METRICS for end in ("", "_low", "_high")}
        facts = {
            "group": each.group,
            "readout": each.readout,
            "model": each.model,
            "variants": None,
            "positives": None,
        }
        yield {**facts, **figures, each.metric: each.value, "source": each.source}
