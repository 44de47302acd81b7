"""Where little else is installed than torch, the package still imports and computes, and says what it lacks."""

import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from genome_lm.mixture_config import one_source
from genome_lm.optional import require
from genome_lm.training import train
from genome_lm.training.metrics import read_metrics
from tests.conftest import Genome
from tests.tiny import TINY_MODEL, TINY_RECIPE

ROOT = Path(__file__).parents[1]
ABSENT = (
    "Bio anndata gffutils google_crc32c huggingface_hub jsonschema logomaker matplotlib numcodecs pandas psutil "
    "pyBigWig pyfaidx pysam requests sklearn snakemake tensorboard transformers zarr"
).split()
MORE_ABSENT = [*ABSENT, *"filelock h5py lightning pyarrow pytorch_lightning rich torchmetrics typer yaml".split()]
"""With these, what is left is torch, numpy, safetensors and what they need."""
HIDING = """
import os, sys
from importlib.machinery import PathFinder

modules = os.environ["ABSENT"].split()
packages = {name.lower() for name in (*modules, "biopython", "genome_lm", "pyyaml", "scikit_learn")}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in modules else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *where):
        for found in super().find_distributions(*where):
            if found.metadata["Name"].lower().replace("-", "_") not in packages:
                yield found

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""
USES = {
    "Bio": "files.open_output(Path('a.gz'))",
    "gffutils": "list(dataset.gff.read_features(path))",
    "pyBigWig": "formats.tracks.check_track_names(Path('track.bw'), None)",
    "pysam": "formats.vcf_out.check_vcf_name(Path('out.bcf'))",
    "numcodecs": "genome.build_store([path], Path('genome.zarr'))",
}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python where libraries, and this project's installation, are hidden."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(HIDING)

    def run(*arguments: str, absent: Sequence[str] = ABSENT, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "ABSENT": " ".join(absent)}
        return subprocess.run([sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def said(bare: Run) -> dict[str, str]:
    """What is said where a library is missing, by its name."""
    code = [
        "import json",
        "from pathlib import Path",
        "from genome_lm import GenomeLMError, dataset, files, formats, genome",
        "from genome_lm.dataset import gff",
        "from genome_lm.formats import tracks, vcf_out",
        "said, path = {}, Path('input')",
        "path.write_text('>a\\nACGT\\n')",
    ]
    for name, use in USES.items():
        code += ["try:", f"    {use}", "except GenomeLMError as error:", f"    said[{name!r}] = str(error)"]
    ended = bare("-c", "\n".join([*code, "print(json.dumps(said))"]))
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("config alphabet model kernels checkpoint doctor", MORE_ABSENT),
        ("genome training training.run inference jobs finetune evaluation dataset", ABSENT),
    ],
    ids=["models", "the rest"],
)
def test_imports(bare: Run, modules: str, absent: list[str]) -> None:
    imports = ", ".join(["genome_lm", *(f"genome_lm.{module}" for module in modules.split())])
    ended = bare("-c", f"import {imports}; print(genome_lm.__version__)", absent=absent)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip() == importlib.import_module("genome_lm").__version__


def test_what_needs_a_gpu_is_collected(bare: Run) -> None:
    ended = bare("-m", "pytest", "tests/gpu", "--collect-only", "-q", "-p", "no:cacheprovider", cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "test_gpu.py::test_stage[machine]" in ended.stdout


def test_a_model_computes(bare: Run) -> None:
    code = """
from genome_lm import GenomeLM, ModelConfig
from genome_lm.model import HyenaLM
lm = GenomeLM(HyenaLM(ModelConfig(d_model=16, n_layer=2, max_length=128, filter_order=8)))
(likelihoods,), (generated,) = lm.log_likelihood(["ACGT"]), lm.generate(["ACGT"], 9)
print(lm.embed(["ACGT", "TTTGA"]).shape, len(likelihoods), len(generated.sequence))
"""
    ended = bare("-c", code)
    assert (ended.returncode, ended.stdout.strip()) == (0, "(2, 16) 4 9"), ended.stderr


@pytest.mark.parametrize(
    ("library", "package"), [(name, {"Bio": "biopython"}.get(name, name)) for name in USES], ids=list(USES)
)
def test_a_missing_reader_is_named(said: dict[str, str], library: str, package: str) -> None:
    assert said[library].startswith(f"{library} is not installed, and ")
    assert said[library].endswith(f" need it: pip install {package}")


def test_training_without_tensorboard(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level(logging.WARNING):
        train(one_source(genome.store.path, genome.intervals), tmp_path / "run", TINY_MODEL, TINY_RECIPE)
    (told,) = [record.getMessage() for record in caplog.records if "TensorBoard" in record.getMessage()]
    assert told.endswith("pip install tensorboard")
    assert len(read_metrics(tmp_path / "run")) == TINY_RECIPE.steps
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_every_library_that_is_required_has_a_use() -> None:
    """A name that the table of uses lacks would be a KeyError, and only where the library is missing."""
    from genome_lm.optional import _USES

    source = "\n".join(path.read_text() for room in ("genome_lm", "cli") for path in (ROOT / room).rglob("*.py"))
    required = {part.split('"')[0].partition(".")[0] for part in source.split('require("')[1:]}
    assert required == set(_USES)
    assert require("json") is json
