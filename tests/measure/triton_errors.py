"""Errors of the Triton convolution against float64, by precision of its products, in Triton's interpreter.

`TRITON_INTERPRET=1 python -m tests.measure.triton_errors 1024 32768` prints a table for one sequence of one channel.
The interpreter sums in float32, a GPU's tensor cores nearly so.
"""

import sys

import torch

from genome_lm.kernels.triton.plan import precision_of
from tests.kernels.triton_cases import errors

SETTINGS = (
    ("highest", torch.float32),
    ("high", torch.float32),
    ("highest", torch.float16),
    ("highest", torch.bfloat16),
)
"""Of `torch.set_float32_matmul_precision`, and dtypes of the operands."""

if __name__ == "__main__":
    print("| length | operands | products | of | largest error | of the whole | of the last quarter |")
    print("| ---: | --- | --- | --- | ---: | ---: | ---: |")
    for length in map(int, sys.argv[1:]):
        for setting, dtype in SETTINGS:
            torch.set_float32_matmul_precision(setting)
            of = f"| {length:,} | {str(dtype).removeprefix('torch.')} | {precision_of(dtype)}"
            for name, error in errors(1, 1, length, dtype).items():
                print(f"{of} | {name} | {error.largest:.1e} | {error.whole:.1e} | {error.end:.1e} |", flush=True)
