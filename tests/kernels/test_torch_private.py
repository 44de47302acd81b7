"""With each private function of PyTorch broken, results are those of plain PyTorch."""

import functools
from collections.abc import Callable, Iterator

import pytest
import torch

from genome_lm.kernels.constant import constant_while_compiling
from genome_lm.kernels.cpu import products, stages, torch_private, workers
from tests.kernels.test_workers import _outputs_and_gradients

TRIALS = "has_fused_linear", "_layer_norm", "_changes", "_watching", "_thread_setters", "_real_transforms"


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each function is tried anew in the test, and again after it."""

    def forget() -> None:
        for name in (*TRIALS, "_setters"):
            function = getattr(torch_private, name)
            cached = function if hasattr(function, "cache_clear") else function.__wrapped__
            cached.cache_clear()

    forget()
    monkeypatch.setattr(torch_private, "_failures", {})
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    forget()


def raises(*_: object, **__: object) -> torch.Tensor:
    raise TypeError("the signature has changed")


def doubled(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def wrong(*given: object) -> object:
        results = function(*given)
        return tuple(2 * each for each in results) if isinstance(results, tuple) else 2 * results  # type: ignore[operator]

    return wrong


def test_all_work_with_this_torch(untried: None) -> None:
    for name in TRIALS:
        assert getattr(torch_private, name)(), torch_private.plain_forms()
    assert not torch_private.plain_forms()


@pytest.mark.parametrize("how", ["raises", "doubled", "gone"])
@pytest.mark.parametrize(
    ("place", "name", "trial"),
    [
        (torch.ops.mkldnn, "_linear_pointwise", "has_fused_linear"),
        (torch.ops.aten, "native_layer_norm_backward", "layer_norm"),
        (torch, "native_layer_norm", "layer_norm"),
        (torch._C, "_len_torch_dispatch_stack", "watching"),
        (torch_private.RealTransform, "__call__", "real_transforms"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_function_is_replaced(
    how: str, place: object, name: str, trial: str, untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "FEWEST_ROWS", 0)  # so that oneDNN is asked for small products too
    monkeypatch.setattr(stages, "COMPILED", False)  # stages in C need none of them
    expected = _outputs_and_gradients()
    for function in TRIALS:
        getattr(torch_private, function).cache_clear()
    original = getattr(place, name)
    broken = {"raises": raises, "doubled": doubled(original), "gone": None}[how]
    monkeypatch.setattr(place, name, broken)
    for got, plain in zip(_outputs_and_gradients(), expected, strict=True):
        torch.testing.assert_close(got, plain, rtol=0, atol=1e-5 * float(plain.detach().abs().max()))
    assert list(torch_private.plain_forms()) == [trial]


def test_threads_are_not_shared_where_their_number_cannot_be_set(
    untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(torch_private.ThreadSetters):
        def __init__(self, _library: object) -> None:
            self.openmp, self.mkl = lambda _: None, lambda _: 0

    monkeypatch.setattr(torch_private, "ThreadSetters", Deaf)
    assert torch_private.thread_setters() is None
    assert not workers._can_share()
    assert "omp_set_num_threads" in torch_private.plain_forms()["thread_setters"]
    assert workers.share(str, range(3)) == ["0", "1", "2"]


def test_changes_are_counted_and_unknown_where_they_are_not(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.zeros(3)
    before = torch_private.changes(tensor)
    tensor.view(3, 1).add_(1)
    after = torch_private.changes(tensor)
    assert before is not None and after is not None and after > before  # noqa: PT018
    with torch.inference_mode():
        assert torch_private.changes(torch.zeros(3)) is None
    torch_private._changes.cache_clear()
    monkeypatch.setattr(torch.Tensor, "_version", 0)
    assert torch_private.changes(tensor) is None


def test_trials_see_no_modes_of_the_caller_and_draw_no_random_numbers(untried: None) -> None:
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        assert all(getattr(torch_private, name)() for name in TRIALS), torch_private.plain_forms()
    assert torch.equal(torch.get_rng_state(), state)


def test_constants_are_marked_as_pytorch_marks_them() -> None:
    """The marker is private to PyTorch: with another one, a compiled model would trace the function."""

    def plain() -> bool:
        return True

    def ours() -> bool:
        return True

    assert vars(constant_while_compiling(ours)) == vars(torch.compiler.assume_constant_result(plain)) != {}
