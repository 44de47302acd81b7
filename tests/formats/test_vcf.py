import gzip
import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pysam
import pytest
import torch
from typer.testing import CliRunner

import genome_lm
from genome_lm.checkpoint import save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.formats import parts
from genome_lm.formats.vcf import Survey
from genome_lm.formats.vcf_shards import Shard, gather_tables, gather_vcf
from genome_lm.genome import GenomeStore, build_store
from genome_lm.inference import Layout
from genome_lm.jobs import score_variants as vcf_job
from genome_lm.model import HyenaLM
from genome_lm_cli.main import app
from tests.conftest import Genome

DATA = Path(__file__).parents[1] / "data" / "chr22"
FASTA, REAL = DATA / "chr22_20000001-20020000.fa", DATA / "chr22_20000001-20020000.common_snps.vcf"
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
HEADER = (
    '##fileformat=VCFv4.2\n##contig=<ID=one,length=40000>\n##INFO=<ID=AC,Number=A,Type=Integer,Description="x">\n'
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    torch.manual_seed(0)  # where p is the least that there can be, six digits of it are below that
    model = HyenaLM(ModelConfig(d_model=8, n_layer=2, max_length=96, filter_order=8)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8)
    save_checkpoint(path, model, {})
    return path


@pytest.fixture(scope="module")
def chr22(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    return build_store([FASTA], tmp_path_factory.mktemp("chr22") / "g.zarr")


def score(checkpoint: Path, store: GenomeStore, vcf: Path, out: Path, *options: object) -> str:
    arguments = ["score", checkpoint, "--genome", store.path, "--vcf", vcf, "--out", out, *options]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None:
        raise result.exception
    return result.output


def records(path: Path) -> list[pysam.VariantRecord]:
    with pysam.VariantFile(str(path)) as file:
        return list(file)


def base(genome: Genome, start: int, length: int = 1) -> str:
    return genome.store["one", start : start + length].tobytes().decode()


def other(letter: str) -> str:
    return "A" if letter != "A" else "C"


def test_real_variants(checkpoint: Path, chr22: GenomeStore, tmp_path: Path) -> None:
    out = tmp_path / "scored.vcf.gz"
    score(checkpoint, chr22, REAL, out)
    given, scored = records(REAL), records(out)
    assert [str(r).split("\t")[:7] for r in scored] == [str(r).split("\t")[:7] for r in given]
    assert {len(r.ref) - len(r.alts[0]) for r in scored} > {0}, "no indels in the data"
    variants = [(r.chrom, r.start, r.ref, alt) for r in given for alt in r.alts]
    scores = genome_lm.load(checkpoint).score_variants(chr22, variants)
    np.testing.assert_allclose([x for r in scored for x in r.info["GLM_LLR"]], scores.llr, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([r.info["GLM_LP_REV"] for r in scored], scores.site_reverse, rtol=1e-4)
    assert [tuple(r.info["GLM_CTX"]) for r in scored] == list(map(tuple, scores.context))
    assert not any("GLM_SKIP" in r.info for r in scored)
    with pysam.VariantFile(str(out)) as indexed:
        somewhere = scored[len(scored) // 2]
        assert [r.pos for r in indexed.fetch(somewhere.chrom, somewhere.start, somewhere.stop)] == [somewhere.pos]


def test_readouts(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    a, c = base(genome, 99), base(genome, 199, 3)
    lines = f"one\t100\ttwo\t{a}\t{other(a)},*\t.\t.\t.\none\t200\tdel\t{c}\t{c[0]}\t.\t.\t.\n"
    (tmp_path / "in.vcf").write_text(HEADER + COLUMNS + lines)
    asked = ("--readout", "delta,l2,cosine,entropy", "--layer", "1")
    score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf.gz", *asked)
    variants = [("one", 99, a, other(a)), ("one", 199, c, c[0])]
    scores = genome_lm.load(checkpoint).score_variants(genome.store, variants, readouts=asked[1].split(","), layer=1)
    scored = records(tmp_path / "out.vcf.gz")
    for name in ("delta", "l2_site", "l2_flank", "cosine_site", "cosine_flank", "entropy"):
        of_first, of_second = (record.info[f"GLM_{name.upper()}"] for record in scored)
        np.testing.assert_allclose([of_first[0], of_second[0]], scores.readout(name), rtol=1e-3, atol=1e-7)
        assert of_first[1] is None
    with pysam.VariantFile(str(tmp_path / "out.vcf.gz")) as file:
        assert "nats" in file.header.info["GLM_ENTROPY"].description
        assert "layer=1" in str(file.header)
    for name, read in (("a.tsv", partial(pd.read_csv, sep="\t")), ("a.parquet", pd.read_parquet)):
        options = (*asked, "--table", tmp_path / name, "--force")
        score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf.gz", *options)
        frame = read(tmp_path / name)
        assert frame[["start", "alt"]].values.tolist() == [[99, other(a)], [99, "*"], [199, c[0]]]
        assert frame["reason"].fillna("").tolist() == ["", "overlapping_deletion", ""]
        np.testing.assert_allclose(frame["l2_flank"].dropna(), scores.readout("l2_flank"), rtol=1e-3)
        np.testing.assert_allclose(frame["llr_reverse"].dropna(), scores.llr_reverse, rtol=1e-3)
    # Scored again without them, they are gone.
    score(checkpoint, genome.store, tmp_path / "out.vcf.gz", tmp_path / "again.vcf")
    assert "GLM_L2" not in (tmp_path / "again.vcf").read_text()
    with pytest.raises(GenomeLMError, match="no readout 'l3'"):
        score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "o.vcf", "--readout", "l3")


def test_calibration(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    a, c, bed = base(genome, 99), base(genome, 199, 3), tmp_path / "c.bed"
    lines = f"one\t100\ttwo\t{a}\t{other(a)},*\t.\t.\t.\none\t200\tdel\t{c}\t{c[0]}\t.\t.\t.\n"
    (tmp_path / "in.vcf").write_text(HEADER + COLUMNS + lines)
    bed.write_text("one\t0\t5000\tcoding\n")
    asked = ("--calibrate", 20, "--classes", bed)
    score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf.gz", *asked)
    first, second = records(tmp_path / "out.vcf.gz")
    assert first.info["GLM_LLR_Z"][1] is None
    assert 1 / 21 <= first.info["GLM_LLR_P"][0] <= 1
    assert abs(second.info["GLM_LLR_Z"][0]) < 10
    kept = sorted((tmp_path / "c.bed.calibration").glob("*.npy"))
    assert len(kept) == 2
    backgrounds = [np.load(path) for path in kept]
    llr = second.info["GLM_LLR"][0]
    wanted = [(llr - each.mean()) / each.std(ddof=1) for each in backgrounds]
    assert min(abs(each - second.info["GLM_LLR_Z"][0]) for each in wanted) < 1e-3
    for options, message in ((asked[:2], "go together"), (("--calibrate", 3, *asked[2:]), "at least 20")):
        with pytest.raises(GenomeLMError, match=message):
            score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "b.vcf", *options)


def test_every_kind_of_alt_passes_through(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    a, t, c = base(genome, 99), base(genome, 109), base(genome, 199, 3)
    lines = [
        f"one\t100\tsnv\t{a}\t{other(a)}\t30\tPASS\tAC=3",
        f"one\t110\tmany\t{t}\t{other(t)},*,<DEL>,{t}]one:5]\t.\t.\tAC=1,2,3,4",
        f"one\t120\tnone\t{base(genome, 119)}\t.\t.\t.\t.",
        f"one\t130\tundeclared\t{base(genome, 129).lower()}\tN\t.\tweird\tXX=7;FLAG",
        f"one\t140\twrong\t{other(base(genome, 139))}\tG\t.\t.\t.",
        f"one\t200\tmnv\t{c}\tTTT\t.\t.\t.",
        f"one\t200\tdeletion\t{c}\t{c[0]}\t.\t.\t.",
        f"nowhere\t200\tstrange\t{c}\t{c[0]}\t.\t.\t.",
    ]
    vcf = tmp_path / "in.vcf"
    vcf.write_text(HEADER + COLUMNS + "\n".join(lines) + "\n")
    summary = json.loads(score(checkpoint, genome.store, vcf, tmp_path / "out.vcf.gz", "--json"))
    scored = {r.id: r for r in records(tmp_path / "out.vcf.gz")}
    assert list(scored) == [line.split("\t")[2] for line in lines]
    assert scored["many"].info["GLM_SKIP"] == (".", "overlapping_deletion", "no_end", ".")
    assert [x is None for x in scored["many"].info["GLM_LLR"]] == [False, True, True, False]
    reasons = {name: r.info.get("GLM_SKIP") for name, r in scored.items()}
    assert (reasons["snv"], reasons["mnv"], reasons["deletion"]) == (None, None, None)
    assert reasons["none"] == ("no_alt",)
    assert reasons["undeclared"] == ("alt_ambiguous",)
    assert reasons["wrong"] == ("ref_mismatch",)
    assert reasons["strange"] == ("unknown_contig",)
    assert "GLM_LLR" not in scored["wrong"].info
    assert scored["snv"].info["AC"] == (3,)
    assert scored["undeclared"].info["XX"] == "7"
    assert (summary["records"], summary["alleles"], summary["scored"]) == (8, 11, 5)
    assert sum(summary["skipped"].values()) == 6
    assert "one:140 wrong has REF" in summary["first_mismatch"]
    # Scored again, it says the same once.
    score(checkpoint, genome.store, tmp_path / "out.vcf.gz", tmp_path / "again.vcf.gz")
    assert gzip.open(tmp_path / "again.vcf.gz").read() == gzip.open(tmp_path / "out.vcf.gz").read()


def test_unsorted_is_sorted(checkpoint: Path, chr22: GenomeStore, tmp_path: Path) -> None:
    lines = REAL.read_text().splitlines()
    body = [line for line in lines if not line.startswith("#")]
    (tmp_path / "u.vcf").write_text("\n".join([line for line in lines if line.startswith("#")] + body[::-1]) + "\n")
    said = score(checkpoint, chr22, tmp_path / "u.vcf", tmp_path / "u.vcf.gz")
    assert "not in the order of the genome" in said
    score(checkpoint, chr22, REAL, tmp_path / "s.vcf.gz")
    one, two = (records(tmp_path / name) for name in ("u.vcf.gz", "s.vcf.gz"))
    assert [r.id for r in one] == [r.id for r in two]
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left.info["GLM_LLR"], right.info["GLM_LLR"], rtol=1e-3, atol=1e-4)


def test_shards_gather_to_the_whole(
    checkpoint: Path, chr22: GenomeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vcf_job, "RECORDS", 7)
    score(checkpoint, chr22, REAL, tmp_path / "whole.vcf.gz")
    for number in (3, 1, 2):
        score(checkpoint, chr22, REAL, tmp_path / "all.vcf.gz", "--shard", f"{number}/3")
    shards = sorted(tmp_path.glob("all.shard-*-of-3.vcf.gz"), reverse=True)
    gathered = CliRunner().invoke(app, ["gather", *map(str, shards), "--out", str(tmp_path / "all.vcf.gz"), "--json"])
    count = json.loads(gathered.output)["rows"]
    one, two = records(tmp_path / "all.vcf.gz"), records(tmp_path / "whole.vcf.gz")
    assert count == len(one) == len(two)
    assert [r.id for r in one] == [r.id for r in two]
    assert (tmp_path / "all.vcf.gz.tbi").exists()
    with pysam.VariantFile(str(tmp_path / "all.vcf.gz")) as file:
        assert "genome_lm_shard" not in str(file.header)
    with pytest.raises(GenomeLMError, match="shards missing: 1/3"):
        gather_vcf(shards[:2], tmp_path / "b.vcf.gz")
    with pytest.raises(GenomeLMError, match="given twice"):
        gather_vcf([*shards, shards[0]], tmp_path / "b.vcf.gz")
    with pytest.raises(GenomeLMError, match="not a shard"):
        gather_vcf([tmp_path / "whole.vcf.gz"], tmp_path / "b.vcf.gz")
    with pytest.raises(GenomeLMError, match="use i/n"):
        score(checkpoint, chr22, REAL, tmp_path / "c.vcf.gz", "--shard", "0/3")
    score(checkpoint, chr22, REAL, tmp_path / "all.vcf.gz", "--shard", "1/3", "--flank", 5, "--force")
    with pytest.raises(GenomeLMError, match=r"shard-2-of-3\.vcf\.gz: of another job than .*shard-1-of-3"):
        gather_vcf(shards, tmp_path / "b.vcf.gz")


@pytest.mark.parametrize("lines", [4, 1, 0])
def test_tables_of_shards_gather_to_the_whole(checkpoint: Path, genome: Genome, tmp_path: Path, lines: int) -> None:
    places = range(99, 99 + 20 * lines, 20)
    body = [f"one\t{n + 1}\t.\t{base(genome, n)}\t{other(base(genome, n))},*\t.\t.\t.\n" for n in places]
    vcf, out, table = tmp_path / "in.vcf", tmp_path / "all.vcf", tmp_path / "all.parquet"
    vcf.write_text("".join([HEADER, COLUMNS, *body]))
    score(checkpoint, genome.store, vcf, out, "--table", tmp_path / "whole.tsv")
    for number in (1, 2, 3):
        score(checkpoint, genome.store, vcf, out, "--table", table, "--shard", f"{number}/3")
    shards = [tmp_path / f"all.shard-{number}-of-3.parquet" for number in (2, 3, 1)]
    if lines:
        texts = [path.with_suffix(".vcf") for path in shards]
        texts[1].write_text("".join(texts[1].read_text().splitlines(keepends=True)[:-1]))
        with pytest.raises(GenomeLMError, match=f"hold {lines - 1} records of {lines}"):
            gather_vcf(texts, tmp_path / "joined.vcf")
    for suffix in ("tsv", "parquet"):
        joined = tmp_path / f"joined.{suffix}"
        asked = ["--out", joined, "--figure", tmp_path / f"{suffix}.svg", "--json"]
        said = CliRunner().invoke(app, ["gather", *map(str, [*shards, *asked])])
        assert json.loads(said.output)["rows"] == 2 * lines
        assert json.loads(said.output)["figure"] == str(tmp_path / f"{suffix}.svg")
        assert f"<!-- {lines} of {2 * lines} alleles scored -->" in (tmp_path / f"{suffix}.svg").read_text()
    one, two = (pd.read_csv(tmp_path / f"{name}.tsv", sep="\t") for name in ("whole", "joined"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-3, atol=1e-4)
    assert pd.read_parquet(joined).columns.tolist() == one.columns.tolist()
    with pytest.raises(GenomeLMError, match="shards missing: 1/3"):
        gather_tables(shards[:2], joined)
    with pytest.raises(GenomeLMError, match=r"joined\.parquet: not a shard"):
        gather_tables([joined], joined)
    with pytest.raises(GenomeLMError, match="end it in"):
        score(checkpoint, genome.store, vcf, out, "--table", tmp_path / "b.tsv", "--shard", "1/3", "--force")
    score(checkpoint, genome.store, vcf, out, "--table", table, "--shard", "1/3", "--flank", 5, "--force")
    with pytest.raises(GenomeLMError, match=r"shard-2-of-3\.parquet: of another job than"):
        gather_tables(shards, joined)
    shards[0].write_bytes(b"PAR1")
    with pytest.raises(GenomeLMError, match=r"shard-2-of-3\.parquet: not a table of a shard"):
        gather_tables(shards, joined)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--calibrate", 20, "--classes"), "one\t0\t{end}\tcoding\n"),
        (("--annotation",), "one\t.\tCDS\t1\t{end}\t.\t+\t0\tID=g\n"),
    ],
    ids=["classes", "annotation"],
)
def test_shards_by_other_files_of_one_name_are_not_joined(
    checkpoint: Path, genome: Genome, tmp_path: Path, options: tuple[object, ...], text: str
) -> None:
    vcf, out, table = tmp_path / "in.vcf", tmp_path / "all.vcf", tmp_path / "all.parquet"
    vcf.write_text(HEADER + COLUMNS + f"one\t100\t.\t{base(genome, 99)}\t*\t.\t.\t.\n" * 2)
    for number, end in ((1, 300), (2, 600)):
        (given := tmp_path / str(end) / "file").parent.mkdir()
        given.write_text(text.format(end=end))
        score(checkpoint, genome.store, vcf, out, "--table", table, "--shard", f"{number}/2", *options, given)
    for gather, name in ((gather_vcf, out), (gather_tables, table)):
        shards = [name.with_name(f"all.shard-{number}-of-2{name.suffix}") for number in (1, 2)]
        with pytest.raises(GenomeLMError, match=f"shard-2-of-2{name.suffix}: of another job than"):
            gather(shards, name)
        assert not name.exists()


def test_facts_of_a_shard_are_read_as_they_were_written() -> None:
    for facts in (Shard(1, 3, 1_000, True, "ab"), Shard(12, 12, 0, False, "cd")):
        assert Shard.parse(facts.header_line()) == facts
    line = Shard(1, 3, 1_000, True, "ab").header_line()
    for damaged in (line.replace("count=3", "count=x"), line.replace("sorted=yes", "sorted=so"), line.split()[0]):
        with pytest.raises(GenomeLMError, match="damaged header line"):
            Shard.parse(damaged)


def test_contig_names(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    a = base(genome, 99)
    vcf, table = tmp_path / "in.vcf", tmp_path / "names.tsv"
    vcf.write_text(f"##fileformat=VCFv4.2\n{COLUMNS}chrone\t100\t.\t{a}\t{other(a)}\t.\t.\t.\n")
    with pytest.raises(
        GenomeLMError, match=r"'chrone' .* 'one' .*--contig-names add-chr or strip-chr, or --contig-map"
    ):
        score(checkpoint, genome.store, vcf, tmp_path / "out.vcf.gz")
    score(checkpoint, genome.store, vcf, tmp_path / "out.vcf.gz", "--contig-names", "strip-chr")
    table.write_text("# mine\ttheirs\nchrone\tone\n")
    score(checkpoint, genome.store, vcf, tmp_path / "mapped.vcf.gz", "--contig-map", table)
    assert [str(r) for r in records(tmp_path / "out.vcf.gz")] == [str(r) for r in records(tmp_path / "mapped.vcf.gz")]
    assert records(tmp_path / "out.vcf.gz")[0].chrom == "chrone"
    table.write_text("chrone\tone\nchrone\ttwo\n")
    with pytest.raises(GenomeLMError, match=r"names\.tsv: line 2: chrone stands for one"):
        score(checkpoint, genome.store, vcf, tmp_path / "other.vcf.gz", "--contig-map", table)


def test_a_vcf_of_another_assembly(checkpoint: Path, chr22: GenomeStore, tmp_path: Path) -> None:
    shifted = [line.split("\t") for line in REAL.read_text().splitlines()]
    text = "\n".join(
        "\t".join([f[0], str(int(f[1]) + 7), *f[2:]]) if not f[0].startswith("#") else "\t".join(f) for f in shifted
    )
    (tmp_path / "shifted.vcf").write_text(text + "\n")
    with pytest.raises(
        GenomeLMError, match=r"shifted\.vcf: .* of .* REFs .*: 22:20000001-21000000:\d+ rs\d+ has REF"
    ):
        score(checkpoint, chr22, tmp_path / "shifted.vcf", tmp_path / "out.vcf.gz")
    (tmp_path / "far.vcf").write_text(
        f"##fileformat=VCFv4.2\n{COLUMNS}22:20000001-21000000\t30000\t.\tA\tC\t.\t.\t.\n"
    )
    with pytest.raises(GenomeLMError, match="30000 lies outside of the contig's 20,000 bases"):
        score(checkpoint, chr22, tmp_path / "far.vcf", tmp_path / "out.vcf.gz")
    assert not list(tmp_path.glob("*.gz"))


def packed(path: Path, kind: str) -> bytes:
    if kind == "gzip":
        path.write_bytes(gzip.compress(REAL.read_bytes()))
    else:
        pysam.tabix_compress(str(REAL), str(path), force=True)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["gzip", "bgzip"])
def test_compressed_and_cut_off(checkpoint: Path, chr22: GenomeStore, tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / "in.vcf.gz", tmp_path / "out.vcf.gz"
    whole = packed(path, kind)
    score(checkpoint, chr22, path, out, "--strand", "forward")
    assert len(records(out)) == len(records(REAL))
    assert "GLM_LLR_REV" not in records(out)[0].info
    for cut in (whole[: len(whole) // 2], whole[:-28]):
        path.write_bytes(cut)
        with pytest.raises(GenomeLMError, match=r"in\.vcf\.gz: .*cut off"):
            score(checkpoint, chr22, path, tmp_path / "cut.vcf.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.vcf.gz", "out.vcf.gz", "out.vcf.gz.tbi"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable VCF"),
        (b"hello\n", "not a readable VCF"),
        ((HEADER + COLUMNS + "one\tx\t.\tA\tC\t.\t.\t.\n").encode(), "record 1 .*can't be read"),
        ((HEADER + COLUMNS + "one\t5\t.\tA\n").encode(), "record 1 .*can't be read"),
        ((HEADER + COLUMNS + "a,b\t5\t.\tA\tC\t.\t.\t.\n").encode(), "record 1 .*CHROM is 'a,b'"),
        (None, "can't read: No such file"),
    ],
)
def test_bad_files(checkpoint: Path, genome: Genome, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.vcf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GenomeLMError, match=rf"bad\.vcf: {message}"):
        score(checkpoint, genome.store, path, tmp_path / "out.vcf.gz")
    assert not (tmp_path / "out.vcf.gz").exists()


def test_no_records(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "empty.vcf").write_text(HEADER + COLUMNS)
    assert "0 records" in score(checkpoint, genome.store, tmp_path / "empty.vcf", tmp_path / "out.vcf.gz")
    assert records(tmp_path / "out.vcf.gz") == []


def test_crlf(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    a = base(genome, 99)
    text = f"{HEADER}{COLUMNS}one\t100\t.\t{a}\t{other(a)}\t.\t.\t.\n"
    (tmp_path / "in.vcf").write_bytes(text.replace("\n", "\r\n").encode())
    score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf.gz")
    assert "GLM_LLR" in records(tmp_path / "out.vcf.gz")[0].info
    assert b"\r" not in gzip.open(tmp_path / "out.vcf.gz").read()


def test_outputs_are_guarded(checkpoint: Path, chr22: GenomeStore, tmp_path: Path) -> None:
    out = tmp_path / "out.vcf.gz"
    out.write_text("mine")
    with pytest.raises(GenomeLMError, match="--force"):
        score(checkpoint, chr22, REAL, out)
    assert out.read_text() == "mine"
    score(checkpoint, chr22, REAL, out, "--force")
    assert len(records(out)) == len(records(REAL))
    with pytest.raises(GenomeLMError, match=r"end it in \.vcf\.gz, \.vcf, \.bcf"):
        score(checkpoint, chr22, REAL, tmp_path / "out.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(GenomeLMError, match="can't write there"):
        score(checkpoint, chr22, REAL, tmp_path / "file" / "out.vcf.gz")


@pytest.fixture
def unfinished(
    checkpoint: Path, chr22: GenomeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Begins a scoring that stops when it has two parts."""
    monkeypatch.setattr(vcf_job, "RECORDS", 9)
    real = parts.PartsFolder.write

    def stop(self: parts.PartsFolder, number: int, table: object) -> None:
        if number == 2:
            raise KeyboardInterrupt
        real(self, number, table)  # type: ignore[arg-type]

    def begin(*options: object) -> Path:
        out = tmp_path / "out.vcf.gz"
        with monkeypatch.context() as patch:
            patch.setattr(parts.PartsFolder, "write", stop)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                score(checkpoint, chr22, REAL, out, *options)
        return out

    return begin


def test_what_is_left_goes_into_the_same_job_only(
    unfinished: Callable[..., Path], checkpoint: Path, chr22: GenomeStore, tmp_path: Path
) -> None:
    out, changed = unfinished(), tmp_path / "changed.vcf"
    changed.write_text(REAL.read_text().replace("\tT\tC\t", "\tT\tA\t", 1))
    for vcf, options, named in (
        (changed, (), "input_sha256"),
        (REAL, ("--strand", "forward"), "strand"),
        (REAL, ("--flank", 5), "layout"),
        (REAL, ("--shard", "1/2"), None),  # a folder of its own
    ):
        if named is None:
            assert "from an earlier run" not in score(checkpoint, chr22, vcf, out, *options)
            continue
        with pytest.raises(GenomeLMError, match=rf"another job \(other {named}\).*--force"):
            score(checkpoint, chr22, vcf, out, *options)
    # Columns that scores don't depend on may be others; what comes out has the new ones.
    changed.write_text(REAL.read_text().replace("\tPASS\t", "\tLATER\t"))
    said = json.loads(score(checkpoint, chr22, changed, out, "--json"))
    assert said["resumed"] == 2 < said["parts"]
    assert said["scored"] == len(records(REAL)) == len(records(out))
    assert {filter_ for record in records(out) for filter_ in record.filter} == {"LATER"}
    assert not list(tmp_path.glob("*.parts"))


def test_force_starts_another_job(unfinished: Callable[..., Path], checkpoint: Path, chr22: GenomeStore) -> None:
    out = unfinished()
    said = json.loads(score(checkpoint, chr22, REAL, out, "--strand", "forward", "--force", "--json"))
    assert said["resumed"] == 0
    assert "GLM_LLR_REV" not in records(out)[0].info


def test_a_shard_goes_on(unfinished: Callable[..., Path], checkpoint: Path, chr22: GenomeStore) -> None:
    out = unfinished("--shard", "2/2")
    assert "(2 of " in score(checkpoint, chr22, REAL, out, "--shard", "2/2")
    score(checkpoint, chr22, REAL, out, "--shard", "1/2")
    assert gather_vcf(sorted(out.parent.glob("*.shard-*.gz")), out) == len(records(REAL))


@pytest.mark.parametrize("strides", [50, 3_000, 100_000])
@pytest.mark.parametrize("layout", [Layout(768, 128, 128), Layout(27_000, 1_024, 4_096)])
def test_parts_are_of_like_cost(strides: int, layout: Layout) -> None:
    """Many records where windows are shared, few where each needs a long one of its own."""
    survey = Survey(None, str, layout.stride, [], {}, 100_000, 100_000, strides)  # type: ignore[arg-type]
    rows = vcf_job._rows(survey, 50_001, layout)
    positions = rows[0] * (strides * layout.window / 100_000 + layout.flank)
    assert sum(rows) == 50_001
    assert set(rows[:-1]) == {rows[0]}
    assert rows[0] == vcf_job.RECORDS or 0.9 < positions / vcf_job.PART_POSITIONS <= 1
    assert vcf_job._rows(survey, 0, layout) == []


@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_a_pipe(checkpoint: Path, chr22: GenomeStore, tmp_path: Path, kind: str) -> None:
    """As `<(bcftools view …)` makes them: it can be read only once."""
    source, pipe = tmp_path / "in.vcf.gz", tmp_path / "pipe"
    source.write_bytes(REAL.read_bytes() if kind == "plain" else packed(source, "gzip"))
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", 'cat "$1" > "$2"', "-", source, pipe]):
        score(checkpoint, chr22, pipe, tmp_path / "out.vcf.gz")
    assert len(records(tmp_path / "out.vcf.gz")) == len(records(REAL))


def odd(genome: Genome) -> bytes:
    """Records that htslib changes, or can't read."""
    header = (
        "##fileformat=VCFv4.2\n##contig=<ID=one,length=40000>\n"
        '##INFO=<ID=TOT,Number=1,Type=Integer,Description="x">\n##INFO=<ID=PV,Number=1,Type=Float,Description="p">\n'
        '##FORMAT=<ID=HS,Number=1,Type=Integer,Description="g">\n##odd=<\xfc>\n' + COLUMNS.rstrip("\n")
    )
    records = (
        "rs1\t{}\t{}\t12345678.9\t.\tTOT=3000000000;PV=1.2e-48;AF=0.123456789\tGT:HS\t0/1:4000000000",
        "\xff\xfe\t{}\t{}\t.\tq10\tTOT=text;CLN=M\xfcller;GLM_P=0.001;FLAG;;X\tXX\t7",
        ".\t{}\t{}\t1e0\tPASS;a\t.\tGT\t./.",
        "last\t{}\t{}\t007\t.\tEND=600000000;TOT=+5\t.\t",
    )
    lines = [f"one\t{100 + 10 * i}\t{text}" for i, text in enumerate(records)]
    letters = [base(genome, 99 + 10 * i) for i in range(len(records))]
    lines = [line.format(letter, other(letter)) for line, letter in zip(lines, letters, strict=True)]
    return "\n".join([f"{header}\tFORMAT\ts\xe9", *lines, ""]).encode("latin-1")


@pytest.mark.parametrize("name", ["out.vcf.gz", "out.vcf", "-"])
def test_what_is_not_scored_stays_as_it_was(checkpoint: Path, genome: Genome, tmp_path: Path, name: str) -> None:
    given, out = tmp_path / "in.vcf", Path(name) if name == "-" else tmp_path / name
    given.write_bytes(odd(genome))
    arguments = ["score", checkpoint, "--genome", genome.store.path, "--vcf", given, "--out", out]
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    written = result.stdout_bytes if name == "-" else out.read_bytes()
    lines = (gzip.decompress(written) if name.endswith(".gz") else written).split(b"\n")
    records = odd(genome).split(b"\n")
    ours = re.compile(rb"(;|(?<=\t))GLM_(LLR|LP|CTX|N)[^;\t]*")
    kept = [line for line in lines if not line.startswith((b"##INFO=<ID=GLM_", b"##genome_lm_"))]
    assert len(kept) == len(records)
    for line, record in zip(kept, records, strict=True):
        assert ours.sub(b"", line) == record.replace(b"PASS;a\t.\t", b"PASS;a\t\t")
        assert (b"GLM_LLR=" in line) == record.startswith(b"one")
    assert b"4 of 4 alleles scored" in result.stderr_bytes if name == "-" else "4 of 4" in result.output
    # The END of the last record takes more than a .tbi index.
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix in (".csi", ".tbi")) == (
        ["out.vcf.gz.csi"] if name.endswith(".gz") else []
    )


def test_the_users_own_fields_are_kept_or_refused(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    a, own = base(genome, 99), '##INFO=<ID=GLM_LLR,Number=1,Type=Float,Description="mine">\n'
    for header, info, place in (("", "GLM_CTX=3", "one:100"), (own, ".", "its header")):
        (tmp_path / "in.vcf").write_text(f"{HEADER}{header}{COLUMNS}one\t100\t.\t{a}\t{other(a)}\t.\t.\t{info}\n")
        with pytest.raises(GenomeLMError, match=rf"in\.vcf: INFO has GLM_.* \(first in {place}\).* rename it first"):
            score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["in.vcf"]


def test_bcf_in_and_out(checkpoint: Path, chr22: GenomeStore, tmp_path: Path) -> None:
    out, again = tmp_path / "out.bcf", tmp_path / "again.vcf"
    score(checkpoint, chr22, REAL, out)
    assert (tmp_path / "out.bcf.csi").exists()
    score(checkpoint, chr22, out, again)
    with pysam.VariantFile(str(out)) as file:
        somewhere = list(file)[3]
        assert [r.pos for r in file.fetch(somewhere.chrom, somewhere.start, somewhere.stop)] == [somewhere.pos]
    for one, two in zip(records(out), records(again), strict=True):
        np.testing.assert_allclose(one.info["GLM_LLR"], two.info["GLM_LLR"])
        assert str(one).split("\t")[:7] == str(two).split("\t")[:7]


@pytest.mark.parametrize(
    ("info", "message"),
    [("AC=3000000000", "one:100 here has a value that BCF can't hold"), ("XX=1", "its header lacks ##INFO=<ID=XX")],
)
def test_bcf_is_refused_where_it_loses_something(
    checkpoint: Path, genome: Genome, tmp_path: Path, info: str, message: str
) -> None:
    a = base(genome, 99)
    (tmp_path / "in.vcf").write_text(f"{HEADER}{COLUMNS}one\t100\there\t{a}\t{other(a)}\t.\t.\t{info}\n")
    with pytest.raises(GenomeLMError, match=rf"in\.vcf: {message}.* write \.vcf\.gz"):
        score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.bcf")
    assert [path.name for path in tmp_path.iterdir()] == ["in.vcf"]


def test_no_index_holds_it(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    a = base(genome, 99)
    (tmp_path / "in.vcf").write_text(f"{HEADER}{COLUMNS}one\t100\t.\t{a}\t{other(a)}\t.\t.\tEND=3000000000\n")
    with pytest.raises(GenomeLMError, match=r"in\.vcf: one:100 reaches to 3,000,000,000; .*: write \.vcf"):
        score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf.gz")
    score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf")


def test_contigs_that_the_header_lacks_are_declared(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    lines = [f"{c}\t100\t.\t{base(genome, 99)}\tN\t.\t.\t.\n" for c in ("one", "other")]
    (tmp_path / "in.vcf").write_text(f"##fileformat=VCFv4.2\n{COLUMNS}" + "".join(lines))
    score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf")
    text = (tmp_path / "out.vcf").read_text()
    assert "##contig=<ID=one,length=40000>\n##contig=<ID=other>\n" in text


@pytest.mark.parametrize("name", ["out.vcf.gz", "out.vcf", "out.bcf"])
def test_a_full_disk(checkpoint: Path, chr22: GenomeStore, tmp_path: Path, small_disk: Path, name: str) -> None:
    big, noise = tmp_path / "big.vcf", np.random.default_rng(0).bytes(1_000_000).hex()
    text = REAL.read_text().replace("\tPASS\t.", f"\tPASS\tNOISE={noise}", 1)
    big.write_text(text.replace("#CHROM", '##INFO=<ID=NOISE,Number=1,Type=String,Description="x">\n#CHROM', 1))
    with pytest.raises(GenomeLMError, match=r"out\.\S*: No space left on device"):
        score(checkpoint, chr22, big, small_disk / name, "--strand", "forward")
    assert [path.name for path in small_disk.iterdir()] == [f"{name}.parts"]


def test_bgzip_that_is_cut_off_in_a_pipe(checkpoint: Path, chr22: GenomeStore, tmp_path: Path) -> None:
    source, pipe = tmp_path / "in.vcf.gz", tmp_path / "pipe"
    source.write_bytes(packed(source, "bgzip")[:-28])
    os.mkfifo(pipe)
    with (
        subprocess.Popen(["sh", "-c", 'cat "$1" > "$2"', "-", source, pipe]),
        pytest.raises(GenomeLMError, match=r"pipe: .*the bgzip end marker is missing"),
    ):
        score(checkpoint, chr22, pipe, tmp_path / "out.vcf.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.vcf.gz", "pipe"]


def test_columns_between_blanks(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "in.vcf").write_text((HEADER + COLUMNS).replace("\t", " "))
    with pytest.raises(GenomeLMError, match=r"in\.vcf: not a readable VCF: between the columns .* must be tabs"):
        score(checkpoint, genome.store, tmp_path / "in.vcf", tmp_path / "out.vcf.gz")


def test_blank_lines_of_a_header_are_left_out(checkpoint: Path, genome: Genome, tmp_path: Path) -> None:
    """The library that makes the index takes one for the end of the header."""
    path, out = tmp_path / "in.vcf", tmp_path / "out.vcf.gz"
    path.write_text(HEADER.replace("\n", "\n\n", 1) + COLUMNS + "one\t5\t.\tA\tC\t.\t.\t.\n")
    score(checkpoint, genome.store, path, out)
    assert len(records(out)) == 1
