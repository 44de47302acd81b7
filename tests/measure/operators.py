"""Time of operators' sub-blocks on one thread beside Hyena's, in turn in one process.

    python -m tests.measure.operators attention,attention-local --shapes 16x1024x128,1x8192x256

Prints the median of the ratios of CPU time of each round, forward without gradients, and forward and backward.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM
from genome_lm.model.backbone import Block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operators", type=lambda text: text.split(","))
    parser.add_argument("--shapes", default="1x1024x128,16x1024x128,8x1024x256,1x8192x128,1x8192x256")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for shape in arguments.shapes.split(","):
        compare(["hyena", *arguments.operators], tuple(map(int, shape.split("x"))), arguments.rounds)


def compare(names: list[str], shape: tuple[int, ...], rounds: int) -> None:
    """Sequences, their length and width."""
    _, length, width = shape
    x = torch.randn(shape)
    models = [HyenaLM(ModelConfig(d_model=width, n_layer=1, max_length=length, layout=name)) for name in names]
    for work in (forward, train):
        times = [[seconds(work, model.backbone.blocks[0], x) for model in models] for _ in range(rounds)]
        ratios = [statistics.median(row[n] / row[0] for row in times) for n in range(1, len(names))]
        told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in zip(names[1:], ratios, strict=True))
        first = statistics.median(row[0] for row in times)
        print(f"{shape} {work.__name__}: hyena {1e3 * first:.1f} ms; times hyena's: {told}", flush=True)


def forward(block: Block, x: torch.Tensor) -> None:
    with torch.no_grad():
        block.mixer.add(x.clone(), block.norm1, block.dropout, True)


def train(block: Block, x: torch.Tensor) -> None:
    block.mixer.add(x.clone().requires_grad_(), block.norm1, block.dropout, False).backward(x)


def seconds(work: Callable[[Any, torch.Tensor], None], module: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.process_time()
    work(module, x)
    return time.process_time() - start


if __name__ == "__main__":
    main()
