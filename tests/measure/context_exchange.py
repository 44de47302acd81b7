"""What int8 costs where devices that share sequences exchange values (`genome-lm train --context-exchange int8`).

    .venv/bin/python -m tests.measure.context_exchange

Two processes train a small model on E. coli K-12 twice, by the same windows and from the same weights: with exact
exchanges and with int8. docs/performance.md has the result.

"bits" is the mean training loss of the last 20 steps in bits per base. "gradient" is the relative error of the
gradient with int8, where exact training begins and ends: the norm of the difference over the norm.
"""

import statistics
import tempfile
from math import log
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.genome import GenomeStore, WindowSampler, build_store, read_bed, split_genome, write_bed
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.model import HyenaLM
from genome_lm.model.shards import Context, Exchange
from genome_lm.training import Stage, TrainingConfig
from genome_lm.training.data import StepBatch, TrainingSteps
from genome_lm.training.optimizers import make_optimizers, set_learning_rates

FASTA = Path(__file__).parents[2] / "data_manifests" / "ecoli_k12_mg1655.fa.gz"
RECIPE = TrainingConfig((Stage(512, 150),), tokens_per_step=2_048, lr=4e-3)
LAST = 20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = build_store([FASTA], Path(folder) / "genome.zarr")
        write_bed(Path(folder) / "splits.bed", split_genome(store))
        mp.spawn(_process, (folder,), 2)


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    assert dist.group.WORLD is not None
    if not rank:
        print("layout                      bits: exact  int8    gradient: first  last", flush=True)
    for layout in ("hyena", "hyena-se, hyena-mr, hyena"):
        store = GenomeStore(Path(folder) / "genome.zarr")
        sampler = WindowSampler(store, read_bed(Path(folder) / "splits.bed", store), "train")
        steps = TrainingSteps(Mixture([Source("genome", sampler)], [1.0]), RECIPE)
        contexts: dict[Exchange, Context] = {name: Context(dist.group.WORLD, name) for name in ("exact", "int8")}
        errors: list[float] = []
        bits = [_trained(layout, steps, context, contexts["int8"], errors) for context in contexts.values()]
        if not rank:
            print(f"{layout:<32} {bits[0]:.4f} {bits[1]:.4f} {errors[0]:>16.4f} {errors[1]:.4f}", flush=True)
    dist.destroy_process_group()


def _trained(layout: str, steps: TrainingSteps, context: Context, coded: Context, errors: list[float]) -> float:
    """Mean loss of the last steps; errors of the first and the last gradient are added to the list."""
    torch.manual_seed(0)
    shape = ModelConfig(d_model=64, n_layer=3, max_length=512, embed_dropout=0.0, layout=layout)
    model, losses = HyenaLM(shape), []
    optimizers = make_optimizers(model, RECIPE)
    for step in range(len(steps)):
        batch = steps[step]
        loss, gradients = _gradients(model, context, batch)
        if step in (0, len(steps) - 1):
            others = _gradients(model, coded, batch)[1]
            difference = torch.stack([(a - b).norm() for a, b in zip(gradients, others, strict=True)]).norm()
            errors.append(float(difference / torch.stack([gradient.norm() for gradient in gradients]).norm()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
        for optimizer in optimizers:
            set_learning_rates(optimizer, RECIPE, step)
            optimizer.step()
        losses.append(loss / log(2))
    return statistics.mean(losses[-LAST:])


def _gradients(model: HyenaLM, context: Context, batch: StepBatch) -> tuple[float, list[Tensor]]:
    """Mean loss of a step's windows, and its gradients, summed over the devices."""
    model.backbone.context = context
    loss, weight = model.summed_loss(*model.config.direction.shifted(batch.tokens), batch.weights)
    values = [loss.detach(), weight, *torch.autograd.grad(loss, [*model.parameters()])]
    for value in values:
        dist.all_reduce(value)
    return float(values[0] / values[1]), [gradient / values[1] for gradient in values[2:]]


if __name__ == "__main__":
    main()
