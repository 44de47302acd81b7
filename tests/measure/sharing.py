"""How much faster variants are scored than by two plain forwards per variant and strand.

    python -m tests.measure.sharing [--shape small-32k] [--contexts 255 1024 8192 32768] [--rounds 3]
    python -m tests.measure.sharing --made

A plain forward reads the context and the flank, for the reference and for the alternative. Both ways take turns in
one process, on one thread, and are compared by CPU time, which other programs disturb less than wall time. Weights
are random. Lone variants are further apart than a window, dense ones are consecutive SNVs; both are those of human
chr22. Made ones are an SNV at every 20th of its bases. The last columns tell which share of the CPU time reference
windows, alternatives and the rest take.

--made scores the first records of files of 100,000 and 1,000,000 SNVs, and prints the peaks of memory.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from genome_lm.alphabet import LETTER_TO_TOKEN, Tokens, letters, reverse_complement
from genome_lm.config import PRESETS
from genome_lm.formats.vcf import alleles_of, read_records
from genome_lm.genome import GenomeStore, build_store
from genome_lm.genome.variants import Variant
from genome_lm.inference import Layout, score_variants
from genome_lm.model import HyenaLM, recompute
from genome_lm.model.likelihood import base_table

CHR22 = Path("/work/shared/genomes/human_chr22_20-21M.fa.gz")
PLAIN_POSITIONS = 1 << 18
"""Positions that the plain way reads in a turn, about."""
BATCH = 32_768
MADE_RECORDS = 2_000


class Case(NamedTuple):
    """Variants, and how windows lie for them."""

    name: str
    layout: Layout
    variants: list[Variant]


def snvs_of(vcf: Path, store: GenomeStore) -> list[Variant]:
    """The substitutions of one base of a VCF that have bases enough around them."""
    alleles = [allele for record in read_records(vcf, vcf) for allele in alleles_of(record, str)[:1]]
    length = int(store.contigs.lengths[0])
    return [v for v in alleles if len(v.ref) == len(v.alt) == 1 and 50_000 < v.start < length - 50_000]


def made_snvs(store: GenomeStore, count: int) -> list[Variant]:
    """A substitution at every 20th base, from the middle of the first contig on."""
    name, middle = store.contigs.names[0], int(store.contigs.lengths[0]) // 2
    bases = store[name, middle : middle + 20 * count].tobytes().decode().upper()[::20]
    return [Variant(name, middle + 20 * n, base, "A" if base != "A" else "C") for n, base in enumerate(bases)]


def cases(
    snvs: list[Variant], close: list[Variant], contexts: list[int], stride: int | None, dense: int
) -> list[Case]:
    """Dense, made and lone variants for each context."""
    made = []
    for context in contexts:
        layout = Layout(context, max(1, min(1_024, context // 8)), stride or max(1, context // 8))
        lone = [snvs[0]]
        for variant in snvs:
            if variant.start - lone[-1].start > 2 * layout.window:
                lone.append(variant)
        made += [
            Case("dense", layout, snvs[:dense]),
            Case("made", layout, close),
            Case("lone", layout, lone[: max(8, 100_000 // context)]),
        ]
    return made


@torch.no_grad()
def plain_scores(model: HyenaLM, store: GenomeStore, variants: list[Variant], layout: Layout) -> list[float]:
    """LLR of each variant on each strand by two forwards of the context and the flank, in batches."""
    rows: list[Tokens] = []
    for variant in variants:
        alt = LETTER_TO_TOKEN[letters(variant.alt)]
        left, right = variant.start - layout.context, variant.start + layout.flank
        forward = store.fetch(variant.contig, left, right)
        backward = store.fetch(variant.contig, variant.start - layout.flank + 1, variant.start + layout.context + 1)
        for tokens, place in ((forward, layout.context), (backward, layout.flank - 1)):
            changed = tokens.copy()
            changed[place] = alt[0]
            pair = [tokens, changed]
            rows += [reverse_complement(each) for each in pair] if place != layout.context else pair
    totals = []
    for batch in torch.from_numpy(np.stack(rows).astype(np.int64)).split(max(2, BATCH // len(rows[0]))):
        hidden = model.backbone(batch[:, :-1])[:, layout.context - 1 :]
        table = base_table(torch.nn.functional.linear(hidden, model.backbone.embedding.weight))[:, 1:]
        wanted = batch[:, layout.context :, None] - 7
        totals += table.gather(-1, wanted).double().sum((1, 2)).tolist()
    return [alt - ref for ref, alt in zip(totals[::2], totals[1::2], strict=True)]


class Clock:
    """CPU seconds spent in the calls of a function of `recompute`, whose place it takes."""

    def __init__(self, name: str) -> None:
        self.seconds, self.timed = 0.0, getattr(recompute, name)
        setattr(recompute, name, self)

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        begun = time.process_time()
        result = self.timed(*arguments)
        self.seconds += time.process_time() - begun
        return result


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measure(model: HyenaLM, store: GenomeStore, case: Case, rounds: int) -> None:
    """Time a case both ways, in turns, and print a row."""
    layout, variants = case.layout, case.variants
    few = variants[: max(1, PLAIN_POSITIONS // (4 * (layout.context + layout.flank)))]
    shared, plain = [], []
    clocks = Clock("reference_states"), Clock("alternative_layers")
    for turn in range(rounds + 1):
        if turn == 1:  # the first turn makes the filters
            for clock in clocks:
                clock.seconds = 0
        of_shared = cpu_seconds(lambda: score_variants(model, store, variants, layout)) / len(variants)
        of_plain = cpu_seconds(lambda: plain_scores(model, store, few, layout)) / len(few)
        if turn:
            shared.append(of_shared)
            plain.append(of_plain)
    shares = [clock.seconds / (sum(shared) * len(variants)) for clock in clocks]
    for clock in clocks:
        setattr(recompute, clock.timed.__name__, clock.timed)
    ratio = statistics.median(one / other for one, other in zip(plain, shared, strict=True))
    per_hour = 3_600 / statistics.median(shared)
    print(
        f"| {case.name} | {layout.context:,} | {layout.flank:,} | {layout.stride:,} | {len(variants):,} | "
        f"{per_hour:,.0f} | {ratio:.2f} | {shares[0]:.0%} | {shares[1]:.0%} | {1 - sum(shares):.0%} |",
        flush=True,
    )


PART = """
import json, sys, time
from pathlib import Path
import torch
from genome_lm.config import PRESETS
from genome_lm.genome import GenomeStore
from genome_lm.inference import GenomeLM
from genome_lm.jobs.score_variants import VcfRequest, score_vcf
from genome_lm.machine import peak_memory
from genome_lm.model import HyenaLM
folder, shape, count, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), torch.set_num_threads(1)
torch.manual_seed(0)
model, store = GenomeLM(HyenaLM(PRESETS[shape]).eval()), GenomeStore(folder / "g.zarr")
request = VcfRequest(folder / f"{count}.vcf", folder / f"{count}.scored.vcf.gz", context=1_024,
    flank=128, shard=(1, count // RECORDS))
begun = time.process_time()
summary = score_vcf(model, store, request)
print(json.dumps([summary.records, time.process_time() - begun, peak_memory() / 1e6]))
"""


def made_files(shape: str) -> None:
    """Score a part of two made files, each in a process of its own, and print rates and peaks of memory."""
    random = np.random.default_rng(0)
    bases = np.frombuffer(b"ACGT", np.uint8)
    numbers = random.integers(0, 4, 20_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "g.fa").write_bytes(b">made\n" + bases[numbers].tobytes() + b"\n")
        build_store([folder / "g.fa"], folder / "g.zarr")
        for count in (100_000, 1_000_000):
            with (folder / f"{count}.vcf").open("w") as file:
                file.write("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
                for place in range(0, len(numbers), len(numbers) // count):
                    ref, alt = "ACGT"[numbers[place]], "ACGT"[(numbers[place] + 1) % 4]
                    file.write(f"made\t{place + 1}\t.\t{ref}\t{alt}\t.\t.\t.\n")
            program = [sys.executable, "-c", PART.replace("RECORDS", str(MADE_RECORDS))]
            done = subprocess.run([*program, name, shape, str(count)], check=True, capture_output=True, text=True)
            records, seconds, peak = json.loads(done.stdout)
            print(
                f"{count:,} variants, one per {len(numbers) // count} bases, context 1,024: {records:,} scored, "
                f"{3_600 * records / seconds:,.0f} per hour of a core, survey included; peak of memory {peak:,.0f} MB"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="small-32k", choices=PRESETS)
    parser.add_argument("--contexts", type=int, nargs="+", default=[255, 1_024, 8_192, 32_768])
    parser.add_argument("--stride", type=int, help="default: an eighth of the context")
    parser.add_argument("--dense", type=int, default=256, help="dense variants")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="dense, made or lone")
    parser.add_argument("--fasta", type=Path, default=CHR22, help="its VCF lies beside it")
    parser.add_argument("--made", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.made:
        made_files(options.shape)
        return
    torch.manual_seed(0)
    model = HyenaLM(dataclasses.replace(PRESETS[options.shape], max_length=65_536)).eval()
    with tempfile.TemporaryDirectory() as folder:
        store = build_store([options.fasta], Path(folder) / "g.zarr")
        vcf = options.fasta.with_name(options.fasta.name.replace(".fa.gz", ".common_snps.vcf.gz"))
        snvs = snvs_of(vcf, store)
        print(f"{options.shape}, {torch.get_num_threads()} thread; both strands")
        names = ("variants", "context", "flank", "stride", "scored", "per hour of a core", "times two plain forwards")
        print(f"| {' | '.join((*names, 'reference', 'alternatives', 'rest'))} |\n{'| --- ' * 10}|")
        for case in cases(snvs, made_snvs(store, options.dense), options.contexts, options.stride, options.dense):
            if case.name.startswith(options.only):
                measure(model, store, case, options.rounds)


if __name__ == "__main__":
    main()
