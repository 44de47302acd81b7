"""Whether a small model learns to recall: layouts with and without attention, with and without copies in training.

    python -m tests.measure.recall --genomes DIR --out results/recall

Models are trained on the four bacteria that are not V. cholerae, at equal bases, and measured on the test split of
V. cholerae, which no model has seen: bits per base, and recall (`genome_lm.evaluation.recall`). A run that was cut
off goes on where it was. `--out` gets recall.json; the figures are printed too.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from genome_lm.config import ModelConfig
from genome_lm.documents import json_text
from genome_lm.evaluation import Scoring, evaluate_perplexity, recall
from genome_lm.genome import GenomeStore, of_split, write_bed
from genome_lm.inference import load
from genome_lm.mixture_config import MixtureConfig, SourceConfig
from genome_lm.training import Stage, TrainingConfig, train
from genome_lm.training_config import CopiesConfig
from tests.measure.downstream import BACTERIA, built, split

HELD_OUT = "vcholerae"
COPIES = CopiesConfig(0.5, length=(32, 512), distance=(16, 2_048))
HYENA = ModelConfig(d_model=128, n_layer=2, max_length=2_048, embed_dropout=0.0)
ATTENTION = replace(HYENA, layout="hyena,attention")
RUNS: dict[str, tuple[ModelConfig, CopiesConfig | None]] = {
    "hyena": (HYENA, None),
    "hyena, copies": (HYENA, COPIES),
    "hyena + attention": (ATTENTION, None),
    "hyena + attention, copies": (ATTENTION, COPIES),
    "hyena + attention, n-grams, copies": (replace(ATTENTION, ngram_order=6, ngram_width=16), COPIES),
}


def main() -> None:
    """Train and measure all runs, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genomes", type=Path, required=True, help="Folder of the FASTA files.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1_500, help="Of 4,096 bases.")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=RUNS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    data, held_out = _data(given.genomes, given.out)
    results = []
    for seed in given.seeds:
        for name in given.only:
            shape, copies = RUNS[name]
            recipe = TrainingConfig(
                (Stage(2_048, given.steps),), tokens_per_step=4_096, lr=given.lr, copies=copies, seed=seed,
                valid_every=given.steps, checkpoint_every=100,
            )  # fmt: skip
            begin = time.process_time()
            train(data, given.out / f"{name}-{given.steps}-{given.lr}-{seed}", shape, recipe)
            results.append({"run": name, "seed": seed, "cpu_seconds": time.process_time() - begin})
            results[-1] |= _measure(given.out / f"{name}-{given.steps}-{given.lr}-{seed}" / "checkpoint", held_out)
            print(_line(results[-1]), flush=True)
    (given.out / "recall.json").write_text(json_text(results) + "\n", encoding="utf-8")


def _data(genomes: Path, out: Path) -> tuple[MixtureConfig, GenomeStore]:
    """The mixture of the genomes that are trained on, and the one that is not; their splits lie in `out`."""
    sources, stores = [], {}
    for name, fasta in BACTERIA.items():
        stores[name] = built([genomes / f"{fasta}.fa.gz"], out / f"{name}.zarr")
        write_bed(out / f"{name}.bed", split(stores[name]))
        if name != HELD_OUT:
            sources.append(SourceConfig(name, str(out / f"{name}.zarr"), str(out / f"{name}.bed")))
    return MixtureConfig(tuple(sources)), stores[HELD_OUT]


def _measure(checkpoint: Path, store: GenomeStore) -> dict[str, object]:
    """Bits per base and recall of a checkpoint on the test split of a genome."""
    regions = split(store)
    model = load(checkpoint, "cpu").model
    scores = evaluate_perplexity(model, store, regions, Scoring(markov_order=-1, max_bases=100_000))
    rows = recall(model, store, of_split(regions, "test"), segments=40)
    return {"bits_per_base": scores.model.bits_per_base, "recall": rows}


def _line(result: dict[str, Any]) -> str:
    gains = [f"{row['gain']:+.3f} ({row['low']:+.3f} – {row['high']:+.3f})" for row in result["recall"]]
    labels = [f"{row['copy']} {row['distance']:,}" for row in result["recall"]]
    shown = "; ".join(f"{label}: {gain}" for label, gain in zip(labels, gains, strict=True))
    return f"{result['run']}, seed {result['seed']}: {result['bits_per_base']:.4f} bits per base; {shown}"


if __name__ == "__main__":
    main()
