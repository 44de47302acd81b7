"""Consequences of variants, against bcftools csq and by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genome_lm.dataset.consequences import SEVERITY, Consequences, Effect
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build_store
from genome_lm.genome.variants import Variant
from genome_lm.optional import require

_BCFTOOLS = {
    "5_prime_utr": "5_prime_UTR_variant",
    "3_prime_utr": "3_prime_UTR_variant",
    "non_coding": "non_coding_transcript_exon_variant",
}
"""Names of bcftools that are not a term without its ending."""


def written(folder: Path, sequence: str, lines: list[str]) -> tuple[GenomeStore, Path, Path]:
    """A genome of one contig, its FASTA file, and a GFF3 file of lines without contig and source."""
    fasta, gff = folder / "g.fa", folder / "g.gff3"
    fasta.write_text(f">c\n{sequence}\n")
    rows = [f"c\t.\t{kind}\t{start}\t{end}\t.\t{strand}\t{phase}\t{text}"
            for kind, start, end, strand, phase, text in (line.split() for line in lines)]  # fmt: skip
    gff.write_text("\n".join(["##gff-version 3", *rows, ""]))
    return build_store([fasta], folder / "g.zarr", "g"), fasta, gff


def random_gene(generator: np.random.Generator, exons: int) -> tuple[str, list[tuple[int, int]], tuple[int, int]]:
    """A spliced gene on the forward strand: its bases, [start, end) of exons, and of the coding part."""
    coding = "ATG" + "".join(generator.choice(["GCT", "AAG", "TGC", "TCA", "CAA", "TGG", "GAT"], 40)) + "TAA"
    message = "".join(generator.choice([*"ACGT"], 20)) + coding + "".join(generator.choice([*"ACGT"], 20))
    cuts = sorted(generator.choice(np.arange(26, len(message) - 30, 9), exons - 1, replace=False).tolist())
    sequence, places = "", []
    for first, last in zip([0, *cuts], [*cuts, len(message)], strict=True):
        places.append((len(sequence), len(sequence) + last - first))
        sequence += message[first:last] + "GT" + "".join(generator.choice([*"ACGT"], 30)) + "AG"
    to_genome = [at for start, end in places for at in range(start, end)]
    return sequence[: places[-1][1]], places, (to_genome[20], to_genome[-21] + 1)


def random_genome(folder: Path) -> tuple[GenomeStore, Path, Path]:
    """Coding genes on both strands, and one that codes for nothing, in Ensembl's GFF3."""
    generator = np.random.default_rng(3)
    sequence, lines = "".join(generator.choice([*"ACGT"], 40)), []
    for number in range(6):
        gene, exons, (first, last) = random_gene(generator, 1 + number % 4)
        offset, strand = len(sequence), "+-"[number % 2]
        if strand == "-":
            gene = gene[::-1].translate(str.maketrans("ACGT", "TGCA"))
            exons = [(len(gene) - end, len(gene) - start) for start, end in exons[::-1]]
            first, last = len(gene) - last, len(gene) - first
        kind = "lncRNA" if number == 5 else "protein_coding"
        start, end = offset + 1, offset + len(gene)
        names = f"ID=gene:g{number};biotype={kind}", f"ID=transcript:t{number};Parent=gene:g{number};biotype={kind}"
        lines += [f"gene {start} {end} {strand} . {names[0]}"]
        lines += [f"{'mRNA' if number < 5 else 'lnc_RNA'} {start} {end} {strand} . {names[1]}"]
        lines += [f"exon {offset + a + 1} {offset + b} {strand} . Parent=transcript:t{number}" for a, b in exons]
        for a, b in exons:
            utrs = [] if number == 5 else [("five" if strand == "+" else "three", a, min(b, first))]
            utrs += [] if number == 5 else [("three" if strand == "+" else "five", max(a, last), b)]
            lines += [f"{name}_prime_UTR {offset + x + 1} {offset + y} {strand} . Parent=transcript:t{number}"
                      for name, x, y in utrs if x < y]  # fmt: skip
        coding = [(max(a, first), min(b, last)) for a, b in exons if a < last and b > first]
        before, segments = 0, []
        for a, b in coding if strand == "+" else coding[::-1]:
            segments.append(
                f"CDS {offset + a + 1} {offset + b} {strand} {-before % 3} "
                f"ID=CDS:p{number};Parent=transcript:t{number}"
            )
            before += b - a
        lines += segments if number < 5 else []
        sequence += gene + "".join(generator.choice([*"ACGT"], 40))
    return written(folder, sequence, lines)


def random_variants(sequence: str, count: int) -> list[Variant]:
    generator = np.random.default_rng(4)
    variants = []
    for start in generator.integers(1, len(sequence) - 10, count).tolist():
        deleted, kind = int(generator.integers(1, 7)), generator.random()
        ref = sequence[start : start + (1 if kind < 0.7 else deleted + 1)]
        inserted = "".join(generator.choice([*"ACGT"], deleted))
        alt = "ACGT"["ACGT".index(ref) - 1 - deleted % 3] if kind < 0.5 else ref + inserted if kind < 0.7 else ref[0]
        variants.append(Variant("c", start, ref, alt))
    return sorted(set(variants), key=lambda variant: (variant.start, variant.ref, variant.alt))


def of_bcftools(fasta: Path, gff: Path, variants: list[Variant]) -> list[str]:
    """The most severe term of each variant."""
    vcf, out = fasta.with_suffix(".vcf"), fasta.with_suffix(".csq.vcf")
    rows = [f"c\t{v.start + 1}\t.\t{v.ref}\t{v.alt}\t.\t.\t." for v in variants]
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
    vcf.write_text("\n".join(["##fileformat=VCFv4.2", "##contig=<ID=c>", columns, *rows, ""]))
    options = ["-l", "-f", str(fasta), "-g", str(gff), "-o", str(out), "-O", "v", str(vcf)]
    require("pysam.bcftools").csq(*options, catch_stdout=False)
    terms = []
    for line in out.read_text().splitlines():
        if not line.startswith("#"):
            _, mark, text = line.split("\t")[7].partition("BCSQ=")
            names = (
                [name.strip("*") for each in text.split(",") for name in each.split("|")[0].split("&")]
                if mark
                else []
            )
            every = [_BCFTOOLS.get(name, name if name in SEVERITY else f"{name}_variant") for name in names]
            terms.append(min(every, key=SEVERITY.index, default="intergenic_variant"))
    return terms


def test_terms_are_those_of_bcftools(tmp_path: Path) -> None:
    """Of substitutions; of insertions and deletions but at ends of coding segments, where bcftools is vague."""
    store, fasta, gff = random_genome(tmp_path)
    variants = random_variants(fasta.read_text().splitlines()[1], 1500)
    consequences = Consequences.read(gff, store)
    effects = [consequences.of(variant) for variant in variants]
    assert {effect.term for effect in effects} >= {*SEVERITY[1:11], *SEVERITY[15:]}
    rows = [line.split("\t") for line in gff.read_text().splitlines()[1:]]
    ends = np.array([edge for row in rows if row[2] == "CDS" for edge in (int(row[3]) - 1, int(row[4]))])
    compared = 0
    for variant, effect, term in zip(variants, effects, of_bcftools(fasta, gff, variants), strict=True):
        is_substitution = len(variant.ref) == len(variant.alt)
        first, last = variant.start + (not is_substitution), variant.start + len(variant.ref)
        if effect.gene == "gene:g5" or not (is_substitution or ((ends < first - 3) | (ends > last + 3)).all()):
            continue  # bcftools knows no introns of genes that code for nothing
        assert effect.term == term, variant
        compared += 1
    assert compared > 700


GENE = "ATGGCTTGGAAATAA"
"""M A W K and a stop."""


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize(
    ("start", "ref", "alt", "term"),
    [
        (0, "A", "G", "start_lost"),
        (5, "T", "A", "synonymous_variant"),
        (6, "T", "C", "missense_variant"),
        (8, "G", "A", "stop_gained"),
        (14, "A", "G", "stop_retained_variant"),
        (12, "T", "C", "stop_lost"),
        (5, "T", "TC", "frameshift_variant"),
        (5, "T", "TTAA", "stop_gained"),
        (4, "C", "CAGC", "inframe_insertion"),
        (5, "TTGG", "T", "inframe_deletion"),
        (7, "GG", "GA", "stop_gained"),
    ],
)
def test_a_gene_of_five_codons(tmp_path: Path, strand: str, start: int, ref: str, alt: str, term: str) -> None:
    lines = ["gene 11 25 S . ID=g", "CDS 11 25 S 0 ID=c;Parent=g"]
    sequence = "CCCCCCCCCC" + GENE + "CCCCCCCCCC"
    start += 10
    if strand == "-":
        turn = str.maketrans("ACGT", "TGCA")
        # VCF has the base before an insertion or a deletion, on the forward strand.
        start, end, kept = start + (len(ref) != len(alt)), start + len(ref), len(ref) != len(alt)
        before = sequence[end : end + 1] if kept else ""
        ref, alt = (before + (text[kept:][::-1]) for text in (ref, alt))
        ref, alt, sequence = (text.translate(turn) for text in (ref, alt, sequence[::-1]))
        start = len(sequence) - end - (1 if kept else 0)
    store, _, gff = written(tmp_path, sequence, [line.replace(" S ", f" {strand} ") for line in lines])
    assert Consequences.read(gff, store).of(Variant("c", start, ref, alt)) == (term, "g", "g")


def effects_of(folder: Path, sequence: str, lines: list[str], variants: list[tuple[Any, ...]]) -> list[Effect]:
    store, _, gff = written(folder, sequence, lines)
    consequences = Consequences.read(gff, store)
    return [consequences.of(Variant("c", *variant)) for variant in variants]


def test_genes_go_over_the_origin_of_circular_contigs(tmp_path: Path) -> None:
    sequence = GENE[4:] + "CCCCCCCCCC" + GENE[:4]
    lines = ["region 1 25 + . ID=r;Is_circular=true", "CDS 22 36 + 0 ID=c"]
    variants = [(24, "G", "T"), (2, "T", "C"), (4, "G", "A"), (21, "A", "C"), (15, "C", "G")]
    terms = [effect.term for effect in effects_of(tmp_path, sequence, lines, variants)]
    assert terms == ["missense_variant", "missense_variant", "stop_gained", "start_lost", "intergenic_variant"]


def test_the_genetic_code_is_that_of_the_annotation(tmp_path: Path) -> None:
    sequence = "C" + GENE + "C"
    for code, terms in (
        ("1", ["stop_gained", "start_lost"]),
        ("4", ["synonymous_variant", "start_retained_variant"]),
    ):
        (folder := tmp_path / code).mkdir()
        lines = [f"CDS 2 16 + 0 ID=c;transl_table={code}"]
        assert [e.term for e in effects_of(folder, sequence, lines, [(9, "G", "A"), (1, "A", "G")])] == terms
    (tmp_path / "7").mkdir()
    with pytest.raises(GenomeLMError, match="genetic code 7: NCBI has 1, 2"):
        effects_of(tmp_path / "7", sequence, ["CDS 2 16 + 0 ID=c;transl_table=7"], [])


def test_what_can_t_be_translated_is_only_coding(tmp_path: Path) -> None:
    sequence = "C" + GENE + "C" + GENE + "CC"
    lines = [
        "CDS 2 6 + 0 ID=a;Parent=t;exception=trans-splicing", "CDS 8 16 + 1 ID=a;Parent=t;exception=trans-splicing",
        "CDS 19 32 + 1 ID=b;partial=true;start_range=.,19", "pseudogene 33 34 + . ID=p;pseudo=true",
    ]  # fmt: skip
    variants = [(9, "G", "A"), (6, "T", "A"), (18, "T", "A"), (20, "G", "A"), (33, "C", "A")]
    terms = [effect.term for effect in effects_of(tmp_path, sequence, lines, variants)]
    coding, intergenic = "coding_sequence_variant", "intergenic_variant"
    assert terms == [coding, intergenic, coding, "missense_variant", intergenic]


def test_a_stop_codon_of_gtf_is_beside_the_coding_segments(tmp_path: Path) -> None:
    store, _, gff = written(tmp_path, "C" + GENE + "CC", [])
    text = 'gene_id "g"; transcript_id "t";'
    rows = [("exon", 1, 18, "."), ("CDS", 2, 13, 0), ("stop_codon", 14, 16, 0)]
    gtf = "".join(f"c\t.\t{kind}\t{start}\t{end}\t.\t+\t{phase}\t{text}\n" for kind, start, end, phase in rows)
    gff.write_text(gtf)
    consequences = Consequences.read(gff, store)
    terms = [
        consequences.of(Variant("c", *variant)).term for variant in [(13, "T", "C"), (16, "C", "A"), (0, "C", "A")]
    ]
    assert terms == ["stop_lost", "3_prime_UTR_variant", "5_prime_UTR_variant"]


def test_alleles_of_other_kinds(tmp_path: Path) -> None:
    variants = [
        (0, "C", "<DEL>", 18), (0, "C", "<DEL>", 10), (3, "G", "<DUP>", 9), (4, "A", "C"), (4, "G", "N"),
        (4, "G", "G"), (4, "G", "*"),
    ]  # fmt: skip
    effects = effects_of(tmp_path, "C" + GENE + "CC", ["CDS 2 16 + 0 ID=c"], variants)
    assert effects == [("transcript_ablation", "c", "c"), ("start_lost", "c", "c")] + [("", "", "")] * 5
    assert len(set(SEVERITY)) == len(SEVERITY)
