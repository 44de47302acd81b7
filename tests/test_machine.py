"""Sizes of memory as people write them, the budget, and what control groups leave."""

from pathlib import Path

import pytest

from genome_lm import machine
from genome_lm.errors import GenomeLMError
from genome_lm.machine import (
    budget,
    free_memory,
    group_memory,
    library_bytes,
    memory_budget,
    parse_size,
    require_memory,
)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("8GB", 8 * 10**9), ("7.5 GiB", 15 << 29), ("500mb", 500 * 10**6), ("1TiB", 1 << 40), ("200000kb", 2 * 10**8)],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "8", "GB", "-8GB", "8 Gb/s", "1e9GB", "nanGB", "8EB", "99MB", "1001TB", "0.00GB"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(GenomeLMError, match=r"memory .*(8GB|100MB)"):
        parse_size(text)


def test_a_budget_bounds_what_is_free_and_ends_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "process_memory", lambda: 300 * 10**6)
    before = free_memory()
    with memory_budget("500MB"):
        assert budget() == 500 * 10**6
        assert free_memory() == 200 * 10**6
        with memory_budget(None):
            assert budget() == 500 * 10**6
        with pytest.raises(GenomeLMError, match=r"a genome: needs at least 0.6 GB .* \(--memory\) is 0.5 GB"):
            require_memory(6 * 10**8, "a genome")
        with memory_budget("400MB", 7), memory_budget(None, 5):
            assert library_bytes() == 7
        with memory_budget("200MB"):
            assert free_memory() == 0
    assert budget() is None
    assert free_memory() > before // 2


V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2 = "30 23 0:27 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "left"),
    [
        ("0::/a/b\n", V2, {"a/b/memory.max": "1000", "a/b/memory.current": "700", "a/b/memory.stat": ""}, 300),
        (
            "0::/a/b\n",
            V2,
            {"a/memory.max": "900", "a/memory.current": "700", "a/memory.stat": "anon 5\ninactive_file 150\n"},
            350,
        ),
        ("0::/a/b\n", V2, {"a/b/memory.max": "max", "a/b/memory.current": "700", "a/b/memory.stat": ""}, None),
        ("0::/a/b\n", V2, {"a/b/memory.max": "1000"}, None),
        (
            "4:memory:/a\n",
            V1,
            {
                "memory/a/memory.limit_in_bytes": "2000",
                "memory/a/memory.usage_in_bytes": "500",
                "memory/a/memory.stat": "",
            },
            1500,
        ),
        ("nonsense\n", V2, {}, None),
    ],
)
def test_a_control_group_says_what_is_left(
    groups: str, mounts: str, files: dict[str, str], left: int | None, tmp_path: Path
) -> None:
    tables = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    for name, text in {**tables, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert group_memory(tmp_path) == left
