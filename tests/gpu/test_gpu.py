"""The short form of the kit on a real GPU: it runs once, and each stage is a test."""

from typing import Any

import pytest
import torch

from genome_lm.gpukit import STAGES, Options, run_kit, summary

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_kit(tmp_path_factory.mktemp("kit") / "results.json", Options(form="short"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STAGES)
def test_stage(name: str, results: dict[str, Any]) -> None:
    assert results["stages"][name]["passed"], summary(results)
