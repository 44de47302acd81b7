"""What reading in both directions and on both strands does for embeddings and tuned models, at equal bases.

    python -m tests.measure.direction_probes --genomes DIR --out results/directions

Small models are trained on five bacteria and U. maydis, three seeds each: causal ones, masked ones that read both
ways, and masked ones that also are equivariant under the reverse complement. Causal ones are used on the forward
strand and on both. Each is probed and tuned on the same few labelled windows: five bacteria, coding or not, splice
sites, gene starts, and the coding frame of each base (the latter four of U. maydis).

The same command goes on where it was cut off. `--out` gets directions.csv (a value per condition, seed and measure),
directions.md (the tables, which are printed too) and directions.png.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from genome_lm.alphabet import encode
from genome_lm.config import ModelConfig
from genome_lm.dataset import LabelledSet, gene_set, read_annotation, species_set
from genome_lm.dataset.baselines import best_logistic
from genome_lm.dataset.genes import Kind
from genome_lm.direction import BOTH
from genome_lm.finetune import FinetuneConfig, FinetuneOptions, finetune
from genome_lm.genome import GenomeStore, Interval, of_split, split_genome, write_bed
from genome_lm.inference import GenomeLM, load
from genome_lm.mixture_config import MixtureConfig, SourceConfig
from genome_lm.model import HyenaLM
from genome_lm.strands import HeadStrands
from genome_lm.training import TrainingConfig, train
from tests.measure.base_states import FRAME, GeneModel, States, both_strands, drawn_windows, labelled, states_of
from tests.measure.comparison import (
    Array,
    Results,
    differences_table,
    gathered,
    kept,
    probed,
    shown,
    table,
    values_table,
    write_values,
)
from tests.measure.downstream import BACTERIA, SPLIT, built, few, split, words

FASTAS = {**BACTERIA, "umaydis": "umaydis"}
LENGTH = 512
PLAIN = ModelConfig(d_model=128, n_layer=2, max_length=LENGTH, embed_dropout=0.0)
BOTH_WAYS = ModelConfig(d_model=128, n_layer=2, max_length=LENGTH, embed_dropout=0.0, direction=BOTH)
EQUIVARIANT = ModelConfig(
    d_model=128, n_layer=2, max_length=LENGTH, embed_dropout=0.0, direction=BOTH, strands="equivariant"
)


class Condition(NamedTuple):
    """A model, and how it is used.

    Attributes:
        name: In tables.
        model: In the names of folders.
        shape: Of the model.
        strand: Which strands its embeddings and predictions are averaged over.
        is_trained: Whether the model is; else it is probed with random weights.
    """

    name: str
    model: str
    shape: ModelConfig
    strand: HeadStrands = "forward"
    is_trained: bool = True


CONDITIONS = {
    "causal": Condition("causal", "causal", PLAIN),
    "causal-both": Condition("causal, both strands averaged", "causal", PLAIN, "both"),
    "both": Condition("masked, both directions", "both", BOTH_WAYS),
    "equivariant": Condition("masked, both directions, equivariant", "equivariant", EQUIVARIANT),
    "untrained-causal": Condition("untrained causal", "untrained-causal", PLAIN, is_trained=False),
    "untrained-both": Condition("untrained, both directions", "untrained-both", BOTH_WAYS, is_trained=False),
}
NAMES = {key: condition.name for key, condition in CONDITIONS.items()}
PAIRS = {
    (one, other): f"{NAMES[one]}, less {NAMES[other]}"
    for one, other in (
        ("causal-both", "causal"), ("both", "causal"), ("equivariant", "causal"), ("both", "causal-both"),
        ("equivariant", "causal-both"), ("equivariant", "both"), ("causal", "untrained-causal"),
        ("both", "untrained-both"),
    )
}  # fmt: skip
GENES: tuple[Kind, ...] = ("coding", "splice-site", "gene-start")
TASKS = ("species", *GENES, "frame")
PROBES, TUNED = ({f"{how} {task}": task for task in TASKS} for how in ("probe", "tuned"))
MEASURES = {**PROBES, **TUNED}
SITES = ("splice-site", "gene-start")
"""Tasks of the base in the middle of a window. Their strand is that of the window."""
NEAR = 16
"""States on each side of that base which probes of it take the mean of."""
PROBED_BASES = 5_000
"""Bases that a probe of the frame is fitted to at most."""


class Sizes(NamedTuple):
    """Of the experiment: steps of 4,096 bases; labelled windows of a class in training, and in the test; epochs."""

    steps: int
    labels: int
    tested: int
    epochs: int


class Data(NamedTuple):
    """What all models are trained and scored on.

    Attributes:
        folder: With the stores and the BED files of the splits.
        sizes: Of the experiment.
        sets: Labelled windows by task.
        windows: Of the frame, by split.
        states: Of the bases of U. maydis by contig.
    """

    folder: Path
    sizes: Sizes
    sets: dict[str, LabelledSet]
    windows: dict[str, list[Interval]]
    states: dict[str, States]

    @property
    def umaydis(self) -> GenomeStore:
        """The genome of all tasks but that of species."""
        return GenomeStore(self.folder / "umaydis.zarr")


def chromosomes(umaydis: GenomeStore) -> list[Interval]:
    """Splits of U. maydis by whole chromosomes, for the annotator too (`tests.measure.annotator`)."""
    return split_genome(umaydis, "contigs", valid=0.1, test=0.1, seed=SPLIT)


def prepared(genomes: Path, out: Path, sizes: Sizes) -> Data:
    """Build the stores, splits and labelled sets; all the same for all models."""
    stores = {name: built([genomes / f"{file}.fa.gz"], out / f"{name}.zarr") for name, file in FASTAS.items()}
    regions = {name: split(store) for name, store in stores.items()} | {"umaydis": chromosomes(stores["umaydis"])}
    for name, of_genome in regions.items():
        write_bed(out / f"{name}.bed", of_genome)
    umaydis = stores["umaydis"]
    genes = read_annotation(genomes / "umaydis.gff3.gz", umaydis, None, "^Umaydis:([^:]+):")
    # gene_set draws test windows in proportion to the test split: 0.1 of the genome, where training has 0.8.
    count = max(sizes.labels, 8 * sizes.tested)
    sets = {
        kind: gene_set(umaydis, genes, kind, regions["umaydis"], length=LENGTH, per_class=count, seed=SPLIT)
        for kind in GENES
    }
    bacteria = {name: stores[name] for name in BACTERIA}
    labels = max(1, sizes.labels // 3)  # of each of the five
    of_bacteria = [region for name in BACTERIA for region in regions[name]]
    sets["species"] = species_set(bacteria, LENGTH, labels, of_bacteria, held_out=sizes.tested // 2, seed=SPLIT)
    sets = {name: few(each, labels if name == "species" else sizes.labels, SPLIT) for name, each in sets.items()}
    states = states_of(umaydis, genes)
    counts = {"train": sizes.labels, "valid": max(1, sizes.labels // 4), "test": sizes.tested}
    windows = {
        name: drawn_windows(umaydis, states, of_split(regions["umaydis"], name), LENGTH, number, SPLIT)
        for name, number in counts.items()
    }
    sets["frame"] = labelled(umaydis, states, windows, FRAME)
    return Data(out, sizes, sets, windows, states)


def trained(data: Data, condition: Condition, seed: int) -> Path | HyenaLM:
    """The checkpoint of a condition's model, which is trained if that is to be done; or one with random weights."""
    if not condition.is_trained:
        torch.manual_seed(seed)
        return HyenaLM(condition.shape)
    out, steps = data.folder, data.sizes.steps
    sources = (SourceConfig(name, str(out / f"{name}.zarr"), str(out / f"{name}.bed")) for name in FASTAS)
    recipe = TrainingConfig(
        stages=((LENGTH, steps),), tokens_per_step=4_096, lr=2e-3, beta2=0.95, warmup_fraction=0.05,
        valid_every=steps, valid_windows=16, checkpoint_every=min(steps, 100), seed=seed,
    )  # fmt: skip
    mixture = MixtureConfig(tuple(sources), "bases")
    result = train(mixture, out / "runs" / f"{condition.model}-{seed}", condition.shape, recipe)
    if result.checkpoint is None:
        raise SystemExit("stopped; run the same command to go on")
    return result.checkpoint


Scores = dict[str, Any]
"""Right predictions and all predictions of each test window: "sums" and "counts"."""


def scored(data: Data, condition: Condition, seed: int, how: str) -> dict[str, Scores]:
    """Scores of a model on all probes, or tuned on all tasks; each kept as soon as it is there."""
    checkpoint = trained(data, condition, seed)
    model = load(checkpoint) if isinstance(checkpoint, Path) else GenomeLM(checkpoint.eval())

    def score(task: str) -> Scores:
        if how == "probe":
            probe = frame_probed if task == "frame" else window_probed
            return probe(data, task, model, condition)
        tune = tuned_frame if task == "frame" else tuned_windows
        return tune(data, task, cast(Path, checkpoint), condition, seed)

    folder = data.folder / "scores" / f"{condition.model}-{seed}-{condition.strand}"
    scores = {}
    for measure, task in (PROBES if how == "probe" else TUNED).items():
        scores[measure] = kept(folder / f"{how}-{task}.json", partial(score, task))
    print(f"done: {condition.name}, seed {seed}, {how}", flush=True)
    return scores


def of_windows(is_right: Array) -> Scores:
    """Of a task with one prediction per window."""
    return {"sums": is_right.tolist(), "counts": [1] * len(is_right)}


def of_bases(data: Data, probabilities: Sequence[Array]) -> Scores:
    """Of the frame: probabilities of the classes at each base of each test window."""
    sums, counts = [], []
    for (contig, start, end, *_), of_window in zip(data.windows["test"], probabilities, strict=True):
        targets = FRAME.of(data.states[contig][start:end])
        sums.append(int((of_window.argmax(1) == targets).sum()))
        counts.append(int((targets >= 0).sum()))
    return {"sums": sums, "counts": counts}


def window_probed(data: Data, task: str, model: GenomeLM, condition: Condition) -> Scores:
    """A probe of a task with one label per window."""

    def embed(sequences: list[str]) -> Array:
        if task not in SITES:
            return np.asarray(model.embed(sequences, strand=condition.strand))
        middle = slice(LENGTH // 2 - NEAR, LENGTH // 2 + NEAR)
        states = model.embed(sequences, pool="none", strand=condition.strand)
        return np.array([np.asarray(each)[middle].mean(0) for each in states])

    return of_windows(probed(data.sets[task], embed))


def frame_probed(data: Data, task: str, model: GenomeLM, condition: Condition) -> Scores:
    """A probe of the state at each base."""

    def embed(sequences: list[str]) -> list[Array]:
        return [np.asarray(each) for each in model.embed(sequences, pool="none")]

    features, targets = [], []
    for name in ("train", "valid"):
        examples = data.sets[task].of_split(name).examples
        names = [label for example in examples for label in example.labels[0].split()]
        labels = np.array([FRAME.names.index(label) if label in FRAME.names else -1 for label in names])
        rows = np.flatnonzero(labels >= 0)
        rows = np.random.default_rng(SPLIT).permutation(rows)[:PROBED_BASES]
        features.append(np.concatenate(embed([example.sequence for example in examples]))[rows])
        targets.append(labels[rows])
    classifier, _ = best_logistic(features, targets, 0)

    def predict(sequences: list[str]) -> list[Array]:
        each = [np.zeros((len(sequence), len(FRAME.names))) for sequence in sequences]
        for probabilities, states in zip(each, embed(sequences), strict=True):
            probabilities[:, classifier.classes_] = classifier.predict_proba(states)
        return each

    return of_bases(data, predicted(data, predict, condition))


def predicted(data: Data, predict: Callable[[list[str]], list[Array]], condition: Condition) -> list[Array]:
    """What is predicted of the bases of the test windows."""
    sequences = [example.sequence for example in data.sets["frame"].of_split("test").examples]
    return both_strands(predict, sequences, FRAME) if condition.strand == "both" else predict(sequences)


def tuned_windows(data: Data, task: str, checkpoint: Path, condition: Condition, seed: int) -> Scores:
    """A model that is tuned on a task with one label per window, on the strands on which it is used."""
    folder = checkpoint.parent / "tuned" / f"{task}-{condition.strand}"
    if not folder.exists():
        config = FinetuneConfig(
            head_first=True, lr=1e-4, reverse_complement=task not in SITES, sequences_per_step=16,
            epochs=data.sizes.epochs, seed=seed,
        )  # fmt: skip
        finetune(
            checkpoint,
            data.sets[task],
            folder,
            "classification",
            config,
            FinetuneOptions(pool="layers", strand=condition.strand),
        )
    predictions = pd.read_parquet(folder / "predictions.parquet")
    return of_windows((predictions["target"] == predictions["prediction"]).to_numpy().astype(np.int64))


def tuned_frame(data: Data, task: str, checkpoint: Path, condition: Condition, seed: int) -> Scores:
    """A model that is tuned on the frame on the strand that it reads, used on the strands of the condition."""
    folder = checkpoint.parent / "tuned" / task
    if not folder.exists():
        config = FinetuneConfig(sequences_per_step=16, epochs=data.sizes.epochs, seed=seed)
        finetune(checkpoint, data.sets[task], folder, "tokens", config)
    model = load(folder / "checkpoint")
    return of_bases(data, predicted(data, lambda sequences: by_class(model, sequences), condition))


def by_class(model: GenomeLM, sequences: list[str]) -> list[Array]:
    """Predictions in the order of the classes of the frame, 0 for those that the head does not have."""
    assert model.head is not None
    columns = [FRAME.names.index(name) for name in model.head.config.outputs]
    each = []
    for outputs in model.predict(sequences):
        each.append(np.zeros((len(outputs), len(FRAME.names))))
        each[-1][:, columns] = outputs
    return each


def baselines(data: Data) -> dict[str, dict[str, Scores]]:
    """What tells the classes without a model of language: k-mers of windows, hidden Markov models of bases."""
    store = data.umaydis
    kmers = {f"probe {task}": of_windows(words(data.sets[task]).astype(np.int64)) for task in ("species", *GENES)}
    regions = of_split(chromosomes(store), "train")
    whole = [region for region in regions if region.contig in data.states]
    markov = {}
    for name, places in (("windows", data.windows["train"]), ("genome", whole)):
        stretches = [
            (store.fetch(contig, start, end), data.states[contig][start:end]) for contig, start, end, *_ in places
        ]
        fitted = GeneModel.fit(stretches)
        sequences = [example.sequence for example in data.sets["frame"].of_split("test").examples]
        each = [fitted.probabilities(encode(sequence), FRAME) for sequence in sequences]
        markov[name] = {"probe frame": of_bases(data, each)}
    outside = np.eye(len(FRAME.names))[[FRAME.names.index("none")] * LENGTH]
    alike = of_bases(data, [outside] * len(data.windows["test"]))
    return {"k-mers": kmers, **markov, "alike": {"probe frame": alike}}


BASELINES = {
    "k-mers": "logistic regression on k-mers, same labels",
    "windows": "hidden Markov model, same labels",
    "genome": "hidden Markov model, whole training split",
    "alike": "every base outside coding sequence",
}


def tables(results: Results, simple: dict[str, dict[str, Scores]]) -> str:
    """All tables as Markdown."""
    of_baselines = gathered({key: [scores] for key, scores in simple.items()})
    others = [
        [
            name,
            *(
                shown(of_baselines[key][each].of_seeds, each) if each in of_baselines[key] else ""
                for each in MEASURES
            ),
        ]
        for key, name in BASELINES.items()
    ]
    parts = {
        "Accuracy of linear probes and of tuned models in percent": [
            *values_table(results, NAMES, MEASURES),
            *others,
        ],
        "Differences in percent": differences_table(results, PAIRS, MEASURES),
    }
    return "\n\n".join(f"{title}:\n\n{table(['', *MEASURES], rows)}" for title, rows in parts.items()) + "\n"


def draw(results: Results, path: Path) -> None:
    """Accuracy by task, a mark per seed: probes on the left, tuned models on the right."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    shifts = np.linspace(-0.3, 0.3, len(CONDITIONS))
    for axes, (title, measures) in zip(
        figure.subplots(1, 2, sharey=True), {"linear probes": PROBES, "tuned": TUNED}.items(), strict=True
    ):
        for number, (key, name) in enumerate(NAMES.items()):
            there = [measure for measure in measures if measure in results[key]]
            if not there:
                continue
            seeds = 100 * np.array([results[key][measure].of_seeds for measure in there])
            places = np.repeat(np.arange(len(there))[:, None] + shifts[number], seeds.shape[1], axis=1)
            label = name if measures is PROBES else None
            axes.plot(places.ravel(), seeds.ravel(), ".", markersize=5, color=f"C{number}", label=label)
        axes.set_xticks(range(len(TASKS)), TASKS, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.set_ylabel("accuracy in percent")
        axes.label_outer()
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genomes", type=Path, required=True, help="folder of the FASTA and GFF3 files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1_000, help="of 4,096 bases")
    parser.add_argument("--labels", type=int, default=200, help="training windows of a class")
    parser.add_argument("--tested", type=int, default=150, help="test windows of a class")
    parser.add_argument("--epochs", type=int, default=10, help="of tuning, at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuned-seeds", type=int, default=3, help="of those, how many are tuned")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(options.steps, options.labels, options.tested, options.epochs)
    if kept(options.out / "sizes.json", lambda: dict(sizes._asdict())) != sizes._asdict():
        raise SystemExit(f"{options.out}: holds results of other sizes (sizes.json); give another --out")
    data = prepared(options.genomes, options.out, sizes)
    simple = kept(options.out / "baselines.json", lambda: baselines(data))
    scores: dict[str, dict[str, list[dict[str, Scores]]]] = {}
    for how, seeds in {"probe": options.seeds, "tuned": options.tuned_seeds}.items():
        scores[how] = {key: [] for key, each in CONDITIONS.items() if how == "probe" or each.is_trained}
        for seed in range(seeds):  # all conditions of a seed first: what is there early can be compared
            for key, of_seeds in scores[how].items():
                of_seeds.append(scored(data, CONDITIONS[key], seed, how))
    tuned = gathered(scores["tuned"])
    results = {key: measures | tuned.get(key, {}) for key, measures in gathered(scores["probe"]).items()}
    write_values(results, options.out / "directions.csv")
    draw(results, options.out / "directions.png")
    text = tables(results, cast(dict[str, dict[str, Scores]], simple))
    (options.out / "directions.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
