"""Whose rounding is it by which this package's logits and the original's differ in long sequences?

    python -m tests.measure.rounding --length 1000000 --width 32

Both compute in float32 with the weights of a preset, narrowed so that the original's way fits in float64 too; that is
what both are compared with. Printed is the largest difference over the largest logit.
"""

import argparse
import copy
import dataclasses

import torch

from genome_lm.alphabet import NUCLEOTIDES
from genome_lm.bench.original import OriginalLM
from genome_lm.config import PRESETS
from genome_lm.model import HyenaLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="large-1m", choices=PRESETS)
    parser.add_argument("--length", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=32, help="channels of the model")
    options = parser.parse_args()
    torch.manual_seed(0)
    width = options.width
    model = HyenaLM(dataclasses.replace(PRESETS[options.preset], d_model=width, d_inner=4 * width)).eval()
    ids = torch.randint(NUCLEOTIDES[0], NUCLEOTIDES[-1] + 1, (1, options.length))
    with torch.no_grad():
        exact = OriginalLM(copy.deepcopy(model).double())(ids)
        largest = exact.abs().max()
        ways = {"genome-lm": model, "original": OriginalLM(model)}
        results = {name: way(ids) for name, way in ways.items()}
    for name, logits in results.items():
        print(f"{name} in float32, from float64: {(logits - exact).abs().max() / largest:.1e}")
    apart = (results["genome-lm"] - results["original"]).abs().max() / largest
    print(f"genome-lm from the original, both in float32: {apart:.1e}")


if __name__ == "__main__":
    main()
