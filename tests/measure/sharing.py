"""How much faster variants are scored than by two full passes each.

    python -m tests.measure.sharing [--preset small-32k] [--variants 1] [--rounds 5]

Both ways are taken in turns in one process, on variants of a random contig, one strand. Printed are the medians of
wall time and of the processors' time, which other programs disturb less, their ratios, and the largest difference
between the scores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from genome_lm.config import PRESETS
from genome_lm.genome import GenomeStore, build_store
from genome_lm.genome.variants import Variant
from genome_lm.inference import Layout, score_variants
from genome_lm.model import HyenaLM


def variants_of(store: GenomeStore, layout: Layout, number: int) -> list[Variant]:
    """Substitutions spread over one step of the grid, so that they share a window."""
    first = layout.context // layout.stride * layout.stride + layout.context % layout.stride
    found = []
    for start in np.linspace(first, first + layout.stride - 1, number + 1).astype(int)[1:].tolist():
        ref = store["contig", start : start + 1].tobytes().decode()
        found.append(Variant("contig", start, ref, "C" if ref != "C" else "G"))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="small-32k", choices=PRESETS)
    parser.add_argument("--variants", type=int, default=1)
    parser.add_argument("--flank", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = HyenaLM(PRESETS[options.preset]).eval()
    layout = Layout.of(model.config, flank=options.flank)
    with tempfile.TemporaryDirectory() as folder:
        dna = "".join(np.random.default_rng(0).choice(list("ACGT"), 2 * model.config.max_length))
        (Path(folder) / "a.fa").write_text(f">contig\n{dna}\n")
        store = build_store([Path(folder) / "a.fa"], Path(folder) / "g.zarr")
        variants = variants_of(store, layout, options.variants)
        seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        llr = {}
        for turn in range(options.rounds + 1):
            for share in (True, False):
                begun = time.perf_counter(), time.process_time()
                llr[share] = score_variants(model, store, variants, layout, strand="forward", share=share).llr
                if turn:
                    seconds[share].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    print(f"{options.preset}, {layout}, {len(variants)} variants in one window, {torch.get_num_threads()} threads")
    for number, name in enumerate(("wall", "processor")):
        shared, plain = (statistics.median(pair[number] for pair in seconds[share]) for share in (True, False))
        print(
            f"{name}: two full passes each {plain:.2f} s, shared {shared:.2f} s: {plain / shared:.2f} times as fast"
        )
    print(f"largest difference {np.abs(llr[True] - llr[False]).max():.1e} nats")


if __name__ == "__main__":
    main()
