"""The same bits from any number of threads, and pieces of work as they are counted."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from genome_lm.alphabet import A, T
from genome_lm.config import ModelConfig
from genome_lm.kernels import dispatch
from genome_lm.kernels.cpu import proof, stages, workers
from genome_lm.kernels.cpu.long_filters import FilterWeights
from genome_lm.kernels.cpu.mixer import residual_mixer
from genome_lm.kernels.cpu.mixer_inputs import MixerWeights
from genome_lm.kernels.cpu.mlp import MlpWeights, residual_mlp
from genome_lm.kernels.cpu.partition import POSITIONS
from genome_lm.kernels.cpu.pieces import Work, backward_stages, forward_stages, loss_stage
from genome_lm.kernels.cpu.row_work import RowWork, Taker
from genome_lm.kernels.cpu.torch_private import thread_setters
from genome_lm.kernels.cpu.workers import balance
from genome_lm.model import HyenaLM
from tests.kernels.test_cpu import mixer_weights

THREADS = 1, 2, 3, 5, 8
pytestmark = pytest.mark.skipif(thread_setters() is None, reason="PyTorch shows no setters of threads here")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """PyTorch's number of threads as before, after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not stages.is_compiled(), reason="no C compiler")
@pytest.mark.parametrize("shape", [(5, 3, 1_031), (1, 1, 2_051)], ids=str)
@pytest.mark.parametrize("case", proof.cases(1, 1, 1))
def test_a_stage_in_c_gives_the_same_bits(case: str, shape: tuple[int, int, int]) -> None:
    library, results = stages.library(), []
    assert library is not None
    for count in THREADS:
        torch.set_num_threads(count)
        given, written = proof.cases(*shape)[case]
        stages.in_c(library, case.split()[0], given)
        results.append([given[place] for place in written if given[place] is not None])
    for other in results[1:]:
        for tensor, first in zip(other, results[0], strict=True):
            assert torch.equal(tensor, first)


@pytest.mark.parametrize("layout", ["hyena", "hyena-se,hyena-mr"])
def test_a_model_gives_the_same_bits(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """States, loss and gradients in fused form, with 64 threads too: more than there are pieces or cores."""
    monkeypatch.setenv("GENOME_LM_KERNEL", "cpu")
    monkeypatch.setattr(dispatch, "SMALL", 0)
    config = ModelConfig(d_model=40, n_layer=2, max_length=1_100, filter_order=16, layout=layout, se_taps=7)
    results = []
    for count in (*THREADS, 64):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        model = HyenaLM(config)
        ids = torch.randint(A, T + 1, (2, 1_038))
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        with torch.no_grad():
            states = model.eval().backbone(ids)
        results.append([loss.detach(), states, *(parameter.grad for parameter in model.parameters())])
    for other in results[1:]:
        for tensor, first in zip(other, results[0], strict=True):
            assert torch.equal(tensor, first)


def test_pieces_are_those_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[int] = []
    hand_out = workers._hand_out

    def counting(job: workers._Job[Any, Any], helpers: int) -> list[Any]:
        taken = {piece.pieces for piece in job._pieces if isinstance(piece, Taker)}  # by all takers together
        shared.append(sum(taken) + sum(not isinstance(piece, Taker) for piece in job._pieces))
        return hand_out(job, helpers)

    in_c = RowWork._step

    def counting_in_c(work: RowWork, function: Any, of_work: Any) -> Any:
        shared.append(work._pieces)
        return in_c(work, function, of_work)

    monkeypatch.setattr(workers, "_hand_out", counting)
    monkeypatch.setattr(RowWork, "_step", counting_in_c)
    torch.set_num_threads(2)
    work = Work(batch=3, length=701, width=24, inner=48)
    x = torch.randn(3, 701, 24, requires_grad=True)
    norm = torch.ones(24), torch.zeros(24)
    mixer = MixerWeights(*(weight.detach().float() for weight in mixer_weights(24, 3)))
    filters = FilterWeights(torch.randn(701, 8), torch.randn(24, 8), -torch.rand(24), torch.rand(701), 0.05)
    mlp = MlpWeights(*norm, torch.randn(48, 24), torch.zeros(48), torch.randn(24, 48), torch.zeros(24))
    out = residual_mlp(residual_mixer(x, mixer, filters, 1e-5), mlp, 1e-5)
    forward = [len(stage.sizes) for stage in forward_stages(work)]
    with_filters = workers.rows_of_piece(701, POSITIONS)
    assert shared == [forward[0] + -(-701 // with_filters), *forward[1:]]
    shared.clear()
    out.sum().backward()
    # The in-projection of a short sequence is kept.
    assert shared == [len(s.sizes) for s in backward_stages(work) if s.name != "in-projection again"]


@pytest.mark.parametrize("width", [128, 256])
@pytest.mark.parametrize(("batch", "length"), [(1, 1_000_000), (1, 160_000), (1, 32_768), (64, 1_024)])
def test_large_work_is_balanced_over_64_threads(batch: int, length: int, width: int) -> None:
    work = Work(batch, length, width, 4 * width)
    whole = [*forward_stages(work), *backward_stages(work), loss_stage(batch * length)]
    for stage in whole:
        assert balance(stage.sizes, 64) < 1.25, stage.name
        assert balance(stage.sizes, 2) < 1.05, stage.name
