"""Tables of the Triton kernels: their values, and which of them the cache keeps."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from genome_lm.kernels.triton import tables
from genome_lm.kernels.triton.plan import make_plan, plan_for
from genome_lm.kernels.triton.tables import TableCache, table_for

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> TableCache:
    fresh = TableCache(1 << 20)
    monkeypatch.setattr(tables, "_cache", fresh)
    return fresh


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """What the cache takes for a capture in progress."""
    state = [False]
    monkeypatch.setattr(tables, "_is_capturing", lambda device: state[0])
    return state


def root(numerator: np.ndarray, denominator: int) -> Tensor:
    """Planes of exp(−2πi · numerator / denominator); whole turns are taken off the integers, exactly."""
    angle = -2 * np.pi * (numerator % denominator) / denominator
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)]))


def assert_exact(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=1e-7)


def test_tile_of_a_whole_sequence() -> None:
    plan = make_plan(500, torch.float32, 16, 32, warps=4)
    rows, columns = np.arange(16), np.arange(32)
    twiddle, *factors = (
        part.flatten()
        for part in (
            root((4 * rows[:, None] - 1) * columns, 4 * 512),
            root((4 * rows[:, None] - 1) * rows, 4 * 16),
            root(columns[:, None] * columns, 32),
        )
    )
    assert_exact(table_for(plan, CPU).tile, torch.cat([twiddle, *factors]))
    in_half = table_for(make_plan(500, "bf16", 16, 32, warps=4), CPU).tile
    assert_exact(in_half[: len(twiddle)], twiddle)
    assert torch.equal(in_half[len(twiddle) :].view(torch.bfloat16), torch.cat(factors).float().bfloat16())


def test_a_million_positions() -> None:
    plan = plan_for(1_000_000, torch.float32)
    assert plan is not None
    count, n = plan.n_columns, np.arange(plan.n_columns)
    table = table_for(plan, CPU)
    k = 4 * n[:, None] - 1
    assert_exact(table.columns[:, :count, :count], root(k * n, 4 * count))
    assert table.columns[:, count:].abs().sum() == table.columns[:, :, count:].abs().sum() == 0
    rows, columns = np.arange(plan.rows), np.arange(plan.columns)
    phases = [root(k * rows, 4 * count * plan.rows), root(k * columns, 4 * count * plan.tile)]
    assert_exact(table.phases, torch.cat([part.flatten() for part in phases]))


def test_columns_are_in_the_dtype_of_the_products() -> None:
    for dtype, kept in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
        plan = plan_for(50_000, dtype)
        assert plan is not None
        table = table_for(plan, CPU)
        assert (table.tile.dtype, table.phases.dtype, table.columns.dtype) == (torch.float32, torch.float32, kept)


def test_lengths_of_as_many_columns_share_tables() -> None:
    plans = [plan_for(length, torch.float32) for length in (5_000, 5_001)]
    first, second = (table_for(plan, CPU) for plan in plans if plan)
    assert all(a is b for a, b in zip(first, second, strict=True))


def ones() -> Tensor:
    return torch.ones(100)  # 400 bytes


def test_least_recently_used_go_when_bytes_run_out() -> None:
    cache = TableCache(1_000)
    a, _ = cache.get((CPU, "a", ()), ones), cache.get((CPU, "b", ()), ones)
    assert cache.get((CPU, "a", ()), ones) is a
    cache.get((CPU, "c", ()), ones)
    assert cache.bytes(CPU) == 800
    assert cache.get((CPU, "a", ()), lambda: pytest.fail("gone")) is a
    with pytest.raises(pytest.fail.Exception):
        cache.get((CPU, "b", ()), lambda: pytest.fail("made again"))


def test_a_tensor_beyond_the_bound_is_kept_alone() -> None:
    cache = TableCache(500)
    cache.get((CPU, "a", ()), ones)
    large = cache.get((CPU, "b", ()), lambda: torch.ones(1_000))
    assert cache.bytes(CPU) == large.nbytes


def test_each_device_has_its_own_bound() -> None:
    cache, meta = TableCache(500), torch.device("meta")
    cache.get((CPU, "a", ()), ones)
    cache.get((meta, "a", ()), lambda: torch.ones(100, device="meta"))
    assert cache.bytes(CPU) == cache.bytes(meta) == 400


def test_nothing_made_in_a_capture_is_kept(capturing: list[bool]) -> None:
    cache, key = TableCache(1_000), (CPU, "a", ())
    capturing[0] = True
    first = cache.get(key, ones)
    assert cache.get(key, ones) is not first
    assert cache.bytes(CPU) == 0


def test_what_a_capture_used_stays_for_good(capturing: list[bool]) -> None:
    cache, key = TableCache(500), (CPU, "a", ())
    used = cache.get(key, ones)
    capturing[0] = True
    assert cache.get(key, ones) is used
    capturing[0] = False
    for name in "bcd":
        cache.get((CPU, name, ()), ones)
    assert cache.get(key, ones) is used
    assert cache.bytes(CPU) == 400
