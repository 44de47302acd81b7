"""The bench: the original's way is the same model, sides run in processes of their own, the floor counts right."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from genome_lm.alphabet import A, T
from genome_lm.bench import ABLATIONS, OURS, Comparison, Job, Machine, Measured, compare, side
from genome_lm.bench.extrapolation import Figures, Limits, expected, form_of
from genome_lm.bench.figure import plot as draw
from genome_lm.bench.floor import Floor, floor
from genome_lm.bench.neighbours import neighbours
from genome_lm.bench.original import OriginalLM
from genome_lm.bench.peers import TransformerLM
from genome_lm.bench.sides import OTHER_SHAPES, Side
from genome_lm.bench.sweep import Point, Sweep, add, plot_sweep, read
from genome_lm.bench.work import Work, prepare
from genome_lm.config import PRESETS, ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.threads import NUMBER
from tests.checkpoint.test_for_transformers import TRANSFORMERS
from tests.conftest import Genome

compare_module = importlib.import_module("genome_lm.bench.compare")
MACHINE = Machine(flops=1e11, bandwidth=1e10, threads=1)


def work(job: Job, name: str) -> Work:
    return prepare(job, side(job.kind, name))


@pytest.mark.parametrize("length", [1, 2, 3, 50, 62])
def test_original_is_the_same_model_forward_and_backward(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "cpu")
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(d_model=12, n_layer=2, max_length=60, filter_order=8)).double().eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    original = OriginalLM(model)
    ids, targets = torch.randint(A, T + 1, (2, 2, length))
    gradients = []
    for way in (model, original):
        model.zero_grad()
        way.loss(ids, targets).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-7)  # the loss is in float32
    with torch.no_grad():
        torch.testing.assert_close(model(ids), original(ids))


STANDALONE = """
import torch
from genome_lm.checkpoint import hyenadna
from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM

class HyenaDNAModel(torch.nn.Module):
    def __init__(self, d_model, n_layer, d_inner, vocab_size, layer, **options):
        super().__init__()
        config = ModelConfig(d_model, n_layer, layer["l_max"] - 2, d_inner, filter_order=layer["filter_order"])
        model = HyenaLM(config)
        for name, tensor in hyenadna.to_theirs(model, "").items():
            place, _, last = name.rpartition(".")
            if name != hyenadna.HEAD:
                owner = self
                for part in place.split("."):
                    if part not in dict(owner.named_children()):
                        owner.add_module(part, torch.nn.Module())
                    owner = owner.get_submodule(part)
                owner.register_parameter(last, torch.nn.Parameter(tensor))
        self.config = config

    def forward(self, ids):
        model, state = HyenaLM(self.config).eval(), self.state_dict()
        names = hyenadna.names(self.config)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        model.load_state_dict({name: state[names[name]].view(shape) for name, shape in shapes.items()})
        return model.backbone(ids)
"""


def test_the_original_s_own_file(tmp_path: Path) -> None:
    """A stand-in of the same interface; the real one needs libraries that are not installed here."""
    path = tmp_path / "standalone.py"
    path.write_text(STANDALONE)
    job = Job("forward", length=50, preset="tiny-1k", original=str(path))
    np.testing.assert_allclose(work(job, "original-file")(0), work(job, OURS)(0), rtol=0, atol=1e-5)
    for content, words in (
        ("import einops_", "not installed: No module named 'einops_'"),
        ("", "not the original's"),
    ):
        path.write_text(content)
        with pytest.raises(GenomeLMError, match=words):
            work(job, "original-file")
    path.unlink()
    with pytest.raises(GenomeLMError, match="no Python file"):
        work(job, "original-file")


def test_the_plain_transformer_is_causal_and_of_the_same_size() -> None:
    config = ModelConfig(d_model=128, n_layer=2, max_length=32, layout="attention")
    torch.manual_seed(0)
    peer, ours = TransformerLM(config), HyenaLM(config)
    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in ours.parameters())
    ids = torch.randint(A, T + 1, (1, 20))
    changed = ids.clone()
    changed[0, 12] = A + T - ids[0, 12]
    with torch.no_grad():
        difference = (peer(ids) - peer(changed)).abs().amax(-1)[0]
    assert difference[:12].max() == 0 < difference[12:].min()


def test_multimolecule_has_our_numbers_or_is_named_where_it_is_missing() -> None:
    job = Job("forward", length=50, preset="tiny-1k", layers=1)
    if importlib.util.find_spec("multimolecule") is None:
        with pytest.raises(GenomeLMError, match="multimolecule is not installed"):
            work(job, "multimolecule")
    else:
        np.testing.assert_allclose(work(job, "multimolecule")(0), work(job, OURS)(0), rtol=0, atol=1e-5)


def test_a_sweep_adds_to_its_table_and_is_drawn(tmp_path: Path) -> None:
    table, figure = tmp_path / "sweep.csv", tmp_path / "sweep.png"
    row = Point("forward", "tiny-1k", 2, 100, OURS, 1.0, 1.0, 1.0, 10, 2.0, 1.0, 3, 2)
    peer = dataclasses.replace(row, side="transformer", seconds=3.0, times_slower=3.0)
    longer = [dataclasses.replace(point, length=200) for point in (row, peer)]
    add(table, [row, peer])
    again, longest = dataclasses.replace(row, seconds=1.5), dataclasses.replace(row, length=800)
    rows = add(table, [again, *longer, longest])
    # Two lengths are too few to extrapolate from.
    assert rows == [peer, again, *longer, longest]
    again_peer = dataclasses.replace(peer, length=400, seconds=48.0)
    rows = add(table, [again_peer, dataclasses.replace(row, length=1_600)])
    made = [point for point in rows if point.extrapolated]
    assert [(point.side, point.length, point.extrapolated) for point in made] == [
        ("transformer", 800, "a L^2 + b L"),
        ("transformer", 1_600, "a L^2 + b L"),
    ]
    assert all(point.runs == 0 and np.isnan(point.busy_seconds) for point in made)
    assert made[0].times_slower == pytest.approx(made[0].seconds / longest.seconds)
    assert [point.length for point in read(table) if point.extrapolated] == [800, 1_600]
    rows = add(table, [dataclasses.replace(peer, length=800, seconds=200.0)])
    assert [point.length for point in rows if point.extrapolated] == [1_600]
    plot_sweep(figure, rows)
    assert figure.stat().st_size > 1_000
    with pytest.raises(GenomeLMError, match="several kinds"):
        plot_sweep(figure, [*rows, dataclasses.replace(row, layers=3)])
    table.write_text("a,b\n1,2\n")
    with pytest.raises(GenomeLMError, match="line 2: no row"):
        read(table)


@pytest.mark.parametrize("name", ["transformer", "original-file"])
def test_a_side_is_extrapolated_by_the_form_of_its_work(name: str) -> None:
    def seconds(length: int) -> float:
        leading = length**2 / 1e4 if name == "transformer" else length * np.log2(length)
        return float(3 * leading + 7 * length)

    # The first length has overheads of its own, and is left out.
    measured = [Figures(n, seconds(n) + (n < 1_000) * 1e9, 100 + n) for n in (4_096, 256, 1_024, 16_384)]
    extrapolated = expected(name, measured, 10**6)
    assert extrapolated is not None
    assert (extrapolated.seconds, extrapolated.peak) == (pytest.approx(seconds(10**6)), 100 + 10**6)
    assert expected(name, [], 10) is None
    # Beyond the form's growth, it goes on from the greatest length.
    steep = [Figures(n, float(n) ** 2.5, 100) for n in (100, 200, 400)]
    beyond = expected(name, steep, 401)
    assert beyond is not None
    assert steep[-1].seconds < beyond.seconds < 1.01 * steep[-1].seconds
    # Overheads alone: no term is negative, so that nothing gets shorter with the length.
    flat = [form_of(name).fitted([100, 200, 400], [5.0, 5.0, 5.0])(n) for n in (400, 800, 1_600)]
    assert flat == sorted(flat)
    assert min(flat) > 0


def test_sides_beyond_the_limits_are_not_run(tmp_path: Path) -> None:
    row = Point("forward", "tiny-1k", 2, 100, OURS, 1.0, 1.0, 1.0, 10**6, 2.0, 1.0, 3, 2)
    rows = [row, dataclasses.replace(row, side="transformer", seconds=2.0, peak=10**9)]
    add(
        tmp_path / "sweep.csv", [*rows, *(dataclasses.replace(each, length=200, peak=2 * each.peak) for each in rows)]
    )
    sides = [side("forward", OURS), side("forward", "transformer")]
    job = Job("forward", 400, "tiny-1k")

    def choose(limits: Limits) -> tuple[list[str], int, dict[str, str]]:
        affordable, rounds, reasons = Sweep(tmp_path / "sweep.csv", limits).choose(job, sides, 5)
        return [each.name for each in affordable], rounds, reasons

    both = [OURS, "transformer"]
    assert choose(Limits(5 * 10**9)) == (both, 5, {})
    assert choose(Limits(3 * 10**9)) == ([OURS], 5, {"transformer": "would take about 4.0 GB of memory"})
    names, rounds, reasons = choose(Limits(5 * 10**9, seconds=1.0))
    assert (names, rounds) == ([OURS], 1)
    assert "would take about" in reasons["transformer"]
    assert choose(Limits(5 * 10**9, seconds=100.0)) == (both, 5, {})
    # Without lengths below this one nothing is known.
    assert Sweep(None, Limits(0, 0)).choose(job, sides, 5) == (sides, 5, {})


def test_a_figure_has_each_side_where_it_was_run(tmp_path: Path) -> None:
    ours, other = (Measured(name, 1.0, (1.0,), (1.0,), 10**9, 10**8, 0.0) for name in (OURS, "original"))
    comparisons = [
        Comparison(Job("forward", length, "tiny-1k"), sides, Floor(1, 1, 1), 1)
        for length, sides in ((10, (ours, other)), (20, (ours,)))
    ]
    draw(tmp_path / "bench.png", comparisons)
    assert (tmp_path / "bench.png").stat().st_size > 1_000


IN_ANOTHER = """
import sys
import numpy as np
from genome_lm.bench import Job, side
from genome_lm.bench.work import prepare
from genome_lm.checkpoint import export_for_transformers
from genome_lm.config import PRESETS
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
import dataclasses, pathlib, torch

folder = pathlib.Path(sys.argv[1], "port")
torch.manual_seed(0)
export_for_transformers(HyenaLM(PRESETS["tiny-1k"]).eval(), folder)
job = Job("forward", length=50, preset="tiny-1k", port=str(folder))
ours, theirs = (prepare(job, side("forward", name))(0) for name in ("genome-lm", "port"))
np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
try:
    prepare(dataclasses.replace(job, layers=3), side("forward", "port"))
except GenomeLMError as error:
    print(error)
"""


def test_a_port_is_run_from_its_folder(tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match=r"no config\.json"):
        work(Job("forward", length=50, preset="tiny-1k", port=str(tmp_path)), "port")
    if not TRANSFORMERS.is_dir() and importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(TRANSFORMERS)])}
    command = [sys.executable, "-c", IN_ANOTHER, str(tmp_path)]
    done = subprocess.run(command, env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "its number of blocks is 2, and 3 here" in done.stdout


def test_original_is_of_order_2() -> None:
    with pytest.raises(GenomeLMError, match="order 2"):
        OriginalLM(HyenaLM(ModelConfig(d_model=8, n_layer=1, max_length=16, order=3)))


@pytest.mark.parametrize("kind", ["forward", "train"])
def test_sides_give_the_same_with_and_without_our_levers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, with what each side changes undone after it."""
    monkeypatch.setenv("GENOME_LM_KERNEL", "cpu")
    job = Job(kind, length=60, preset="tiny-1k")  # type: ignore[arg-type]
    expected = work(job, "original")(0).copy()
    for way in (side(job.kind, OURS), *ABLATIONS):
        with monkeypatch.context() as patch:
            for name, value in way.environment.items():
                patch.setenv(name, value)
            way.apply(patch.setattr)
            got = prepare(job, way)(0)
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["forward", "train"])
@pytest.mark.parametrize("other", OTHER_SHAPES, ids=lambda other: other.name)
def test_other_shapes_are_other_models_of_the_same_size(kind: str, other: Side) -> None:
    job = Job(kind, length=60, preset="tiny-1k")  # type: ignore[arg-type]
    result = work(job, other.name)(0)
    if kind == "forward":
        assert result.shape == work(job, OURS)(0).shape
    assert np.isfinite(result).all()


def test_compare_runs_each_side_in_its_process() -> None:
    job = Job("forward", length=64, preset="tiny-1k")
    result = compare(
        job, [side("forward", OURS), side("forward", "original-kept-memory")], MACHINE, repeats=2, threads=1
    )
    ours, original = result.sides
    assert [len(s.seconds) for s in result.sides] == [2, 2]
    assert all(s.first > 0 and s.peak >= s.start > 0 for s in result.sides)
    assert ours.difference == 0 < original.difference < 1e-4
    figures = json.loads(json.dumps(result.to_dict()))
    assert figures["sides"][0]["times_slower"] == 1
    assert figures["sides"][1]["bases_per_second"] == pytest.approx(64 / original.median)
    assert figures["neighbours"] == 0
    assert not [name for name in figures["sides"][0] if name.startswith("busy_")]


@pytest.mark.parametrize("repeats", [0, 2])
def test_both_states_are_measured_in_turn(repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []

    @contextlib.contextmanager
    def counted(count: int) -> Iterator[None]:
        states.append(count)
        with neighbours(count):
            yield

    monkeypatch.setattr(compare_module, "neighbours", counted)
    job = Job("forward", length=64, preset="tiny-1k")
    result = compare(job, [side("forward", OURS), side("forward", "original")], MACHINE, repeats, threads=1, busy=1)
    assert states == [1] * max(1, repeats)
    assert [len(s.busy) for s in result.sides] == [len(states)] * 2
    ours, original = result.to_dict()["sides"]
    assert ours["busy_times_slower"] == 1
    assert original["busy_median"] == pytest.approx(np.median(original["busy"]))
    assert ours["busy_times_quiet"] > 0


def test_load_reads_the_same_windows_from_both(genome: Genome) -> None:
    job = Job("load", length=1_000, fasta=str(genome.fasta), genome=str(genome.store.path), seed=3)
    ours, pyfaidx = work(job, OURS), work(job, "pyfaidx")
    for number in (0, 1):
        tokens = ours(number)
        assert tokens.shape == (job.windows, 1_000)
        np.testing.assert_array_equal(tokens, pyfaidx(number))
    assert not np.array_equal(ours(0), ours(1))


def test_generation_finds_what_recomputing_finds() -> None:
    job = Job("generate", length=20, preset="tiny-1k", seed=1)
    np.testing.assert_allclose(work(job, OURS)(0), work(job, "original")(0), atol=1e-4)


def test_a_process_that_fails_is_named() -> None:
    job = Job("forward", length=2_000, preset="tiny-1k")  # longer than the context
    with pytest.raises(GenomeLMError, match=r"forward tiny-1k at 2,000 bp.*'genome-lm' failed"):
        compare(job, [side("forward", OURS)], MACHINE, repeats=0, threads=1)


def test_unknown_sides_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(GenomeLMError, match="pyfaidx"):
        side("load", "original")


def test_floor_counts_the_matrix_products() -> None:
    """Against PyTorch's own count, of the reference in plain form."""
    from torch.utils.flop_counter import FlopCounterMode

    length, config = 1_000, PRESETS["tiny-1k"]
    model = OriginalLM(HyenaLM(config)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randint(A, T + 1, (1, length)))
    counted = floor(Job("forward", length, "tiny-1k"), MACHINE).operations
    short_conv = config.n_layer * 2 * 3 * 3 * config.d_model * (length + 2)
    filter_mlp = config.n_layer * 2 * length * 64 * (5 + 2 * 64 + config.d_model)
    ffts = config.n_layer * 2 * config.d_model * 2.5 * 2 * length * np.log2(2 * length)
    assert counter.get_total_flops() - short_conv - filter_mlp == pytest.approx(counted - ffts, rel=1e-3)
    assert floor(Job("train", length, "tiny-1k"), MACHINE).seconds == pytest.approx(
        3 * floor(Job("forward", length, "tiny-1k"), MACHINE).seconds
    )


def test_command_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from genome_lm_cli.main import app

    out, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = ["bench", "forward", "--preset", "tiny-1k", "--length", "32", "--length", "64", "--repeat", "1"]
    arguments += [
        "--against",
        "original",
        "--against",
        "both",
        "--threads",
        "1",
        "--busy",
        "1",
        "--out",
        str(out),
        "--plot",
        str(plot),
    ]
    monkeypatch.setenv("COLUMNS", "140")
    for name in NUMBER:
        monkeypatch.setenv(name, "1")  # so that what the option sets is undone
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "busy / quiet" in result.output
    written = json.loads(out.read_text())
    assert [c["length"] for c in written["comparisons"]] == [32, 64]
    assert [s["side"] for s in written["comparisons"][0]["sides"]] == [OURS, "original", "both"]
    assert [s["difference"] is None for s in written["comparisons"][0]["sides"]] == [False, False, True]
    assert plot.stat().st_size > 1_000
    refused = CliRunner().invoke(app, arguments)
    assert "--force" in str(refused.exception)


def test_presets_that_the_bench_does_not_count_are_refused() -> None:
    from typer.testing import CliRunner

    from genome_lm_cli.main import app

    result = CliRunner().invoke(app, ["bench", "forward", "--preset", "hybrid-2m"])
    assert "no preset 'hybrid-2m' to measure; there is tiny-1k, " in str(result.exception)
