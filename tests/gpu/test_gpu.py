"""The short form of the kit on a real GPU, a test per stage."""

from pathlib import Path

import pytest
import torch

from genome_lm.gpukit import STAGES, Options, run_kit, summary


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", STAGES)
def test_stage(name: str, tmp_path: Path) -> None:
    results = run_kit(tmp_path / "results.json", Options(form="short"), {name: STAGES[name]})
    assert results["passed"], summary(results)
