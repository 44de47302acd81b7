import numpy as np
import pytest
import torch
from torch import Tensor

import genome_lm
from genome_lm.errors import GenomeLMError
from genome_lm.inference.batches import BatchSize, compute_in_batches

CPU = torch.device("cpu")
OUT_OF_MEMORY = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:40] or "MemoryError")
def test_batches_shrink_until_they_fit(error: Exception) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    done: list[int] = []
    sizes = []

    def compute(numbers: list[int], ids: Tensor) -> None:
        if ids.numel() > 130:
            raise error
        sizes.append(ids.numel())
        done.extend(numbers)

    size = BatchSize(5_000)
    compute_in_batches([np.full(n, 7, np.uint8) for n in lengths], size, CPU, compute)
    assert sorted(done) == list(range(200))
    assert size.tokens <= 130
    assert max(sizes) > 65  # no smaller than need be


def test_one_sequence_that_does_not_fit_is_an_error() -> None:
    def compute(numbers: list[int], ids: Tensor) -> None:
        raise MemoryError

    with pytest.raises(GenomeLMError, match="one sequence of 9 bases"):
        compute_in_batches([np.full(9, 7, np.uint8)] * 4, BatchSize(100), CPU, compute)


def test_other_errors_pass_through() -> None:
    def compute(numbers: list[int], ids: Tensor) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        compute_in_batches([np.full(9, 7, np.uint8)], BatchSize(100), CPU, compute)


def test_a_launch_that_fails_otherwise_passes_through() -> None:
    def compute(numbers: list[int], ids: Tensor) -> None:
        raise RuntimeError("cuFFT error: CUFFT_INVALID_SIZE")

    with pytest.raises(RuntimeError, match="INVALID_SIZE"):
        compute_in_batches([np.full(9, 7, np.uint8)], BatchSize(100), CPU, compute)


def test_memory_that_runs_out_does_not_change_the_result(run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = genome_lm.load(run / "checkpoint", "cpu")
    sequences = ["ACGT" * (1 + n % 30) for n in range(40)]
    expected = model.embed(sequences, strand="both")
    real = model.backbone.blocks[1].forward

    def fails_on_large_batches(x: Tensor, *rest: object) -> Tensor:
        if x.shape[0] * x.shape[1] > 300:
            raise MemoryError
        return real(x, *rest)

    monkeypatch.setattr(model.backbone.blocks[1], "forward", fails_on_large_batches)
    np.testing.assert_allclose(model.embed(sequences, strand="both"), expected, atol=1e-5)


def test_real_allocations_that_fail_are_recognised() -> None:
    size = BatchSize(8)

    def compute(numbers: list[int], ids: Tensor) -> None:
        if len(numbers) > 1:
            torch.empty(1 << 60, dtype=torch.uint8)

    compute_in_batches([np.full(4, 7, np.uint8)] * 2, size, CPU, compute)
    assert size.tokens == 4
