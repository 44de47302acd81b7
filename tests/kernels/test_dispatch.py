"""Which implementation is taken on a GPU, without one: devices and their capability are stand-ins."""

import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import backend_for, dispatch
from genome_lm.kernels.conv import spectra
from genome_lm.model import HyenaLM

CUDA = torch.device("cuda", 0)
Choice = Callable[[torch.dtype], str]


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch) -> Choice:
    """The backend for a dtype on an H100 with triton, whose self-test passes."""
    monkeypatch.delenv("GENOME_LM_KERNEL", raising=False)
    monkeypatch.setattr(dispatch, "HAS_TRITON", True)
    monkeypatch.setattr(dispatch, "_self_test", lambda device, gradients: "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    dispatch.reason_against_triton.cache_clear()
    yield lambda dtype: backend_for(SimpleNamespace(device=CUDA, dtype=dtype))  # type: ignore[arg-type]
    dispatch.reason_against_triton.cache_clear()


def test_a_gpu_takes_triton_where_it_works(choice: Choice) -> None:
    assert choice(torch.float32) == choice(torch.float16) == choice(torch.bfloat16) == "triton"
    assert choice(torch.float64) == "reference"


@pytest.mark.parametrize(
    ("changed", "value"), [(dispatch, ("HAS_TRITON", False)), (torch.version, ("cuda", None))], ids=["triton", "CUDA"]
)
def test_what_was_never_asked_for_is_no_reason_to_warn(
    choice: Choice, changed: object, value: tuple[str, object], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(changed, *value)
    assert choice(torch.float32) == "reference"
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda patch: patch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5)), "7.5 is below 8.0"),
        (
            lambda patch: patch.setattr(dispatch, "_self_test", lambda device, gradients: "no C compiler"),
            "no C compiler",
        ),
    ],
    ids=["old GPU", "self-test"],
)
def test_where_triton_does_not_work_torch_fft_does_and_it_is_said_once(
    choice: Choice,
    change: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    change(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert [choice(torch.float32) for _ in range(3)] == ["reference"] * 3
    assert [reason in record.message for record in caplog.records] == [True]


def test_kernels_whose_gradients_are_wrong_compute_without_them_alone(
    choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_self_test", lambda device, gradients: "wrong" if gradients else "")
    assert choice(torch.float32) == "reference"
    with torch.no_grad():
        assert choice(torch.float32) == "triton"


@pytest.mark.parametrize("gradients", [False, True])
def test_a_self_test_that_can_t_compile_says_why(gradients: bool) -> None:
    """On the CPU outside of the interpreter the operation refuses its tensors, as a missing compiler would raise."""
    block_proof = pytest.importorskip("genome_lm.kernels.triton.block_proof")
    state = torch.get_rng_state()
    assert "need a CUDA device, not cpu" in block_proof.failure(torch.device("cpu"), gradients)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (1.2, False), (float("nan"), False)])
@pytest.mark.parametrize(
    "wrong", ["gated_causal_conv", "hyena_core", "implicit_filter", "mlp_sub_block", "head_losses"]
)
def test_a_self_test_compares_with_the_reference(
    wrong: str, factor: float, passes: bool, gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = pytest.importorskip("genome_lm.kernels.triton.block_proof")
    monkeypatch.setattr(proof, "HALF_LENGTHS", [(2, 30)])
    places = {
        "gated_causal_conv": (proof.launch, proof.reference), "hyena_core": (proof.launch, proof.reference),
        "implicit_filter": (proof.filter_launch, proof.implicit), "mlp_sub_block": (proof.fused, proof.sub_blocks),
        "head_losses": (proof.fused, proof.sub_blocks),
    }  # fmt: skip
    for name, (module, plain_module) in places.items():
        by = factor if name == wrong else 1
        plain = getattr(plain_module, name)
        monkeypatch.setattr(module, name, lambda *operands, by=by, plain=plain: by * plain(*operands))
    reason = proof.failure(torch.device("cpu"), gradients)
    assert (reason == "") is passes, reason
    assert passes or (wrong in reason and ("gradients" in reason) is gradients)


def test_the_operations_of_the_cpu_are_not_forced_on_a_gpu(choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "cpu")
    with pytest.raises(GenomeLMError, match=r"GENOME_LM_KERNEL=cpu.*not on cuda; unset it"):
        choice(torch.float32)


@pytest.mark.parametrize("layout", ["hyena", "hyena-se", "hyena-mr", "attention"])
@pytest.mark.parametrize("training", [True, False])
def test_tensors_without_values_go_through_a_model(layout: str, training: bool) -> None:
    """PyTorch's tools for shapes and exports use them; their memory must not be read."""
    with FakeTensorMode():
        model = HyenaLM(ModelConfig(d_model=16, n_layer=1, max_length=64, filter_order=8, layout=layout))
        ids = torch.randint(7, 11, (2, 65))
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=training):
            assert model.loss(ids[:, :-1], ids[:, 1:]).shape == ()


def test_low_precision_and_spectra_read_no_memory_of_tensors_without_values() -> None:
    mode = FakeTensorMode()
    with mode, torch.no_grad():
        model = HyenaLM(ModelConfig(d_model=16, n_layer=1, max_length=64, filter_order=8)).eval()
        model.lower_precision("bf16")
        assert model(torch.randint(7, 11, (2, 64))).shape == (2, 64, 16)
        u, h = torch.randn(2, 3, 3_000), torch.randn(3, 3_000)
    with pytest.raises(AssertionError, match="FakeTensor"):  # of PyTorch, which has no mode for them here
        spectra.convolved(u, spectra.spectrum(h))
