"""Time of models that read both ways beside causal ones of the same shape, in turn in one process on one thread.

    python -m tests.measure.directions hyena,attention --shapes 8x1024x128,1x8192x128

Prints the median of the ratios of CPU time of each round, with shared and with own weights of the reversed direction.
"""

import argparse
import statistics

import torch

from genome_lm.config import ModelConfig
from genome_lm.direction import BOTH, CAUSAL
from genome_lm.model import HyenaLM
from tests.measure.operators import seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operators", type=lambda text: text.split(","))
    parser.add_argument("--shapes", default="8x1024x128,1x8192x128,1x8192x256")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for operator in arguments.operators:
        for shape in arguments.shapes.split(","):
            compare(operator, tuple(map(int, shape.split("x"))), arguments.rounds)


def compare(operator: str, shape: tuple[int, ...], rounds: int) -> None:
    """Sequences, their length and width."""
    sequences, length, width = shape
    causal = ModelConfig(d_model=width, n_layer=2, max_length=length, layout=operator, embed_dropout=0.0)
    shapes = [{"direction": CAUSAL}, {"direction": BOTH}, {"direction": BOTH, "reversed_weights": "own"}]
    models = [HyenaLM(ModelConfig.from_dict({**causal.to_dict(), **fields})) for fields in shapes]
    ids = torch.randint(7, 11, (sequences, length))
    for work in (forward, train):
        times = [[seconds(work, model, ids) for model in models] for _ in range(rounds)]
        shared, own = (statistics.median(row[n] / row[0] for row in times) for n in (1, 2))
        print(f"{operator} {shape} {work.__name__}: times causal: shared {shared:.2f}, own {own:.2f}", flush=True)


def forward(model: HyenaLM, ids: torch.Tensor) -> None:
    with torch.no_grad():
        model(ids)


def train(model: HyenaLM, ids: torch.Tensor) -> None:
    model.loss(ids, ids).backward()


if __name__ == "__main__":
    main()
