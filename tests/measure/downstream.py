"""Whether a small model, pretrained and tuned, beats logistic regression on counted words with the same labels.

    python -m tests.measure.downstream species --genomes DIR --out results/species
    python -m tests.measure.downstream coding --genomes DIR --out results/coding

species: which of five bacteria a window of 1,024 bases is from. coding: whether a window of 512 bases of U. maydis
lies in coding sequence, or outside all genes, with the same G + C content. The model sees the training split alone,
in pretraining too, and the labels of a few of its windows; as many others choose penalties, epochs and the recipe,
for both sides. The test split is looked at once. A run that was cut off goes on where it was.

coding is also given to a model without training, and to the one that comes with the package, which has read bacteria
alone. `tests.measure.direction_probes` has masked models.

Species go on for the length of a genome: there the model's head is fitted by what unlabelled neighbours share
(`genome_lm.finetune.neighbours`). How much of its lead is due to that is seen from words that are given the same.
"""

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from genome_lm.alphabet import encode
from genome_lm.checkpoint import save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.dataset import HOMOLOGY, LabelledSet, gene_set, read_annotation, species_set
from genome_lm.dataset.baselines import PENALTIES, WIDTHS, kmer_logistic
from genome_lm.evaluation.analyses.probes import _Split
from genome_lm.finetune import FinetuneConfig, FinetuneOptions, Unlabelled, finetune
from genome_lm.finetune.neighbours import draw_neighbours, shared_directions
from genome_lm.genome import GenomeStore, Interval, build_store, find_kin, read_bed, split_genome, write_bed
from genome_lm.genome.words import kmer_frequencies
from genome_lm.mixture_config import one_source
from genome_lm.model import HyenaLM
from genome_lm.training import TrainingConfig, train

BACTERIA = {
    "ecoli": "ecoli_k12_mg1655", "saureus": "saureus_n315", "hpylori": "hpylori_g27",
    "vcholerae": "vcholerae_n16961", "kpneumoniae": "kpneumoniae_mgh78578",
}  # fmt: skip
SHAPE = ModelConfig(d_model=128, n_layer=2, max_length=1_024, embed_dropout=0.0)
MODELS = {"causal": SHAPE, "untrained": SHAPE, "bacteria-900k": None}
"""The shape of each; None of the one that comes with the package."""
HEAD = FinetuneConfig(method="frozen", metric="loss", lr=1e-3)
ALL = FinetuneConfig(head_first=True, lr=1e-4, reverse_complement=True, sequences_per_step=16)
SPLIT = 1
"""Seed of the splits. The recipes were chosen on those of seed 0: their test windows are none of these."""
BLOCK = 50_000
"""Bases of a block of the splits."""
FEW = 100
"""Labels of a class below which only the head is tuned: more of the model is none the better for it."""
PAIRS = 1_000
"""Neighbours that the head is fitted by."""
Right = npt.NDArray[np.bool_]
"""Which windows of the test split a method is right about."""


class Task(NamedTuple):
    """A genome to pretrain on, its splits, labelled windows, and the models to tune.

    Attributes:
        distance: Within how many bases neighbours share a label; 0 if they often do not.
        models: Which of `MODELS`.
    """

    store: GenomeStore
    splits: Path
    labelled: LabelledSet
    distance: int
    models: tuple[str, ...]

    @property
    def unlabelled(self) -> Unlabelled:
        """What neighbours are drawn from."""
        return Unlabelled(self.store, read_bed(self.splits, self.store))


def built(fastas: Sequence[Path], path: Path) -> GenomeStore:
    return GenomeStore(path) if path.exists() else build_store(fastas, path)


def split(store: GenomeStore, homology: float | None = None) -> list[Interval]:
    kin = find_kin(store, "blocks", BLOCK, homology)
    return split_genome(store, test=0.2, block=BLOCK, seed=SPLIT, kin=kin)


def species(genomes: Path, out: Path) -> Task:
    """Which genome a window is from."""
    fastas = {label: genomes / f"{name}.fa.gz" for label, name in BACTERIA.items()}
    stores = {label: built([path], out / f"{label}.zarr") for label, path in fastas.items()}
    regions = [region for store in stores.values() for region in split(store)]
    write_bed(out / "splits.bed", regions)
    together = built(list(fastas.values()), out / "genome.zarr")
    labelled = species_set(stores, 1_024, 700, regions, held_out=200, seed=SPLIT)
    return Task(together, out / "splits.bed", labelled, 100_000, ("causal",))


def coding(genomes: Path, out: Path) -> Task:
    """Whether a window is coding or intergenic; what is next to it is often the other."""
    store = built([genomes / "umaydis.fa.gz"], out / "genome.zarr")
    write_bed(out / "splits.bed", split(store, HOMOLOGY))
    genes = read_annotation(genomes / "umaydis.gff3.gz", store, None, "^Umaydis:([^:]+):")
    labelled = gene_set(store, genes, "coding", read_bed(out / "splits.bed", store), seed=SPLIT)
    return Task(store, out / "splits.bed", labelled, 0, tuple(MODELS))


def checkpoint_of(model: str, task: Task, out: Path, steps: int) -> str | Path:
    """One of `MODELS`, which is trained if that is to be done."""
    shape = MODELS[model]
    if shape is None:
        return model
    if model == "untrained":
        torch.manual_seed(SPLIT)
        save_checkpoint(out / model, HyenaLM(shape))
        return out / model
    return pretrained(task.store, task.splits, out / model, shape, steps)


def pretrained(store: GenomeStore, splits: Path, out: Path, shape: ModelConfig, steps: int) -> Path:
    """A model trained for so many steps at a constant rate, and a fifth of that while the rate falls."""
    common: dict[str, Any] = {
        "tokens_per_step": 4_096, "lr": 3e-3, "beta2": 0.98, "valid_every": 500, "checkpoint_every": 200
    }  # fmt: skip
    constant = TrainingConfig(
        stages=((1_024, steps),), final_lr_fraction=1.0, warmup_fraction=min(1.0, 200 / steps), **common
    )
    first = train(one_source(store.path, splits), out / "constant", shape, constant)
    if first.checkpoint is None:
        raise SystemExit("stopped; run the same command to go on")
    falling = TrainingConfig(
        stages=((1_024, max(1, steps // 5)),), final_lr_fraction=0.0, warmup_fraction=0.02, seed=1, **common
    )
    result = train(one_source(store.path, splits), out / "pretrained", None, falling, init=first.checkpoint)
    if result.checkpoint is None:
        raise SystemExit("stopped; run the same command to go on")
    return result.checkpoint


def few(labelled: LabelledSet, count: int, seed: int) -> LabelledSet:
    """So many training windows of each class, as many for validation (100 at most), and the whole test split."""
    generator = np.random.default_rng([seed, count])
    left: dict[tuple[str, str], int] = {}
    kept = []
    for i in generator.permutation(len(labelled.examples)).tolist():
        example = labelled.examples[i]
        key = example.split, example.labels[0]
        most = {"train": count, "valid": min(count, 100)}.get(example.split, len(labelled.examples))
        left[key] = left.get(key, most) - 1
        if left[key] >= 0:
            kept.append(i)
    return labelled._replace(examples=[labelled.examples[i] for i in sorted(kept)])


def words(labelled: LabelledSet) -> Right:
    """Logistic regression on the better of two k-mer widths, as in the evaluation suite."""
    data = _Split.of(labelled, 0)
    tokens = [[encode(example.sequence) for example in split] for split in data.examples]
    kmers = kmer_logistic(tokens[:2], data.targets[:2], len(data.classes), 0)
    return np.asarray(kmers.probabilities(tokens[2]).argmax(1) == data.targets[2])


def words_by_neighbours(labelled: LabelledSet, task: Task) -> Right:
    """The same on the shorter k-mers, in the coordinates that the model's head is fitted in."""
    data, width = _Split.of(labelled, 0), WIDTHS[0]
    tokens = [[encode(example.sequence) for example in split] for split in data.examples]
    length = int(np.median([len(each) for each in tokens[0]]))
    pairs = draw_neighbours(task.unlabelled, PAIRS, length, task.distance, 0)
    mean, matrix = shared_directions(*(torch.from_numpy(kmer_frequencies(list(side), width)) for side in pairs))
    turned = [((torch.from_numpy(kmer_frequencies(each, width)) - mean) @ matrix).numpy() for each in tokens]
    # Without the scaling of `best_logistic`: the scales are what neighbours say.
    fits = [LogisticRegression(C=penalty, max_iter=300).fit(turned[0], data.targets[0]) for penalty in PENALTIES]
    best = max(fits, key=lambda fit: fit.score(turned[1], data.targets[1]))
    return np.asarray(best.predict(turned[2]) == data.targets[2])


def tuned(checkpoint: str | Path, task: Task, labelled: LabelledSet, count: int, out: Path) -> Right:
    """The recipe that is the best on the validation split."""
    recipes = {"head alone": HEAD, "head, then all": ALL} if count >= FEW else {"head alone": HEAD}
    if task.distance:
        # Inputs of another scale need another rate: its default.
        by_neighbours = {"neighbours": PAIRS, "neighbour_distance": task.distance}
        recipes = {
            name: dataclasses.replace(recipe, **by_neighbours, lr=0.0 if recipe is HEAD else recipe.lr)
            for name, recipe in recipes.items()
        }
    folders = {name: out / name.replace(", ", "-").replace(" ", "-") for name in recipes}
    accuracies = {}
    for name, recipe in recipes.items():
        folder = folders[name]
        if not folder.exists():
            source = task.unlabelled if recipe.neighbours else None
            finetune(
                checkpoint,
                labelled,
                folder,
                "classification",
                recipe,
                FinetuneOptions(pool="bases", strand="both", unlabelled=source),
            )
        metrics = pd.read_json(folder / "summary.json", typ="series")["metrics"]["valid"]
        accuracies[name] = next(metric["value"] for metric in metrics if metric["metric"] == "accuracy")
    best = max(accuracies, key=lambda name: accuracies[name])
    table = pd.read_parquet(folders[best] / "predictions.parquet")
    return (table["target"] == table["prediction"]).to_numpy()


def interval(values: npt.NDArray[np.float64]) -> str:
    """Mean over seeds and windows, (seeds, n), in percent, and what 95 % of resamples of the windows give."""
    draws = np.random.default_rng(0).integers(values.shape[1], size=(2_000, values.shape[1]))
    low, high = np.quantile(values.mean(0)[draws].mean(1), [0.025, 0.975])
    return f"{100 * values.mean():.1f} ({100 * low:.1f} – {100 * high:.1f})"


COUNTS = {"species": (5, 10, 20, 50), "coding": (10, 20, 50, 100)}
TASKS: dict[str, Callable[[Path, Path], Task]] = {"species": species, "coding": coding}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--genomes", type=Path, required=True, help="folder of the FASTA and GFF3 files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=7_000, help="of 4,096 bases at a constant rate")
    parser.add_argument("--counts", type=int, nargs="+", help="labels of each class")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the labelled windows")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    task = TASKS[options.task](options.genomes, options.out)
    checkpoints = {name: checkpoint_of(name, task, options.out, options.steps) for name in task.models}
    for count in options.counts or COUNTS[options.task]:
        right: dict[str, list[Right]] = defaultdict(list)
        for seed in range(options.seeds):
            some = few(task.labelled, count, seed)
            right["words"].append(words(some))
            if task.distance:
                right["words by neighbours"].append(words_by_neighbours(some, task))
            for name, checkpoint in checkpoints.items():
                right[name].append(tuned(checkpoint, task, some, count, options.out / f"tuned-{count}-{seed}" / name))
        accuracy = {name: np.array(rows, dtype=float) for name, rows in right.items()}
        accuracy |= {f"{name}, less words": accuracy[name] - accuracy["words"] for name in checkpoints}
        each = "; ".join(f"{name} {interval(rows)}" for name, rows in accuracy.items())
        print(f"{count} labels of a class, accuracy in %: {each}", flush=True)


if __name__ == "__main__":
    main()
