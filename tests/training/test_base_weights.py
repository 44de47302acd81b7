import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.formats import base_weights
from genome_lm.formats.base_weights import open_base_weights
from genome_lm.genome import WindowSampler, of_split, read_bed
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.mixture_config import BaseWeightsConfig, MixtureConfig, SourceConfig, one_source, read_mixture
from genome_lm.training import Machine, train
from genome_lm.training.data import TrainingSteps
from genome_lm.training.opening import open_sources
from genome_lm.training.sources import read_sources
from tests.conftest import Genome
from tests.formats.test_base_weights import bigwig
from tests.tiny import TINY_MODEL
from tests.training.test_train import changed, weights

SHORT = changed(stages=((32, 4),), valid_every=4, checkpoint_every=4)


@pytest.fixture
def track(tmp_path: Path) -> Path:
    """Bases of a tenth of the weight in the whole of `one`, and of twice in a part of `two` that is soft-masked."""
    path = tmp_path / "track.bedgraph"
    path.write_text("one\t0\t40000\t0.125\ntwo\t9000\t11000\t2\n")
    return path


def test_weights_of_targets_are_those_of_their_bases(genome: Genome, track: Path) -> None:
    regions = read_bed(genome.intervals, genome.store)
    weigh = open_base_weights(BaseWeightsConfig(str(track)), genome.store, of_split(regions, "train"))
    sampler = WindowSampler(genome.store, regions)
    config = replace(SHORT, soft_mask_weight=0.25)
    with_track, without = (
        TrainingSteps(Mixture([Source("s", sampler, weighing)], [1.0]), config) for weighing in (weigh, None)
    )
    batch, plain = with_track[1], without[1]
    assert plain.weights.unique().tolist() == [0.25, 1]
    factors = batch.weights / plain.weights
    assert factors.unique().tolist() == [0.125, 1, 2]
    masked = (plain.weights == 0.25).numpy()
    # What is soft-masked is what weighs twice, to the base and on both strands.
    np.testing.assert_array_equal((factors == 2).numpy(), masked)
    assert (batch.tokens == plain.tokens).all()


def test_a_run_with_weights(genome: Genome, tmp_path: Path) -> None:
    pieces = [("one", 0, 40_000, 0.125), ("two", 9_000, 11_000, 2.0)]
    track = bigwig(tmp_path / "track.bw", pieces)
    path = tmp_path / "mixture.yaml"
    path.write_text(f"""
sources:
- name: weighed
  genome: {genome.store.path}
  intervals: {genome.intervals}
  base_weights: {{track: track.bw, clip: [0, 0.5], missing: 0.5}}
- name: plain
  genome: {genome.store.path}
  intervals: {genome.intervals}
""")
    data = read_mixture(path)
    assert data.sources[0].base_weights == BaseWeightsConfig(str(track), clip=(0, 0.5), missing=0.5)
    train(data, tmp_path / "run", TINY_MODEL, SHORT)
    rows = read_sources(tmp_path / "run")
    assert sum(row.targets for row in rows if row.source == "plain") > 2 * sum(
        row.targets for row in rows if row.source == "weighed"
    )
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["sources"]
    assert recorded[0]["base_weights"].keys() == {"sha256", "scale", "clip", "missing"}
    assert "base_weights" not in recorded[1]
    train(data, tmp_path / "workers", TINY_MODEL, SHORT, machine=Machine(num_workers=2))
    assert weights(tmp_path / "workers") == weights(tmp_path / "run")
    bigwig(track, [*pieces, ("two", 12_000, 12_001, 0.0)])
    with pytest.raises(GenomeLMError, match="holds another run"):
        train(data, tmp_path / "run", TINY_MODEL, SHORT)


def test_equal_weights_change_nothing(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "ones.bg").write_text("one\t0\t40000\t1\n")
    alone = one_source(genome.store.path, genome.intervals)
    weighed = MixtureConfig((replace(alone.sources[0], base_weights=BaseWeightsConfig(str(tmp_path / "ones.bg"))),))
    for data, name in ((alone, "alone"), (weighed, "weighed")):
        train(data, tmp_path / name, TINY_MODEL, SHORT)
    assert weights(tmp_path / "alone") == weights(tmp_path / "weighed")


def test_a_class_without_weight_is_named(genome: Genome, track: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.bed").write_text("one\t0\t40000\tcoding\ntwo\t0\t4000\tintron\n")
    source = SourceConfig("a", str(genome.store.path), str(genome.intervals))
    source = replace(source, base_weights=BaseWeightsConfig(str(track), missing=0))
    source = replace(source, regions=str(tmp_path / "classes.bed"), classes={"coding": 1, "intron": 1})
    with pytest.raises(GenomeLMError, match=r"source 'a': a/intron: .*every base .* weighs zero"):
        open_sources(MixtureConfig((source,)), SHORT)


def test_an_error_in_a_worker_is_one_message(genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_weights, "_BLOCK", 1_000)  # so that the damage is not come upon at once
    path = tmp_path / "damaged.bw"
    values = np.random.default_rng(1).random(40_000)
    bigwig(path, [("one", i, i + 1, value) for i, value in enumerate(values.tolist())])
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 5, len(content) // 2, 1_000):
        content[place] ^= 255
    path.write_bytes(content)
    source = SourceConfig("a", str(genome.store.path), str(genome.intervals))
    source = replace(source, base_weights=BaseWeightsConfig(str(path), missing=1))
    with pytest.raises(GenomeLMError) as caught:
        train(MixtureConfig((source,)), tmp_path / "run", TINY_MODEL, SHORT, machine=Machine(num_workers=1))
    assert str(caught.value) == (
        f"source 'a': {path}: can't read the values of one: a damaged bigWig file (a block can't be unpacked); "
        "get it again"
    )


def test_the_mixture_in_the_docs_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    path = tmp_path / "mixture.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    assert [source.base_weights is not None for source in read_mixture(path).sources] == [True, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("track: other.bedgraph", r"source 'a': .*other.bedgraph: line 1: no contig 'chr1'"),
        ("track: none.bw", r"source 'a': .*none.bw: can't read"),
        ("track: x.bw, clip: [1, 0]", "base_weights: clip is .1.0, 0.0.; give the least weight first"),
        ("track: x.bw, missing: -1", r"sources\[0\].base_weights.missing is -1"),
        ("track: x.bw, scale: 0", r"sources\[0\].base_weights.scale is 0"),
    ],
)
def test_bad_weights_name_their_source(options: str, words: str, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "other.bedgraph").write_text("chr1\t0\t5\t1\n")
    path = tmp_path / "mixture.yaml"
    place = f"genome: {genome.store.path}, intervals: {genome.intervals}"
    path.write_text(f"sources:\n- {{name: a, {place}, base_weights: {{{options}}}}}\n")
    with pytest.raises(GenomeLMError, match=words):
        train(read_mixture(path), tmp_path / "run", TINY_MODEL, SHORT)
    assert not (tmp_path / "run").exists()
