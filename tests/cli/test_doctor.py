import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from genome_lm import doctor
from genome_lm.errors import GenomeLMError
from genome_lm.genome import first_windows
from genome_lm.gpukit import Options
from genome_lm.kernels.cpu import stages
from genome_lm.threads import NUMBER
from genome_lm_cli.main import app


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SHAPE", doctor.ModelConfig(d_model=16, n_layer=2, max_length=300, filter_order=8))


def test_all_is_well() -> None:
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code == 0
    report = json.loads(shown.stdout)
    assert report["passed"] is True
    assert report["libraries"]["torch"] == torch.__version__
    cpu = report["devices"][0]
    assert (cpu["device"], cpu["inference"], cpu["training"]) == ("cpu", "cpu", "cpu")
    # Float32 was really compared with float64: the difference is small, but not nothing.
    assert 0 < cpu["forward"] < 1e-3
    assert 0 < cpu["backward"] < 1e-3
    assert "right" in CliRunner().invoke(app, ["doctor"]).stdout


@pytest.mark.parametrize(("reason", "shown"), [("no C compiler", "plain: no C compiler"), ("", "compiled")])
@pytest.mark.parametrize(("library", "name"), [(stages, "CPU stages"), (first_windows, "first windows")])
def test_whether_functions_are_compiled_is_shown(
    library: ModuleType, name: str, reason: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "why_plain", lambda: reason)
    monkeypatch.setattr(doctor, "plain_forms", dict)
    monkeypatch.setenv("COLUMNS", "120")
    lines = CliRunner().invoke(app, ["doctor"]).stdout.splitlines()
    assert shown in next(line for line in lines if name in line)


@pytest.mark.parametrize("free", [0, 1])
def test_threads_are_shown_with_their_reason(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_cpus", lambda: free)
    monkeypatch.setenv("COLUMNS", "120")
    for name in NUMBER:
        monkeypatch.setenv(name, "1")  # so that what the option sets is undone
    before = torch.get_num_threads()
    try:
        report = json.loads(CliRunner().invoke(app, ["doctor", "--json", "--threads", "1"]).stdout)
        shown = CliRunner().invoke(app, ["doctor", "--threads", "1"]).stdout
    finally:
        torch.set_num_threads(before)
    assert (report["cpu_threads"], report["cpu_threads_reason"], report["cpus_free"]) == (1, "--threads 1", free)
    assert "1 (--threads 1)" in shown
    assert ("leave 0 CPUs free for 1 thread" in " ".join(shown.split())) == (free == 0)


def test_a_python_user_is_told_the_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert doctor.examine()["cpu_threads_reason"] == "OMP_NUM_THREADS=1"


@pytest.mark.parametrize("forced", ["reference", "cpu"])
def test_a_forced_kernel_is_the_one_that_is_tested(monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", forced)
    check = doctor.check_device(torch.device("cpu"))
    assert check.passed
    assert (check.inference, check.training) == (forced, forced)
    assert doctor.os.environ["GENOME_LM_KERNEL"] == forced


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward wrong in one position, and backward wrong only: each alone fails."""
    real = doctor._states

    def off_by_little(model: torch.nn.Module, ids: Tensor) -> dict[str, Tensor]:
        states = real(model, ids)["states"].clone()  # type: ignore[arg-type]
        if states.dtype == torch.float32:
            states[0, 3] = states[0, 2]
        return {"states": states}

    monkeypatch.setattr(doctor, "_states", off_by_little)
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 1
    assert "WRONG" in shown.stdout


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._gradients

    def forgets_one(model: torch.nn.Module, ids: Tensor) -> dict[str, Tensor]:
        gradients = real(model, ids)  # type: ignore[arg-type]
        if next(model.parameters()).dtype == torch.float32:
            gradients["backbone.blocks.0.mixer.filter_bias"] *= 0.9
        return gradients

    monkeypatch.setattr(doctor, "_gradients", forgets_one)
    check = doctor.check_device(torch.device("cpu"))
    assert check.forward < doctor.TOLERANCE < check.backward
    assert not check.passed


def test_a_kernel_that_breaks_is_told_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(model: torch.nn.Module, ids: Tensor) -> dict[str, Tensor]:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(doctor, "_gradients", breaks)
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code == 1
    report = json.loads(shown.stdout)
    assert report["devices"][0]["error"] == "RuntimeError: no kernel image is available"
    assert report["devices"][0]["forward"] is None
    monkeypatch.setenv("GENOME_LM_KERNEL", "wrong")
    assert "GENOME_LM_KERNEL=wrong" in doctor.check_device(torch.device("cpu")).error


def test_nan_is_a_difference() -> None:
    nan = {"x": torch.tensor([torch.nan, 1.0])}
    assert doctor._difference(nan, {"x": torch.ones(2)}) == float("inf")
    assert doctor._difference({}, {"x": torch.ones(2)}) == float("inf")


def test_without_a_gpu_there_is_nothing_to_prove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shown = CliRunner().invoke(app, ["doctor", "--gpu"])
    assert isinstance(shown.exception, GenomeLMError)
    assert "no GPU that PyTorch can use" in str(shown.exception)


@pytest.mark.parametrize("passed", [True, False])
def test_the_gpu_is_proved_by_the_short_form(passed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stages are stand-ins: tests/gpu runs them."""
    case = {"what": "copy", "passed": passed, "problems": ["too slow"]}
    stages = {"machine": {"passed": passed, "seconds": 1.0, "cases": [case]}}
    asked: list[object] = []

    def run_kit(out: Path, options: Options, say: object) -> dict[str, object]:
        asked.extend([out, options])
        return {"passed": passed, "stages": stages}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "run_kit", run_kit)
    shown = CliRunner().invoke(app, ["doctor", "--gpu", "--results", str(tmp_path / "gpu.json")])
    assert shown.exit_code == (0 if passed else 1)
    assert asked == [tmp_path / "gpu.json", Options(form="short", device="cuda", deadline=300.0)]
    assert ("all passed" if passed else "copy : too slow") in shown.stdout
    assert f"wrote {tmp_path / 'gpu.json'}" in shown.stdout.replace("\n", "")
