"""The kit on a CPU: every stage at toy sizes, stages that fail, and what is made of the results."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from genome_lm import __version__
from genome_lm.gpukit import FORMS, Options, run_kit, runner, summary
from genome_lm.gpukit.expected import load_expected, make_expected, save_expected
from genome_lm.gpukit.runner import STAGES, Stage
from genome_lm.kernels.triton import costs
from tests.gpu import kit, pack, profile, report
from tests.measure import block_costs

FAILING = "tests.gpu.failing_stages"


@pytest.mark.slow
def test_every_stage_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("zarr")
    status = kit.main(["--form", "toy", "--device", "cpu", "--out", str(tmp_path / "kit.json")])
    shown = capsys.readouterr().out
    assert status == 0, shown
    results = json.loads((tmp_path / "kit.json").read_text())
    assert results["complete"]
    assert list(results["stages"]) == list(STAGES)
    skipped = {
        case["skipped"] for stage in results["stages"].values() for case in stage["cases"] if "skipped" in case
    }
    assert skipped == {"needs a GPU"}
    assert shown.count("passed") >= 2 * len(STAGES)
    assert "all passed" in shown


def test_a_stage_that_fails_takes_no_other_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_CORES", 1)  # limits as they are given, whatever the machine
    stages = {name: Stage(FAILING, 60) for name in ("wrong", "raises", "killed")}
    stages |= {"hangs": Stage(FAILING, 12), "machine": STAGES["machine"]}
    seen: list[dict[str, Any]] = []
    out = tmp_path / "kit.json"
    options = Options(form="toy", device="cpu")
    results = run_kit(out, options, stages, say=lambda line: seen.append(json.loads(out.read_text())))
    assert [list(state["stages"]) for state in seen] == [list(stages)[: n + 1] for n in range(5)]
    assert not any(state["complete"] for state in seen)
    assert json.loads(out.read_text()) == results
    assert results["complete"]
    assert not results["passed"]
    assert [name for name, stage in results["stages"].items() if stage["passed"]] == ["machine"]
    # What a stage had done before it failed is there.
    assert all(stage["cases"][0]["passed"] for stage in results["stages"].values())
    text = summary(results)
    for problem in (
        "off dtype=bfloat16: error is nan, over 1e-05",
        "not so: the same bits",
        "ValueError: no such thing",
        "exit status 1",
        "the stage itself fails",
        "exit status -9",
        "stopped after 12 s",
        "NOT all passed",
    ):
        assert problem in text


def test_limits_are_longer_where_cores_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def run_stage(name: str, stage: Stage, options: Options, limit: float, scratch: str) -> dict[str, Any]:
        limits.append(limit)
        return {"passed": True, "seconds": 0.0, "cases": []}

    monkeypatch.setattr(runner, "_run_stage", run_stage)
    for cores in (2, 16):
        monkeypatch.setattr(runner.os, "cpu_count", lambda cores=cores: cores)
        run_kit(tmp_path / "kit.json", Options("toy", "cpu"), {"one": Stage(FAILING, 60)}, say=lambda line: None)
    assert limits == [240, 60]


def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    options = Options(form="toy", device="cpu", deadline=1.0)
    results = run_kit(tmp_path / "kit.json", options, {"machine": STAGES["machine"]}, say=lambda line: None)
    assert results["stages"]["machine"]["error"] == ["no time was left"]
    assert not results["passed"]


def test_float64_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    expected = make_expected(FORMS["toy"])
    assert len(expected.prompts)
    save_expected(tmp_path / "expected.safetensors", expected)
    again = load_expected(tmp_path / "expected.safetensors")
    assert again.model.config == expected.model.config
    torch.testing.assert_close(again.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)
    assert torch.equal(again.continuations, expected.continuations)
    for length, results in expected.lengths.items():
        for name, value in results._asdict().items():
            rounding = 1e-6 if name == "gradients" else 0
            torch.testing.assert_close(getattr(again.lengths[length], name), value, rtol=rounding, atol=0)


def test_the_pack_holds_metadata_and_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "FOLDER", tmp_path)
    pack.write_metadata(tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == [f"genome_lm-{__version__}.dist-info"]
    pack.write_expected(tmp_path / "expected.safetensors", "toy")
    assert load_expected(tmp_path / "expected.safetensors").model.config == FORMS["toy"].model
    ignored = subprocess.run(["git", "check-ignore", ".gpu/whl"], cwd=pack.ROOT, check=False, capture_output=True)
    assert ignored.returncode in (0, 128)  # 128: not a git checkout


def test_tools_that_are_missing_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hanging = profile.Job(["sleep", "60"], "hangs.txt", 1)
    monkeypatch.setattr(profile, "jobs", lambda device: [profile.Job(["no-such-tool"], "tool.txt", 9), hanging])
    assert profile.main(["--out", str(tmp_path), "--device", "cpu"]) == 1
    shown = capsys.readouterr().out
    assert "tool.txt: left out: not installed" in shown
    assert "hangs.txt: stopped after 1 s" in shown


def test_the_profiled_commands_name_kernels_that_exist() -> None:
    source = (pack.ROOT / "genome_lm" / "kernels" / "triton" / "conv.py").read_text()
    commands = [job.command for job in profile.jobs("cuda")]
    profiled = [part.removeprefix("regex:^").removesuffix("$") for command in commands for part in command
                if part.startswith("regex:")]  # fmt: skip
    assert 0 < len(profiled) == len(set(profiled))
    assert all(f"def {kernel}(\n" in source or f"def {kernel}(" in source for kernel in profiled)


def measured(length: int, dtype: str, ours: float, theirs: float) -> dict[str, Any]:
    times = {"triton": [ours, ours, ours], "torch.fft": [theirs, theirs, theirs]}
    counted = {"triton": {"GB": 1.5}}
    directions = dict.fromkeys(report.DIRECTIONS, times)
    directions |= {f"{name} counted": counted for name in report.DIRECTIONS}
    return {"what": "core", "shape": [1, 256, length], "dtype": dtype, "passed": True, **directions}


@pytest.fixture
def results() -> dict[str, Any]:
    convolutions = [
        measured(1_024, "bfloat16", 1.0, 2.0), measured(1_000_000, "bfloat16", 1.0, 5.0),
        measured(160_000, "bfloat16", 3.0, 2.0), measured(1_024, "float32", 2.0, 1.0),
        *(measured(1_000_000 + n, "float16", 2.0, 1.0) for n in range(2 * len(FORMS["full"].timed) - 4)),
    ]  # fmt: skip
    step = {
        "what": "model", "shape": [8, 256, 32_768], "layers": 4, "direction": "training", "passed": True,
        "ms": {"triton": [9.0, 10.0, 11.0], "torch.fft": [24.0, 25.0, 26.0]},
    }  # fmt: skip
    times = {"triton": [20.0, 21.0, 22.0], "torch.fft": [40.0, 42.0, 44.0]}
    block = {"what": "block", "shape": [1, 256, 1_000_000], "passed": True, "training": times}
    stages = {
        "machine": {
            "cases": [
                {"what": "card", "gpu": "NVIDIA H100 80GB HBM3", "passed": True},
                {"what": "copy", "TB_per_s": 3.0},
            ]
        },
        "kernels": {"passed": True, "cases": []},
        "bench_conv": {"cases": convolutions},
        "bench_block": {"cases": [block]},
        "bench_step": {"cases": [step]},
    }
    about = {"form": "full", "device": "cuda", "date": "2026-11-27T01:00:00+00:00", "commit": "0123456789"}
    return {**about, "complete": True, "passed": True, "stages": stages}


def test_the_crossover_is_where_our_kernels_were_faster(results: dict[str, Any]) -> None:
    faster = report.crossover(results)
    assert (faster["card"], faster["date"], faster["commit"]) == ("NVIDIA H100 80GB HBM3", "2026-11-27", "0123456789")
    assert faster["faster"] == {
        "bfloat16 forward": (1, 1_024), "bfloat16 training": (1, 1_024),
        "float32 forward": (0, 0), "float32 training": (0, 0),
    }  # fmt: skip
    assert faster["measured"]["float32 forward"] == [[1, 256, 1_024]]


@pytest.mark.parametrize(
    ("rows", "run"),
    [
        ([(1, True), (2, True), (3, False), (4, True)], (1, 2)),
        ([(1_024, False), (32_768, True), (160_000, True), (450_000, False)], (32_768, 160_000)),
        ([(1_024, True), (32_768, True)], (1, 32_768)),
        ([], (0, 0)),
    ],
)
def test_the_longest_run_of_faster_lengths_counts(rows: list[tuple[int, bool]], run: tuple[int, int]) -> None:
    assert report._longest_run(rows) == run


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("form",), "short", "full form"),
        (("complete",), False, "full form"),
        (("stages", "kernels", "passed"), False, "did not all compute right"),
        (("stages", "bench_conv", "cases"), [], "not all shapes were timed"),
    ],
)
def test_results_that_prove_less_choose_no_kernels(
    results: dict[str, Any], path: tuple[str, ...], value: object, reason: str
) -> None:
    assert report.unproven(results) == ""
    place = results
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert reason in report.unproven(results)


def test_the_readme_gets_table_and_card(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme, blocks, crossover = tmp_path / "README.md", tmp_path / "gpu.md", tmp_path / "crossover.json"
    for page in (readme, blocks):
        page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "BLOCKS", blocks)
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "CROSSOVER", crossover)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    (tmp_path / "kit.json").write_text(json.dumps(results))
    report.main([str(tmp_path / "kit.json"), "--write"])
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "NVIDIA H100 80GB HBM3, 2026-11-27, commit 0123456" in text
    assert "| model of 4 layers, training | 8 × 256 × 32,768 | bf16-mixed | 10 | 25 | 2.50 | |" in text
    assert "| between projections, forward | 1 × 256 × 1,024 | bfloat16 | 1 | 2 | 2.00 | 50 % |" in text
    counted = [
        sum(block_costs.milliseconds(scheme, 1_000_000, 256, backward) for backward in (False, True))
        for scheme in ("ours", "eager, torch.fft")
    ]
    assert f"| 256 | 1,000,000 | 1 | 21.0 | {counted[0]:.1f} | 42.0 | {counted[1]:.1f} |" in blocks.read_text()
    assert json.loads(crossover.read_text()) == json.loads(json.dumps(report.crossover(results)))
    assert json.loads((tmp_path / "results" / "nvidia-h100-80gb-hbm3.json").read_text()) == results


def test_results_of_a_cpu_are_no_figures_of_a_gpu(results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "kit.json").write_text(json.dumps({**results, "device": "cpu"}))
    with pytest.raises(SystemExit, match="not from a GPU"):
        report.main([str(tmp_path / "kit.json")])


def test_what_a_report_writes_to_is_there() -> None:
    assert report.CROSSOVER == Path(costs.__file__).with_name("crossover.json")
    for page in (report.README, report.BLOCKS):
        assert "\nnew table\n" in report.with_table(page, "new table")
