"""Features of GenBank and EMBL files as GFF3, read back by the project's own reader of annotation."""

import gzip
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genome_lm.dataset.annotation import read_annotation
from genome_lm.dataset.gff import read_features
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build_store
from genome_lm_cli.main import app
from tests.genome.conftest import random_dna

FEATURES = [
    ("source", "1..1200", '/organism="A test"'),
    ("gene", "join(1141..1200,1..30)", '/gene="dnaA" /locus_tag="b1"'),
    ("CDS", "join(1141..1200,1..30)", '/locus_tag="b1" /protein_id="P1.1" /transl_table=11 /codon_start=1'),
    ("CDS", "complement(join(<101..190,300..360))", '/gene="two" /codon_start=2 /protein_id="P2.1"'),
    ("mRNA", "join(<400..450,500..520,600..>700)", '/gene="abc" /product="form X1; the % one"'),
    ("mRNA", "join(400..450,600..700)", '/gene="abc"'),
    ("CDS", "join(421..450,600..659)", '/gene="abc" /protein_id="P3.2"'),
    ("CDS", "join(421..450,500..520,600..638)", '/gene="abc" /protein_id="P3.1"'),
    ("gene", "400..700", '/gene="abc" /db_xref="GeneID:1" /db_xref="HGNC:2"'),
    ("gene", "800..900", '/locus_tag="b9" /pseudo'),
    ("CDS", "800..900", '/locus_tag="b9" /pseudo'),
    ("tRNA", "complement(950..1020)", '/locus_tag="b10"'),
    ("CDS", "join(1030..1040,X9.1:5..9)", '/locus_tag="b11"'),
    ("regulatory", "1100^1101", '/regulatory_class="attenuator"'),
]
DNA = random_dna(1_200, 4).lower()


def genbank(features: list[tuple[str, str, str]] = FEATURES) -> str:
    lines = [
        "LOCUS       NC_1                    1200 bp    DNA     circular BCT 01-JAN-2020",
        "DEFINITION  A test.",
        "ACCESSION   NC_1",
        "VERSION     NC_1.1",
        "FEATURES             Location/Qualifiers",
    ]
    for kind, place, qualifiers in features:
        lines.append(f"     {kind:<16}{place}")
        lines += [" " * 21 + f"/{each.strip()}" for each in qualifiers.split("/")[1:]]
    lines.append("ORIGIN")
    for start in range(0, len(DNA), 60):
        words = [DNA[at : at + 10] for at in range(start, start + 60, 10)]
        lines.append(f"{start + 1:>9} {' '.join(words)}")
    return "\n".join([*lines, "//", ""])


def test_genes_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "x.gb").write_text(genbank())
    (tmp_path / "y.fa").write_text(">plasmid\nACGT\n")
    gff, out = tmp_path / "genes.gff3", tmp_path / "g.zarr"
    arguments = ["genome", "build", tmp_path / "x.gb", tmp_path / "y.fa", "--out", out, "--annotation", gff]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None, result.exception
    assert "line 1: left out: 1 features that lie partly in other records" in caplog.text
    annotation = read_annotation(gff, GenomeStore(out))
    assert annotation.circular == {"NC_1.1": 1_200}
    genes = {t.name: (t.strand, t.segments, t.phase, t.has_start, t.genetic_code) for t in annotation.transcripts}
    assert genes == {
        "gene-b1": ("+", ((1_140, 1_200), (0, 30)), 0, True, 11),
        "cds-2": ("-", ((100, 190), (299, 360)), 1, False, None),
        "rna-2": ("+", ((420, 450), (599, 659)), 0, True, None),
        "rna-1": ("+", ((420, 450), (499, 520), (599, 638)), 0, True, None),
    }
    assert "of pseudogenes: gene-b9" in caplog.text


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "x.gb").write_text(genbank())
    for path in (packed := tmp_path / "x.gff3.gz", tmp_path / "x.gff3"):
        build_store([tmp_path / "x.gb"], tmp_path / "g.zarr", annotation=path)
    assert gzip.decompress(packed.read_bytes()) == (tmp_path / "x.gff3").read_bytes()
    features = list(read_features(tmp_path / "x.gff3"))
    lines = [(f.kind, f.start, f.end, f.strand, f.phase) for f in features]
    first = (tmp_path / "x.gff3").read_text().splitlines()[:3]
    assert first[:2] == ["##gff-version 3", "##sequence-region NC_1.1 1 1200"]
    assert first[2].endswith("region\t1\t1200\t.\t+\t.\tID=NC_1.1:1..1200;Is_circular=true")
    assert lines[1:5] == [("gene", 1_140, 1_200, "+", "."), ("gene", 0, 30, "+", "."),
                          ("CDS", 1_140, 1_200, "+", "0"), ("CDS", 0, 30, "+", "0")]  # fmt: skip
    assert [line for line in lines if line[0] == "exon"][:3] == [
        ("exon", 399, 450, "+", "."), ("exon", 499, 520, "+", "."), ("exon", 599, 700, "+", "."),
    ]  # fmt: skip
    (mrna,) = [f for f in features if f.kind == "mRNA" and f.first("ID") == "rna-1"]
    assert mrna.attributes == {
        "ID": ["rna-1"], "Parent": ["gene-abc"], "gene": ["abc"], "product": ["form X1; the % one"],
        "partial": ["true"], "start_range": [".", "400"], "end_range": ["700", "."],
    }  # fmt: skip
    (gene,) = [f for f in features if f.first("ID") == "gene-abc"]
    assert gene.attributes["Dbxref"] == ["GeneID:1", "HGNC:2"]
    assert ("tRNA", 949, 1_020, "-", ".") in lines
    assert ("regulatory_region", 1_099, 1_100, "+", ".") in lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (">a\nACGT\n", "only flat files of GenBank and EMBL hold annotation"),
        (genbank(FEATURES[:1]), "no record has features"),
        (genbank([("CDS", "1..9", "/codon_start=4")]), "line 1: /codon_start=4 of a CDS"),
        (genbank([("gene", "9..x", '/gene="a"')]), "line 1: can't read the record that begins here: .*location"),
    ],
    ids=["FASTA", "none", "frame", "place"],
)
def test_no_annotation_is_one_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(GenomeLMError, match=rf"/x: {said}"):
        build_store([tmp_path / "x"], tmp_path / "g.zarr", annotation=tmp_path / "x.gff3")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
