"""Pieces shared among threads: every piece once, results in order, settings and failures as on one thread."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from genome_lm.kernels.cpu import mixer as cpu_mixer
from genome_lm.kernels.cpu import mlp as cpu_mlp
from genome_lm.kernels.cpu import workers
from genome_lm.kernels.cpu.long_filters import FilterWeights
from genome_lm.kernels.cpu.mlp import MlpWeights
from genome_lm.kernels.cpu.torch_private import thread_setters
from genome_lm.kernels.cpu.workers import Sizes, balance, own_threads, rows_of_piece, share, share_sum
from genome_lm.kernels.recomputed import recomputed
from tests.kernels.test_cpu import mixer_weights, window

pytestmark = pytest.mark.skipif(thread_setters() is None, reason="PyTorch shows no setters of threads here")


def test_every_piece_is_taken_once_and_results_keep_their_order(threads: int) -> None:
    seen = []

    def work(piece: int) -> tuple[int, int]:
        seen.append(piece)
        time.sleep(0.001)
        return piece**2, torch.get_num_threads()

    results = share(work, range(40))
    assert sorted(seen) == [*range(40)]
    assert results == [(piece**2, 1) for piece in range(40)]
    assert torch.get_num_threads() == threads


def test_a_single_piece_has_all_threads_if_it_may(threads: int) -> None:
    assert share(lambda _: torch.get_num_threads(), range(2)) == [1] * 2
    assert share(lambda _: torch.get_num_threads(), range(1)) == [threads]
    assert share(lambda _: torch.get_num_threads(), range(1), one_thread_each=True) == [1]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_sums_are_those_of_the_same_tree_whatever_the_threads(threads: int, count: int) -> None:
    """Values whose sum depends on the order of additions."""
    summands = torch.randn(count, 2, dtype=torch.float32, generator=torch.Generator().manual_seed(count))

    def pairs(values: list[torch.Tensor]) -> torch.Tensor:
        while len(values) > 1:
            values = [sum(values[i : i + 2][1:], values[i]) for i in range(0, len(values), 2)]
        return values[0]

    def work(number: int) -> list[torch.Tensor]:
        time.sleep(0.001 * (number % 3))
        return [summands[number].clone(), torch.full((1,), number)]

    total, numbers = share_sum(work, range(count))
    torch.testing.assert_close(total, pairs([*summands]), rtol=0, atol=0)
    assert numbers == sum(range(count))


@pytest.mark.parametrize(
    ("rows", "size"),
    [(0, 1), (1, 1), (1_000, 125), (1_024, 128), (5_000, 500), (32_768, 512), (65_537, 1_025), (10**6, 3_907)],
)
def test_rows_are_cut_evenly_into_few_or_many_pieces(rows: int, size: int) -> None:
    assert rows_of_piece(rows, Sizes(128, 512, 4_096)) == size


@pytest.mark.parametrize(("rows", "size"), [(5_000, 625), (16_384, 1_024), (32_700, 1_022), (32_768, 512)])
def test_work_that_is_not_large_has_larger_pieces(rows: int, size: int) -> None:
    assert rows_of_piece(rows, Sizes(128, 512, 4_096, medium=1_024)) == size


def test_balance_is_the_largest_load_over_the_mean() -> None:
    assert balance([3, 3, 3, 3], 2) == 1
    assert balance([3, 3, 3], 2) == pytest.approx(6 / 4.5)
    assert balance([1], 64) == 64


@pytest.mark.parametrize("threads", [3], indirect=True)
def test_all_threads_take_part_in_the_callers_modes(threads: int) -> None:
    meeting = threading.Barrier(threads)

    def work(_: int) -> tuple[int, bool, bool]:
        meeting.wait(30)
        return threading.get_ident(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    for mode, expected in (
        (torch.enable_grad, (True, False)), (torch.no_grad, (False, False)), (torch.inference_mode, (False, True))
    ):  # fmt: skip
        with mode():
            by_piece = share(work, range(threads))
        assert len({ident for ident, *_ in by_piece}) == threads
        assert {tuple(modes) for _, *modes in by_piece} == {expected}
        assert not torch.is_inference_mode_enabled()


def test_failures_come_out_and_the_rest_is_left(threads: int) -> None:
    begun = []

    def work(piece: int) -> None:
        begun.append(piece)
        time.sleep(0.001)
        if piece == 3:
            raise MemoryError("no memory for piece 3")

    with pytest.raises(MemoryError, match="piece 3"):
        share(work, range(1_000))
    assert len(begun) < 100
    assert torch.get_num_threads() == threads
    assert share(str, range(3)) == ["0", "1", "2"]


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_ctrl_c_waits_for_what_was_begun(threads: int) -> None:
    ended = []

    def work(piece: int) -> None:
        if threading.current_thread() is threading.main_thread():
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        ended.append(piece)

    with pytest.raises(KeyboardInterrupt):
        share(work, range(100))
    count = len(ended)
    time.sleep(0.3)
    assert len(ended) == count < 10


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_work_within_work_stays_on_its_thread(threads: int) -> None:
    def work(_: int) -> set[int]:
        return {threading.get_ident(), *share(lambda _: threading.get_ident(), range(8))}

    assert all(len(idents) == 1 for idents in share(work, range(8)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_a_fork_has_helpers_of_its_own(threads: int) -> None:
    share(str, range(8))
    child = os.fork()
    if child == 0:
        meeting = threading.Barrier(2)
        os._exit(0 if share(lambda _: meeting.wait(30) >= 0, range(2)) == [True, True] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_there_may_be_no_more_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    share(abs, range(3))  # so that what is tried once was tried
    helpers, started = workers._Helpers(), threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if helpers._threads:
            raise RuntimeError("can't start new thread")
        started(thread)

    monkeypatch.setattr(workers, "_helpers", lambda _process: helpers)
    monkeypatch.setattr(threading.Thread, "start", start)
    for _ in range(2):
        assert share(abs, range(-9, 0)) == [*range(9, 0, -1)]
    assert len(helpers._threads) <= 1
    helpers._end()


def test_autocast_stays_with_the_calling_thread(threads: int) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert set(share(lambda _: threading.get_ident(), range(8))) == {threading.get_ident()}


def test_threads_to_come_are_told_nothing(threads: int) -> None:
    counts = []
    with own_threads(3):
        assert torch.get_num_threads() == 3
        other = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        other.start()
        other.join()
    assert counts == [threads]
    assert torch.get_num_threads() == threads


def _outputs_and_gradients() -> list[torch.Tensor]:
    torch.manual_seed(0)
    width, length = 32, 3_000
    x = (torch.randn(1, length, width) / 2).requires_grad_()
    features, last = torch.randn(length, 6).requires_grad_(), torch.randn(width, 6).requires_grad_()
    weights = type(mixer_weights(1, 1))(*(part.detach().float().requires_grad_() for part in mixer_weights(width, 3)))
    rates, times, shift = window(width, length)
    mlp = MlpWeights(*(torch.randn(*shape).requires_grad_() for shape in (
        [width], [width], [64, width], [64], [width, 64], [width]
    )))  # fmt: skip
    mixed = cpu_mixer.residual_mixer(
        x, weights, FilterWeights(features, last, rates.float(), times.float(), shift), 1e-5
    )
    out = cpu_mlp.residual_mlp(mixed, mlp, 1e-5)
    return [out, *torch.autograd.grad(out.square().mean(), [x, features, last, *weights, *mlp])]


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    before, results = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(_outputs_and_gradients())
    torch.set_num_threads(before)
    for one, other in zip(results[0] * 2, results[1] + results[2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_recomputed_equals_the_plain_function(threads: int, frozen: bool, outer: bool) -> None:
    """Within an outer checkpoint too, as blocks are in long training steps."""
    torch.manual_seed(0)
    rows, others = torch.randn(23, 4, dtype=torch.float64), torch.randn(23, 3, dtype=torch.float64)
    first, second = (torch.randn(4, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    first.requires_grad_(not frozen)
    rows.requires_grad_(not frozen)

    def function(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.sin(x @ first + x.square() @ second) * other

    wanted = [second] if frozen else [rows, first, second]
    results = []
    ours = partial(recomputed, function, [rows, others], [first, second], 5)
    for out in (checkpoint(ours, use_reentrant=False) if outer else ours(), function(rows, others)):
        seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad(out, wanted, seed)])
    torch.testing.assert_close(*results)


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="counts with GNU's OpenMP and a compiler"
)
@pytest.mark.slow
def test_threads_meet_seldom() -> None:
    """18 times in this forward pass and 86 times in this step; with a region per operation, 295 and 1,214 times."""
    from tests.measure.regions import measured

    waits = measured("tiny-16k", 16_384, 2)
    assert sum(waits["forward"]) <= 30
    assert sum(waits["train"]) <= 130


def test_a_process_ends_well_while_a_thread_is_within_an_operation() -> None:
    code = """
import os, torch
from genome_lm.kernels.cpu import workers
x = torch.ones(1_500, 1_500)
workers._helpers(os.getpid()).ask(workers._Job(lambda _: [x @ x for _ in range(20)], [0]), 1)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
