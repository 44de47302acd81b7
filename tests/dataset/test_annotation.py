"""Annotation as it comes from NCBI, Ensembl and others: which starts, introns and frames are read from it."""

from pathlib import Path

import numpy as np
import pytest

from genome_lm.dataset import Annotation, gene_set, read_annotation
from genome_lm.dataset.sites import gene_starts, splice_sites
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, build_store

CASES = Path(__file__).parents[1] / "data/cases"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    folder = tmp_path_factory.mktemp("genome")
    bases = np.random.default_rng(0).choice(list("ACGT"), 60_000)
    (folder / "g.fa").write_text(f">chr1\n{''.join(bases)}\n")
    return build_store([folder / "g.fa"], folder / "g.zarr")


def starts(annotation: Annotation) -> list[tuple[int, str]]:
    """1-based, as the files have them."""
    return [(site.base + 1, site.strand) for site in gene_starts(annotation)]


def sites(annotation: Annotation, label: str) -> list[int]:
    return [site.base + 1 for site in splice_sites(annotation) if site.label == label]


def annotation_of(lines: str, store: GenomeStore, path: Path, suffix: str = ".gff3") -> Annotation:
    """Lines of contig chr1: kind, start, end, strand, phase and attributes, between blanks."""
    file = path / f"a{suffix}"
    rows = [line.split(maxsplit=5) for line in lines.strip().splitlines()]
    text = ["\t".join(["chr1", "t", row[0], row[1], row[2], ".", *row[3:]]) for row in rows]
    file.write_text("\n".join(text) + "\n")
    return read_annotation(file, store)


def test_a_segment_that_several_transcripts_share(store: GenomeStore) -> None:
    annotation = read_annotation(CASES / "shared_parent.gff3", store)
    assert starts(annotation) == [(1001, "+")]
    assert sites(annotation, "donor") == [1301, 1801, 2301]
    assert sites(annotation, "acceptor") == [1501, 2001, 2501]


def test_shared_segments_where_another_key_is_repeated(store: GenomeStore, tmp_path: Path) -> None:
    annotation = annotation_of("CDS 1001 1300 + 0 Note=a;Note=b;Parent=t1,t2", store, tmp_path)
    assert [transcript.name for transcript in annotation.transcripts] == ["t1", "t2"]


def test_partial_genes_have_no_start_and_the_frame_of_their_phase(store: GenomeStore) -> None:
    annotation = read_annotation(CASES / "partial.gff3", store)
    assert starts(annotation) == [(35001, "+")]
    assert [transcript.phase for transcript in annotation.transcripts] == [2, 1, 0]


@pytest.mark.parametrize(
    ("words", "strand", "has_start"),
    [
        ("partial=true", "+", False),
        ("partial=true;start_range=.,1001", "+", False),
        ("partial=true;start_range=.,1001", "-", True),
        ("partial=true;end_range=1300,.", "-", False),
        ("partial=10", "+", False),
        ("partial=10", "-", True),
        ("partial=00", "+", True),
        ("tag=basic,cds_start_NF", "+", False),
        ("tag=cds_end_NF", "+", True),
    ],
)
def test_words_for_a_missing_start(
    store: GenomeStore, tmp_path: Path, words: str, strand: str, has_start: bool
) -> None:
    annotation = annotation_of(f"CDS 1001 1300 {strand} 0 ID=a;{words}", store, tmp_path)
    assert annotation.transcripts[0].has_start == has_start


def test_a_gene_that_ends_beyond_a_circular_contig(store: GenomeStore) -> None:
    annotation = read_annotation(CASES / "circular.gff3", store)
    assert annotation.transcripts[0].segments == ((59_500, 60_000), (0, 500))
    assert starts(annotation) == [(2500, "-"), (59501, "+")]
    assert sites(annotation, "donor") == []


def test_a_gene_in_two_lines_over_the_origin(store: GenomeStore) -> None:
    annotation = read_annotation(CASES / "origin_join.gff3", store)
    assert starts(annotation) == [(5600, "-"), (59701, "+")]
    assert sites(annotation, "donor") == []


def test_the_minus_strand_over_the_origin(store: GenomeStore, tmp_path: Path) -> None:
    lines = "region 1 60000 + . Is_circular=true\nCDS 1 300 - 0 ID=a\nCDS 59701 60000 - 0 ID=a\n"
    annotation = annotation_of(lines + "CDS 59001 59030 - 0 ID=a", store, tmp_path)
    assert starts(annotation) == [(300, "-")]
    assert (sites(annotation, "donor"), sites(annotation, "acceptor")) == ([59700], [59030])
    lines = "region 1 60000 + . Is_circular=true\nCDS 60011 60310 - 0 ID=a"
    assert starts(annotation_of(lines, store, tmp_path)) == [(310, "-")]


def test_a_window_in_a_gene_of_a_long_rna_is_not_intergenic(store: GenomeStore) -> None:
    genes, regions = read_annotation(CASES / "ens2.gff3", store), [Interval("chr1", 0, 60_000, "train")]
    windows = gene_set(store, genes, "coding", regions, length=60, per_class=60).examples
    background = [example for example in windows if example.labels == ("intergenic",)]
    assert len(background) > 30
    assert not [example for example in background if example.start < 40_000 and example.end > 1_000]


@pytest.mark.parametrize(
    ("kind", "is_genic"),
    [
        ("transposable_element", True),
        ("mobile_genetic_element", True),
        ("lncRNA", True),
        ("V_gene_segment", True),
        ("pseudogenic_transcript", True),
        ("chromosome", False),
        ("biological_region", False),
        ("dispersed_repeat", False),
        ("cDNA_match", False),
        ("external_scaffold", False),
    ],
)
def test_what_makes_a_window_genic(store: GenomeStore, tmp_path: Path, kind: str, is_genic: bool) -> None:
    annotation = annotation_of(f"{kind} 20001 21000 . . ID=x\nCDS 1 300 + 0 ID=a", store, tmp_path)
    assert ([20_000, 21_000] in annotation.genic["chr1"].tolist()) == is_genic


def test_contigs_that_the_genome_lacks_are_told(store: GenomeStore, caplog: pytest.LogCaptureFixture) -> None:
    assert len(read_annotation(CASES / "partmatch.gff3", store).transcripts) == 20
    assert "80 of 100 features, on 4 contigs that the genome lacks: 2 (20), 3 (20)" in caplog.text
    assert "--contig-pattern" in caplog.text


SEVERAL = {
    "by protein id": "CDS 1001 1061 + 0 ID=x;Parent=g;protein_id=P1\nCDS 1301 1600 + 0 ID=y;Parent=g;protein_id=P2",
    "by id, on the same bases": "CDS 1001 1600 + 0 ID=x;Parent=t\nCDS 1301 1600 + 0 ID=y;Parent=t",
    "by id, in one gene": "gene 1001 1600 + . ID=g\nCDS 1001 1060 + 0 ID=x;Parent=g\nCDS 1301 1600 + 0 ID=y;Parent=g",
    "loci of one protein": "CDS 1001 1060 + 0 ID=x;protein_id=P\nCDS 1301 1600 + 0 ID=y;protein_id=P",
    "loci without any id": "CDS 1001 1060 + 0 protein_id=P\nCDS 1301 1600 + 0 protein_id=P",
    "loci of one id": "CDS 1001 1060 + 0 ID=x;locus_tag=A\nCDS 1301 1600 + 0 ID=x;locus_tag=B",
}


@pytest.mark.parametrize("lines", SEVERAL.values(), ids=SEVERAL)
def test_several_proteins_are_not_one(store: GenomeStore, tmp_path: Path, lines: str) -> None:
    annotation = annotation_of(lines, store, tmp_path)
    assert starts(annotation) == [(1001, "+"), (1301, "+")]
    assert sites(annotation, "donor") == []


def test_numbered_segments_are_one_protein(store: GenomeStore, tmp_path: Path) -> None:
    lines = "mRNA 1001 1600 + . ID=t\nCDS 1001 1100 + 0 ID=t.cds1;Parent=t\nCDS 1301 1600 + 2 ID=t.cds2;Parent=t"
    annotation = annotation_of(lines, store, tmp_path)
    assert starts(annotation) == [(1001, "+")]
    assert sites(annotation, "donor") == [1101]
    lines = lines.replace("mRNA", "gene")
    assert starts(annotation_of(lines, store, tmp_path)) == [(1001, "+")]


def test_transcripts_of_gtf(store: GenomeStore, tmp_path: Path) -> None:
    lines = """
CDS 1001 1300 + 0 gene_id "g"; transcript_id "t1"; tag "basic"; tag "CCDS";
CDS 1501 1800 + 0 gene_id "g"; transcript_id "t1";
CDS 1601 1800 + 0 gene_id "g"; transcript_id "t2"; tag "cds_start_NF"; tag "basic";
CDS 3001 3300 + 0 gene_id "b1"; transcript_id ""; protein_id "WP_1";
CDS 4001 4300 + 0 gene_id "b2"; transcript_id ""; protein_id "WP_1";
"""
    annotation = annotation_of(lines, store, tmp_path, ".gtf")
    assert starts(annotation) == [(1001, "+"), (3001, "+"), (4001, "+")]
    assert sites(annotation, "donor") == [1301]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("CDS 1001 1300 - 0 ID=x\nCDS 5001 5300 + 0 ID=x", "trans-spliced: x"),
        ("CDS 1001 1300 + 0 ID=x;exception=trans-splicing\nCDS 5001 5300 + 0 ID=x", "trans-spliced: x"),
        ("CDS 1001 1300 + 0 ID=x;pseudo=true", "of pseudogenes: x"),
        ("pseudogene 1001 1300 + . ID=g\nmRNA 1 2 + . ID=t;Parent=g\nCDS 1001 1300 + 0 ID=x;Parent=t", "pseudogenes"),
        ("CDS 1001 1300 + 0 ID=x;gene_biotype=unprocessed_pseudogene", "of pseudogenes: x"),
        ("CDS 1001 1300 . 0 ID=x", "without a strand: x"),
    ],
)
def test_what_makes_no_coding_sequence_is_told(
    store: GenomeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: str, reason: str
) -> None:
    annotation = annotation_of(f"{lines}\nCDS 9001 9300 + 0 ID=ok", store, tmp_path)
    assert starts(annotation) == [(9001, "+")]
    assert [1000, 1300] in annotation.genic["chr1"].tolist()
    assert reason in caplog.text


def test_slips_of_the_ribosome_are_no_introns(store: GenomeStore, tmp_path: Path) -> None:
    forward = "CDS 1001 1075 + 0 ID=f;exception=ribosomal slippage\nCDS 1077 2000 + 0 ID=f"
    back = "CDS 3001 3100 + 0 ID=b;exception=ribosomal slippage\nCDS 3100 3400 + 2 ID=b"
    annotation = annotation_of(f"{forward}\n{back}", store, tmp_path)
    assert starts(annotation) == [(1001, "+"), (3001, "+")]
    assert sites(annotation, "donor") == []
    assert [transcript.phase for transcript in annotation.transcripts] == [0, 0]


@pytest.mark.parametrize(
    ("second", "phase"),
    [
        ("1201 1301 + 2", 0),
        ("1201 1301 + .", 0),
        ("1201 1301 + 0", 0),
        ("1201 1300 + 0", None),
        ("1201 1301 + 1", None),
    ],
)
def test_phases_that_contradict_each_other_make_no_frame(
    store: GenomeStore, tmp_path: Path, second: str, phase: int | None
) -> None:
    """A file with 0 in every line is taken to be without phases, if its lines are whole codons together."""
    annotation = annotation_of(f"CDS 1001 1100 + 0 ID=x\nCDS {second} ID=x", store, tmp_path)
    assert annotation.transcripts[0].phase == phase
    assert starts(annotation) == [(1001, "+")]


def test_genetic_codes(store: GenomeStore, tmp_path: Path) -> None:
    annotation = annotation_of("CDS 1 300 + 0 ID=x;transl_table=11\nCDS 601 900 + 0 ID=y", store, tmp_path)
    assert [transcript.genetic_code for transcript in annotation.transcripts] == [11, None]


def test_the_sequence_may_follow_the_features(store: GenomeStore, tmp_path: Path) -> None:
    (tmp_path / "a.gff3").write_text("chr1\tt\tCDS\t1\t300\t.\t+\t0\tID=x\n##FASTA\n>chr1\nACGT\n")
    assert len(read_annotation(tmp_path / "a.gff3", store).transcripts) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("CDS 1300 1001 + 0 ID=x", "line 1: chr1:1300-1001: the start comes after the end"),
        ("CDS 0 1001 + 0 ID=x", "before base 1"),
        ("CDS . 1001 + 0 ID=x", "line 1: .* the position '.' is no number"),
        ("CDS 1 10000000000000000000000 + 0 ID=x", "is no number"),
        ("CDS 1 60300 + 0 ID=x", "line 1: chr1:1-60300 reaches beyond chr1, .* Is_circular=true"),
        ("region 1 60000 + . Is_circular=true\nCDS 2 60002 + 0 ID=x", "line 2: .* twice"),
        ("CDS 1 300 + 3 ID=x", "line 1: the phase in column 8 is '3'"),
        ("CDS 1 300 + 0 ID=x;transl_table=one", "line 1: transl_table=one is not the number"),
        ("exon 1 300 + . ID=x", "no CDS features"),
    ],
)
def test_bad_lines_are_named(store: GenomeStore, tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        annotation_of(line, store, tmp_path)


def test_other_files_are_refused(store: GenomeStore, tmp_path: Path) -> None:
    (tmp_path / "a.gff").write_text("chr1 t CDS 1 300\n")
    with pytest.raises(GenomeLMError, match="line 1: not GFF3 or GTF: 1 columns"):
        read_annotation(tmp_path / "a.gff", store)
