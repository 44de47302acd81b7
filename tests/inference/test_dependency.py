"""Dependency maps, against substitutions that are read one by one, and of a model that learned planted pairs."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr
from typer.testing import CliRunner

from genome_lm.alphabet import MASK, encode, reverse_complement
from genome_lm.config import ModelConfig
from genome_lm.direction import BOTH
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, build_store
from genome_lm.inference.dependency import (
    DependencyMap,
    StrandReader,
    dependency_map,
    symmetrised,
    without_background,
)
from genome_lm.jobs import map_dependency
from genome_lm.model import HyenaLM
from genome_lm.model.likelihood import HIDDEN_SETS, hidden_sets
from genome_lm.report.dependency import draw_dependency
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.tiny import TINY_MODEL


def model_of(**changes: Any) -> HyenaLM:
    torch.manual_seed(2)
    model = HyenaLM(dataclasses.replace(TINY_MODEL, **changes))
    for parameter in model.parameters():  # far from where all bases are alike
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    return model.eval().double()


def bases_of(store: GenomeStore, contig: str, start: int, end: int) -> str:
    return store[contig, start:end].tobytes().decode().upper()


@torch.no_grad()
def odds(model: HyenaLM, ids: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """ln p − ln(1 − p) of A, C, G and T at each position of one sequence, by the definition."""
    p = model(torch.from_numpy(ids.astype(np.int64))[None])[0, :, 7:11].softmax(-1).numpy()
    return np.log(p) - np.log(1 - p)


def plain_causal(model: HyenaLM, ids: npt.NDArray[Any], first: int) -> npt.NDArray[np.float64]:
    values = np.zeros((len(ids) - first,) * 2)
    before = odds(model, ids)
    for i in range(first, len(ids)):
        for base in {7, 8, 9, 10} - {int(ids[i])}:
            other = ids.copy()
            other[i] = base
            # The state at j − 1 predicts j.
            change = np.abs(odds(model, other) - before)[first : len(ids) - 1].max(1)
            row = values[i - first]
            row[1:] = np.maximum(row[1:], np.where(np.arange(1, len(row)) > i - first, change, 0))
    return values


def plain_hidden(model: HyenaLM, ids: npt.NDArray[Any], first: int, bases: int) -> npt.NDArray[np.float64]:
    values, sets = np.zeros((bases, bases)), hidden_sets(bases)
    for i in range(bases):
        for number in range(HIDDEN_SETS):
            hidden = [j for j in range(bases) if sets[j] == number and j != i and 7 <= ids[first + j] <= 10]
            seen = ids.copy()
            seen[[first + j for j in hidden]] = MASK
            before = odds(model, seen)
            for base in {7, 8, 9, 10} - {int(ids[first + i])}:
                seen[first + i] = base
                after = odds(model, seen)
                for j in hidden:
                    values[i, j] = max(values[i, j], np.abs(after - before)[first + j].max())
    return values


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, ("one", 300, 340)),
        ({}, ("one", 0, 21)),
        ({}, ("two", 19_985, 20_000)),
        ({"layout": "hyena-se,attention-local", "attention_window": 8, "ngram_order": 3}, ("one", 300, 340)),
        ({"order": 3}, ("one", 700, 712)),
    ],
    ids=["within", "first bases", "last bases", "hybrid", "order 3"],
)
def test_of_causal_models(changes: dict[str, Any], place: tuple[str, int, int], genome: Genome) -> None:
    model, (contig, start, end) = model_of(**changes), place
    length = int(genome.store.contigs.lengths[genome.store.contigs.index(contig)])
    left, right = max(0, start - 30), min(length, end + 30)
    ahead = encode(bases_of(genome.store, contig, left, end))
    back = reverse_complement(encode(bases_of(genome.store, contig, start, right)))
    one, two = plain_causal(model, ahead, start - left), plain_causal(model, back, right - end)[::-1, ::-1]
    for strand, expected in (("forward", one), ("reverse", two), ("both", one + two)):
        for options in ({}, {"batch_tokens": 100}, {"share": False}):
            result = dependency_map(model, genome.store, Interval(*place), context=30, strand=strand, **options)  # type: ignore[arg-type]
            np.testing.assert_allclose(result.values, expected, rtol=1e-5, atol=1e-6)
            assert result.reference == bases_of(genome.store, *place)
            sides = (start - left) * (strand != "reverse"), (right - end) * (strand != "forward")
            assert result.context == sides
    assert (one[np.triu_indices(len(one), 1)] > 1e-4).any()
    assert (two[np.tril_indices(len(two), -1)] > 1e-4).any()


@pytest.mark.parametrize("changes", [{}, {"strands": "equivariant"}], ids=["single", "equivariant"])
def test_of_models_that_read_both_ways(changes: dict[str, Any], genome: Genome) -> None:
    model = model_of(direction=BOTH, **changes)
    ids = encode(bases_of(genome.store, "one", 294, 318))
    one, two = plain_hidden(model, ids, 6, 12), plain_hidden(model, reverse_complement(ids), 6, 12)[::-1, ::-1]
    for strand, expected in (("forward", one), ("reverse", two), ("both", (one + two) / 2)):
        result = dependency_map(
            model,
            genome.store,
            Interval("one", 300, 312),
            context=6,
            strand=strand,  # type: ignore[arg-type]
            batch_tokens=100,
        )
        np.testing.assert_allclose(result.values, expected, rtol=1e-5, atol=1e-6)
    assert (one + np.eye(12) > 1e-6).all()


DISTANCE = 5


def planted_dna(length: int, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Token ids: each base pairs with that at some places before it, but for one in four, which is random."""
    ids = generator.integers(7, 11, length, dtype=np.uint8)
    for j in np.flatnonzero(generator.random(length) < 0.75):
        if j >= DISTANCE:
            ids[j] = 17 - ids[j - DISTANCE]
    return ids


def test_planted_pairs_are_seen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    model = HyenaLM(ModelConfig(d_model=16, n_layer=1, max_length=64, layout="hyena-se", se_taps=7))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(120):
        ids = torch.from_numpy(np.stack([planted_dna(64, generator) for _ in range(8)])).long()
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    letters = "".join("ACGT"[token - 7] for token in planted_dna(200, generator))
    (tmp_path / "g.fa").write_text(f">p\n{letters}\n")
    store = build_store([tmp_path / "g.fa"], tmp_path / "g.zarr")
    values = dependency_map(model.eval(), store, Interval("p", 80, 120), context=20).values
    rows = np.arange(len(values))
    nearest = np.sort(np.abs(np.argsort(values, 1)[:, -2:] - rows[:, None]), 1)
    assert (nearest[DISTANCE:-DISTANCE] == DISTANCE).mean() > 0.95
    off = ~np.eye(len(values), dtype=bool)
    planted = np.abs(rows[:, None] - rows) == DISTANCE
    assert np.median(values[planted]) > 10 * np.median(values[off & ~planted])


def test_corrections() -> None:
    background = np.array([1.0, 2, 3, 4, 5])
    values = np.outer(background, background[::-1])
    values[1, 3] += 10
    np.fill_diagonal(values, 0)
    corrected = without_background(values)
    assert np.unravel_index(np.argmax(corrected), (5, 5)) == (1, 3)
    for i, j in ((0, 1), (1, 3), (4, 2)):
        assert corrected[i, j] == pytest.approx(values[i, j] - values[i].sum() * values[:, j].sum() / values.sum())
    assert (np.diagonal(corrected) == 0).all()
    both = symmetrised(values)
    assert both[1, 3] == both[3, 1] == (values[1, 3] + values[3, 1]) / 2
    wider = np.full((6, 6), np.nan)
    wider[:5, :5] = values
    np.testing.assert_allclose(without_background(wider)[:5, :5], corrected)
    assert (without_background(np.zeros((3, 3))) == 0).all()


def test_what_is_no_base_has_no_value(genome: Genome) -> None:
    values = dependency_map(model_of(), genome.store, Interval("two", 4_990, 5_003), context=20).values
    assert np.isnan(values[10:]).all()
    assert np.isnan(values[:, 10:]).all()
    assert np.isfinite(values[:10, :10]).all()
    with pytest.raises(GenomeLMError, match="two:5101-5120: there is no A, C, G or T"):
        dependency_map(model_of(), genome.store, Interval("two", 5_100, 5_120))


def test_regions_and_contexts_fit_the_model(genome: Genome) -> None:
    model, region = model_of(), Interval("one", 500, 528)
    assert dependency_map(model, genome.store, region).context == (100, 100)
    assert dependency_map(model_of(direction=BOTH), genome.store, Interval("one", 20, 24)).context == (20, 62)
    for context in (-1, 101):
        with pytest.raises(GenomeLMError, match=f"context {context}: use 0 to 100"):
            dependency_map(model, genome.store, region, context=context)
    with pytest.raises(GenomeLMError, match=r"129 bases is longer than the model's 128"):
        dependency_map(model, genome.store, Interval("one", 500, 629))
    with pytest.raises(GenomeLMError, match="strand 'up'"):
        dependency_map(model, genome.store, region, strand="up")  # type: ignore[arg-type]
    assert dependency_map(model, genome.store, Interval("one", 9, 10)).values.tolist() == [[0]]


def run_command(run: Path, *options: object) -> str:
    result = CliRunner().invoke(app, ["dependency", str(run / "checkpoint"), *map(str, options)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_command(run: Path, genome: Genome, tmp_path: Path) -> None:
    region = ("--region", "one:1,001-1,040", "--context", 50)
    said = run_command(run, "--genome", genome.store.path, *region, "--out", tmp_path / "d.zarr", "--json")
    assert json.loads(said)["context"] == [50, 50]
    run_command(run, "--fasta", genome.fasta, *region, "--out", tmp_path / "d.npz", "--figure", tmp_path / "d.svg")
    options = (*region, "--symmetric", "--apc", "--figure", tmp_path / "c.png")
    run_command(run, "--genome", genome.store.path, *options, "--out", tmp_path / "c.npz")
    with np.load(tmp_path / "d.npz") as file, np.load(tmp_path / "c.npz") as changed:
        assert file["context"].tolist() == [50, 50]
        assert str(file["reference"]) == bases_of(genome.store, "one", 1_000, 1_040)
        assert (str(file["contig"]), int(file["start"]), str(file["strand"])) == ("one", 1_000, "both")
        np.testing.assert_allclose(zarr.open_group(tmp_path / "d.zarr", mode="r")["map"][...], file["map"])
        np.testing.assert_allclose(changed["map"], without_background(symmetrised(file["map"])), atol=1e-6)
    assert "<svg" in (tmp_path / "d.svg").read_text()
    assert (tmp_path / "c.png").stat().st_size


def test_memory_of_the_map_is_asked_for(
    run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_dependency, "_MAP_BYTES", 10**15)
    options = ("--genome", str(genome.store.path), "--region", "one:1-20", "--out", str(tmp_path / "d.npz"))
    result = CliRunner().invoke(app, ["dependency", str(run / "checkpoint"), *options])
    assert "d.npz: a map of 20 × 20 bases (map a shorter region instead): needs at least" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_the_libraries_of_a_figure_count(run: Path, genome: Genome, tmp_path: Path) -> None:
    def least(*options: str) -> int:
        place = ("--genome", str(genome.store.path), "--region", "one:1-20", "--out", str(tmp_path / "d.npz"))
        command = ["dependency", str(run / "checkpoint"), *place, *options, "--memory", "100MB"]
        message = str(CliRunner().invoke(app, command).exception)
        return int(re.findall(r"give --memory (\d+)MB", message)[0])

    assert 100 < least("--figure", str(tmp_path / "d.svg")) - least() < 200


def test_a_killed_job_goes_on(run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_dependency, "ROWS", 7)
    options = ["--genome", genome.store.path, "--region", "one:1,001-1,020", "--context", 30]
    run_command(run, *options, "--out", tmp_path / "whole.npz")
    read, rows_read = StrandReader.rows, []

    def rows(self: StrandReader, rows: range, **given: Any) -> Any:
        if len(rows_read) == 4:
            raise KeyboardInterrupt
        rows_read.append((self.reverse, rows))
        return read(self, rows, **given)

    monkeypatch.setattr(StrandReader, "rows", rows)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_command(run, *options, "--out", tmp_path / "d.npz")
    assert not (tmp_path / "d.npz").exists()
    with pytest.raises(GenomeLMError, match=r"another job \(other strand, context, sequence_sha256, rows\)"):
        run_command(run, *options, "--out", tmp_path / "d.npz", "--strand", "forward")
    rows_read[:] = rows_read[-2:]
    said = run_command(run, *options, "--out", tmp_path / "d.npz")
    assert rows_read == [(False, range(14, 20)), (True, range(7)), (True, range(7, 14)), (True, range(14, 20))]
    assert "4 of 6 parts from an earlier run" in said
    with np.load(tmp_path / "d.npz") as file, np.load(tmp_path / "whole.npz") as whole:
        np.testing.assert_allclose(file["map"], whole["map"], atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz", "whole.npz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "d.csv"], "end it in .npz, .zarr"),
        (["--out", "d.npz", "--figure", "d.gif"], "end it in .svg"),
        (["--out", "d.npz"], "either --genome or --fasta"),
        (["--out", "d.npz", "--most", "8", "--fasta", "FASTA"], "9 × 9 bases takes long; .*--most 9"),
    ],
)
def test_bad_options(run: Path, genome: Genome, options: list[str], message: str) -> None:
    words = [str(genome.fasta) if word == "FASTA" else word for word in options]
    with pytest.raises(GenomeLMError, match=message):
        run_command(run, "--region", "one:1-9", *words)


def test_a_map_without_its_figure_is_not_left(
    run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genome_lm.report.dependency.draw_dependency", fail)
    options = ["--genome", genome.store.path, "--region", "one:1-9", "--figure", tmp_path / "d.svg"]
    with pytest.raises(GenomeLMError, match="No space left"):
        run_command(run, *options, "--out", tmp_path / "d.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz.parts"]  # which the next try goes on with


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("letters", ["ACGT", "A", "ANNN"])
def test_any_map_can_be_drawn(tmp_path: Path, letters: str) -> None:
    is_base = np.array([letter in "ACGT" for letter in letters])
    values = np.where(is_base[:, None] & is_base, 0, np.nan).astype(np.float32)
    draw_dependency(tmp_path / "d.svg", DependencyMap("chr$\\frac{$", 0, letters, values, (0, 0), "both"))
    assert (tmp_path / "d.svg").stat().st_size
