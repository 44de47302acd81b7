"""Time and memory of the package against other ways of computing the same, and against what the machine can do."""

from genome_lm.bench.compare import Comparison, Measured, compare
from genome_lm.bench.floor import Machine, measure_machine
from genome_lm.bench.sides import ABLATIONS, OURS, side
from genome_lm.bench.work import Job

__all__ = ["ABLATIONS", "OURS", "Comparison", "Job", "Machine", "Measured", "compare", "measure_machine", "side"]
