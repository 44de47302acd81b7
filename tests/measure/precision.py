"""What bf16 and int8 gain in inference on this CPU, and what they change.

`python -m tests.measure.precision [CHECKPOINT …]` times a forward pass of small-32k over 32,768 bases in each
precision, in turn. Then it reads windows of E. coli with each checkpoint, or with the model of this package: cosines
of embeddings, scores of random substitutions beside those in float32, and bits per base.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import genome_lm
from genome_lm.allocator import keep_freed_memory
from genome_lm.config import PRESETS
from genome_lm.genome.fasta import read_fasta
from genome_lm.inference.model import GenomeLM
from genome_lm.kernels import Precision
from genome_lm.model import HyenaLM
from genome_lm.threads import limit_threads

PRECISIONS: tuple[Precision, ...] = ("float32", "bf16", "int8")
ROUNDS, LENGTH = 7, 32_768
WINDOWS, WINDOW = 64, 1_024
GENOME = Path("data_manifests/ecoli_k12_mg1655.fa.gz")


def in_each(model: HyenaLM) -> dict[Precision, HyenaLM]:
    """Copies of a model that compute in each precision."""
    models = {precision: copy.deepcopy(model).eval() for precision in PRECISIONS}
    for precision, each in models.items():
        each.lower_precision(precision)
    return models


@torch.no_grad()
def times() -> Iterator[str]:
    """The ratio of times, float32's over each, in runs that take turns."""
    torch.manual_seed(0)
    models = in_each(HyenaLM(PRESETS["small-32k"]))
    ids = torch.randint(7, 11, (1, LENGTH))
    seconds: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    for turn in range(ROUNDS + 1):
        for precision, model in models.items():
            start = time.perf_counter()
            model.backbone(ids)
            if turn:
                seconds[precision].append(time.perf_counter() - start)
    of_float32 = statistics.median(seconds["float32"])
    for precision in PRECISIONS:
        yield f"{precision}: {of_float32 / statistics.median(seconds[precision]):.2f} times as fast as float32"


def errors(checkpoint: str) -> Iterator[str]:
    """What changes in a model."""
    opened = genome_lm.load(checkpoint, "cpu")
    models = {precision: GenomeLM(model) for precision, model in in_each(opened.model).items()}
    _, sequence = next(read_fasta(GENOME))
    random = np.random.default_rng(0)
    starts = random.integers(0, len(sequence) - WINDOW, WINDOWS)
    windows = [sequence[start : start + WINDOW] for start in starts]
    others = [random.choice(sorted({*"ACGT"} - {window[512]})) for window in windows]
    changed = [window[:512] + base + window[513:] for window, base in zip(windows, others, strict=True)]
    vectors, ratios = {}, {}
    for precision, model in models.items():
        of_windows, of_changed = (np.array(model.log_likelihood(each)) for each in (windows, changed))
        vectors[precision] = np.asarray(model.embed(windows))
        ratios[precision] = np.nansum(of_changed, 1) - np.nansum(of_windows, 1)
        bits = -np.nanmean(of_windows) / np.log(2)
        a, b = vectors["float32"], vectors[precision]
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        rank = spearmanr(ratios["float32"], ratios[precision]).statistic
        most = np.abs(ratios[precision] - ratios["float32"]).max()
        yield (
            f"{precision}: {bits:.4f} bits per base; cosine of embeddings at least {cosines.min():.5f}; "
            f"scores: rank correlation {rank:.4f}, largest change {most:.3f}, "
            f"with a standard deviation of {ratios['float32'].std():.2f}"
        )


if __name__ == "__main__":
    limit_threads()
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", default=["bacteria-900k"])
    checkpoints = parser.parse_args().checkpoints
    for line in times():
        print(line, flush=True)
    for checkpoint in checkpoints:
        print(checkpoint)
        for line in errors(checkpoint):
            print(line, flush=True)
