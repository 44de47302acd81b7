"""Values of options at their edges, and names that are more than letters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import genome_lm
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import SuiteInput, run_suite
from genome_lm.genome import build_store, read_bed
from genome_lm.threads import MOST, limit_threads
from genome_lm.training.devices import choose_accelerator
from genome_lm_cli.main import app
from genome_lm_cli.options import parse_shard
from genome_lm_cli.output import table
from tests.cli.test_help import COMMANDS, command_of, examples
from tests.cli.test_main import GENOME_LM
from tests.cli.test_main import genome_lm as called
from tests.conftest import Genome


def example_of(path: tuple[str, ...]) -> list[str]:
    return command_of(examples(COMMANDS[path].help or "")[0])[1]


def with_option(name: str) -> list[tuple[str, ...]]:
    return [path for path, command in COMMANDS.items() if name in [o for p in command.params for o in p.opts]]


@pytest.mark.parametrize("path", with_option("--device"), ids=" ".join)
def test_every_command_names_the_right_word_for_a_device(path: tuple[str, ...]) -> None:
    with pytest.raises(GenomeLMError, match=r"device 'gpu': did you mean cuda\? use cpu, cuda"):
        COMMANDS[path].make_context(" ".join(path), [*example_of(path), "--device", "gpu"])


@pytest.mark.parametrize("path", with_option("--seed"), ids=" ".join)
@pytest.mark.parametrize("seed", ["-1", "nan", "²", "4294967296"])
def test_every_command_refuses_a_seed_that_is_none(path: tuple[str, ...], seed: str) -> None:
    result = CliRunner().invoke(app, [*path, *example_of(path), "--seed", seed])
    assert result.exit_code == 2
    assert "--seed" in result.stderr


@pytest.mark.parametrize("text", ["²/²", "0/2", "3/2", "1/", "-1/2", "1/2/3", "1/99999999999999999999", "١/٢"])
def test_shards(text: str) -> None:
    with pytest.raises(GenomeLMError, match="use i/n, from 1/n to n/n"):
        parse_shard(text)
    assert parse_shard("2/10") == (2, 10)


def test_threads() -> None:
    for threads in (0, -1, MOST + 1, 10**18):
        with pytest.raises(GenomeLMError, match=f"--threads {threads}: give 1 to 1024"):
            limit_threads(threads)


@pytest.mark.parametrize(
    ("device", "devices", "message"),
    [("GPU", 1, "did you mean cuda"), ("cpu", 0, "devices 0"), ("mps", 1, "device mps"), ("cuda:0", 2, "cuda")],
)
def test_devices_of_a_training(device: str, devices: int, message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        choose_accelerator(device, devices)
    assert choose_accelerator("cpu", 2) == {"accelerator": "cpu", "devices": 2}


@pytest.mark.parametrize("length", ["-1", "0", "129", "1000000000000000000"])
def test_lengths(run: Path, genome: Genome, length: str) -> None:
    data = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals)]
    for arguments in (["evaluate", str(run / "checkpoint"), *data], ["checkpoint", "info", str(run / "checkpoint")]):
        result = CliRunner().invoke(app, [*arguments, "--length", length])
        assert isinstance(result.exception, GenomeLMError)
        assert f"length {length}: must be from 1 to 128" in str(result.exception)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf"), 1e308])
def test_scales(run: Path, genome: Genome, tmp_path: Path, scale: float) -> None:
    given = SuiteInput(store=genome.store, intervals=read_bed(genome.intervals), split="test")
    with pytest.raises(GenomeLMError, match=r"scale .*: must be from 0 to 1,000,000"):
        run_suite(genome_lm.load(run / "checkpoint"), given, tmp_path / "suite", scale=scale)


@pytest.mark.parametrize("value", ["nan", "inf", "-0.5", "1.5"])
def test_fractions(genome: Genome, tmp_path: Path, value: str) -> None:
    species = ["--species", f"a={genome.store.path}", "--species", f"b={genome.store.path}"]
    result = CliRunner().invoke(
        app, ["dataset", "species", *species, "--valid", value, "--out", str(tmp_path / "t.csv")]
    )
    assert isinstance(result.exception, GenomeLMError)
    assert "valid" in str(result.exception)


def test_more_than_fits_the_memory(run: Path) -> None:
    with pytest.raises(
        GenomeLMError, match=r"samples 1,000,000,000,000,000,000: .* do not fit this machine's memory"
    ):
        genome_lm.load(run / "checkpoint").generate(["A"], 10, samples=10**18)


def test_names_are_shown_letter_by_letter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fasta = tmp_path / "g.fa"
    fasta.write_text(">chr6[alt]\nACGT\n>chr[/b]\nACGT\n>chr$x$\nACGT\n")
    build_store([fasta], tmp_path / "g[b].zarr")
    shown = CliRunner().invoke(app, ["genome", "info", str(tmp_path / "g[b].zarr")]).stdout.replace("\n", "")
    for name in ("chr6[alt]", "chr[/b]", "chr$x$", "g[b].zarr"):
        assert name in shown
    table("title \x1b[2J", ("a\x1b]0;b",), [("c\x07",)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"title \x1b[2J" in shown


def test_an_error_does_not_command_the_terminal(tmp_path: Path) -> None:
    shown = called("genome", "info", tmp_path / "no\x1b[2Jwhere")
    assert shown.returncode == 1
    assert "\x1b" not in shown.stderr
    assert r"no\x1b[2Jwhere" in shown.stderr


def test_version() -> None:
    assert called("--version").stdout == f"genome-lm {genome_lm.__version__}\n"


def test_help_has_a_line_per_paragraph() -> None:
    for command in COMMANDS.values():
        for paragraph in (command.help or "").split("\n\n"):
            assert "\n" not in paragraph
    assert "tiny-1k, " in " ".join(parameter.help or "" for parameter in COMMANDS[("train",)].params)


def test_without_a_home(tmp_path: Path) -> None:
    """As in a container whose user has no entry in /etc/passwd."""
    code = (
        "import pwd\n"
        "def unknown(_): raise KeyError\n"
        "pwd.getpwuid = unknown\n"
        "from genome_lm_cli.main import run\n"
        "run()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    shown = subprocess.run(
        [sys.executable, "-c", code, "doctor"], env=environment, cwd=tmp_path, text=True, capture_output=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    "settings",
    [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}],
    ids=["latin-1", "ascii"],
)
def test_other_encodings_of_the_terminal(run: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    """Texts are shown as far as the terminal can; files, and sequences on standard output, are in UTF-8."""
    (tmp_path / "g.fa").write_text(">größe∞\nACGT\n", encoding="utf-8")
    environment = {**os.environ, **settings}
    arguments = ["generate", run / "checkpoint", "--fasta", "g.fa", "--length", "5", "--out", "-"]
    shown = subprocess.run([GENOME_LM, *arguments], env=environment, cwd=tmp_path, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.decode("utf-8").startswith(">größe∞/1 ")
    assert b"Traceback" not in shown.stderr


def test_a_closed_pipe_is_no_error_to_tell(run: Path) -> None:
    arguments = ["generate", run / "checkpoint", "--prompt", "A", "--length", "100", "--samples", "900", "--out", "-"]
    process = subprocess.Popen([GENOME_LM, *map(str, arguments)], stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    shown = process.stderr.read().decode()
    process.wait()
    assert "Traceback" not in shown
    assert "BrokenPipe" not in shown


def test_a_huge_cell_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint's provenance may list ten thousand sources, whose layout took longer than all else."""
    table("t", ("", ""), [("provenance", "x" * 3_000_000)])
    shown = capsys.readouterr().out
    assert "2,980,000 more; --json shows all" in shown
    assert len(shown) < 40_000
