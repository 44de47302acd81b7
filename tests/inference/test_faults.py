"""Every verb on a full disk, in a read-only folder, and interrupted: one error, nothing half-written."""

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm.formats.parts import PARTS
from genome_lm.jobs import score_bases as track_job
from genome_lm.jobs import score_variants as vcf_job
from genome_lm_cli.main import app
from tests.conftest import Genome

SLOW = """
import sys, time
import genome_lm_cli.main
from genome_lm import progress
from genome_lm.jobs import score_bases as track_job
from genome_lm.jobs import score_variants as vcf_job
from genome_lm.progress import Bar

progress.SECONDS = 1e9
track_job.PART_BASES, track_job.PART_STRIDES, vcf_job.RECORDS = 300, 1, 20
real = Bar.advance
def advance(*arguments):
    real(*arguments)
    print("step", file=sys.stderr, flush=True)
    time.sleep(0.1)
Bar.advance = advance
genome_lm_cli.main.run()
"""


class Verb(NamedTuple):
    """A command that takes some steps, and what it leaves when it is cut off after a few of them."""

    name: str
    options: tuple[str, ...]
    outputs: tuple[str, ...]
    goes_on: bool = False


VERBS = [
    Verb("score", ("--genome", "GENOME", "--vcf", "VCF", "--out"), ("s.vcf.gz", "s.vcf.gz.tbi"), True),
    Verb("score", ("--genome", "GENOME", "--bed", "BED", "--out"), ("s.bw",), True),
    Verb("score", ("--genome", "GENOME", "--bed", "BED", "--out"), ("s.bedgraph.gz",), True),
    Verb("score", ("--genome", "GENOME", "--bed", "BED", "--table"), ("s.tsv",), True),
    Verb("generate", ("--prompt", "ACGT", "--length", "100", "--samples", "20", "--out"), ("g.fa",)),
    Verb(
        "mutagenesis",
        ("--genome", "GENOME", "--region", "one:1001-1500", "--batch-tokens", "1000", "--out"),
        ("m.tsv",),
    ),
    Verb(
        "mutagenesis",
        ("--genome", "GENOME", "--region", "one:1001-1500", "--batch-tokens", "1000", "--out"),
        ("m.zarr",),
    ),
    Verb(
        "dependency",
        ("--genome", "GENOME", "--region", "one:1001-1100", "--batch-tokens", "500", "--out"),
        ("d.npz",),
    ),
    Verb(
        "dependency",
        ("--genome", "GENOME", "--region", "one:1001-1100", "--batch-tokens", "500", "--out"),
        ("d.zarr",),
    ),
]
every_verb = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: f"{verb.name} {verb.outputs[0]}")
Command = Callable[[Verb, Path], list[str]]


@pytest.fixture
def command(run: Path, genome: Genome, tmp_path: Path) -> Command:
    """The arguments of a verb that writes to a folder."""
    vcf, bed = tmp_path / "in.vcf", tmp_path / "in.bed"
    dna = genome.store["one", :].tobytes().decode()
    records = [
        f"one\t{at + 1}\t.\t{dna[at]}\t{'A' if dna[at] != 'A' else 'C'}\t.\t.\t.\n" for at in range(0, 40_000, 99)
    ]
    vcf.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(records))
    bed.write_text("one\t50\t5000\ttwo_thirds\none\t2000\t7000\ttoo\ntwo\t0\t900\n")
    names = {"GENOME": str(genome.store.path), "VCF": str(vcf), "BED": str(bed)}

    def arguments(verb: Verb, folder: Path) -> list[str]:
        options = [names.get(option, option) for option in verb.options]
        return [verb.name, str(run / "checkpoint"), *options, str(folder / verb.outputs[0])]

    return arguments


def call(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


def content(folder: Path) -> dict[str, bytes]:
    """Files of a folder by name; what compression says of the time is left out."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: gzip.open(p).read() if name.endswith(".gz") else p.read_bytes() for name, p in files.items()}


@every_verb
def test_a_full_disk(verb: Verb, command: Command, small_disk: Path) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'full'}"], capture_output=True)
    with pytest.raises(GenomeLMError, match="No space left on device"):
        call(command(verb, small_disk))
    assert [path.name for path in small_disk.iterdir()] == ["full"]


@every_verb
def test_a_disk_that_fills_up(verb: Verb, command: Command, small_disk: Path) -> None:
    """There is room to begin, but not for the output; parts of a job stay, and are used when there is room."""
    if verb.outputs[0].endswith((".tsv", ".zarr")):
        pytest.skip("the output is smaller than what a file system gives at least")
    arguments = command(verb, small_disk)
    folder = small_disk.parent / "elsewhere"
    call(command(verb, folder))
    needed = sum(path.stat().st_size for path in folder.iterdir())
    room = needed // 4_096 * 4_096 // 2 + (40 << 10 if verb.goes_on else 0)
    (small_disk / "full").write_bytes(bytes((1 << 20) - room))
    with pytest.raises(GenomeLMError, match="No space left on device"):
        call(arguments)
    assert not [name for name in os.listdir(small_disk) if name != "full" and not name.endswith(PARTS)]
    (small_disk / "full").unlink()
    call(arguments)
    assert content(small_disk) == content(folder)


@every_verb
def test_a_read_only_folder(verb: Verb, command: Command, read_only_disk: Path) -> None:
    with pytest.raises(GenomeLMError, match=r"fixed/.*: can't write there: Read-only file system"):
        call(command(verb, read_only_disk))


@pytest.mark.parametrize(
    ("verb", "sent"),
    [
        (VERBS[0], signal.SIGINT),
        (VERBS[0], signal.SIGKILL),
        (VERBS[1], signal.SIGKILL),
        (VERBS[2], signal.SIGINT),
        (VERBS[4], signal.SIGINT),
        (VERBS[5], signal.SIGINT),
        (VERBS[7], signal.SIGINT),
    ],
)
def test_cut_off_in_the_middle(
    verb: Verb, sent: signal.Signals, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C and `kill -9`: no output, and the same command makes the one of a run that nobody disturbed."""
    folder, whole = tmp_path / "cut", tmp_path / "whole"
    folder.mkdir()
    arguments = [sys.executable, "-c", SLOW, *command(verb, folder)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        steps = 0
        while steps < 25:
            line = process.stderr.readline()
            assert line
            steps += line == "step\n"
        process.send_signal(sent)
        # On a slow machine there are lines of progress too.
        lines = process.stderr.read().splitlines(keepends=True)
        said = "".join(line for line in lines if line != "step\n" and not line.startswith(f"{verb.name}:"))
    assert (process.returncode, said) == ((130, "interrupted\n") if sent == signal.SIGINT else (-9, ""))
    assert [path.name for path in folder.iterdir()] == ([verb.outputs[0] + PARTS] if verb.goes_on else [])
    monkeypatch.setattr(vcf_job, "RECORDS", 20)
    monkeypatch.setattr(track_job, "PART_BASES", 300)
    monkeypatch.setattr(track_job, "PART_STRIDES", 1)
    call(command(verb, whole))
    said = call(command(verb, folder))
    assert ("parts from an earlier run" in said) == verb.goes_on
    assert content(folder) == content(whole)
