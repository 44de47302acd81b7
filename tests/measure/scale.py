"""A genome of 3.2 Gbp in 100,000 contigs, built, opened, sampled and evaluated: `python -m tests.measure.scale`.

The DNA is random, which no codec compresses below 2 bits a base, with runs of N and lower case as long as a human
genome has them. The FASTA and the store lie in --folder while it runs: 1.3 bytes a base. Times are wall times; what
they say depends on what else runs. Few contigs have 1,000,000 bases: windows of that length are mostly padding. The
evaluation scores 1,000,000 bases by a tiny model and by Markov chains up to order 11, fitted on the training split.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LINE = 60
BLOCK = 1 << 22
"""Bases made at one time."""
STEPS = {
    "build": """
from genome_lm.genome import build_store
print(json.dumps({"bases": build_store([folder / "genome.fa"], folder / "genome.zarr").bases}))""",
    "open": """
import genome_lm.genome as g
since = time.perf_counter()
store = g.GenomeStore(folder / "genome.zarr")
store.contigs.index(store.contigs.names[-1])
print(json.dumps({"open": time.perf_counter() - since, "contigs": len(store.contigs)}))""",
    "sample": """
import numpy as np, genome_lm.genome as g
store, rates = g.GenomeStore(folder / "genome.zarr"), {}
since = time.perf_counter()
g.write_bed(folder / "splits.bed", g.split_genome(store, "contigs"))
rates["split"] = time.perf_counter() - since
sampler = g.WindowSampler(store, g.read_bed(folder / "splits.bed", store))

def measure(when):
    for length, batch, rounds in ((1_000, 256, 40), (32_000, 8, 20), (1_000_000, 1, 10)):
        since = time.perf_counter()
        sampler.windows(0, batch, length)
        rates[f"draw a pass of {length:,}, s, {when}"] = time.perf_counter() - since
        seconds = []
        for i in range(rounds):
            since = time.perf_counter()
            g.fetch_windows(store, sampler.windows(i * batch, batch, length))
            seconds.append(time.perf_counter() - since)
        rates[f"{length:,}, Mb/s, {when}"] = batch * length / float(np.median(seconds)) / 1e6

measure("at first")
since = time.perf_counter()
for name, length in zip(store.contigs.names, store.contigs.lengths.tolist()):
    store.fetch(name, 0, length)
rates["read it all, Mb/s"] = store.bases / (time.perf_counter() - since) / 1e6
measure("once read")
print(json.dumps(rates))""",
    "evaluate": """
from genome_lm.config import ModelConfig
from genome_lm.evaluation import Scoring, evaluate_perplexity
from genome_lm.genome import GenomeStore, read_bed
from genome_lm.model import HyenaLM
store = GenomeStore(folder / "genome.zarr")
model = HyenaLM(ModelConfig(d_model=16, n_layer=1, max_length=1024)).eval()
result = evaluate_perplexity(model, store, read_bed(folder / "splits.bed", store), Scoring(max_bases=1_000_000))
print(json.dumps({"targets": result.targets, "baselines": len(result.baselines)}))""",
}


def write_fasta(path: Path, bases: int, contigs: int) -> None:
    """Random DNA whose contigs have log-normal lengths; half lower case and 5 % N, in runs; from a pool of blocks."""
    generator = np.random.default_rng(0)
    sizes = generator.lognormal(0, 1.5, contigs)
    lengths = np.maximum(LINE, sizes / sizes.sum() * bases).astype(int)
    pool = [_block(generator) for _ in range(8)]
    with path.open("wb") as file:
        for number, length in enumerate(lengths.tolist()):
            file.write(b">contig_%d of %d bases\n" % (number, length))
            while length > 0:
                block = pool[int(generator.integers(len(pool)))]
                shift = int(generator.integers(BLOCK // LINE // 2))
                piece = block[shift : shift + -(-length // LINE)]
                last = length - (len(piece) - 1) * LINE
                file.write(piece[:-1].tobytes())
                file.write(piece[-1, : min(last, LINE)].tobytes() + b"\n")
                length -= len(piece) * LINE


def _block(generator: np.random.Generator) -> np.ndarray:
    """Lines of random letters with runs in lower case and of N: (lines, LINE + 1) uint8."""
    bases = BLOCK // LINE * LINE
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)[generator.integers(0, 4, bases)]
    edges = np.cumsum(generator.exponential(300, bases // 100).astype(int) + 1)
    toggles = np.zeros(bases, dtype=np.int8)
    toggles[edges[edges < bases]] = 1
    letters = np.where(np.cumsum(toggles) % 2 == 1, letters | 0x20, letters)
    for start in generator.integers(0, bases, 4):
        letters[start : start + bases // 80] = ord("N")
    return np.pad(letters.reshape(-1, LINE), ((0, 0), (0, 1)), constant_values=ord("\n"))


def run(name: str, folder: Path) -> dict[str, float]:
    """A step in a process of its own: what it prints, its seconds and its peak of memory in GB."""
    code = f"import json, time\nfrom pathlib import Path\nfolder = Path({str(folder)!r})\n{STEPS[name]}"
    code += "\nfrom genome_lm.machine import peak_memory; print(peak_memory())"
    since = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *_, result, memory = printed.strip().split("\n")
    seconds = {"seconds": time.perf_counter() - since, "cpu": after.ru_utime + after.ru_stime}
    seconds["cpu"] -= before.ru_utime + before.ru_stime
    return json.loads(result) | seconds | {"memory": int(memory) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gbp", type=float, default=3.2)
    parser.add_argument("--contigs", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the gigabytes go; the system's temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_fasta(folder / "genome.fa", int(arguments.gbp * 1e9), arguments.contigs)
        built = run("build", folder)
        (folder / "genome.fa").unlink()
        bases, rate = built["bases"], built["bases"] / 1e6
        stored = sum(file.stat().st_size for file in (folder / "genome.zarr").rglob("*") if file.is_file())
        print(f"build     {rate / built['seconds']:8.0f} Mbp/s, {rate / built['cpu']:.0f} a second of CPU time")
        print(f"memory    {built['memory']:8.2f} GB")
        print(f"store     {stored / bases:8.4f} bytes a base of {bases:,}")
        print(f"open      {run('open', folder)['open']:8.2f} s", flush=True)
        for what, value in run("sample", folder).items():
            print(f"sample    {what}: {value:,.2f}")
        for what, value in run("evaluate", folder).items():
            print(f"evaluate  {what}: {value:,.2f}", flush=True)


if __name__ == "__main__":
    main()
