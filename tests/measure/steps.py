"""CPU time of a training's steps by model of a study, beside the first model's, in turn in one process on one thread.

    python -m tests.measure.steps snakemake/config/ablation_small.yaml [hyena attention …]

For each stage of the study's recipe, prints the median over rounds of the ratios of CPU time of a step, with loss,
gradients and optimisers; and the ratio of a whole training's time, in which each stage counts as its steps do.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from genome_lm.alphabet import A
from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM
from genome_lm.training import TrainingConfig
from genome_lm.training.optimizers import make_optimizers


class Trained:
    """A model of a study, and its optimisers."""

    def __init__(self, study: dict[str, Any], name: str) -> None:
        fields = {key: value for key, value in study["models"][name].items() if key not in ("genomes", "training")}
        own = study["models"][name].get("training", {})
        self.recipe = TrainingConfig.from_dict({**study["training"], **own})
        self.model = HyenaLM(ModelConfig.from_dict({"embed_dropout": 0.0, **fields}))
        self.optimizers = make_optimizers(self.model, self.recipe)

    def seconds(self, length: int) -> float:
        """CPU time of a step."""
        tokens = torch.randint(A, A + 4, (self.recipe.tokens_per_step // length, length + 1))
        start = time.process_time()
        self.model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("models", nargs="*", help="the first is what the others are compared with; all without any")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = yaml.safe_load(options.study.read_text(encoding="utf-8"))
    names = options.models or list(study["models"])
    models = [Trained(study, name) for name in names]
    stages = models[0].recipe.stages
    totals = [0.0] * len(names)
    print("model", *(stage.length for stage in stages), "all", sep="\t")
    ratios: list[list[float]] = [[] for _ in names]
    for length, steps in stages:
        times = [[model.seconds(length) for model in models] for _ in range(options.rounds + 1)][1:]
        for number in range(len(names)):
            ratios[number].append(statistics.median(row[number] / row[0] for row in times))
            totals[number] += steps * ratios[number][-1] * statistics.median(row[0] for row in times)
    for name, each, total in zip(names, ratios, totals, strict=True):
        print(name, *(f"{ratio:.2f}" for ratio in (*each, total / totals[0])), sep="\t")


if __name__ == "__main__":
    main()
