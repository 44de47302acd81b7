"""The counts of a GPU's memory, against what exists at one time when the model runs on tensors without data."""

import weakref
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genome_lm.config import PRESETS, ModelConfig
from genome_lm.direction import BOTH
from genome_lm.kernels import dispatch
from genome_lm.model import HyenaLM, backbone, cuda_memory
from genome_lm.model.cuda_memory import cuda_forward_bytes, cuda_recomputed, cuda_training_bytes
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.mixers import hyena_memory
from genome_lm.model.mixers.filter import ImplicitFilter

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


class Memory(TorchDispatchMode):
    """Adds up the storages that operations make, as long as they exist.

    Attributes:
        most: Largest sum so far, in bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))  # type: ignore[operator]
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def _forget(self, storage: int, nbytes: int) -> None:
        self._known.discard(storage)
        self.now -= nbytes


@pytest.fixture(params=["triton", "reference"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which convolution is run and counted; the CPU's own savings are turned off."""
    if request.param == "triton":
        pytest.importorskip("triton")
        from genome_lm.kernels.triton import conv as triton_conv

        monkeypatch.setattr(triton_conv.INTERPRETED, "value", True)  # takes tensors of the CPU
    monkeypatch.setenv("GENOME_LM_KERNEL", request.param)
    monkeypatch.setattr(hyena_memory, "worthwhile", lambda *_: request.param == "triton")
    monkeypatch.setattr(hyena_memory, "FFT_WORKSPACE", 0)
    monkeypatch.setattr(backbone, "STORED_BYTES", 1 << 60)
    return request.param


def peak(batch: GpuBatch, training: bool, recomputed: Collection[int] = ()) -> int:
    with FakeTensorMode():
        model, ids = HyenaLM(batch.config).train(training), torch.zeros(batch.batch, batch.length, dtype=torch.int64)
        model.backbone.recomputed = lambda rows, length: frozenset(recomputed)
        with Memory() as memory:
            with (
                torch.autocast("cpu", dtype=BFLOAT16, enabled=batch.dtype == BFLOAT16),
                torch.set_grad_enabled(training),
            ):
                result = model.summed_loss(ids, ids)[0] if training else model(ids)
            if training:
                result.backward()
    return memory.most


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize("shape", [(1, 200_000, 256), (4, 60_000, 128)], ids=str)
def test_counts_are_what_exists_at_one_time(kernel: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    sequences, length, width = shape
    config = ModelConfig(d_model=width, n_layer=3, max_length=length, embed_dropout=0.0)
    batch = GpuBatch(config, sequences, length, dtype, has_triton=kernel == "triton")
    for recomputed in ([], [0], [0, 1, 2]):
        counted = peak(batch, training=True, recomputed=recomputed)
        assert cuda_training_bytes(batch, recomputed) == pytest.approx(counted, rel=0.02)
    assert cuda_forward_bytes(batch) == pytest.approx(peak(batch, training=False), rel=0.1)


@pytest.mark.parametrize(
    ("dtype", "fields"),
    [
        (FLOAT32, {"reversed_weights": "own", "combine": "gate"}), (BFLOAT16, {"strands": "equivariant"}),
        (BFLOAT16, {"layout": "attention", "combine": "projection"}),
    ],
)  # fmt: skip
def test_counts_of_models_that_read_both_ways(kernel: str, dtype: torch.dtype, fields: dict[str, Any]) -> None:
    config = ModelConfig(d_model=128, n_layer=2, max_length=40_000, embed_dropout=0.0, direction=BOTH, **fields)
    batch = GpuBatch(config, 1, 40_000, dtype, has_triton=kernel == "triton")
    for recomputed in ([], [0, 1]):
        counted = peak(batch, training=True, recomputed=recomputed)
        assert 0.995 * counted < cuda_training_bytes(batch, recomputed) < 1.2 * counted
    forward = peak(batch, training=False)
    assert 0.95 * forward < cuda_forward_bytes(batch) < 2 * forward


def test_a_million_bases_train_on_80_gb() -> None:
    """In bfloat16 as they are, in float32 or without the kernels by computing some blocks again."""
    free, plain = 79 << 30, GpuBatch(PRESETS["large-1m"], 1, 1_000_000, BFLOAT16)
    assert not cuda_recomputed(plain, free)
    for batch in (plain._replace(dtype=FLOAT32), plain._replace(has_triton=False)):
        recomputed = cuda_recomputed(batch, free)
        assert 0 < len(recomputed) < batch.config.n_layer
        fewer = sorted(recomputed)[1:]
        assert cuda_training_bytes(batch, recomputed) <= cuda_memory.MARGIN * free < cuda_training_bytes(batch, fewer)
        assert not cuda_recomputed(batch._replace(length=32_768), free)
    assert len(cuda_recomputed(plain, 1 << 30)) == plain.config.n_layer  # nothing does


@pytest.mark.parametrize("kernel", ["triton"], indirect=True)
@pytest.mark.parametrize(("dtype", "streams"), [(FLOAT32, (4, 12, 4, 4)), (BFLOAT16, (4, 6, 2, 4))], ids=str)
def test_what_a_block_saves_on_a_gpu(
    kernel: str, dtype: torch.dtype, streams: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its input, the projected streams, what is projected in the end, and the MLP's input: 4.1 kB in bf16-mixed."""
    length, width, saved = 5_000, 256, dict[int, torch.UntypedStorage]()

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() >= length * width:  # more than the weights have
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with FakeTensorMode():
        block = HyenaLM(ModelConfig(d_model=width, n_layer=1, max_length=length)).backbone.blocks[0]
        h = torch.zeros(width, length)
        monkeypatch.setattr(ImplicitFilter, "forward", lambda self, length: h)
        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
            torch.autocast("cpu", dtype=BFLOAT16, enabled=dtype == BFLOAT16),
        ):
            block(torch.zeros(1, length, width, requires_grad=True))
    of_filter = h.numel() * h.itemsize
    assert sum(storage.nbytes() for storage in saved.values()) == sum(streams) * length * width + of_filter


@pytest.mark.parametrize(("free", "recomputes"), [(80 << 30, True), (1 << 40, False)])
def test_blocks_on_a_gpu_are_computed_again_where_memory_is_short(
    free: int, recomputes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "free_bytes", lambda device: free)
    monkeypatch.setattr(dispatch, "_triton_works", lambda *_: False)
    length, width = 1_000_000, 256
    stream = SimpleNamespace(
        device=torch.device("cuda"), dtype=FLOAT32, shape=(1, length, width), nbytes=4 * length * width
    )
    with torch.device("meta"):
        model = HyenaLM(PRESETS["large-1m"])
    assert bool(model.backbone._recomputed(stream)) is recomputes  # type: ignore[arg-type]


def test_nobody_asks_the_driver_about_short_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(backbone, "free_bytes")
    stream = SimpleNamespace(device=torch.device("cuda"), dtype=FLOAT32, shape=(1, 1_000, 128), nbytes=512_000)
    assert not HyenaLM(PRESETS["tiny-1k"]).backbone._recomputed(stream)  # type: ignore[arg-type]


def test_which_blocks_leave_their_last_sum_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where one of the two is computed again, nor where something is done at its call, as FSDP does."""
    monkeypatch.setattr(backbone.Block, "takes_branch", lambda self, x: True)
    model = HyenaLM(ModelConfig(d_model=4, n_layer=4, max_length=8)).backbone
    x = torch.zeros(1, 8, 4)
    assert model._handing(x, model.blocks, ()) == {0, 1, 2}
    assert model._handing(x, model.blocks[:1], ()) == frozenset()
    assert model._handing(x, model.blocks, [1]) == {2}
    model.blocks[3].register_forward_pre_hook(lambda block, operands: None)
    assert model._handing(x, model.blocks, ()) == {0, 1}
