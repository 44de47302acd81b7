"""Training on a genome store at a URL: the steps of the folder, read ahead."""

from pathlib import Path

import pytest
import torch

from genome_lm.genome import build, build_store
from genome_lm.mixture_config import one_source, read_mixture
from genome_lm.training.data import TrainingSteps
from genome_lm.training.opening import open_sources
from tests.conftest import Genome
from tests.served import Server, serving
from tests.tiny import TINY_RECIPE

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


def steps_of(genome: Path, intervals: Path) -> TrainingSteps:
    return TrainingSteps(open_sources(one_source(genome, intervals), TINY_RECIPE).mixture, TINY_RECIPE)


def requests_for(steps: TrainingSteps, server: Server, number: int) -> int:
    """Requests that the bases of a step take, once what was asked for ahead is here."""
    for batch in steps.mixture.sources[0].sampler.store._chunks._files._batches.values():  # type: ignore[union-attr]
        batch.replies.result(10)
    before = len(server.asked)
    steps.mixture.tokens(steps.windows(number))
    return len(server.asked) - before


def test_steps_of_a_store_at_a_url_are_those_of_the_folder_and_read_ahead(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "CHUNK", 64)  # so that each step finds chunks that are new
    build_store([genome.fasta], tmp_path / "g.zarr")
    local = steps_of(tmp_path / "g.zarr", genome.intervals)
    with serving(tmp_path) as server:
        distant = steps_of(Path(server.url), genome.intervals)
        for number in (0, 31):
            ours, theirs = local[number], distant[number]
            for name in ("tokens", "weights", "ids", "sources"):
                assert torch.equal(getattr(ours, name), getattr(theirs, name))
            assert requests_for(distant, server, number + 1) == 0
            assert requests_for(distant, server, number + 2) > 0


def test_a_mixtures_url_is_not_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "mixture.yaml").write_text(
        "sources:\n- {name: a, genome: 's3://b/g.zarr', intervals: s.bed}\n"
        "- {name: b, genome: g.zarr, intervals: s.bed}\n"
    )
    sources = read_mixture(tmp_path / "mixture.yaml").sources
    assert [source.genome for source in sources] == ["s3://b/g.zarr", str(tmp_path / "g.zarr")]
