import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {
        "errors",
        "allocator",
        "alphabet",
        "assemblies",
        "compiler",
        "compression",
        "config",
        "direction",
        "documents",
        "device",
        "files",
        "finetune_config",
        "progress",
        "shipped",
        "download",
        "fetch",
        "lines",
        "drawing",
        "machine",
        "manifests",
        "mapped",
        "mixture_config",
        "optional",
        "store_place",
        "strands",
        "text",
        "threads",
        "training_config",
        "typed",
        "__init__",
    },
    {"genome", "kernels"},
    {"model", "formats"},
    {"checkpoint"},
    {"training", "inference", "dataset"},
    {"jobs", "sklearn"},
    {"finetune", "evaluation"},
    {"report", "gpukit", "bench"},
    {"doctor"},
]
"""A module imports from its own room and from those of the layers above it in this list."""


def layer_of(room: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def imported(path: Path) -> set[str]:
    """Full names of the modules of this project that a file imports, those within functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} if node.module != "genome_lm" else {f"genome_lm.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("genome_lm", "genome_lm_cli")}


@pytest.mark.parametrize("path", sorted((ROOT / "genome_lm").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    if path.parent.name == "genome_lm" and path.stem == "__init__":
        return  # the public API imports on first use
    room = path.relative_to(ROOT / "genome_lm").parts[0].removesuffix(".py")
    for name in imported(path):
        first, *rest = name.split(".")
        assert first == "genome_lm", f"{path} imports {name}"
        target = rest[0] if rest else "__init__"
        if target not in (room, "__version__"):
            same_layer = layer_of(target) == layer_of(room) == 0
            assert layer_of(target) < layer_of(room) or same_layer, f"{room} imports {name}"


def test_the_rooms_of_genome_and_kernels_don_t_know_each_other() -> None:
    for room, other in (("genome", "kernels"), ("kernels", "genome")):
        for path in (ROOT / "genome_lm" / room).rglob("*.py"):
            assert not [name for name in imported(path) if name.startswith(f"genome_lm.{other}")]


def test_kernels_have_one_door() -> None:
    """Only what measures, proves or forecasts the backends looks inside."""
    inside = {"bench", "doctor.py", "gpukit", "kernels"}
    for path in (ROOT / "genome_lm").rglob("*.py"):
        if path.relative_to(ROOT / "genome_lm").parts[0] not in inside and not path.stem.endswith("memory"):
            assert not [name for name in imported(path) if name.startswith("genome_lm.kernels.")], path


@pytest.mark.parametrize("room", ["genome", "formats", "dataset"])
def test_data_is_read_and_written_without_torch(room: str) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "genome_lm" / room).rglob("*.py")
    ]
    code = f"import sys; sys.modules['torch'] = None\nimport {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.name)
def test_help_is_quick(path: Path) -> None:
    """Commands import torch and the like inside of their functions, so that --help answers at once."""
    light = {
        *("allocator", "config", "device", "documents", "errors", "files", "finetune_config", "machine", "text"),
        *("threads", "training_config", "typed"),
    }
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("genome_lm."):
            assert node.module.split(".")[1] in light


def test_every_folder_is_installed() -> None:
    """A folder that pyproject.toml leaves out is there in a checkout, and missing after `pip install .`."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {".".join(path.relative_to(ROOT).parts[:-1]) for path in (ROOT / "genome_lm").rglob("__init__.py")}
    assert sorted(listed) == sorted(packages | {"genome_lm_cli", "genome_lm.data_manifests", "genome_lm.snakemake"})
