"""A genome in an S3 bucket, by S3's own protocol: read ahead as at any URL, and errors of rights and addresses.

Skipped where moto is not installed (tests/s3.py).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, Tiling, build, build_store, remote
from genome_lm.genome.variants import Variant
from genome_lm.inference import score_variants
from genome_lm.inference.embedding import FlankedSequence
from genome_lm.jobs import GenomeSource
from genome_lm.jobs.sources import Span
from genome_lm.mixture_config import one_source
from genome_lm.training.data import TrainingSteps
from genome_lm.training.opening import open_sources
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.inference.test_variants import LAYOUT, model_of
from tests.s3 import CREDENTIALS, S3Server, serving_s3
from tests.tiny import TINY_RECIPE

pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("flask_cors")


@pytest.fixture(scope="module")
def stored(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Path, str]]:
    """A server with a genome, its folder, and its URL."""
    folder = tmp_path_factory.mktemp("s3") / "g.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "CHUNK", 64)  # so that each step and each part finds chunks that are new
        build_store([genome.fasta], folder)
    with serving_s3() as server:
        yield server, folder, server.put(folder)


@pytest.fixture
def server(
    stored: tuple[S3Server, Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[S3Server, Path, str]:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": stored[0].url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # not the user's
        monkeypatch.setenv(name, str(tmp_path / "none"))
    return stored


def wait(store: GenomeStore) -> None:
    """Until what was asked for ahead is here."""
    for batch in store._chunks._files._batches.values():  # type: ignore[union-attr]
        batch.replies.result(10)


def test_training_reads_its_next_step_ahead(server: tuple[S3Server, Path, str], genome: Genome) -> None:
    s3, folder, url = server
    local, distant = (
        TrainingSteps(open_sources(one_source(Path(place), genome.intervals), TINY_RECIPE).mixture, TINY_RECIPE)
        for place in (str(folder), url)
    )
    for number in (0, 1):
        ours, theirs = local[number], distant[number]
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.weights, theirs.weights)
    wait(distant.mixture.sources[0].sampler.store)
    before = len(s3.asked)
    distant.mixture.tokens(distant.windows(2))
    assert len(s3.asked) == before


def test_embedding_reads_its_next_part_ahead(
    server: tuple[S3Server, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, folder, url = server
    places = [Interval("one", start, start + 300, str(start)) for start in range(100, 36_000, 6_000)]
    ranges = [(0, 2), (2, 4), (4, 6)]
    store, asked = GenomeStore(url), []
    expected = list(GenomeSource(GenomeStore(folder), places, Tiling()).read(ranges))
    flanked = GenomeSource._flanked

    def counted(source: GenomeSource, spans: list[Span]) -> list[FlankedSequence]:
        wait(store)
        before = len(s3.asked)
        pieces = flanked(source, spans)
        asked.append(len(s3.asked) - before)
        return pieces

    monkeypatch.setattr(GenomeSource, "_flanked", counted)
    for part, local in zip(GenomeSource(store, places, Tiling()).read(ranges), expected, strict=True):
        for (_, piece), (_, same) in zip(part, local, strict=True):
            np.testing.assert_array_equal(piece.tokens, same.tokens)
    assert asked == [0, 0, 0]


def test_scores_are_those_of_the_folder(server: tuple[S3Server, Path, str]) -> None:
    _, folder, url = server
    store, local = GenomeStore(url, 40_000), GenomeStore(folder)
    letters = local["one"].tobytes().decode()
    variants = [Variant("one", at, letters[at], "CGTA"["ACGT".index(letters[at])]) for at in range(700, 9_000, 700)]
    options = {"batch_tokens": 3 * LAYOUT.window}
    ours, theirs = (score_variants(model_of(), each, variants, LAYOUT, **options) for each in (local, store))
    np.testing.assert_array_equal(ours.llr, theirs.llr)
    assert ours.reasons == theirs.reasons


def test_a_command_reads_it(server: tuple[S3Server, Path, str], tmp_path: Path) -> None:
    _, folder, url = server
    (tmp_path / "a.bed").write_text("one\t100\t400\ntwo\t50\t700\n")
    outs = []
    for number, place in enumerate((str(folder), url)):
        out = tmp_path / f"{number}.npz"
        given = ["embed", "bacteria-900k", "--genome", place, "--bed", str(tmp_path / "a.bed"), "--out", str(out)]
        run = CliRunner().invoke(app, given)
        assert run.exit_code == 0, run.output
        outs.append(dict(np.load(out)))
    for name, values in outs[0].items():
        np.testing.assert_array_equal(values, outs[1][name])


def test_what_is_not_there(server: tuple[S3Server, Path, str]) -> None:
    s3, _, url = server
    before = len(s3.asked)
    with pytest.raises(GenomeLMError, match=rf"^{url}x: no genome store here"):
        GenomeStore(f"{url}x")
    with pytest.raises(GenomeLMError, match=r"^s3://nosuch/g.zarr/zarr.json: .*bucket does not exist; check"):
        GenomeStore("s3://nosuch/g.zarr")
    assert len(s3.asked) == before + 2, "neither is tried again"


def test_credentials(server: tuple[S3Server, Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of rights come at once, each with its reason: unknown ones, none, and a profile that is not there."""
    from moto import settings

    s3, _, url = server
    monkeypatch.setattr(remote, "PAUSES", (60.0,))
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
    before = len(s3.asked)
    with pytest.raises(GenomeLMError, match=rf"^{url}/zarr.json: can't read: The AWS Access Key Id .*; check"):
        GenomeStore(url)
    assert len(s3.asked) == before + 1
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(GenomeLMError, match=r"Unable to locate credentials; set AWS_ACCESS_KEY_ID .*FSSPEC_S3_ANON"):
        GenomeStore(url)
    monkeypatch.setenv("AWS_PROFILE", "nosuch")
    with pytest.raises(GenomeLMError, match=r"profile \(nosuch\) could not be found; set AWS_ACCESS_KEY_ID"):
        GenomeStore(url)
    assert len(s3.asked) == before + 1
