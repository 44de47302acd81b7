"""The Triton operation without a GPU: its kernels in the interpreter, in a process of their own, and its refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genome_lm.errors import GenomeLMError
from genome_lm.kernels import backend_for, dispatch, gated_causal_conv
from genome_lm.kernels.triton.plan import LONGEST, plan_for


@pytest.mark.slow
def test_kernels_in_the_interpreter() -> None:
    """Triton reads TRITON_INTERPRET when it is imported, and can't compile afterwards: hence the process."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/interpreted.py",
         "tests/kernels/interpreted_products.py", "tests/kernels/interpreted_steps.py"],
        env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def operands() -> list[torch.Tensor]:
    return [*torch.randn(3, 1, 2, 20), torch.randn(2, 20), torch.randn(2)]


def test_triton_refuses_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("GENOME_LM_KERNEL", "triton")
    assert backend_for(torch.zeros(1)) == "triton"
    with pytest.raises(GenomeLMError, match="need a CUDA device, not cpu"):
        gated_causal_conv(*operands())


def test_forcing_triton_without_it_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "triton")
    monkeypatch.setattr(dispatch, "HAS_TRITON", False)
    with pytest.raises(GenomeLMError, match=r"genome-lm\[gpu\]"):
        gated_causal_conv(*operands())


def test_cpu_tensors_never_go_to_triton_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENOME_LM_KERNEL", raising=False)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert backend_for(torch.zeros(1, dtype=dtype)) in ("cpu", "reference")


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_plans_cover_every_length(dtype: torch.dtype, backward: bool) -> None:
    for length in (1, 255, 256, 257, 1_024, 1_026, 32_768, 160_001, 1_000_002, LONGEST):
        plan = plan_for(length, dtype, backward)
        assert plan is not None
        points = plan.n_columns * plan.tile
        assert length <= points
        assert points < max(2 * length, 257)
        assert plan.tile % plan.block_columns == 0 or plan.n_columns == 1
        assert plan.pitch % plan.step == 0
    assert plan_for(LONGEST + 1, dtype, backward) is None
    assert plan_for(100, torch.float64, backward) is None
