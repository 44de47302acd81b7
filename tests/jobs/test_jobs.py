import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import genome_lm
from genome_lm.alphabet import reverse_complement
from genome_lm.errors import GenomeLMError
from genome_lm.formats import parts
from genome_lm.formats.parts import PARTS
from genome_lm.genome import Interval, Tiling
from genome_lm.inference import Recipe
from genome_lm.jobs import FastaSource, GenomeSource, embed_to_file, gather, plan, shard_path
from genome_lm.jobs.run import Job, run_job
from tests.conftest import Genome, biased_dna

SUFFIXES = (".npz", ".parquet", ".zarr", ".h5ad")


@pytest.fixture(scope="module")
def model(run: Path) -> genome_lm.GenomeLM:
    return genome_lm.load(run / "checkpoint", "cpu")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PART_BASES", 700)
    monkeypatch.setattr("genome_lm.formats.embeddings.columns.PIECE", 20_000)


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fa"
    lengths = np.random.default_rng(0).integers(5, 129, 90)
    path.write_text("".join(f">r{n} text\n{biased_dna(int(length), n)}\n" for n, length in enumerate(lengths)))
    return path


def recipe(model: genome_lm.GenomeLM, pool: str = "mean", layers: tuple = (None,), strand: str = "forward") -> Recipe:
    return Recipe.of(pool, layers, strand, model.config)


def read(path: Path) -> dict[str, np.ndarray]:
    """Columns of any format, embeddings flat, (rows, values)."""
    if path.suffix in (".h5ad", ".zarr"):
        data = anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
        columns = {"id": data.obs_names, **{name: data.obs[name] for name in data.obs}}
        columns_read = {name: np.asarray(column) for name, column in columns.items()}
        # From anndata 0.13 on, X is among the layers, by the name None.
        layers = {name: values for name, values in data.layers.items() if name is not None}
        name = "embedding" if not layers else "embedding_1"
        return {**columns_read, name: data.X, **layers}
    if path.suffix == ".npz":
        columns_read = {name: array for name, array in np.load(path).items() if name != "genome_lm"}
    else:
        table = pq.read_table(path)
        columns_read = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    return {k: v.reshape(len(v), -1) if k.startswith("embedding") else v for k, v in columns_read.items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name].astype(other[name].dtype), other[name])


@pytest.mark.parametrize("pool", ["mean", "none", "bins:4"])
def test_all_formats_hold_the_same(model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path, pool: str) -> None:
    results = []
    for suffix in SUFFIXES:
        out = tmp_path / f"e{suffix}"
        how = recipe(model, pool, (1, None), "concat")
        done = embed_to_file(model, FastaSource(fasta, Tiling()), out, how)
        assert (done.records, done.resumed, done.path) == (90, 0, out)
        assert done.parts > 5
        results.append(read(out))
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            ["in.fa", *[f"e{s}" for s in SUFFIXES[: SUFFIXES.index(suffix) + 1]]]
        )
    for result in results[1:]:
        same(results[0], result)
    records = [
        (name.split()[0], dna)
        for name, dna in zip(*[iter(fasta.read_text().replace(">", "").split("\n")[:-1])] * 2, strict=True)
    ]
    arrays = model.embed_layers([dna for _, dna in records], (1, None), pool=pool, strand="concat")
    for layer, name in ((1, "embedding_1"), (None, "embedding_final")):
        rows = arrays[layer] if pool == "none" else [row.ravel()[None] for row in arrays[layer]]
        np.testing.assert_allclose(results[0][name], np.concatenate(rows), atol=1e-5)
    if pool == "none":
        names = anndata.read_h5ad(tmp_path / "e.h5ad").obs_names
        assert names.is_unique
        assert names[0] == "r0/1"
    else:
        assert results[0]["id"].tolist() == [name for name, _ in records]
        assert results[0]["end"].tolist() == [len(dna) for _, dna in records]


@pytest.mark.parametrize("strand", ["forward", "both", "concat"])
def test_states_of_bases_are_written_batch_by_batch(
    model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strand: str
) -> None:
    real = parts.PartsFolder.write
    rows: list[int] = []

    def write(self: parts.PartsFolder, number: int, tables: Iterable[pa.Table]) -> None:
        kept = list(tables)
        rows.extend(map(len, kept))
        real(self, number, kept)

    monkeypatch.setattr(parts.PartsFolder, "write", write)
    how = recipe(model, "none", strand=strand)
    embed_to_file(model, FastaSource(fasta, Tiling()), tmp_path / "few.npz", how, batch_tokens=200)
    assert max(rows) <= 200
    assert len(rows) > sum(rows) / 200
    sequences = [line for line in fasta.read_text().splitlines() if line[0] != ">"]
    expected = np.concatenate(model.embed(sequences, pool="none", strand=strand))
    np.testing.assert_allclose(read(tmp_path / "few.npz")["embedding"], expected, atol=1e-5)


def test_anndata_says_what_columns_are(model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path) -> None:
    embed_to_file(model, FastaSource(fasta, Tiling()), tmp_path / "e.h5ad", recipe(model, "bins:2", strand="concat"))
    data = anndata.read_h5ad(tmp_path / "e.h5ad")
    assert data.shape == (90, 64)
    assert data.var_names[[0, 15, 16, 32, 63]].tolist() == [
        "bin0_0",
        "bin0_15",
        "bin0_reverse_0",
        "bin1_0",
        "bin1_reverse_15",
    ]
    assert data.obs_names[:2].tolist() == ["r0", "r1"]
    facts = data.uns["genome_lm"]
    assert (facts["X"], facts["strand"], facts["pool"].tolist()) == ("embedding_final", "concat", ["bins", "2"])
    assert facts["model"]["d_model"] == 16
    assert len(facts["weights_sha256"]) == 64
    copy = data[data.obs["end"] > 50].copy()
    copy.write_h5ad(tmp_path / "copy.h5ad")
    assert anndata.read_h5ad(tmp_path / "copy.h5ad").n_obs == int((data.obs["end"] > 50).sum())


@pytest.mark.parametrize("pool", ["mean", "last", "max", "bins:3"])
@pytest.mark.parametrize("strand", ["forward", "both", "concat"])
def test_context_is_seen_and_not_pooled(
    model: genome_lm.GenomeLM, genome: Genome, tmp_path: Path, pool: str, strand: str
) -> None:
    tiling = Tiling(40, 25, "drop", 30, 0 if strand == "forward" else 30)
    out = tmp_path / "e.npz"
    places = [Interval("one", 0, 1_000), Interval("two", 18_000, 20_000)]
    embed_to_file(model, GenomeSource(genome.store, places, tiling), out, recipe(model, pool, strand=strand))
    stored = read(out)
    assert stored["start"][0] == 50  # the windows at 0 and 25 have less before them
    assert 19_900 < stored["end"].max() <= 20_000 - tiling.right
    reduce: Callable = {
        "mean": lambda s: s.mean(0),
        "last": lambda s: s[-1],
        "max": lambda s: s.max(0),
        "bins:3": lambda s: np.stack([s[:13].mean(0), s[13:26].mean(0), s[26:].mean(0)]),
    }[pool]
    for row in random.Random(0).sample(range(len(stored["id"])), 20):
        contig, start, end = stored["contig"][row], int(stored["start"][row]), int(stored["end"][row])
        ahead = genome.store.fetch(contig, start - 30, end)
        vectors = [reduce(states(model, ahead)[30:])]
        if strand != "forward":
            behind = states(model, reverse_complement(genome.store.fetch(contig, start, end + 30)))[30:]
            vectors.append(reduce(behind if pool == "last" else behind[::-1]))
        expected = np.mean(vectors, 0) if strand == "both" else np.concatenate(vectors, -1)
        np.testing.assert_allclose(stored["embedding"][row], expected.ravel(), atol=1e-5)
    array = model.embed(["ACGT" * 20], pool=pool, strand=strand, context=30)[0]
    assert array.shape == recipe(model, pool, strand=strand).shape(model.config)


def states(model: genome_lm.GenomeLM, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.backbone(torch.from_numpy(tokens.copy()).long()[None])[0].numpy()


class Killed(BaseException):
    """As little as SIGKILL does this let anybody tidy up what matters: the parts."""


@contextmanager
def killed_after(actions: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop at the n-th of the moments before and after a part gets its name."""
    left = itertools.count(actions, -1)
    real = parts.PartsFolder.write

    def write(self: parts.PartsFolder, number: int, table: object) -> None:
        if next(left) <= 0:
            self.file(number).with_suffix(".new").write_bytes(b"half of a par")
            raise Killed
        real(self, number, table)
        if next(left) <= 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(parts.PartsFolder, "write", write)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_a_killed_job_goes_on_without_loss_or_doubles(
    model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    source, how = FastaSource(fasta, Tiling()), recipe(model, pool)
    embed_to_file(model, source, tmp_path / "whole.npz", how)
    for seed in range(6):
        generator, out = random.Random(seed), tmp_path / f"{seed}.npz"
        for _ in range(2):
            with killed_after(generator.randrange(9), monkeypatch):
                embed_to_file(model, source, out, how, batch_tokens=generator.choice([None, 10, 500]))
        there = sorted((tmp_path / f"{seed}.npz{PARTS}").glob("part-*.parquet"))
        if there and generator.random() < 0.5:  # a part that the file system has damaged is done again
            there[0].write_bytes(there[0].read_bytes()[:-7])
            there = there[1:]
        done = embed_to_file(model, source, out, how)
        assert done.resumed == len(there)
        one, other = read(out), read(tmp_path / "whole.npz")
        np.testing.assert_allclose(one.pop("embedding"), other.pop("embedding"), atol=1e-5)
        same(one, other)
        assert not out.with_name(out.name + PARTS).exists()


def test_what_is_left_of_another_job_is_refused(
    model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.npz"
    with killed_after(5, monkeypatch):
        embed_to_file(model, FastaSource(fasta, Tiling()), out, recipe(model))
    left = sorted((tmp_path / f"e.npz{PARTS}").iterdir())
    other = tmp_path / "other.fa"
    other.write_text(fasta.read_text().replace(">r7 ", ">seven "))
    noisy = genome_lm.load(model_path(model, tmp_path), "cpu")
    jobs = [
        ("pool", model, FastaSource(fasta, Tiling()), recipe(model, "max")),
        ("layers", model, FastaSource(fasta, Tiling()), recipe(model, layers=(1,))),
        ("strand", model, FastaSource(fasta, Tiling()), recipe(model, strand="both")),
        ("windows", model, FastaSource(fasta, Tiling(128)), recipe(model)),
        ("input_sha256", model, FastaSource(other, Tiling()), recipe(model)),
        ("weights_sha256", noisy, FastaSource(fasta, Tiling()), recipe(model)),
    ]
    for named, a_model, source, how in jobs:
        with pytest.raises(GenomeLMError, match=rf"another job \(other {named}\).*--force"):
            embed_to_file(a_model, source, out, how)
    assert sorted((tmp_path / f"e.npz{PARTS}").iterdir()) == left
    assert embed_to_file(model, FastaSource(other, Tiling()), out, recipe(model), force=True).resumed == 0
    assert read(out)["id"][7] == "seven"


def model_path(model: genome_lm.GenomeLM, folder: Path) -> Path:
    from genome_lm.checkpoint import save_checkpoint
    from genome_lm.model import HyenaLM

    return save_checkpoint(folder / "noisy", HyenaLM(model.config))


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_shards_gather_to_the_whole(model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path, count: int) -> None:
    source, how, out = FastaSource(fasta, Tiling()), recipe(model), tmp_path / "e.parquet"
    embed_to_file(model, source, tmp_path / "whole.parquet", how)
    numbers = random.Random(count).sample(range(1, count + 1), count)
    done = [embed_to_file(model, source, out, how, shard=(n, count)) for n in numbers]
    assert sum(d.records for d in done) == 90
    shards = [shard_path(out, n, count) for n in numbers]
    assert gather(shards, out) == 90
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    for suffix in (".npz", ".zarr", ".h5ad"):
        gather(shards, tmp_path / f"g{suffix}")
        same(read(tmp_path / f"g{suffix}"), read(out))


def test_gather_refuses_what_is_not_whole(
    model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = FastaSource(fasta, Tiling()), tmp_path / "e.npz"
    one, two, three = (embed_to_file(model, source, out, recipe(model), shard=(n, 3)).path for n in (1, 2, 3))
    other = embed_to_file(model, source, tmp_path / "f.npz", recipe(model, "max"), shard=(3, 3)).path
    four = embed_to_file(model, source, out, recipe(model), shard=(3, 4)).path
    with killed_after(1, monkeypatch):
        embed_to_file(model, source, tmp_path / "g.npz", recipe(model), shard=(1, 3))
    for shards, message in [
        ([one, three], "of 3 shards these are missing: 2/3"),
        ([two], "missing: 1/3, 3/3"),
        ([one, two, other], "f.npz.shard-3-of-3: not a shard of the same job"),
        ([one, two, four], "e.npz.shard-3-of-4: not a shard of the same job"),
        ([one, two, three, one], "the same shard"),
        ([one, two, tmp_path], "not a folder of parts"),
        ([one, two, tmp_path / f"g.npz.shard-1-of-3{PARTS}"], "not finished"),
        ([], "no shards"),
    ]:
        with pytest.raises(GenomeLMError, match=message):
            gather(shards, out)
    next(two.glob("part-*")).write_bytes(b"PAR1")
    with pytest.raises(GenomeLMError, match="missing or damaged; run shard 2/3 again"):
        gather([one, two, three], out)
    assert not out.exists()
    with pytest.raises(GenomeLMError, match="exists"):
        embed_to_file(model, source, out, recipe(model), shard=(1, 3))
    with pytest.raises(GenomeLMError, match="shard 4/3"):
        embed_to_file(model, source, out, recipe(model), shard=(4, 3))


def test_two_processes_don_t_share_an_output(model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.npz"
    with parts.working_in(tmp_path / f"e.npz{PARTS}"), pytest.raises(GenomeLMError, match="another process"):
        embed_to_file(model, FastaSource(fasta, Tiling()), out, recipe(model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nACGT\n>b\n" + "A" * 129 + "\n", "b: 129 bases are more than"),
        (">a\nACGT\n>b\nACGT\n>a\nAC\n", "records 1 and 3 are both named 'a'"),
        (">a\nACGT\n>b\nAC-GT\n", "in.fa: line 4: '-' of 'b'"),
        (">a\nACGT\n>b\n", "line 3: 'b' has no sequence"),
        (">a\nACGT\n>b\nAC\n", "b: 2 bases can't be cut into 3 bins"),
    ],
)
def test_bad_records_are_found_before_anything_is_computed(
    model: genome_lm.GenomeLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr("genome_lm.jobs.embed.embed_flanked", None)
    fasta = tmp_path / "in.fa"
    fasta.write_text(text)
    with pytest.raises(GenomeLMError, match=message):
        embed_to_file(model, FastaSource(fasta, Tiling()), tmp_path / "e.npz", recipe(model, "bins:3"))
    assert list(tmp_path.iterdir()) == [fasta]


def test_nothing_left_after_dropping_edges(model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match=r"nothing to embed.*--edges keep"):
        embed_to_file(model, FastaSource(fasta, Tiling(500, None, "drop")), tmp_path / "e.npz", recipe(model))


def test_an_input_that_changes_meanwhile(model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path) -> None:
    class Shrinking(FastaSource):
        def read(self, ranges):  # type: ignore[no-untyped-def]
            fasta.write_text(">r0\nACGT\n")
            return super().read(ranges)

    with pytest.raises(GenomeLMError, match="changed"):
        embed_to_file(model, Shrinking(fasta, Tiling()), tmp_path / "e.npz", recipe(model))


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import genome_lm
from genome_lm.jobs import FastaSource, embed_to_file, gather
from genome_lm.inference import Recipe
from genome_lm.genome import Tiling
from genome_lm.jobs import plan
from genome_lm.machine import peak_memory
from genome_lm.formats.embeddings import columns
from tests.conftest import biased_dna

plan.PART_VALUES, columns.PIECE = 1 << 19, 1 << 19
folder = Path(sys.argv[2])
model = genome_lm.load(sys.argv[1], "cpu")
piece = biased_dna(128, 0)

def peak(records, length, pool):
    fasta, out = folder / "a.fa", folder / "e.npz"
    with fasta.open("w") as file:
        file.writelines(f">{'r' * 50}{n}\\n{piece[:length]}\\n" for n in range(records))
    recipe = Recipe.of(pool, [1, None], "forward", model.config)
    shard = embed_to_file(model, FastaSource(fasta, Tiling()), out, recipe, shard=(1, 1), force=True).path
    for suffix in (".npz", ".parquet", ".zarr", ".h5ad"):
        gather([shard], out.with_suffix(suffix), force=True)
    return peak_memory() / 2**20

# Twice, as the pools of Arrow's and Zarr's threads take some runs to fill.
few = [peak(*case) for _ in range(2) for case in ((1_500, 8, "mean"), (300, 128, "none"))]
print(few[-1], *(peak(*case) for case in ((15_000, 8, "mean"), (4_500, 128, "none"))))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_records(run: Path, tmp_path: Path) -> None:
    """Ten times as many records, 15 times as many bases, in all formats: the larger result is 74 MB of numbers."""
    command = [sys.executable, "-c", MEMORY, str(run / "checkpoint"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    small, _, large = map(float, done.stdout.split())
    assert large - small < 50, done.stdout


SLOW_JOB = """
import sys, time
import genome_lm_cli.main
from genome_lm.formats import parts
from genome_lm.jobs import plan

plan.PART_BASES = 700
real = parts.PartsFolder.write
def write(*arguments):
    real(*arguments)
    print("part", file=sys.stderr, flush=True)
    time.sleep(0.3)
parts.PartsFolder.write = write
genome_lm_cli.main.run()
"""


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(
    model: genome_lm.GenomeLM, run: Path, fasta: Path, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    out = tmp_path / "e.npz"
    command = [sys.executable, "-c", SLOW_JOB, "embed", str(run / "checkpoint"), "--fasta", "-", "--out", str(out)]
    with fasta.open() as stdin, subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        written = (line for line in process.stderr if line == "part\n")  # a slow machine shows progress between
        assert list(itertools.islice(written, 2)) == ["part\n"] * 2
        os.kill(process.pid, sent)
        process.wait()
        said = process.stderr.read()
    assert process.returncode == status
    assert "Traceback" not in said
    assert not out.exists()
    done = embed_to_file(model, FastaSource(fasta, Tiling()), out, recipe(model))
    assert 2 <= done.resumed < done.parts
    assert read(out)["id"].tolist() == [f"r{n}" for n in range(90)]


def spoil(file: Path, **columns: pa.Array | None) -> None:
    """Write a part anew with columns that are others, or more."""
    table = pq.read_table(file)
    for name, values in columns.items():
        kept = table.drop_columns([name]) if name in table.column_names else table
        table = kept if values is None else kept.append_column(name, values)
    pq.write_table(table, file)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_parts_are_one_error(model: genome_lm.GenomeLM, fasta: Path, tmp_path: Path, suffix: str) -> None:
    shard = [embed_to_file(model, FastaSource(fasta, Tiling()), tmp_path / "e.npz", recipe(model), shard=(1, 1)).path]
    file = sorted(shard[0].glob("part-*"))[1]
    whole, rows = file.read_bytes(), pq.read_metadata(file).num_rows
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 255
    texts, numbers = pa.array(["x"] * rows), pa.array([1] * rows)
    for change in (
        lambda: file.write_bytes(flipped),
        lambda: file.write_bytes(whole[: len(whole) // 2]),
        lambda: spoil(file, id=pa.array([b"\xff"] * rows)),
        lambda: spoil(file, id=pa.array([None] * rows, pa.string())),
        lambda: spoil(file, embedding=numbers),
        lambda: spoil(file, embedding=None),
        lambda: spoil(file, start=texts),
        lambda: spoil(file, **{"../../x": texts}),
    ):
        file.write_bytes(whole)
        change()
        with pytest.raises(GenomeLMError, match=r"part-000001\.parquet: .*(damaged|missing)"):
            gather(shard, tmp_path / f"g{suffix}")
        assert not (tmp_path / f"g{suffix}").exists()
    file.write_bytes(whole)
    assert gather(shard, tmp_path / f"g{suffix}") == 90


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_job_says_how_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stopped_by: type[BaseException]
) -> None:
    def compute(numbers: Sequence[int], advance: Callable[[float], None]) -> Iterator[list[pa.Table]]:
        yield [pa.table({"x": [1]})]
        raise stopped_by

    (tmp_path / "out.parts").mkdir()
    job = Job("embed", "bases", {"rows": [1, 1, 1]}, range(3), [1, 1, 1], compute)
    with pytest.raises(stopped_by):
        run_job(job, tmp_path / "out.parts", force=False)
    assert (
        f"embed: 1 of 3 parts are done and kept in {tmp_path / 'out.parts'}; the same command goes on" in caplog.text
    )
