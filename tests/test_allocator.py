"""Which of glibc's thresholds are set, and that nobody sets them but who is asked to."""

import subprocess
import sys

import pytest

from genome_lm import allocator

BOTH = ["mmap_threshold", "trim_threshold"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the C library is told."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(allocator, "_mallopt", lambda name, value: told.append((name, value)))
    return told


@pytest.mark.parametrize(
    ("environment", "set_here"),
    [
        ({}, BOTH),
        ({"MALLOC_MMAP_THRESHOLD_": "1000"}, ["trim_threshold"]),
        ({"MALLOC_TRIM_THRESHOLD_": "1000"}, ["mmap_threshold"]),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=5:glibc.malloc.mmap_threshold=5"}, []),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, BOTH),
    ],
)
def test_what_the_user_has_set_stays(
    environment: dict[str, str], set_here: list[str], calls: list[tuple[int, int]]
) -> None:
    assert allocator.keep_freed_memory(environment) == set_here
    values = {"mmap_threshold": (-3, 32 << 20), "trim_threshold": (-1, 512 << 20)}
    assert calls == [values[name] for name in set_here]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_mallopt", None)
    assert allocator.keep_freed_memory({}) == []


def test_neither_an_import_nor_a_forward_pass_tells_the_allocator_anything() -> None:
    code = """
import torch
from genome_lm import allocator
allocator._mallopt = lambda *told: print("told", told)
from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM
with torch.no_grad():
    HyenaLM(ModelConfig(d_model=16, n_layer=1, max_length=300)).eval()(torch.zeros(1, 300, dtype=torch.int64))
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "done\n"
