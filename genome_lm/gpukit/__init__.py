"""A kit that proves the GPU path on a machine: stages as processes of their own, and one file of results.

`run_kit` runs it. `tests/gpu/kit.py` is its full form and `genome-lm doctor --gpu` its short one. On a CPU the same
stages run at toy sizes, the kernels in Triton's interpreter.
"""

from genome_lm.gpukit.forms import FORMS, Form
from genome_lm.gpukit.runner import STAGES, Options, run_kit
from genome_lm.gpukit.summary import summary

__all__ = ["FORMS", "STAGES", "Form", "Options", "run_kit", "summary"]
