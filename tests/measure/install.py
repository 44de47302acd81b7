"""What an installation weighs, and how long `genome-lm --help` takes, without and with the packages of the extras.

    python -m tests.measure.install --folder DIR [--pip-flags '--find-links WHEELS'] [--torch torch==2.13.0]

Makes two fresh environments in the folder by pip: one with `pip install .`, one with the extras for users too
(`--extras`). Each has the same torch. Not counted are torch and what torch requires itself, since their size depends
on torch's build, and bytecode.

`genome-lm --help` runs in both in turn. The first run of each, which writes bytecode, is left out. Processor time is
that of the process and of those that it starts. On a busy machine, look at the ratio of processor times alone.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = "gpu,workflow,transformers,loggers,attribution"
"""Those for users: `test`, `docs` and `dev` are for work on the project."""


def make(folder: Path, wanted: str, torch: str, flags: list[str]) -> Path:
    """A fresh environment with what is wanted; its site-packages."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-compile", *flags]
    subprocess.run([*install, torch, wanted], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    return site


def sizes(site: Path) -> dict[str, float]:
    """Megabytes (10^6 bytes) of the files of each package, but for bytecode, without torch's own."""
    installed = {str(canonicalize_name(each.name)): each for each in metadata.distributions(path=[str(site)])}
    torchs = needs("torch", installed)
    return {
        name: sum(path.stat().st_size for path in map(Path, files(each)) if path.is_file()) / 1e6
        for name, each in installed.items()
        if name not in torchs
    }


def files(package: metadata.Distribution) -> list[str]:
    """Paths of a package's files, but for bytecode."""
    return [str(path.locate()) for path in package.files or () if path.suffix != ".pyc"]


def needs(name: str, installed: dict[str, metadata.Distribution]) -> set[str]:
    """A package and all that it requires without extras, by canonical name."""
    needed, waiting = set[str](), [name]
    while waiting:
        if (name := waiting.pop()) in needed or name not in installed:
            continue
        needed.add(name)
        for line in installed[name].requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(wanted.name))
    return needed


def help_time(site: Path) -> tuple[float, float]:
    """Seconds of processor and of wall time of one `genome-lm --help`."""
    program, before, start = site.parents[2] / "bin" / "genome-lm", os.times(), time.perf_counter()
    subprocess.run([program, "--help"], check=True, stdout=subprocess.DEVNULL, cwd=site.parents[2])
    wall, after = time.perf_counter() - start, os.times()
    spent = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return spent, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the environments are made; not there yet")
    parser.add_argument("--extras", default=EXTRAS)
    parser.add_argument("--torch", default="torch", help="as pip takes it")
    parser.add_argument("--pip-flags", default="", help="such as '--extra-index-url …' for a CPU build of torch")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--show", type=int, default=12, help="packages that are listed, the largest first")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    flags = shlex.split(options.pip_flags)
    wanted = {"plain": str(ROOT), "all extras": f"{ROOT}[{options.extras}]"}
    sites = {
        name: make(options.folder.resolve() / name.replace(" ", "-"), what, options.torch, flags)
        for name, what in wanted.items()
    }
    for name, site in sites.items():
        weights = sizes(site)
        print(f"{name}: {len(weights)} packages, {sum(weights.values()):,.0f} MB without torch and what it requires")
        for package, size in sorted(weights.items(), key=lambda item: -item[1])[: options.show]:
            print(f"  {size:8.1f} MB  {package}")
    for site in sites.values():
        help_time(site)
    times = {name: list[tuple[float, float]]() for name in sites}
    for _ in range(options.runs):
        for name, site in sites.items():
            times[name].append(help_time(site))
    for name, rows in times.items():
        spent, wall = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"genome-lm --help, {name}: {spent:.3f} s of processor time, {wall:.3f} s of wall time (medians)")
    ratios = [whole[0] / plain[0] for plain, whole in zip(times["plain"], times["all extras"], strict=True)]
    print(f"processor time with all extras: {statistics.median(ratios):.2f} times that of plain (median of rounds)")


if __name__ == "__main__":
    main()
