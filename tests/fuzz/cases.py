"""Which command gets which changed file, and what a valid result is."""

import gc
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from genome_lm.training_config import TrainingConfig
from tests.fuzz import mutations, originals
from tests.fuzz.sandbox import SECONDS, Outcome, Running, fault, genome_lm, listing

TEXT, TABLE = ("bytes", "lines", "fields", "fields"), ("bytes", "lines", "fields", "fields", "fields")


class Target(NamedTuple):
    """Files that are changed, and the command that reads them.

    Attributes:
        name: Of the target.
        source: File or folder among the originals; of a folder, one file in it is changed.
        arguments: Of the command; IN is the changed file or folder, ALL the folder of the originals.
        mutators: Names of what changes it; none: an option is changed instead.
        members: Ends of the names of files in a folder that are changed; all if there is none.
        result: File that the command writes.
        grows: Whether the command writes into its input, such as a run that goes on.
    """

    name: str
    source: str
    arguments: str
    mutators: tuple[str, ...] = ("bytes",)
    members: tuple[str, ...] = ()
    result: str = ""
    grows: bool = False


_MODEL, _GENOME, _TUNED = "ALL/run/checkpoint", "--genome ALL/g.zarr", "--epochs 1 --device cpu"
_EMBED = f"embed {_MODEL} --device cpu"
_TRAIN = f"train {_GENOME} --device cpu"
TARGETS = (
    Target("fasta-build", "g.fa", "genome build IN --out o.zarr", TEXT, result="o.zarr"),
    Target("fasta-gz-build", "g.fa.gz", "genome build IN --out o.zarr", ("bytes", "gzip"), result="o.zarr"),
    Target("fasta-embed", "q.fa", f"{_EMBED} --fasta IN --out o.npz", TEXT, result="o.npz"),
    Target("fasta-parquet", "q.fa", f"{_EMBED} --fasta IN --out o.parquet", TEXT, result="o.parquet"),
    Target("fasta-h5ad", "q.fa", f"{_EMBED} --fasta IN --out o.h5ad", TEXT, result="o.h5ad"),
    Target("fasta-predict", "q.fa", "predict ALL/tuned/checkpoint --fasta IN --out o.csv", TEXT, result="o.csv"),
    Target("fasta-prompts", "q.fa", f"generate {_MODEL} --fasta IN --length 9 --out o.fa", TEXT, result="o.fa"),
    Target("fasta-mutagenesis", "g.fa", f"mutagenesis {_MODEL} --fasta IN --region two:5-14 --out o.tsv", TEXT),
    Target("fasta-dependency", "g.fa", f"dependency {_MODEL} --fasta IN --region two:5-14 --out o.npz", TEXT),
    Target("bed-embed", "p.bed", f"{_EMBED} {_GENOME} --bed IN --out o.npz", TABLE, result="o.npz"),
    Target("bed-gz-embed", "p.bed.gz", f"{_EMBED} {_GENOME} --bed IN --out o.npz", ("gzip", "bytes"), result="o.npz"),
    Target("bed-score", "p.bed", f"score {_MODEL} {_GENOME} --bed IN --table o.tsv", TABLE, result="o.tsv"),
    Target("bed-track", "p.bed", f"score {_MODEL} {_GENOME} --bed IN --out o.bw", TABLE, result="o.bw"),
    Target("bed-train", "s.bed", f"{_TRAIN} --intervals IN --out o --config ALL/r.yaml", TABLE, result="o"),
    Target("bed-evaluate", "s.bed", f"evaluate {_MODEL} {_GENOME} --intervals IN --markov-order 1 --out o.json",
           TABLE, result="o.json"),
    Target("bed-leaks", "s.bed", f"genome leaks IN {_GENOME} --block 500", TABLE),
    Target("bed-finetune", "p.bed", f"finetune {_MODEL} {_GENOME} --data IN --out o {_TUNED}", TABLE, result="o"),
    Target("vcf-score", "v.vcf", f"score {_MODEL} {_GENOME} --vcf IN --out o.vcf.gz", TABLE, result="o.vcf.gz"),
    Target("gff-coding", "a.gff3", f"dataset from-gff IN {_GENOME} --length 60 --per-class 9 --block 1500"
           " --out o.csv", TABLE, result="o.csv"),
    Target("gff-gz-splice", "a.gff3.gz",
           f"dataset from-gff IN {_GENOME} --kind splice-site --length 60 --per-class 9 --block 1500 --out o.csv",
           ("gzip", "bytes"), result="o.csv"),
    Target("gff-regions", "a.gff3", f"genome regions IN {_GENOME} --out o.bed", TABLE, result="o.bed"),
    Target("two-bit-build", "g.2bit", "genome build IN --out o.zarr", result="o.zarr"),
    Target("package-build", "g.zip", "genome build IN --out o.zarr", ("zip", "bytes"), result="o.zarr"),
    Target("genbank-build", "g.gb", "genome build IN --out o.zarr --annotation o.gff3", TEXT, result="o.zarr"),
    Target("embl-build", "g.embl", "genome build IN --out o.zarr --annotation o.gff3", TEXT, result="o.zarr"),
    Target("csv-finetune", "t.csv", f"finetune {_MODEL} --data IN --out o {_TUNED}", TABLE, result="o"),
    Target("csv-regression", "places.csv", f"finetune {_MODEL} --data IN {_GENOME} --out o --task regression"
           f" {_TUNED}", TABLE, result="o"),
    Target("parquet-finetune", "t.parquet", f"finetune {_MODEL} --data IN --out o {_TUNED}", ("parquet", "parquet",
           "bytes"), result="o"),
    Target("config-embed", "run/checkpoint", "embed IN --device cpu --fasta ALL/q.fa --out o.npz", ("json", "json",
           "json", "bytes"), ("config.json",), "o.npz"),
    Target("config-info", "run/checkpoint", "checkpoint info IN", ("json", "json", "bytes"), ("config.json",)),
    Target("weights-embed", "run/checkpoint", "embed IN --device cpu --fasta ALL/q.fa --out o.npz", ("safetensors",
           "bytes"), (".safetensors",), "o.npz"),
    Target("hf-config", "hf", "checkpoint import IN --out o", ("json", "json", "bytes"), ("config.json",), "o"),
    Target("hf-weights", "hf", "checkpoint import IN --out o", ("safetensors", "bytes"), (".safetensors",), "o"),
    Target("pickle", str(originals.CKPT), "checkpoint import IN --out o", ("zip", "zip", "bytes"), result="o"),
    Target("recipe", "r.yaml", f"{_TRAIN} --intervals ALL/s.bed --out o --config IN", ("yaml", "yaml", *TEXT),
           result="o"),
    Target("mixture", "mix", "train --data IN/mixture.yaml --out o --config ALL/r.yaml --device cpu", ("yaml", "yaml",
           "bytes", "lines", "fields"), result="o"),
    Target("manifest", "m.yaml", "download IN --out o", ("yaml", "yaml", *TEXT)),
    Target("store-export", "g.zarr", "genome export IN --out o.fa", ("json", "bytes"), result="o.fa"),
    Target("store-info", "g.zarr", "genome info IN", ("json", "bytes")),
    Target("store-embed", "g.zarr", f"{_EMBED} --genome IN --window 100 --out o.npz", ("json", "bytes"),
           result="o.npz"),
    Target("parts", "shard2.npz.shard-2-of-2", "gather ALL/shard1.npz.shard-1-of-2 IN --out o.npz", ("json", "bytes",
           "parquet"), result="o.npz"),
    Target("head", "tuned", "predict IN/checkpoint --device cpu --fasta ALL/q.fa --out o.csv", ("json", "safetensors",
           "bytes"), ("config.json", "head.safetensors", "model.safetensors"), "o.csv"),
    Target("run-report", "run", "report IN --evaluation ALL/e.json --out o.html", ("json", "fields", "bytes"),
           ("run.json", "metrics.csv", "config.json"), "o.html"),
    Target("evaluation-report", "e.json", "report ALL/run --evaluation IN --out o.html", ("json", "json", "bytes"),
           result="o.html"),
    Target("run-train", "run", f"{_TRAIN} --intervals ALL/s.bed --out IN --config ALL/r.yaml", ("json", "fields",
           "bytes", "zip"), ("run.json", "metrics.csv", ".ckpt", "config.json"), grows=True),
    Target("options-embed", "q.fa", f"{_EMBED} --fasta IN --window 40 --stride 20 --context 5 --pool bins:2 --layer 1"
           " --strand both --shard 1/1 --batch-tokens 1000 --edges keep --out o.npz", ()),
    Target("options-generate", "q.fa", f"generate {_MODEL} --fasta IN --length 5 --samples 2 --temperature 0.7"
           " --top-k 3 --top-p 0.9 --seed 1 --batch 2 --out o.fa --device cpu", ()),
    Target("options-split", "g.fa", "genome split ALL/g.zarr --out o.bed --by blocks --valid 0.1 --test 0.2"
           " --block 500 --gap 10 --homology 0.1 --seed 1", ()),
    Target("options-train", "s.bed", f"{_TRAIN} --intervals IN --out o --d-model 16 --n-layer 1 --max-length 64"
           " --stages 32:2 --tokens-per-step 128 --device-tokens 64 --lr 0.001 --seed 1 --soft-mask-weight 0.5", ()),
    Target("options-finetune", "t.csv", f"finetune {_MODEL} --data IN --out o --epochs 1 --method lora --lora-rank 2"
           " --lr 0.001 --head-lr 0.01 --patience 1 --sequences-per-step 4 --pool mean --strand forward --seed 3"
           " --valid-fraction 0.2 --test-fraction 0.2 --weight-decay 0.1 --label label --device cpu", ()),
    Target("options-score", "v.vcf", f"score {_MODEL} {_GENOME} --vcf IN --out o.vcf.gz --strand both --shard 1/1"
           " --device cpu --batch-tokens 1000", ()),
    Target("options-mutagenesis", "g.fa", f"mutagenesis {_MODEL} --fasta IN --region two:5-14 --out o.tsv"
           " --context 20 --flank 10 --stride 5 --batch-tokens 1000 --device cpu --strand both", ()),
    Target("options-dependency", "g.fa", f"dependency {_MODEL} --fasta IN --region two:5-14 --out o.npz"
           " --figure o.svg --strand forward --context 20 --most 20 --batch-tokens 1000 --device cpu", ()),
    Target("options-evaluate", "s.bed", f"evaluate {_MODEL} {_GENOME} --intervals IN --split test --length 64"
           " --markov-order 2 --max-bases 500 --batch-tokens 500 --device cpu --out o.json", ()),
)  # fmt: skip


class Case(NamedTuple):
    """A run with one change, and what is wrong with its end.

    Attributes:
        target: Name of the target.
        change: What was changed, in words.
        arguments: Of the command.
        outcome: How it ended.
        fault: What is wrong; empty if nothing.
    """

    target: str
    change: str
    arguments: list[str]
    outcome: Outcome
    fault: str


@contextmanager
def prepared() -> Iterator[Path]:
    """A folder with the originals, in memory where there is room."""
    base = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="genome-lm-fuzz-", dir=base if base.is_dir() else None))
    try:
        originals.make(folder)
        yield folder
    finally:
        gc.unfreeze()
        shutil.rmtree(folder)


def run_case(folder: Path, seed: int, number: int, only: str = "", keep: Path | None = None) -> Case:
    """Change one file and run one command; the same seed and number give the same case.

    Args:
        folder: Of the originals.
        seed: Of all cases.
        number: Of the case.
        only: Take a target whose name begins so.
        keep: Folder to leave the changed file in; None to remove it.
    """
    rng = random.Random(f"{seed}-{number}")
    target = rng.choice([each for each in TARGETS if each.name.startswith(only)])
    work = keep or Path(tempfile.mkdtemp(prefix="case-", dir=folder.parent))
    try:
        work.mkdir(exist_ok=True)
        return _run(rng, target, folder, work)
    finally:
        if keep is None:
            shutil.rmtree(work)


def placed(target: Target, folder: Path, work: Path) -> tuple[Path, list[str]]:
    """Copy a target's source into a folder.

    Returns:
        The copy, and the arguments of the command that reads it.
    """
    source = folder / target.source
    given = work / source.name
    mutations.copy_source(source, given)
    arguments = [
        part.replace("IN", str(given), 1) if part.startswith("IN") else part.replace("ALL", str(folder), 1)
        for part in target.arguments.split()
    ]
    return given, arguments


_LONG = {("--n-layer", "1_000")}
"""Options that are right, and take longer than a case may."""
_RUN_STAYS = "Resuming repeats this step"
"""What the error says where a loss is not finite: the run's folder stays, as the log in it tells what happened."""
_LONG_STEPS = f"{TrainingConfig.tokens_per_step:,} bases per step"
"""What a training says whose recipe lost its batch size. It is right, and takes longer than a case may."""


def _run(rng: random.Random, target: Target, folder: Path, work: Path) -> Case:
    given, arguments = placed(target, folder, work)
    if target.mutators:
        change = _change(rng, target, given)
    else:
        options = [place for place, part in enumerate(arguments) if part.startswith("--") and part != "--out"]
        place = rng.choice(options) + 1
        texts = [text for text in mutations.ODD_TEXTS if (arguments[place - 1], text) not in _LONG]
        arguments[place] = rng.choice(texts).replace("\0", "\x01")
        change = f"{arguments[place - 1]} {arguments[place][:40]!r}"
    before = {} if target.grows else listing(work)
    outcome = Running(genome_lm(*arguments), work).wait(SECONDS)
    after = before if target.grows or _RUN_STAYS in outcome.errors else listing(work)
    wrong = fault(outcome, before, after, _check(work / target.result) if target.result else None)
    if outcome.late and _LONG_STEPS in outcome.errors:
        wrong = ""
    return Case(target.name, change, arguments, outcome, wrong)


def _change(rng: random.Random, target: Target, given: Path) -> str:
    if given.is_dir():
        files = [each for each in sorted(given.rglob("*")) if each.is_file()]
        files = [each for each in files if not target.members or each.name.endswith(target.members)]
        changed = rng.choice(files)
        mutators = tuple(name for name in target.mutators if _suits(name, changed))
    else:
        changed, mutators = given, target.mutators
    mutation = mutations.draw(rng, changed, mutators)
    mutation.apply(changed)
    return f"{changed.relative_to(given.parent)}: {mutation.what}"


_SUFFIXES = {
    "json": (".json",), "fields": (".csv", ".bed", ".bedgraph", ".yaml"), "zip": (".ckpt",), "yaml": (".yaml",),
    "safetensors": (".safetensors",), "parquet": (".parquet",),
}  # fmt: skip


def _suits(mutator: str, path: Path) -> bool:
    return path.name.endswith(_SUFFIXES.get(mutator, ("",)))


def _check(result: Path) -> Callable[[], object]:
    """Reads a result to its end."""

    def check() -> None:
        import numpy as np

        if result.suffix == ".npz":
            with np.load(result) as arrays:
                for name in arrays:
                    values = arrays[name]
                    if name == "gc_fraction":  # of a sequence of N alone there is none
                        values = values[arrays["n_fraction"] < 1]
                    if values.dtype.kind == "f" and not np.isfinite(values).all():
                        raise ValueError(f"{name} is not finite")
        elif result.suffix == ".zarr":
            from genome_lm.genome import GenomeStore

            store = GenomeStore(result)
            for contig in store:
                store[contig]
        elif result.suffix == ".json":
            originals.read_strictly(result)
        elif result.is_dir():
            for path in result.rglob("*.json"):
                originals.read_strictly(path)
        elif not result.stat().st_size:
            raise ValueError(f"{result.name} is empty")

    return check
