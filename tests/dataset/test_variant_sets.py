"""The sets that come with genome-lm, each from a made file of the form of the real one; and manifests made wrong."""

import gzip
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
import yaml

from genome_lm.dataset import read_variant_set, variant_manifest
from genome_lm.dataset.variant_sets import VariantSet, _shipped
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build_store
from genome_lm.genome.variants import Variant
from tests.conftest import biased_dna
from tests.test_download import Server

CONTIGS = {"chr1": biased_dna(900, 1), "chr2": biased_dna(700, 2), "chr17": biased_dna(800, 3)}
ALT = {"A": "C", "C": "G", "G": "T", "T": "A"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    folder = tmp_path_factory.mktemp("variants")
    (folder / "g.fa").write_text("".join(f">{name}\n{sequence}\n" for name, sequence in CONTIGS.items()))
    return build_store([folder / "g.fa"], folder / "g.zarr", "hg38")


@pytest.fixture
def web() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def snv(contig: str, start: int) -> Variant:
    ref = CONTIGS[contig][start]
    return Variant(contig, start, ref, ALT[ref])


ONE, TWO, THREE, FOUR = snv("chr1", 10), snv("chr1", 400), snv("chr2", 33), snv("chr17", 500)
VARIANTS = [ONE, TWO, THREE, FOUR]


def traitgym(folder: Path) -> list[Path]:
    rows = [
        {"chrom": v.contig[3:], "pos": v.start + 1, "ref": v.ref, "alt": v.alt, "OMIM": None, "consequence": group}
        for v, group in zip(VARIANTS, ["PLS", "PLS", "5_prime_UTR_variant", "intron_variant"], strict=True)
    ]
    table = pd.DataFrame(rows).assign(label=[True, False, True, False], tss_dist=3, match_group="PLS_4")
    table.to_parquet(folder / "a.parquet")
    return [folder / "a.parquet"]


def brca1(folder: Path) -> list[Path]:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["Variant ID", *[None] * 14, "SGE data (HAP1-Lig4KO)"])
    sheet.append([None] * 18 + ["raw reads"])
    names = ["gene", "chromosome", "position (hg19)", "reference", "alt", "consequence", "function.score.mean"]
    sheet.append([*names, "func.class"])
    for v, score, kind, what in (
        (FOUR, -0.37, "FUNC", "Splice region"),
        (snv("chr17", 501), -1.9, "LOF", "Missense"),
        (snv("chr17", 502), -0.97, "INT", "Missense"),
    ):
        sheet.append(["BRCA1", 17, v.start + 1, v.ref, v.alt, what, score, kind])
    book.save(folder / "a.xlsx")
    return [folder / "a.xlsx"]


def clinvar(folder: Path) -> list[Path]:
    facts = [
        ("Pathogenic", "SO:0001583|missense_variant,SO:0001627|intron_variant", "reviewed_by_expert_panel"),
        ("Benign/Likely_benign", "SO:0001819|synonymous_variant", "practice_guideline"),
        ("Uncertain_significance", "SO:0001583|missense_variant", "reviewed_by_expert_panel"),
        ("Pathogenic", "SO:0001587|nonsense", "criteria_provided,_single_submitter"),
    ]
    lines = ["##fileformat=VCFv4.1", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for number, (v, (label, group, status)) in enumerate(zip(VARIANTS, facts, strict=True)):
        info = f"ALLELEID={number};CLNDN=not_provided;CLNREVSTAT={status};CLNSIG={label};MC={group};ORIGIN=1"
        lines.append(f"{v.contig[3:]}\t{v.start + 1}\t{number}\t{v.ref}\t{v.alt}\t.\t.\t{info}")
    (folder / "a.vcf.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    return [folder / "a.vcf.gz"]


def dart(prefix: str, names: list[str], labels: list[str], flags: list[str]) -> Callable[[Path], list[Path]]:
    """The second variant has the genome's base as its other allele, the third is not of the set."""

    def write(folder: Path) -> list[Path]:
        lines = ["\t".join([*names, *flags])]
        for number, v in enumerate(VARIANTS):
            alleles = (v.alt, v.ref) if v is TWO else (v.ref, v.alt)
            fields = [v.contig, str(v.start + 1), *alleles, labels[number % 2], f"{number + 0.5}"]
            lines.append("\t".join(fields + ["False" if v is THREE else "True"] * len(flags)))
        (folder / "a.tsv").write_text("\n".join(lines) + "\n")
        return [folder / "a.tsv"]

    return write


def caduceus(folder: Path) -> list[Path]:
    lines = ["CHROM,POS,REF,ALT,tissue,label,distance_to_nearest_TSS,split"]
    for v, distance, label in zip(VARIANTS, [5, 30_000, 99_999, 4_000_000], "1010", strict=True):
        lines.append(f"{v.contig},{v.start + 1},{v.ref},{v.alt},Whole_Blood,{label},{distance},train")
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return [folder / "a.csv"]


def dnalongbench(folder: Path) -> list[Path]:
    head = "gene_chrom gene_start gene_end region_chrom region_start region_end gene_id gene_strand region_id target"
    paths = []
    for number, file in enumerate(variant_manifest("dnalongbench_eqtl").files):
        lines = ["\t".join([*head.split(), "subset", "allele1", "allele2"])]
        for v, subset in ((ONE, "train"), (TWO, "test"), (FOUR, "test")):
            target = "positive" if v is TWO else "negative"
            fields = ["chr1", 5, 90, v.contig, v.start, v.start + 1, "ENSG1", "+", "r1", target, subset, v.ref, v.alt]
            lines.append("\t".join(map(str, fields)))
        paths.append(folder / file.name)
        paths[-1].write_text("\n".join(lines if number < 2 else lines[:1]) + "\n")
    return paths


CAQTL = ["chr_hg38", "pos_hg38", "allele1", "allele2", "label", "beta"]
DSQTL = ["var.chrom", "var.pos", "var.allele1", "var.allele2", "var.label", "obs.estimate"]
CASES: dict[str, tuple[Callable[[Path], list[Path]], list[Variant], list[float], list[str], list[float]]] = {
    "traitgym_mendelian": (
        traitgym, VARIANTS, [1, 0, 1, 0], ["PLS", "PLS", "5_prime_UTR_variant", "intron_variant"], [],
    ),
    "traitgym_complex": (
        traitgym, VARIANTS, [1, 0, 1, 0], ["PLS", "PLS", "5_prime_UTR_variant", "intron_variant"], [],
    ),
    "brca1": (
        brca1, [FOUR, snv("chr17", 501), snv("chr17", 502)], [0, 1, 0], ["Splice region", "Missense", "Missense"],
        [-0.37, -1.9, -0.97],
    ),
    "clinvar": (clinvar, [ONE, TWO], [1, 0], ["missense_variant", "synonymous_variant"], []),
    "dart_caqtl": (
        dart("", CAQTL, ["True", "False"], ["IsUsed", "in_peaks"]), [ONE, TWO, FOUR], [1, 0, 0], [""] * 3,
        [0.5, -1.5, 3.5],
    ),
    "dart_dsqtl": (
        dart("var.", DSQTL, ["1", "-1"], ["var.isused"]), [ONE, TWO, FOUR], [1, 0, 0], [""] * 3, [0.5, -1.5, 3.5],
    ),
    "caduceus_eqtl": (
        caduceus, VARIANTS, [1, 0, 1, 0],
        ["0 to 30,000", "30,000 to 100,000", "30,000 to 100,000", "100,000 and more"], [],
    ),
    "dnalongbench_eqtl": (
        dnalongbench, [TWO, TWO, FOUR, FOUR], [1, 1, 0, 0], ["Adipose_Subcutaneous", "Artery_Tibial"] * 2, [],
    ),
}  # fmt: skip


def test_each_set_that_comes_with_genome_lm_has_a_case() -> None:
    assert set(CASES) == set(_shipped())


@pytest.mark.parametrize("name", CASES)
def test_a_set(store: GenomeStore, tmp_path: Path, name: str) -> None:
    write, variants, labels, groups, effects = CASES[name]
    read = read_variant_set(variant_manifest(name), write(tmp_path), store)
    assert read.variants == variants
    assert read.labels.tolist() == labels
    assert read.groups == groups
    assert read.effects.tolist() == pytest.approx(effects or [float("nan")] * len(variants), nan_ok=True)


def test_what_is_left_out_is_counted(store: GenomeStore, tmp_path: Path) -> None:
    read = read_variant_set(variant_manifest("clinvar"), clinvar(tmp_path), store)
    assert read.left_out == {
        "whose label is none of those of the manifest": 1,
        "that the manifest does not keep": 1,
    }


def made(folder: Path, rows: list[str], **changes: Any) -> Path:
    """A manifest and its file."""
    (folder / "set.tsv").write_text("\n".join(["contig\tpos\tref\talt\ty", *rows]) + "\n")
    columns = {"contig": "contig", "position": "pos", "ref": "ref", "alt": "alt", "label": "y"}
    values = {
        "title": "made", "source": "here", "assembly": "tiny", "base": 1, "columns": columns,
        "files": [{"name": "set.tsv", "url": "set.tsv"}], "labels": {"positive": ["1"], "negative": ["0"]}, **changes,
    }  # fmt: skip
    (folder / "m.yaml").write_text(yaml.safe_dump(values))
    return folder / "m.yaml"


def row(v: Variant, label: str = "1") -> str:
    return f"{v.contig}\t{v.start + 1}\t{v.ref}\t{v.alt}\t{label}"


def read_made(folder: Path, store: GenomeStore, rows: list[str], **changes: Any) -> VariantSet:
    manifest = variant_manifest(str(made(folder, rows, **changes)))
    return read_variant_set(manifest, [folder / "set.tsv"], store)


def test_files_come_from_the_web_and_are_kept(store: GenomeStore, web: Server, tmp_path: Path) -> None:
    web.pages["/a.tsv"] = f"contig\tpos\tref\talt\ty\n{row(ONE)}\n{row(TWO, '0')}\n".encode()
    path = made(tmp_path, [], files=[{"name": "web.tsv", "url": web.url("a.tsv")}])
    manifest = variant_manifest(str(path))
    paths = manifest.get_files(tmp_path / "files")
    assert read_variant_set(manifest, paths, store).variants == [ONE, TWO]
    asked = len(web.asked)
    assert manifest.get_files(tmp_path / "files") == paths
    assert len(web.asked) == asked


def test_a_checksum_that_differs(web: Server, tmp_path: Path) -> None:
    web.pages["/a.tsv"] = b"other\n"
    path = made(tmp_path, [], files=[{"name": "web.tsv", "url": web.url("a.tsv"), "md5": "0" * 32}])
    with pytest.raises(GenomeLMError, match=r"md5 is .* should be 0000"):
        variant_manifest(str(path)).get_files(tmp_path / "files")
    assert not (tmp_path / "files/web.tsv").exists()


def test_a_set_without_a_network_says_where_its_files_belong(web: Server, tmp_path: Path) -> None:
    path = made(tmp_path, [], files=[{"name": "web.tsv", "url": web.url("none.tsv")}])
    with pytest.raises(GenomeLMError, match=r"none\.tsv: .*; or put web\.tsv into .*files yourself"):
        variant_manifest(str(path)).get_files(tmp_path / "files")


def test_a_field_that_no_record_has(store: GenomeStore, tmp_path: Path) -> None:
    paths, manifest = clinvar(tmp_path), variant_manifest("clinvar")
    with pytest.raises(GenomeLMError, match=r"a\.vcf\.gz: no record has CLNSIGN in INFO"):
        read_variant_set(replace(manifest, columns=replace(manifest.columns, label="CLNSIGN")), paths, store)


def test_a_file_that_a_person_has_to_get(tmp_path: Path) -> None:
    with pytest.raises(
        GenomeLMError, match=r"Afr.CaQTLS.tsv: no such file.*https://www.synapse.org/Synapse:syn60756"
    ):
        variant_manifest("dart_caqtl").get_files(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": [{"name": "../a.tsv", "url": "x"}]}, "'../a.tsv' is no name of a table"),
        ({"files": [{"name": "a.txt", "url": "x"}]}, "'a.txt' is no name of a table"),
        ({"files": [{"name": "a.tsv"}]}, "a.tsv: give url, or page"),
        ({"files": []}, "give at least one file"),
        ({"files": [{"name": "a.tsv", "url": "x"}] * 2}, "each with a name of its own"),
        ({"labels": None}, "give columns.label and labels, or neither"),
        ({"labels": {"positive": [True], "negative": []}}, r"labels.positive\[0\] is True, must be text"),
        ({"base": 2}, "base is 2, use 0, 1"),
        ({"group_pattern": "a"}, "group_pattern has no group"),
        ({"group_pattern": "("}, "group_pattern is no regular expression"),
        ({"tite": "x"}, "unknown field tite"),
    ],
)  # fmt: skip
def test_wrong_manifests(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GenomeLMError, match=rf"m.yaml: .*{message}"):
        variant_manifest(str(made(tmp_path, [], **changes)))


def test_a_name_that_no_set_has() -> None:
    with pytest.raises(GenomeLMError, match="traitgim: no set of this name; there are brca1, caduceus_eqtl"):
        variant_manifest("traitgim")


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (["chr1\tx\tA\tC\t1"], {}, "set.tsv: row 1: pos is 'x', no position"),
        ([row(ONE), "chr1\t5\tÄ\tC\t1"], {}, "set.tsv: row 2: an allele has letters that are none"),
        (["chr1\t5\tA"], {}, "set.tsv: record 1: 3 fields, but 5 columns"),
        ([row(ONE, "2"), "\t5\tA\tC\t1"], {}, "no variant of the set here: 1 whose label .*, 1 without a place"),
        ([], {}, "no variant of the set here: no rows"),
        ([row(ONE)], {"keep": {"depth": ["1"]}}, "set.tsv: no column depth; there are contig, pos"),
        ([row(v._replace(contig="chrQ")) for v in VARIANTS], {}, "none of its contigs is in .*'chrQ'.*of tiny"),
        ([row(v._replace(start=v.start + 1)) for v in VARIANTS], {}, "do not fit .*REF is not what.*of tiny"),
        ([row(ONE._replace(start=10_000))], {}, "1 of 1 variants do not fit .*beyond the contig"),
        ([row(ONE, "high")], {"labels": None, "columns": {
            "contig": "contig", "position": "pos", "alt": "alt", "effect": "y"}}, "row 1: y is 'high', no number"),
    ],
)  # fmt: skip
def test_wrong_files(
    store: GenomeStore, tmp_path: Path, rows: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenomeLMError, match=message):
        read_made(tmp_path, store, rows, **changes)


def test_a_damaged_workbook(store: GenomeStore, tmp_path: Path) -> None:
    (whole,) = brca1(tmp_path)
    for data in (b"", b"PK\x03\x04", whole.read_bytes()[:-200], whole.read_bytes().replace(b"worksheets", b"work")):
        (tmp_path / "b.xlsx").write_bytes(data)
        with pytest.raises(GenomeLMError, match=r"b.xlsx: can't read the table"):
            read_variant_set(variant_manifest("brca1"), [tmp_path / "b.xlsx"], store)


def test_a_draw_is_a_part_in_order(store: GenomeStore, tmp_path: Path) -> None:
    rows = [row(snv("chr1", start), str(start % 2)) for start in range(20, 120)]
    manifest = variant_manifest(str(made(tmp_path, rows)))
    whole, some = (read_variant_set(manifest, [tmp_path / "set.tsv"], store, most, seed=3) for most in (None, 30))
    places = [whole.variants.index(v) for v in some.variants]
    assert len(places) == 30
    assert places == sorted(set(places))
    np.testing.assert_array_equal(some.labels, whole.labels[places])
    assert whole.sha256 != some.sha256
