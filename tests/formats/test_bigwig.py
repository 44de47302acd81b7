"""Our reader of bigWig files beside pyBigWig, and on damaged files."""

import pickle
import random
from pathlib import Path

import numpy as np
import pyBigWig
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.formats.bigwig import BigWig

LENGTHS = {"chr1": 30_000, "a much longer name": 7_000, "empty": 50}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items of all three kinds, some of several bases, with gaps, in several blocks."""
    path, rng = tmp_path_factory.mktemp("bigwig") / "a.bw", np.random.default_rng(0)
    with pyBigWig.open(str(path), "w") as wig:
        wig.addHeader(list(LENGTHS.items()))
        wig.addEntries("chr1", 100, values=rng.random(9_000), span=1, step=1)
        wig.addEntries("chr1", 10_000, values=rng.random(500), span=3, step=5)
        starts = np.sort(rng.choice(1_500, 400, replace=False)) * 10 + 13_000
        wig.addEntries("chr1", starts, values=rng.random(400), span=7)
        starts = np.arange(0, 6_000, 4)
        wig.addEntries(
            [*LENGTHS][1:2] * 1_500, starts, ends=starts + 1 + np.arange(1_500) % 4, values=rng.random(1_500)
        )
    return path


def test_values_equal_those_of_pybigwig(path: Path) -> None:
    ours, rng = pickle.loads(pickle.dumps(BigWig(path))), random.Random(0)
    with pyBigWig.open(str(path)) as wig:
        assert ours.lengths == wig.chroms()
        np.testing.assert_allclose(ours.extremes, (wig.header()["minVal"], wig.header()["maxVal"]), atol=1)
        for name, length in LENGTHS.items():
            for _ in range(40):
                start, end = sorted(rng.sample(range(length + 1), 2))
                np.testing.assert_array_equal(ours.values(name, start, end), wig.values(name, start, end, numpy=True))
    assert np.isnan(ours.values("none", 0, 5)).all()


def test_damaged_files_give_values_or_one_error(path: Path, tmp_path: Path) -> None:
    content, damaged, rng = path.read_bytes(), tmp_path / "damaged.bw", random.Random(1)
    errors: list[str] = []
    for _ in range(400):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 4])):
            place = rng.randrange(rng.choice([300, len(content)]))
            changed[place] = rng.choice([0, 255, changed[place] ^ 1 << rng.randrange(8)])
        damaged.write_bytes(changed[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            file = BigWig(damaged)
            for name in file.lengths:
                file.values(name, 0, 10_000)
        except GenomeLMError as error:
            errors.append(str(error))
    assert len(errors) > 200
    assert all(error.startswith(f"{damaged}: can't read") for error in errors)
