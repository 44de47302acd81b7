"""Stages in C against their plain form in float64, and which libraries are loaded: ours, whole and tested."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from genome_lm import compiler
from genome_lm.errors import GenomeLMError
from genome_lm.kernels.cpu import long_fft, products, proof, stages
from genome_lm.kernels.cpu.torch_private import openmp_library

TILE = 1_024  # of stages.c
SOURCE = Path(stages.__file__).with_suffix(".c")
SMALL = "int answer(void) { return 42; }\n"


@pytest.fixture
def library() -> ctypes.CDLL:
    library = stages.library()
    if library is None:
        pytest.skip(stages.why_plain())
    return library


@pytest.mark.parametrize("case", list(proof.cases(1, 1, 1)))
@pytest.mark.parametrize(
    "shape", [(3, 1, 1), (2, 3, 2), (4, 1, TILE), (2, 2, TILE + 1), (5, 1, TILE + 2), (2, 1, 3 * TILE + 77)], ids=str
)
def test_stage_in_c_equals_its_plain_form(library: ctypes.CDLL, case: str, shape: tuple[int, int, int]) -> None:
    assert not proof.wrong(library, case, shape)


@pytest.mark.parametrize("rows", [16, 32, 64, 128, 256, 512, 1_024])
def test_convolutions_by_matrices_of_any_rows_are_right(library: ctypes.CDLL, rows: int) -> None:
    assert not proof.wrong_transforms(library, rows)


def test_wrong_convolutions_are_told(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    if not long_fft.has_long_transforms():
        pytest.skip("no MKL")
    monkeypatch.setattr(long_fft.LongTransform, "signal", lambda self, product: product.real[..., : self.length])
    assert "32 rows" in proof.wrong_transforms(library, 32)


def test_a_stage_that_does_nothing_is_told(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "in_c", lambda *_: None)
    for case in proof.cases(1, 1, 1):
        assert case in proof.wrong(library, case, (3, 2, 5))


def test_a_proof_compiles_no_library_for_itself(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "COMPILED", True)
    monkeypatch.setattr(stages, "_library_or_reason", lambda: pytest.fail("C was asked"))
    monkeypatch.setattr(proof, "SHAPES", ())
    assert not proof.main(library._name)


def test_extremes_of_gelu_stay_finite(library: ctypes.CDLL) -> None:
    hidden, grad, sums = torch.tensor([[-1e6, -30.0, 0.0, 30.0, 1e6]]), torch.ones(1, 5), torch.zeros(5)
    stages.gelu_backward(hidden, grad, sums)
    torch.testing.assert_close(hidden, torch.tensor([[0.0, 0.0, 0.0, 30.0, 1e6]]))
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]))
    hidden = torch.full((1, 5), torch.nan)
    stages.gelu_backward(hidden, grad, sums)
    assert hidden.isnan().all()


def test_what_lies_on_another_device_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation on a GPU makes its filters by the same functions."""
    monkeypatch.setattr(stages, "_library_or_reason", lambda: pytest.fail("C was asked"))
    h, times = torch.empty(2, 1_000, device="meta"), torch.empty(1_000, device="meta")
    stages.windowed(h, torch.empty(2, device="meta"), times, 0.05, h)
    assert not products._is_fused(h, torch.empty(1_000, 1_000, device="meta"))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small C source, with a cache of its own and a test that always passes."""
    if shutil.which("cc") is None or openmp_library() is None:
        pytest.skip("no C compiler, or no OpenMP library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "_prove", lambda *_: None)
    path = tmp_path / "small.c"
    path.write_text(SMALL)
    return path


def compiled(source: Path) -> ctypes.CDLL:
    return compiler.compiled(source, "genome_lm.kernels.cpu.proof", openmp_library())


def kept(tmp_path: Path) -> Path:
    [file] = (tmp_path / "cache/genome_lm").iterdir()
    return file


@pytest.mark.parametrize("command", ["no-such-compiler", "false", "cc '", "cc --no-such-option"])
def test_without_a_working_compiler_there_is_no_library(
    command: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", command)
    with pytest.raises(
        GenomeLMError, match=r"no C compiler|/false failed: it ended with 1|CC=|/cc failed: .*no-such-option"
    ):
        compiled(source)
    assert not list(tmp_path.rglob("*.*o"))


def test_a_library_is_compiled_once_and_then_needs_no_compiler(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled(source).answer() == 42
    file = kept(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("CC", "false")
    assert compiled(source).answer() == 42


def test_processes_that_start_together_compile_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand for them: each has a lock of its own."""
    compiles, count = compiler._compile, []

    def slow(*given: Any) -> bytes:
        count.append(1)
        time.sleep(0.2)
        return compiles(*given)

    monkeypatch.setattr(compiler, "_compile", slow)
    with ThreadPoolExecutor(4) as pool:
        libraries = [*pool.map(compiled, [source] * 4)]
    assert [library.answer() for library in libraries] == [42] * 4
    assert len(count) == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), BlockingIOError()])
def test_nobody_waits_for_ever_or_where_there_are_no_locks(
    error: OSError, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: int) -> None:
        raise error

    monkeypatch.setattr(compiler.fcntl, "flock", flock)
    monkeypatch.setattr(compiler, "TURN", 0.1)
    assert compiled(source).answer() == 42


def change(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how in ("cut", "flipped", "empty"):
        file.write_bytes(
            {
                "cut": content[:4_096],
                "flipped": content[:5_000] + bytes([content[5_000] ^ 1]) + content[5_001:],
                "empty": b"",
            }[how]
        )
        return
    file.unlink()
    if how == "pipe":
        os.mkfifo(file)
    elif how == "link":
        (file.parent.parent / "elsewhere").write_bytes(content)
        file.symlink_to(file.parent.parent / "elsewhere")
    elif how == "folder":
        file.mkdir()
    else:
        with file.open("wb") as large:
            large.truncate(1 << 40)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("how", ["pipe", "link", "folder"])
def test_a_library_that_is_not_what_was_compiled_is_not_loaded(how: str, source: Path, tmp_path: Path) -> None:
    compiled(source)
    change(kept(tmp_path), how)
    with pytest.raises(GenomeLMError):
        compiled(source)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "terabyte"])
def test_a_damaged_library_is_compiled_anew(
    how: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(source)
    whole = kept(tmp_path).read_bytes()
    change(kept(tmp_path), how)
    monkeypatch.setenv("CC", "cc -pipe")
    assert compiled(source).answer() == 42
    assert kept(tmp_path).read_bytes() == whole


@pytest.mark.parametrize("how", ["group", "others", "link", "file", "owner"])
def test_a_folder_that_others_rule_is_not_used(how: str, source: Path, tmp_path: Path) -> None:
    compiled(source)
    folder = tmp_path / "cache/genome_lm"
    if how in ("group", "others"):
        folder.chmod(0o770 if how == "group" else 0o707)
    elif how == "owner":
        if os.geteuid() != 0:
            pytest.skip("giving a folder away takes root")
        os.chown(folder, 12_345, -1)
    else:
        folder.rename(tmp_path / "other")
        folder.symlink_to(tmp_path / "other") if how == "link" else folder.touch()
    with pytest.raises(GenomeLMError, match=str(folder)):
        compiled(source)


def test_a_change_of_the_file_does_not_reach_what_is_loaded(source: Path, tmp_path: Path) -> None:
    library = compiled(source)
    with kept(tmp_path).open("r+b") as file:
        file.truncate(0)
    assert library.answer() == 42


def test_without_a_home_the_folder_is_temporary_and_private(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(compiler.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, which the standard has ignored")
    assert compiled(source).answer() == 42
    assert (tmp_path / f"genome_lm-{os.geteuid()}").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("void gelu(void) { __builtin_trap(); }\n", "ended with -"),
        ("int nothing_of_ours;\n", "gelu"),
        ("void gelu(void) {}\n", "gelu of .* differs"),
    ],
    ids=["crash", "no symbols", "wrong"],
)
def test_what_fails_its_test_is_neither_kept_nor_loaded(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if openmp_library() is None or shutil.which("cc") is None:
        pytest.skip("no C compiler, or no OpenMP library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bad.c").write_text(code)
    with pytest.raises(GenomeLMError, match=message):
        compiled(tmp_path / "bad.c")
    assert not list((tmp_path / "cache/genome_lm").iterdir())


def test_without_a_library_every_stage_takes_its_plain_form(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, in_c = torch.linspace(-3, 3, 50).view(5, 10), torch.linspace(-3, 3, 50).view(5, 10)
    stages.gelu(in_c)

    def refuse(*_: object) -> ctypes.CDLL:
        raise GenomeLMError("the folder is another user's")

    stages._library_or_reason.cache_clear()
    monkeypatch.setattr(stages, "compiled", refuse)
    try:
        stages.gelu(hidden)
        assert not stages.is_compiled()
        assert stages.why_plain() == "the folder is another user's"
    finally:
        stages._library_or_reason.cache_clear()
    torch.testing.assert_close(hidden, in_c)


def test_a_user_without_home_and_entry_has_a_folder(tmp_path: Path) -> None:
    """A container runs as any number, which has no entry in the list of users."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    code = (
        "import os; from genome_lm.compiler import _cache; os.setuid(54321); os.environ.pop('HOME'); print(_cache())"
    )
    env = {**os.environ, "HOME": "/", "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": ""}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert Path(run.stdout.strip()).name == "genome_lm-54321"
