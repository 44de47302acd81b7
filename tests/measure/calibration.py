"""What calibration takes away from scores: `nice python -m tests.measure.calibration`.

The common variants of human chr22, 20–21 Mb, are scored by the model in the box, which has read bacteria alone, and
calibrated. There is no annotation of this piece among the genomes at hand. So the classes of regions are made here:
windows of 5,000 bases, by thirds of their GC content. Printed are the scores by groups, which share of their variance
lies between groups before and after, and how p-values of common substitutions compare with uniform ones.
"""

import argparse
import gzip
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from genome_lm.genome import GenomeStore, build_store
from genome_lm.inference import load
from genome_lm.jobs.score_variants import VcfRequest, score_vcf
from genome_lm.threads import limit_threads
from tests.measure.sharing import CHR22

WINDOW = 5_000
CLASSES = ("low GC", "mid GC", "high GC")
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)


def gc_classes(store: GenomeStore, bed: Path) -> np.ndarray:
    """Write the classes of a genome of one contig, and give the number of each window's."""
    (contig,), length = store.contigs.names, int(store.contigs.lengths[0])
    starts = np.arange(0, length, WINDOW)
    pieces = [store[contig, start : min(start + WINDOW, length)].tobytes().upper() for start in starts.tolist()]
    bases, gc = (
        np.array([sum(map(each.count, letters)) for each in pieces])
        for letters in ((b"A", b"C", b"G", b"T"), (b"C", b"G"))
    )
    share = gc / np.maximum(bases, 1)
    numbers = np.searchsorted(np.quantile(share[bases > 0], (1 / 3, 2 / 3)), share)
    lines = (
        f"{contig}\t{start}\t{min(start + WINDOW, length)}\t{CLASSES[n]}\n"
        for start, n in zip(starts, numbers, strict=True)
    )
    bed.write_text("".join(lines))
    return numbers


def type_of(ref: str, alt: str) -> str:
    """The group of a variant by type and length."""
    longer = len(alt) - len(ref)
    if longer == 0:
        return "transition" if {ref, alt} in ({"A", "G"}, {"C", "T"}) else "transversion"
    length = "1 base" if abs(longer) == 1 else "2–3 bases" if abs(longer) < 4 else "4 bases and more"
    return f"{'insertion' if longer > 0 else 'deletion'} of {length}"


def scored(records: int, context: int, flank: int, size: int) -> pd.DataFrame:
    """The variants with their scores, and their groups as `kind` and `region`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = build_store([CHR22], folder / "g.zarr")
        numbers = gc_classes(store, folder / "c.bed")
        lines = gzip.decompress(CHR22.with_name(CHR22.name.replace(".fa.gz", ".common_snps.vcf.gz")).read_bytes())
        first = re.match(rb"(#.*\n)*([^#].*\n){,%d}" % records, lines)
        assert first is not None
        vcf = folder / "in.vcf"
        vcf.write_bytes(first[0])
        how = {"context": context, "flank": flank, "stride": 64, "calibrate": size, "classes": folder / "c.bed"}
        request = VcfRequest(vcf, folder / "o.vcf.gz", table=folder / "o.parquet", **how)
        score_vcf(load("bacteria-900k"), store, request)
        table = pd.read_parquet(folder / "o.parquet")
    table["kind"] = [type_of(*alleles) for alleles in zip(table["ref"], table["alt"], strict=True)]
    table["region"] = [CLASSES[number] for number in numbers[table["start"] // WINDOW]]
    return table.dropna(subset=["llr_z"])


def between(values: pd.Series, groups: pd.Series) -> float:
    """The share of the variance that lies between groups, η²."""
    means = values.groupby(groups).transform("mean")
    return float(means.var(ddof=0) / values.var(ddof=0))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_200, help="of the 3,502, from the first on")
    parser.add_argument("--context", type=int, default=127)
    parser.add_argument("--flank", type=int, default=16)
    parser.add_argument("--calibrate", type=int, default=50)
    options = parser.parse_args()
    limit_threads(1)
    table = scored(options.records, options.context, options.flank, options.calibrate)
    print(f"{len(table):,} alleles, each against {options.calibrate} random variants of its kind")
    print("| group | alleles | LLR, nats | z | p ≤ 0.05 |\n| --- | --- | --- | --- | --- |")
    for column in ("kind", "region"):
        for group, rows in table.groupby(column):
            llr, z = (f"{rows[name].mean():.2f} ± {rows[name].std():.2f}" for name in ("llr", "llr_z"))
            print(f"| {group} | {len(rows):,} | {llr} | {z} | {(rows['llr_p'] <= 0.05).mean():.3f} |")
    for column, what in (("kind", "type and length"), ("region", "class of regions")):
        before, after = (between(table[name], table[column]) for name in ("llr", "llr_z"))
        print(f"variance between groups of {what}: {before:.1%} of the LLR's, {after:.1%} of z's")
    p = np.sort(table.loc[table["ref"].str.len() == table["alt"].str.len(), "llr_p"])
    shares = ", ".join(f"{np.mean(p <= share):.3f} at {share}" for share in SHARES)
    print(f"p of {len(p):,} common substitutions at or below: {shares}")
    steps = np.arange(len(p) + 1) / len(p)
    furthest = max(np.abs(p - steps[1:]).max(), np.abs(p - steps[:-1]).max())
    chance = 1.36 / len(p) ** 0.5
    print(f"furthest from uniform: {furthest:.3f} (by chance, in 95 of 100 cases, below {chance:.3f})")


if __name__ == "__main__":
    main()
