"""A model of U. maydis that is tuned to annotate its bases: exon, intron, intergenic, and the strand.

    python -m tests.measure.annotator --genomes DIR --probes results/directions --out results/annotator

The model and the splits by chromosomes are those of `tests.measure.direction_probes`: masked, both ways, seed 0.
The model is tuned on windows of the training chromosomes. It then reads the chromosomes of the test split, on both
strands. Hidden Markov models of genes are held against it. They are fitted to the same windows, and to all training
chromosomes.

The same command goes on where it was cut off. `--out` gets annotator.gff3.gz (the model's genes), a bedGraph of the
probability of each class, annotator.md and annotator.csv (precision and recall by class), and annotator.png.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genome_lm.dataset import read_annotation
from genome_lm.files import open_output, replacing_file
from genome_lm.finetune import FinetuneConfig, finetune
from genome_lm.genome import GenomeStore, Interval, of_split
from genome_lm.inference import GenomeLM, load
from tests.measure.base_states import (
    MISSING,
    PLACE,
    Array,
    Chain,
    GeneModel,
    States,
    both_strands,
    drawn_windows,
    labelled,
    states_of,
)
from tests.measure.comparison import table
from tests.measure.direction_probes import LENGTH, chromosomes
from tests.measure.downstream import SPLIT

BLOCK = 10_000
"""Bases that are drawn together for intervals."""
RESAMPLES = 2_000
SHOWN = 20_000
"""Bases of the figure."""
MODEL, SMOOTHED = "model", "model, smoothed"
SAME, MARKOV = "hidden Markov model, same windows", "hidden Markov model, all training chromosomes"
COLOURS = {"exon": "C0", "intron": "C1"}
Calls = dict[str, npt.NDArray[np.int64]]
"""The class of each base by contig."""


class Data(NamedTuple):
    """The genome with its splits, and the states of its bases."""

    folder: Path
    store: GenomeStore
    regions: list[Interval]
    states: dict[str, States]

    def of_split(self, split: str) -> list[Interval]:
        """Regions of a split, on contigs that have genes."""
        return [region for region in of_split(self.regions, split) if region.contig in self.states]

    @property
    def truth(self) -> Calls:
        """Of the test split."""
        return {region.contig: PLACE.of(self.states[region.contig]) for region in self.of_split("test")}


def prepared(genomes: Path, probes: Path, out: Path) -> Data:
    """The genome and the splits that the model was trained on."""
    store = GenomeStore(probes / "umaydis.zarr")
    annotation = read_annotation(genomes / "umaydis.gff3.gz", store, None, "^Umaydis:([^:]+):")
    return Data(out, store, chromosomes(store), states_of(store, annotation))


def tuned(data: Data, checkpoint: Path, windows: Mapping[str, list[Interval]], epochs: int) -> GenomeLM:
    """The annotator, which is tuned if that is to be done."""
    folder = data.folder / "tuned"
    if not folder.exists():
        examples = labelled(data.store, data.states, windows, PLACE)
        finetune(checkpoint, examples, folder, "tokens", FinetuneConfig(sequences_per_step=8, epochs=epochs))
    return load(folder / "checkpoint")


def annotated(model: GenomeLM, data: Data, contig: str) -> Array:
    """Probability of each class at each base: (L, classes).

    Windows overlap by a quarter. The ends of windows that others cover are left out.
    """
    assert model.head is not None
    length = int(data.store.contigs.lengths[data.store.contigs.index(contig)])
    sequence = data.store.fetch(contig, 0, length, output="letters").tobytes().decode().upper()
    columns = [PLACE.names.index(name) for name in model.head.config.outputs]
    probabilities = np.zeros((length, len(PLACE.names)), dtype=np.float32)
    starts = [*range(0, max(1, length - LENGTH), LENGTH * 3 // 4), max(0, length - LENGTH)]
    for first in range(0, len(starts), 64):
        some = starts[first : first + 64]
        pieces = both_strands(
            lambda texts: by_class(model, texts, columns), [sequence[start:][:LENGTH] for start in some], PLACE
        )
        for start, piece in zip(some, pieces, strict=True):
            skipped = LENGTH // 8 if start else 0
            probabilities[start + skipped : start + len(piece)] = piece[
                skipped:
            ]  # the next window's part is replaced
    return probabilities


def by_class(model: GenomeLM, texts: list[str], columns: Sequence[int]) -> list[Array]:
    """Predictions in the order of the classes, 0 for those that the head does not have."""
    each = []
    for outputs in model.predict(texts):
        each.append(np.zeros((len(outputs), len(PLACE.names))))
        each[-1][:, columns] = outputs
    return each


def smoothed(probabilities: Array, chain: Chain) -> Array:
    """The same under a chain of classes: what a class says of a base is its probability over that in training."""
    likelihoods = np.asarray(probabilities, dtype=float) / np.maximum(chain.first, 1e-9)
    return chain.posterior(likelihoods)


def of_contigs(data: Data, name: str, compute: Callable[[str], Array]) -> dict[str, Array]:
    """Probabilities of classes in each contig of the test split, (L, classes), each kept in a file."""
    (data.folder / name).mkdir(exist_ok=True)
    each = {}
    for region in data.of_split("test"):
        path = data.folder / name / f"{data.store.contigs.index(region.contig)}.npy"
        if not path.exists():
            with replacing_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, compute(region.contig).astype(np.float32))
        each[region.contig] = np.load(path)
    return each


def markov(data: Data, places: Sequence[Interval]) -> Callable[[str], Array]:
    """A hidden Markov model, which is fitted to places when the first contig asks for it."""

    @cache
    def fitted() -> GeneModel:
        stretches = (
            (data.store.fetch(*place[:3]), data.states[place.contig][place.start : place.end]) for place in places
        )
        return GeneModel.fit(list(stretches))

    def compute(contig: str) -> Array:
        return fitted().probabilities(data.store.fetch(contig, 0, len(data.states[contig])), PLACE)

    return compute


class Run(NamedTuple):
    """Bases of one class that follow each other."""

    start: int
    end: int
    name: str


def runs(calls: npt.NDArray[np.int64]) -> Iterator[Run]:
    """The runs of a contig; bases without a class are in none."""
    edges = [0, *(np.flatnonzero(np.diff(calls)) + 1).tolist(), len(calls)]
    for start, end in pairwise(edges):
        if end > start and calls[start] != MISSING:
            yield Run(start, end, PLACE.names[int(calls[start])])


def genes(calls: npt.NDArray[np.int64]) -> Iterator[list[Run]]:
    """Runs of exons and introns of one strand that follow each other and have an exon."""
    for strand, group in groupby(runs(calls), key=lambda run: run.name[-1]):
        parts = list(group)
        if strand in "+-" and any(part.name.startswith("exon") for part in parts):
            yield parts


def write_gff(path: Path, calls: Calls, probabilities: Mapping[str, Array]) -> int:
    """Write genes as GFF3, 1-based with both ends in it; the score is the mean probability of the class.

    Returns:
        Genes written.
    """
    count = 0
    with replacing_file(path) as temporary, open_output(temporary) as file:
        file.write("##gff-version 3\n")
        for contig, of_contig in calls.items():
            file.write(f"##sequence-region {contig} 1 {len(of_contig)}\n")
            for parts in genes(of_contig):
                count += 1
                start, end, strand = parts[0].start + 1, parts[-1].end, parts[0].name[-1]

                def line(
                    kind: str, first: int, last: int, score: str, text: str, at: str = contig, sign: str = strand
                ) -> str:
                    return f"{at}\tgenome-lm\t{kind}\t{first}\t{last}\t{score}\t{sign}\t.\t{text}\n"

                file.write(line("gene", start, end, ".", f"ID=gene{count}"))
                file.write(line("mRNA", start, end, ".", f"ID=mRNA{count};Parent=gene{count}"))
                for part in parts:
                    column = PLACE.names.index(part.name)
                    score = f"{probabilities[contig][part.start : part.end, column].mean():.3f}"
                    file.write(line(part.name[:-1], part.start + 1, part.end, score, f"Parent=mRNA{count}"))
    return count


def write_bedgraph(path: Path, probabilities: Mapping[str, Array], column: int) -> None:
    """Write the probability of a class to two decimals, 0-based; runs of equal ones are one line, and 0 has none."""
    with replacing_file(path) as temporary, open_output(temporary) as file:
        for contig, each in probabilities.items():
            values = np.round(each[:, column] * 100).astype(np.int64)
            edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
            for start, end in pairwise(edges):
                if values[start]:
                    file.write(f"{contig}\t{start}\t{end}\t{values[start] / 100:.2f}\n")


def called(probabilities: Mapping[str, Array]) -> Calls:
    """The likeliest class of each base."""
    return {contig: each.argmax(1) for contig, each in probabilities.items()}


def measures(calls: Calls, truth: Calls) -> dict[str, float]:
    """Precision and recall of the bases of each class, and of exons with both ends right; accuracy."""
    ours, right = (np.concatenate([of[contig] for contig in truth]) for of in (calls, truth))
    counted = right != MISSING
    ours, right = ours[counted], right[counted]
    values = {"accuracy": float((ours == right).mean())}
    for number, name in enumerate(PLACE.names):
        hits = int(((ours == number) & (right == number)).sum())
        values[f"{name} precision"] = hits / max(1, int((ours == number).sum()))
        values[f"{name} recall"] = hits / max(1, int((right == number).sum()))
    # What the annotation leaves open is no mistake of either.
    masked = {contig: np.where(truth[contig] == MISSING, MISSING, calls[contig]) for contig in truth}
    exons = [
        {(contig, *run) for contig, each in of.items() for run in runs(each) if run.name.startswith("exon")}
        for of in (masked, truth)
    ]
    hits = len(exons[0] & exons[1])
    values["whole exons precision"], values["whole exons recall"] = (hits / max(1, len(each)) for each in exons)
    return values


def of_blocks(calls: Calls, truth: Calls) -> Array:
    """Right bases and counted bases of each block: (2, blocks)."""
    pairs = []
    for contig, right in truth.items():
        for start in range(0, len(right), BLOCK):
            ours, goal = calls[contig][start : start + BLOCK], right[start : start + BLOCK]
            pairs.append((int((ours == goal).sum()), int((goal != MISSING).sum())))
    return np.array(pairs, dtype=float).T


def interval(one: Array, other: Array | None = None) -> str:
    """Accuracy in percent, or by how much it is above another, with the 95 % interval over blocks."""
    (right, counts), beside = one, 0.0 if other is None else other[0]
    draws = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    low, high = np.quantile((right - beside)[draws].sum(1) / counts[draws].sum(1), [0.025, 0.975])
    sign = "" if other is None else "+"
    mean = (right - beside).sum() / counts.sum()
    return f"{100 * mean:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def tables(methods: Mapping[str, Calls], truth: Calls) -> str:
    """Both tables as Markdown."""
    values = {name: measures(calls, truth) for name, calls in methods.items()}
    blocks = {name: of_blocks(calls, truth) for name, calls in methods.items()}
    right = np.concatenate(list(truth.values()))
    most = int(np.bincount(right[right != MISSING]).argmax())
    alike = {contig: np.full(len(each), most) for contig, each in truth.items()}
    accuracies = [[name, interval(each), interval(each, blocks[MARKOV])] for name, each in blocks.items()]
    accuracies.append([f"all bases {PLACE.names[most]}", interval(of_blocks(alike, truth)), ""])
    named = [measure for measure in values[MODEL] if measure != "accuracy"]
    of_classes = [[name, *(f"{100 * of[measure]:.1f}" for measure in named)] for name, of in values.items()]
    return (
        f"Bases of {len(truth)} held-out contigs, {int((right != MISSING).sum()):,} of them counted:\n\n"
        f"{table(['', 'accuracy in percent', f'less that of the {MARKOV}'], accuracies)}\n\n"
        f"In percent:\n\n{table(['', *named], of_classes)}\n"
    )


def write_values(path: Path, methods: Mapping[str, Calls], truth: Calls) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "measure", "value"])
        for name, calls in methods.items():
            writer.writerows([name, measure, value] for measure, value in measures(calls, truth).items())


def draw(path: Path, methods: Mapping[str, Calls], truth: Calls, probabilities: Mapping[str, Array]) -> None:
    """A piece of the longest held-out contig: the genes of the annotation and of each method, and probabilities."""
    contig = max(truth, key=lambda name: len(truth[name]))
    start = max(0, len(truth[contig]) // 2 - SHOWN // 2)
    shown = slice(start, start + SHOWN)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    tracks, curves = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    rows = {"annotation": truth, **methods}
    for row, calls in enumerate(rows.values()):
        _draw_genes(tracks, calls[contig][shown], start, -row)
    tracks.set_yticks([-row for row in range(len(rows))], [name.replace(", ", ",\n") for name in rows], fontsize=8)
    tracks.set_title(f"{contig}: exons (blue) and introns (orange), forward strand above", fontsize=9)
    places = np.arange(start, start + len(truth[contig][shown]))
    for name, sign in (("exon+", 1), ("exon-", -1)):
        curves.plot(places, sign * probabilities[contig][shown, PLACE.names.index(name)], linewidth=0.5, label=name)
    curves.set_ylabel("probability of exon,\nreverse strand below 0", fontsize=8)
    curves.set_xlabel("base")
    figure.savefig(path, dpi=110)


def _draw_genes(axes: Axes, calls: npt.NDArray[np.int64], start: int, row: int) -> None:
    for first, last, name in runs(calls):
        kind, strand = name[:-1], name[-1]
        if kind in COLOURS:
            bottom = row + (0.02 if strand == "+" else -0.32)
            axes.broken_barh([(start + first, last - first)], (bottom, 0.3), facecolors=COLOURS[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genomes", type=Path, required=True, help="folder of the FASTA and GFF3 files")
    parser.add_argument("--probes", type=Path, required=True, help="what tests.measure.direction_probes wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3, help="of tuning, at most")
    parser.add_argument("--windows", type=int, default=1_500, help="to tune on, of 512 bases")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    data = prepared(options.genomes, options.probes, out)
    windows = {
        split: drawn_windows(data.store, data.states, data.of_split(split), LENGTH, count, SPLIT)
        for split, count in (("train", options.windows), ("valid", max(1, options.windows // 10)))
    }
    model = tuned(data, options.probes / "runs" / "both-0" / "checkpoint", windows, options.epochs)
    raw = of_contigs(data, "predictions", lambda contig: annotated(model, data, contig))
    chain = Chain.fit([PLACE.of(data.states[each.contig]) for each in data.of_split("train")], len(PLACE.names))
    smooth = of_contigs(data, "smoothed", lambda contig: smoothed(raw[contig], chain))
    same = of_contigs(data, "markov-windows", markov(data, windows["train"]))
    whole = of_contigs(data, "markov-whole", markov(data, data.of_split("train")))
    methods = {MODEL: called(raw), SMOOTHED: called(smooth), SAME: called(same), MARKOV: called(whole)}
    count = write_gff(out / "annotator.gff3.gz", methods[SMOOTHED], smooth)
    for column, name in enumerate(PLACE.names):
        write_bedgraph(out / f"{name}.bedGraph.gz", smooth, column)
    write_values(out / "annotator.csv", methods, data.truth)
    draw(out / "annotator.png", methods, data.truth, smooth)
    text = tables(methods, data.truth)
    (out / "annotator.md").write_text(text, encoding="utf-8")
    print(f"{count:,} genes in {out / 'annotator.gff3.gz'}\n\n{text}")


if __name__ == "__main__":
    main()
