"""Small valid files of every format that genome-lm reads, made by its own commands."""

import gc
import gzip
import importlib
import json
import random
import sys
from contextlib import suppress
from pathlib import Path

from tests.conftest import biased_dna
from tests.fuzz.sandbox import Command, Running, genome_lm
from tests.genome.test_flat_annotation import genbank
from tests.genome.test_sequence_files import CONTIGS, PACKAGE, two_bit_bytes, write_zip

ROOT = Path(__file__).parents[2]
CKPT = ROOT / "tests/data/hyenadna/a.lightning.ckpt"
HF = ROOT / "tests/data/hyenadna/a.hf"

RECIPE = """model: {d_model: 16, n_layer: 2, max_length: 128, filter_order: 8}
training:
  stages: [[32, 3], [64, 3]]
  tokens_per_step: 256
  lr: 5.0e-3
  valid_every: 2
  checkpoint_every: 2
"""
MIXTURE = """temperature: 0.5
sources:
  - name: a
    genome: ALL/g.zarr
    intervals: ALL/s.bed
    base_weights: {track: w.bedgraph, clip: [0.1, 2], missing: 0.5}
    regions: c.bed
    classes: {coding: 2, other: 1}
  - name: b
    genome: ALL/g.zarr
    intervals: ALL/s.bed
    base_weights: {track: w.bed, scale: 0.1}
  - name: c
    genome: ALL/g.zarr
    intervals: ALL/s.bed
    base_weights: {track: w.bw, missing: 1}
"""


def make(folder: Path) -> None:
    """Write all files into a folder.

    Raises:
        AssertionError: If one of the commands fails, with what it said.
    """
    _write_texts(folder)
    _write_archives(folder)
    _write_mixture(folder / "mix")
    for arguments in (
        "genome build g.fa --out g.zarr",
        "genome split g.zarr --out s.bed --block 1000 --gap 10",
        "train --genome g.zarr --intervals s.bed --out run --config r.yaml --device cpu",
        "checkpoint export run/checkpoint --out hf",
        "evaluate run/checkpoint --genome g.zarr --intervals s.bed --out e.json --markov-order 2",
        "finetune run/checkpoint --data t.csv --out tuned --epochs 1",
        "embed run/checkpoint --fasta q.fa --out shard1.npz --shard 1/2",
        "embed run/checkpoint --fasta q.fa --out shard2.npz --shard 2/2",
    ):
        outcome = Running(_and_tell(genome_lm(*arguments.split()), folder / "modules.txt"), folder).wait(120)
        assert outcome.status == 0, f"{arguments}: {outcome.errors}"
    Running(_and_tell(genome_lm("genome", "info", "g.zarr", "--wrong"), folder / "modules.txt"), folder).wait(120)
    _import_as_they_did(folder / "modules.txt")


def _and_tell(command: Command, file: Path) -> Command:
    """A command that also writes the names of the modules that it imported."""

    def telling() -> None:
        try:
            command()
        finally:
            with file.open("a") as names:
                names.writelines(f"{name}\n" for name in sys.modules)

    return telling


def _import_as_they_did(file: Path) -> None:
    """Import what the commands imported as they ran, so that no later process has to: that is most of its time."""
    for name in dict.fromkeys(file.read_text().split()):
        with suppress(Exception):  # some are made, not imported
            importlib.import_module(name)
    file.unlink()
    gc.collect()
    gc.freeze()  # forks share what is not looked through


def _write_texts(folder: Path) -> None:
    one, two = biased_dna(9_000, 1), biased_dna(6_000, 2)
    one = one[:2_000] + "N" * 50 + one[2_050:]
    fasta = f">one first contig\n{one[:4_500]}\n{one[4_500:]}\n>two\n{two.lower()}\n"
    queries = "".join(f">q{n}\n{biased_dna(60 + n, n)}\n" for n in range(6))
    bed = "".join(
        f"one\t{at}\t{at + 100}\t{'ab'[n % 3 > 0]}\t{n}\t{'+-'[n % 2]}\n"
        for n, at in enumerate(range(100, 4_900, 200))
    )
    rng = random.Random(0)
    rows = [f"{biased_dna(50, 50 + n)},{'ab'[n % 2]},{('train', 'valid', 'test')[n % 3]}" for n in range(24)]
    places = [f"one,{at},{at + 50},{rng.random():.3f}" for at in range(100, 1_300, 50)]
    for name, text in {
        "g.fa": fasta, "q.fa": queries, "p.bed": bed, "r.yaml": RECIPE, "v.vcf": _vcf(one), "a.gff3": _gff(),
        "t.csv": "sequence,label,split\n" + "\n".join(rows) + "\n",
        "places.csv": "contig,start,end,label\n" + "\n".join(places) + "\n",
        "m.yaml": f"assembly: x\norganism: y\nlicence: free\nfiles:\n  - path: {folder}/g.fa\n",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    for name in ("g.fa", "a.gff3", "p.bed"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    import pyarrow.csv
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.csv.read_csv(folder / "t.csv"), folder / "t.parquet")


def _write_archives(folder: Path) -> None:
    """Genomes in the forms that archives give them."""
    import Bio.SeqIO

    (folder / "g.2bit").write_bytes(two_bit_bytes(CONTIGS))
    write_zip(folder / "g.zip", PACKAGE)
    (folder / "g.gb").write_text(genbank())
    Bio.SeqIO.convert(folder / "g.gb", "genbank", folder / "g.embl", "embl", "DNA")


def _write_mixture(folder: Path) -> None:
    """A mixture whose sources have weights of bases and classes."""
    import pyBigWig

    folder.mkdir()
    starts = range(0, 9_000, 500)
    (folder / "mixture.yaml").write_text(MIXTURE.replace("ALL", str(folder.parent)))
    (folder / "w.bedgraph").write_text("".join(f"one\t{at}\t{at + 300}\t{at / 9_000:.2f}\n" for at in starts))
    (folder / "w.bed").write_text("".join(f"one\t{at}\t{at + 200}\n" for at in starts))
    (folder / "c.bed").write_text(
        "".join(f"one\t{at}\t{at + 500}\t{('coding', 'other')[at % 1_000 > 0]}\n" for at in starts)
    )
    with pyBigWig.open(str(folder / "w.bw"), "w") as track:
        track.addHeader([("one", 9_000), ("two", 6_000)])
        track.addEntries(["one"] * 18, list(starts), ends=[at + 400 for at in starts], values=[0.5, 1.0] * 9)


def _vcf(contig: str) -> str:
    lines = [
        "##fileformat=VCFv4.2",
        "##contig=<ID=one,length=9000>",
        '##INFO=<ID=AF,Number=A,Type=Float,Description="f">',
    ]
    lines.append("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO")
    for at in range(200, 1_000, 100):
        ref = contig[at - 1]
        alt = "ACGT"[("ACGT".index(ref) + 1) % 4]
        lines.append(f"one\t{at}\trs{at}\t{ref}\t{alt if at % 200 else ref + alt}\t{at / 7:.2f}\tPASS\tAF=0.25")
    return "\n".join(lines) + "\n"


def _gff() -> str:
    lines = ["##gff-version 3", "##sequence-region one 1 9000"]
    for n, start in enumerate(range(300, 8_000, 900)):
        strand = "+-"[n % 2]
        for kind, first, last, tags in (
            ("gene", start, start + 599, f"ID=g{n}"),
            ("mRNA", start, start + 599, f"ID=t{n};Parent=g{n}"),
            ("exon", start, start + 299, f"ID=e{n};Parent=t{n}"),
            ("exon", start + 400, start + 599, f"ID=f{n};Parent=t{n}"),
            ("CDS", start, start + 299, f"ID=c{n};Parent=t{n}"),
            ("CDS", start + 400, start + 599, f"ID=c{n};Parent=t{n}"),
        ):
            lines.append(f"one\tx\t{kind}\t{first}\t{last}\t.\t{strand}\t{0 if kind == 'CDS' else '.'}\t{tags}")
    return "\n".join(lines) + "\n"


def members(folder: Path, source: str) -> list[Path]:
    """The files of a folder among the originals, or the file itself."""
    path = folder / source
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def read_strictly(path: Path) -> object:
    """The values of a JSON file, which holds neither NaN nor infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)
