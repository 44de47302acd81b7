"""What the mixture of genomes in a training does, at equal bases.

    python -m tests.measure.mixtures --genomes DIR --out results/mixtures

Small models are trained on a single genome, on mixtures of four bacteria, U. maydis and pieces of C. elegans, and
with coding and upstream regions of U. maydis 1:1; three seeds each. All are scored on the same windows: of the test
split of each genome, and of that of V. cholerae, which no model has seen. Linear probes on their frozen embeddings
tell coding from intergenic windows (U. maydis), and five bacteria apart.

The same command goes on where it was cut off. `--out` gets mixtures.csv (a value per condition, seed and measure),
mixtures.md (the tables, which are printed too) and mixtures.png.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from genome_lm.alphabet import encode
from genome_lm.config import ModelConfig
from genome_lm.dataset import LabelledSet, classify_regions, gene_set, read_annotation, species_set
from genome_lm.evaluation.analyses.probes import _markov, _Split
from genome_lm.evaluation.markov import MarkovModel
from genome_lm.genome import BaseClasses, GenomeStore, Interval, Windows, of_split, read_bed, tile, write_bed
from genome_lm.inference import GenomeLM, load
from genome_lm.mixture_config import MixtureConfig, SourceConfig
from genome_lm.model import HyenaLM
from genome_lm.training import TrainingConfig, target_losses, train
from genome_lm.training.opening import open_sources
from tests.measure.comparison import (
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

HELD_OUT = "vcholerae"
FASTAS = {**BACTERIA, "umaydis": "umaydis", "celegans": "celegans_pieces"}
TRAINED = tuple(name for name in FASTAS if name != HELD_OUT)
SPECIES = {
    "ecoli": "E. coli", "saureus": "S. aureus", "hpylori": "H. pylori", "kpneumoniae": "K. pneumoniae",
    "umaydis": "U. maydis", "celegans": "C. elegans", HELD_OUT: "V. cholerae (held out)",
}  # fmt: skip
CONDITIONS = {
    "ecoli": "E. coli alone",
    "umaydis": "U. maydis alone",
    "umaydis-classes": "U. maydis alone, coding and upstream 1:1",
    "bases": "mixture by bases",
    "temperature": "mixture, temperature 0.5",
    "equal": "mixture, equal",
    "bases-classes": "mixture by bases, coding and upstream of U. maydis 1:1",
}
UNTRAINED = "untrained"
NAMES = {**CONDITIONS, UNTRAINED: "untrained model"}
PAIRS = (
    ("ecoli", "bases"), ("umaydis", "bases"), ("temperature", "bases"), ("equal", "bases"),
    ("bases-classes", "bases"), ("umaydis-classes", "umaydis"),
)  # fmt: skip
"""Conditions that are compared: one, and what it is held against."""
NAMED_PAIRS = {pair: f"{NAMES[pair[0]]}, less {NAMES[pair[1]]}" for pair in PAIRS}
CLASSES = {"coding": 1.0, "upstream": 1.0}
SIX = "six"
"""The windows of all test splits of genomes that the mixtures hold."""
BITS = {**SPECIES, SIX: "the other six"}
OTHERS = {
    "umaydis/coding": "coding bases", "umaydis/upstream": "upstream bases", "umaydis/rest": "other bases",
    "probe coding": "coding probe", "probe species": "species probe",
}  # fmt: skip
LENGTH = 512
WINDOWS = 100
"""Scored of each test split."""
LABELS = {"coding": 100, "species": 40}
"""Training windows of a class."""
TESTED = {"coding": 150, "species": 60}
"""Test windows of a class."""
ORDER = 8
"""The highest of chains that are fitted to what a model has read."""
OWN_ORDER = 11
"""The highest of chains that are fitted to a genome's training split."""


class Data(NamedTuple):
    """What all models are trained and scored on.

    Attributes:
        folder: With the stores, the BED files of the splits, and that of the classes.
        stores: By species.
        windows: Test windows of each species, and how many bases of each count.
        classes: Of U. maydis.
        probes: Labelled windows by task.
    """

    folder: Path
    stores: dict[str, GenomeStore]
    windows: dict[str, tuple[Windows, npt.NDArray[np.int64]]]
    classes: BaseClasses
    probes: dict[str, LabelledSet]

    def classes_of(self, species: str) -> BaseClasses:
        """By which the bases of a species are told apart: coding, upstream, and the rest without a class."""
        return self.classes if species == "umaydis" else BaseClasses.none()


def prepared(genomes: Path, out: Path) -> Data:
    """Build the stores, splits, classes, test windows and labelled sets; all the same for all models."""
    stores = {name: built([genomes / f"{file}.fa.gz"], out / f"{name}.zarr") for name, file in FASTAS.items()}
    built([genomes / f"{file}.fa.gz" for file in FASTAS.values()], out / "together.zarr")
    regions = {name: split(store) for name, store in stores.items()}
    for name, of_genome in regions.items():
        write_bed(out / f"{name}.bed", of_genome)
    umaydis = stores["umaydis"]
    genes = read_annotation(genomes / "umaydis.gff3.gz", umaydis, None, "^Umaydis:([^:]+):", with_lines=True)
    classes = [region for region in classify_regions(umaydis, genes) if region.name in CLASSES]
    write_bed(out / "umaydis.classes.bed", classes)
    # gene_set draws test windows in proportion to the test split: 0.2 of the genome, where training has 0.7.
    coding = gene_set(
        umaydis, genes, "coding", regions["umaydis"], per_class=round(TESTED["coding"] * 3.5), seed=SPLIT
    )
    bacteria = {name: stores[name] for name in BACTERIA}
    of_bacteria = [region for name in BACTERIA for region in regions[name]]
    species = species_set(bacteria, LENGTH, LABELS["species"], of_bacteria, held_out=TESTED["species"], seed=SPLIT)
    sets = {"coding": coding, "species": species}
    return Data(
        out,
        stores,
        {name: scored_windows(store, regions[name]) for name, store in stores.items()},
        BaseClasses.read(out / "umaydis.classes.bed", umaydis),
        {name: few(labelled, LABELS[name], SPLIT) for name, labelled in sets.items()},
    )


def scored_windows(store: GenomeStore, regions: list[Interval]) -> tuple[Windows, npt.NDArray[np.int64]]:
    """Windows of a test split, drawn once for all models."""
    windows, inside = tile(store, of_split(regions, "test"), LENGTH + 1, LENGTH)
    drawn = np.sort(np.random.default_rng(SPLIT).permutation(len(inside))[:WINDOWS])
    return windows.take(drawn), inside[drawn]


def mixture(data: Data, condition: str) -> MixtureConfig:
    """What a model of this condition is trained on."""
    out = data.folder
    each = {name: SourceConfig(name, str(out / f"{name}.zarr"), str(out / f"{name}.bed")) for name in TRAINED}
    by_classes = replace(each["umaydis"], regions=str(out / "umaydis.classes.bed"), classes=CLASSES)
    if condition == "umaydis-classes":
        return MixtureConfig((by_classes,))
    if condition in each:
        return MixtureConfig((each[condition],))
    every = tuple(each.values())
    if condition == "bases-classes":
        # By the bases of whole genomes: "bases" would count those of the two classes alone.
        every = tuple(by_classes if source.name == "umaydis" else source for source in every)
        return MixtureConfig(tuple(replace(each, weight=training_bases(each)) for each in every))
    if condition == "equal":
        return MixtureConfig(every, "equal")
    return MixtureConfig(every, "bases", 0.5 if condition == "temperature" else 1.0)


def training_bases(source: SourceConfig) -> float:
    regions = of_split(read_bed(Path(source.intervals), GenomeStore(Path(source.genome))), "train")
    return float(sum(region.end - region.start for region in regions))


def recipe(steps: int, seed: int) -> TrainingConfig:
    return TrainingConfig(
        stages=((LENGTH, steps),), tokens_per_step=4_096, lr=2e-3, beta2=0.95, warmup_fraction=0.05,
        valid_every=steps, valid_windows=16, checkpoint_every=steps, seed=seed,
    )  # fmt: skip


SHAPE = ModelConfig(d_model=128, n_layer=2, max_length=LENGTH, embed_dropout=0.0)


def trained(data: Data, condition: str, steps: int, seed: int) -> GenomeLM:
    """The model of a condition, which is trained if that is to be done."""
    if condition == UNTRAINED:
        torch.manual_seed(seed)
        return GenomeLM(HyenaLM(SHAPE))
    result = train(mixture(data, condition), run_folder(data, condition, seed), SHAPE, recipe(steps, seed))
    if result.checkpoint is None:
        raise SystemExit("stopped; run the same command to go on")
    return load(result.checkpoint)


def run_folder(data: Data, condition: str, seed: int) -> Path:
    return data.folder / "runs" / f"{condition}-{seed}"


def scored(data: Data, condition: str, steps: int, seed: int) -> dict[str, Any]:
    """Scores of a model on all measures, and those of a chain that has read the same windows."""
    model = trained(data, condition, steps, seed)

    def compute() -> dict[str, Any]:
        rights = {f"probe {name}": probed(labelled, model.embed) for name, labelled in data.probes.items()}
        scores = {name: {"sums": right.tolist(), "counts": [1] * len(right)} for name, right in rights.items()}
        if condition == UNTRAINED:
            return {"model": scores}
        scores |= bits(data, model)
        regions = windows_read(mixture(data, condition), recipe(steps, seed))
        fitted = MarkovModel.fit(GenomeStore(data.folder / "together.zarr"), regions, ORDER)
        return {"model": scores, "chain": {name: best_order(data, name, fitted) for name in SPECIES}}

    return kept(run_folder(data, condition, seed) / "scores.json", compute)


def bits(data: Data, model: GenomeLM) -> dict[str, Any]:
    """Of each test split, and of the classes of U. maydis: bits summed over each window, and its targets."""
    scores = {}
    for name, store in data.stores.items():
        (windows, inside), classes = data.windows[name], data.classes_of(name)
        sums, counts = np.zeros((2, len(classes.names) + 1, len(inside)))
        for rows, losses, counted in target_losses(model.model, store, windows, inside, 32_768):
            numbers = classes.of_windows(store, windows.take(rows))[:, 1 : 1 + losses.shape[1]]
            for number in range(len(sums)):
                of_class = counted & (numbers == number)
                sums[number, rows] = np.where(of_class, losses, 0).sum(1) / np.log(2)
                counts[number, rows] = of_class.sum(1)
        each = {name: (sums.sum(0), counts.sum(0))}
        if classes.names:
            names = [f"{name}/{part}" for part in ("rest", *classes.names)]
            each |= dict(zip(names, zip(sums, counts, strict=True), strict=True))
        scores |= {key: {"sums": one.tolist(), "counts": other.tolist()} for key, (one, other) in each.items()}
    parts = [scores[name] for name in TRAINED]
    scores[SIX] = {key: list(chain.from_iterable(part[key] for part in parts)) for key in ("sums", "counts")}
    return scores


def windows_read(data: MixtureConfig, config: TrainingConfig) -> list[Interval]:
    """The windows that a training reads, as places of the genomes together."""
    drawn = open_sources(data, config).mixture
    mixed = drawn.windows(0, config.bases(config.steps) // LENGTH, LENGTH)
    places = []
    for number, source, start in zip(mixed.windows.contigs, mixed.sources, mixed.windows.starts, strict=True):
        contigs = drawn.sources[source].sampler.store.contigs
        first, last = max(0, int(start)), min(int(start) + LENGTH, int(contigs.lengths[number]))
        places.append(Interval(contigs.names[number], first, last))
    return places


def best_order(data: Data, species: str, fitted: MarkovModel) -> float:
    """Bits per base of the best order on the test windows themselves, which favours the chain."""
    sums, targets = fitted.losses(data.stores[species], *data.windows[species])
    return float(sums[: fitted.order + 1].sum(1).min() / targets.sum() / np.log(2))


def baselines(data: Data) -> dict[str, Any]:
    """Chains of a genome's own training split, in bits per base; and what tells classes apart without a model."""
    own = {}
    for name, store in data.stores.items():
        regions = of_split(read_bed(data.folder / f"{name}.bed", store), "train")
        own[name] = best_order(data, name, MarkovModel.fit(store, regions, OWN_ORDER))
    probes = {}
    for name, labelled in data.probes.items():
        sets = _Split.of(labelled, 0)
        tokens = [[encode(example.sequence) for example in part] for part in sets.examples]
        chains = [float((_markov(sets, tokens, order) == sets.targets[2]).mean()) for order in (3, 5)]
        probes[f"probe {name}"] = {"k-mers": float(words(labelled).mean()), "chains": max(chains)}
    return {"own": own, "probes": probes}


def of_models(scores: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Without the chains."""
    return {condition: [seed["model"] for seed in seeds] for condition, seeds in scores.items()}


def chains_table(results: Results, scores: Mapping[str, Sequence[dict[str, Any]]]) -> list[list[str]]:
    """A row per condition: bits per base of the model, less those of a chain that has read the same windows."""
    rows = []
    for condition in CONDITIONS:
        chains = {name: np.array([seed["chain"][name] for seed in scores[condition]]) for name in SPECIES}
        rows.append(
            [NAMES[condition]] + [shown(results[condition][name].of_seeds - chains[name], name) for name in SPECIES]
        )
    return rows


def tables(scores: Mapping[str, Sequence[dict[str, Any]]], simple: dict[str, Any]) -> str:
    """All tables as Markdown."""
    results = gathered(of_models(scores))
    own = [f"{simple['own'][name]:.4f}" if name in simple["own"] else "" for name in BITS]
    probes: dict[str, dict[str, float]] = simple["probes"]
    others = [
        [name, *(f"{100 * probes[measure][key]:.1f}" if measure in probes else "" for measure in OTHERS)]
        for key, name in (("k-mers", "logistic regression on k-mers"), ("chains", "Markov chain of each class"))
    ]
    parts = {
        "Bits per base on test windows": (
            BITS,
            [*values_table(results, CONDITIONS, BITS), ["chain of the genome's whole training split", *own]],
        ),
        "Differences in thousandths of a bit": (BITS, differences_table(results, NAMED_PAIRS, BITS)),
        "Bits per base, less those of a Markov chain that has read the same windows": (
            SPECIES,
            chains_table(results, scores),
        ),
        "U. maydis by class in bits per base, and accuracy of probes in percent": (
            OTHERS,
            [*values_table(results, NAMES, OTHERS), *others],
        ),
        "Differences in thousandths of a bit, and in percent": (
            OTHERS,
            differences_table(results, NAMED_PAIRS, OTHERS),
        ),
    }
    return "\n\n".join(f"{title}:\n\n{table(['', *of.values()], rows)}" for title, (of, rows) in parts.items()) + "\n"


def draw(results: Results, path: Path) -> None:
    """Bits per base less those of the mixture by bases, a mark per seed."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    shifts = np.linspace(-0.3, 0.3, len(CONDITIONS))
    for shift, (condition, label) in zip(shifts, CONDITIONS.items(), strict=True):
        seeds = np.array([results[condition][name].of_seeds for name in BITS])
        means = np.array([[results["bases"][name].of_seeds.mean()] for name in BITS])
        places = np.repeat(np.arange(len(BITS))[:, None] + shift, seeds.shape[1], axis=1)
        axes.plot(places.ravel(), (seeds - means).ravel(), ".", markersize=5, label=label)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set_xticks(range(len(BITS)), [name.replace(" (", "\n(") for name in BITS.values()])
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylabel("bits per base, less those of\nthe mixture by bases")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genomes", type=Path, required=True, help="folder of the FASTA and GFF3 files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300, help="of 4,096 bases")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = prepared(options.genomes, options.out)
    simple = kept(options.out / "baselines.json", lambda: baselines(data))
    scores: dict[str, list[dict[str, Any]]] = {condition: [] for condition in (*CONDITIONS, UNTRAINED)}
    for seed in range(options.seeds):  # all conditions of a seed first: what is there early can be compared
        for condition, of_seeds in scores.items():
            of_seeds.append(scored(data, condition, options.steps, seed))
            print(f"done: {condition}, seed {seed}", flush=True)
    results = gathered(of_models(scores))
    write_values(results, options.out / "mixtures.csv")
    draw(results, options.out / "mixtures.png")
    text = tables(scores, simple)
    (options.out / "mixtures.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
