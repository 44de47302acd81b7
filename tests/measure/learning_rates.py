"""What learning rates are stable: of the filters and of the rest, at several widths, with AdamW and with Muon.

    .venv/bin/python -m tests.measure.learning_rates [spikes] [widths] [depth]

Trains small models on E. coli K-12 for a few steps of 2,048 bases, on one thread. docs/recipes.md has the result.

"bits" is the mean training loss of the last 20 steps in bits per base, "highest" the highest loss after 20 steps, and
"spikes" the number of steps that `genome_lm.training.spikes` calls so. A table's row is printed when it is measured.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from genome_lm.config import ModelConfig
from genome_lm.genome import GenomeStore, WindowSampler, build_store, read_bed, split_genome, write_bed
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.model import HyenaLM
from genome_lm.training import Stage, TrainingConfig
from genome_lm.training.data import TrainingSteps
from genome_lm.training.optimizers import make_optimizers, set_learning_rates
from genome_lm.training.spikes import FEWEST, NormLimit, spikes

FASTA = Path(__file__).parents[2] / "data_manifests" / "ecoli_k12_mg1655.fa.gz"
LENGTH, TOKENS, LAST = 256, 2_048, 20
SKIPPED = 3
"""Multiple of the median norm above which a step is skipped, where steps are skipped."""


class Losses(NamedTuple):
    bits: float
    highest: float
    spikes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.bits:.4f} {self.highest:8.3f} {self.spikes:6}   ({self.seconds:.0f} s)"


def trained(
    store: GenomeStore, shape: ModelConfig, config: TrainingConfig, steps: int, skips: bool = False
) -> Losses:
    """Losses of the first steps of a recipe."""
    sampler = WindowSampler(store, read_bed(Path(store.path).parent / "splits.bed", store), "train", seed=config.seed)
    data = TrainingSteps(Mixture([Source("genome", sampler)], [1.0]), config)
    torch.manual_seed(config.seed)
    model = HyenaLM(shape)
    optimizers, limit = make_optimizers(model, config), NormLimit(config.clip, config.clip_factor)
    losses: list[float] = []
    start = time.process_time()
    for step in range(steps):
        batch = data[step]
        ids, targets = shape.direction.shifted(batch.tokens)
        for optimizer in optimizers:
            set_learning_rates(optimizer, config, step)
            optimizer.zero_grad(set_to_none=True)
        loss = model.loss(ids, targets, batch.weights)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit()))
        usual = SKIPPED * statistics.median(limit.norms) if len(limit.norms) >= FEWEST else math.inf
        limit.add(norm)
        for optimizer in optimizers if not skips or norm <= usual else ():
            optimizer.step()
        losses.append(loss.item() / math.log(2))
    highest = max(losses[LAST:])
    nats = [bits * math.log(2) for bits in losses]
    return Losses(statistics.mean(losses[-LAST:]), highest, len(spikes(nats)), time.process_time() - start)


def recipe(steps: int, **values: object) -> TrainingConfig:
    return TrainingConfig((Stage(LENGTH, steps),), tokens_per_step=TOKENS, **values)  # type: ignore[arg-type]


def shaped(d_model: int, n_layer: int = 2) -> ModelConfig:
    return ModelConfig(d_model=d_model, n_layer=n_layer, max_length=1_024, embed_dropout=0.0)


def compare_protections(store: GenomeStore) -> None:
    """The demo's shape and rate: the filters' rate, the running limit, and leaving steps out."""
    print(f"{'lr':>6} {'filter_lr':>9} {'besides':>16} seed   bits  highest spikes", flush=True)
    rows = [
        (4e-3, 4e-3, 0, False), (4e-3, 4e-3, 1, False), (4e-3, 4e-3, 0, True), (4e-3, 1e-3, 0, False),
        (8e-3, 8e-3, 0, False), (8e-3, 1e-3, 0, False),
    ]  # fmt: skip
    for lr, filter_lr, factor, skips in rows:
        besides = "skipped" if skips else f"clip_factor {factor}" if factor else "—"
        for seed in (0, 1) if lr < 5e-3 else (0,):
            config = recipe(1_200, lr=lr, filter_lr=filter_lr, clip_factor=float(factor), seed=seed)
            result = trained(store, shaped(128), config, 200, skips)
            print(f"{lr:>6g} {filter_lr:>9g} {besides:>16} {seed:>4} {result}", flush=True)


def compare_widths(store: GenomeStore) -> None:
    """Whether the best rate depends on the width."""
    print(f"{'optimizer':>9} {'width':>5} {'lr':>6}   bits  highest spikes", flush=True)
    for width in (64, 128, 256):
        for optimizer in ("adamw", "muon"):
            for lr in (6e-4, 2e-3, 6e-3, 2e-2):
                result = trained(store, shaped(width), recipe(60, lr=lr, optimizer=optimizer), 60)
                print(f"{optimizer:>9} {width:>5} {lr:>6g} {result}", flush=True)


def compare_depths(store: GenomeStore) -> None:
    """The default rate in the shapes of the presets."""
    print(f"{'width':>5} {'blocks':>6}   bits  highest spikes", flush=True)
    for width, blocks in ((128, 2), (256, 4), (256, 8)):
        print(f"{width:>5} {blocks:>6} {trained(store, shaped(width, blocks), recipe(60), 60)}", flush=True)


PARTS = {"spikes": compare_protections, "widths": compare_widths, "depth": compare_depths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parts = parser.parse_args().parts
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = build_store([FASTA], Path(folder) / "genome.zarr")
        write_bed(Path(folder) / "splits.bed", split_genome(store))
        for part in parts:
            PARTS[part](store)


if __name__ == "__main__":
    main()
