"""Perplexity of a model before and after its context is extended, and after tuning, on held-out E. coli sequence.

    python -m tests.measure.extension --out results/extension

Trains a small model with a context of 256, stretches it to 1,024 (`genome-lm checkpoint extend`), and tunes it there.
A run that was cut off goes on where it was.
"""

import argparse
from pathlib import Path

from genome_lm.checkpoint import extend_context, load_checkpoint, save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.evaluation import Scoring, evaluate_perplexity
from genome_lm.genome import GenomeStore, build_store, read_bed, split_genome, write_bed
from genome_lm.mixture_config import one_source
from genome_lm.training import Stage, TrainingConfig, train

FASTA = Path(__file__).parents[2] / "data_manifests" / "ecoli_k12_mg1655.fa.gz"
SHORT, LONG = 256, 1024
RECIPE = {"tokens_per_step": 4096, "beta2": 0.95, "warmup_fraction": 0.05, "valid_every": 100, "checkpoint_every": 50}


def prepared(out: Path) -> tuple[GenomeStore, Path]:
    genome, intervals = out / "genome.zarr", out / "splits.bed"
    store = GenomeStore(genome) if genome.exists() else build_store([FASTA], genome)
    if not intervals.exists():
        write_bed(intervals, split_genome(store))
    return store, intervals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/extension"))
    parser.add_argument("--steps", type=int, default=1_000, help="of training at the short context")
    parser.add_argument("--tuning", type=int, default=300, help="steps at the long one")
    options = parser.parse_args()
    out: Path = options.out
    store, intervals = prepared(out)
    regions = read_bed(intervals, store)

    def perplexity(checkpoint: Path, length: int) -> str:
        model, _ = load_checkpoint(checkpoint)
        score = evaluate_perplexity(model, store, regions, Scoring("test", length, -1, 400_000)).model
        return f"{score.perplexity:.4f}"

    shape = ModelConfig(d_model=128, n_layer=2, max_length=SHORT, embed_dropout=0.0)
    recipe = TrainingConfig(stages=(Stage(SHORT, options.steps),), lr=4e-3, **RECIPE)
    before = train(one_source(store.path, intervals), out / "short", shape, recipe).checkpoint
    assert before is not None
    stretched = save_checkpoint(out / "stretched", extend_context(load_checkpoint(before)[0], LONG))
    tuning = TrainingConfig(stages=(Stage(LONG, options.tuning),), lr=1e-3, **RECIPE)
    after = train(one_source(store.path, intervals), out / "long", None, tuning, init=stretched).checkpoint
    assert after is not None
    print(f"perplexity, context of       {SHORT:>7,} {LONG:>7,}")
    print(f"trained at {SHORT:<17,} {perplexity(before, SHORT):>7} {'—':>7}")
    print(f"stretched to {LONG:<15,} {perplexity(stretched, SHORT):>7} {perplexity(stretched, LONG):>7}")
    print(f"tuned there for {options.tuning} steps    {perplexity(after, SHORT):>7} {perplexity(after, LONG):>7}")


if __name__ == "__main__":
    main()
