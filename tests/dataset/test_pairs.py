import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from genome_lm.dataset import pair_set, read_examples, read_pairs, write_examples
from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval
from genome_lm_cli.main import app
from tests.conftest import Genome

REGIONS = [
    Interval("one", 0, 30_000, "train"),
    Interval("one", 30_000, 40_000, "test"),
    Interval("two", 0, 4_000, "valid"),
]


def base(genome: Genome, contig: str, start: int, end: int) -> str:
    return genome.store.fetch(contig, start, end, output="letters", pad=True).tobytes().decode()


def other(letter: str) -> str:
    return "ACGT"["CGTA".index(letter)]


def variants(genome: Genome) -> list[tuple[str, int, str, str]]:
    """A substitution, an insertion, a deletion, one at a contig's start, and one of which REF is wrong."""
    places = [("one", 101, 1), ("one", 35_000, 1), ("two", 900, 5), ("two", 3, 1), ("one", 700, 1)]
    refs = [base(genome, contig, pos - 1, pos - 1 + span) for contig, pos, span in places]
    alts = [other(refs[0]), refs[1] + "ACGTA", refs[2][0], other(refs[3]), other(refs[4])]
    refs[4] = other(other(refs[4]))
    return [(contig, pos, ref, alt) for (contig, pos, _), ref, alt in zip(places, refs, alts, strict=True)]


def table(path: Path, genome: Genome) -> Path:
    rows = pd.DataFrame(variants(genome), columns=["contig", "pos", "ref", "alt"])
    rows["label"] = ["0.5", "1", "2", "3", "4"]
    rows.loc[len(rows)] = ["one", 50, "A", "C", ""]
    rows.to_csv(path, index=False, sep="\t")
    return path


def vcf(path: Path, genome: Genome) -> Path:
    numbered = enumerate(variants(genome))
    rows = [f"{contig}\t{pos}\tv{i}\t{ref}\t{alt}\t.\t.\tlabel={i}" for i, (contig, pos, ref, alt) in numbered]
    path.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "\n".join(rows) + "\n")
    return path


def test_both_windows_begin_with_the_same_bases(genome: Genome, tmp_path: Path) -> None:
    made = pair_set(genome.store, table(tmp_path / "v.tsv", genome), REGIONS, 40)
    assert sorted(made.left_out.values()) == [1, 1]
    assert set(made.left_out) == {"without a label", "REF is not what the genome has there"}
    assert [(e.labels, e.split) for e in made.labelled.examples] == [
        (("0.5",), "train"), (("1",), "test"), (("2",), "valid"), (("3",), "valid")
    ]  # fmt: skip
    for example, (contig, pos, ref, alt) in zip(made.labelled.examples, variants(genome), strict=False):
        before, after = base(genome, contig, pos - 21, pos - 1), base(genome, contig, pos - 1, pos + 60)
        assert after.startswith(ref)
        assert example.sequence == (before + after)[:40]
        assert example.second == (before + alt + after[len(ref) :])[:40]
    assert made.labelled.examples[3].sequence.startswith("N" * 18)


def test_labels_of_a_vcf_are_in_info_or_a_table(genome: Genome, tmp_path: Path) -> None:
    path = vcf(tmp_path / "v.vcf", genome)
    plain = pair_set(genome.store, table(tmp_path / "v.tsv", genome), REGIONS, 40).labelled.examples
    made = pair_set(genome.store, path, REGIONS, 40).labelled.examples
    assert [(e.sequence, e.second) for e in made] == [(e.sequence, e.second) for e in plain]
    assert [e.labels for e in made] == [("0",), ("1",), ("2",), ("3",)]
    (tmp_path / "id.csv").write_text("id,beta\nv0,7\nv2,nan\nv9,1\n")
    by_id = pair_set(genome.store, path, REGIONS, 40, ["beta"], tmp_path / "id.csv")
    assert [e.labels for e in by_id.labelled.examples] == [("7",)]
    by_place = pair_set(genome.store, path, REGIONS, 40, ["label"], tmp_path / "v.tsv")
    assert [e.labels for e in by_place.labelled.examples] == [("0.5",), ("1",), ("2",), ("3",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contig,pos,ref,alt\none,5,A,C\n", "no column label; there are contig, pos, ref, alt"),
        ("contig,pos,ref,alt,label\none,0,A,C,1\n", "record 1: pos is '0'; it counts from 1"),
        ("contig,pos,ref,alt,label\none,5,,C,1\n", "record 1: ref is ''"),
        ("contig,pos,ref,alt,label\nthree,5,A,C,1\n", "no variant is left: 1 the genome has no contig of this name"),
    ],
)
def test_bad_variants_are_named(text: str, message: str, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(GenomeLMError, match=message):
        pair_set(genome.store, tmp_path / "v.csv", REGIONS, 40)


def test_labels_by_id_need_one_alt(genome: Genome, tmp_path: Path) -> None:
    letter = base(genome, "one", 100, 101)
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "v.vcf").write_text(f"{header}one\t101\tv0\t{letter}\t{other(letter)},{letter}A\t.\t.\t.\n")
    (tmp_path / "id.csv").write_text("id,label\nv0,7\n")
    with pytest.raises(GenomeLMError, match="one:101 v0: has several ALTs"):
        pair_set(genome.store, tmp_path / "v.vcf", REGIONS, 40, ["label"], tmp_path / "id.csv")
    (tmp_path / "id.csv").write_text("id,label\nv0,7\nv0,8\n")
    with pytest.raises(GenomeLMError, match="record 2: an earlier record has other labels"):
        pair_set(genome.store, tmp_path / "v.vcf", REGIONS, 40, ["label"], tmp_path / "id.csv")


def write_vcf(path: Path, *records: str) -> Path:
    path.write_text(
        "\n".join(["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO", *records, ""])
    )
    return path


def test_an_id_of_two_records_gives_no_label(genome: Genome, tmp_path: Path) -> None:
    """Where `bcftools norm -m-` has split a record, both alleles have its id."""
    letter = base(genome, "one", 100, 101)
    records = [f"one\t101\tv0\t{letter}\t{alt}\t.\t.\t." for alt in (other(letter), letter + "A")]
    (tmp_path / "id.csv").write_text("id,label\nv0,7\n")
    with pytest.raises(GenomeLMError, match="one:101 v0: an earlier record has this id, and"):
        pair_set(genome.store, write_vcf(tmp_path / "v.vcf", *records), REGIONS, 40, ["label"], tmp_path / "id.csv")


def test_a_field_of_info_has_a_label_for_each_alt(genome: Genome, tmp_path: Path) -> None:
    letter = base(genome, "one", 100, 101)
    record = f"one\t101\tv0\t{letter}\t{other(letter)},{letter}A\t.\t.\tlabel="
    made = pair_set(genome.store, write_vcf(tmp_path / "v.vcf", record + "0.5,-2"), REGIONS, 40).labelled.examples
    assert [(e.second[20], e.labels) for e in made] == [(other(letter), ("0.5",)), (letter, ("-2",))]
    with pytest.raises(GenomeLMError, match="one:101 v0: the label 1,2,3 has 3 values for 2 ALTs"):
        pair_set(genome.store, write_vcf(tmp_path / "v.vcf", record + "1,2,3"), REGIONS, 40)


@pytest.mark.parametrize("columns", [["contig"], ["label", "label"]])
def test_labels_have_names_of_their_own(columns: list[str], genome: Genome, tmp_path: Path) -> None:
    with pytest.raises(
        GenomeLMError, match=f"label {columns[0]}: the table of pairs has another column of this name"
    ):
        pair_set(genome.store, table(tmp_path / "v.tsv", genome), REGIONS, 40, columns)


def test_the_command_writes_what_is_read_again(genome: Genome, tmp_path: Path) -> None:
    out, regions = tmp_path / "p.parquet", tmp_path / "r.bed"
    regions.write_text("one\t0\t40000\ttrain\ntwo\t0\t4000\tvalid\n")
    arguments = [str(table(tmp_path / "v.tsv", genome)), "--genome", str(genome.store.path), "--length", "40"]
    arguments += ["--intervals", str(regions), "--json", "--out", str(out)]
    result = CliRunner().invoke(app, ["dataset", "pairs", *arguments])
    assert result.exception is None, result.output
    assert "left out: 1 variants, without a label" in result.stderr
    assert sum(row["examples"] for row in json.loads(result.stdout)["examples"]) == 4
    labelled = read_examples(out)
    assert all(len(example.second) == 40 for example in labelled.examples)
    names, firsts, seconds = read_pairs(out)
    assert (names, firsts) == ([e.id for e in labelled.examples], [e.sequence for e in labelled.examples])
    assert seconds == [e.second for e in labelled.examples]
    single = [example._replace(second="") for example in labelled.examples]
    write_examples(tmp_path / "one.csv", labelled._replace(examples=single))
    assert "sequence_2" not in pd.read_csv(tmp_path / "one.csv")
    with pytest.raises(GenomeLMError, match="expected the columns sequence and sequence_2"):
        read_pairs(tmp_path / "one.csv")
    np.testing.assert_array_equal(pd.read_parquet(out)["sequence_2"], seconds)
