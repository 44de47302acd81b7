"""What unlabelled neighbours say about a head's input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import genome_lm
from genome_lm.alphabet import decode, encode
from genome_lm.dataset import Example, LabelledSet
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import FinetuneConfig, FinetuneOptions, Unlabelled, finetune
from genome_lm.finetune.neighbours import draw_neighbours, shared_directions
from genome_lm.genome import GenomeStore, Interval, build_store
from genome_lm.model import Head, HeadConfig
from tests.tiny import TINY_MODEL


@pytest.fixture
def source(tmp_path: Path) -> Unlabelled:
    """Two contigs of random bases, a part of which is held out."""
    generator = np.random.default_rng(0)
    letters = {name: "".join(generator.choice(list("ACGT"), size)) for name, size in (("a", 5_000), ("b", 900))}
    fasta = tmp_path / "genome.fa"
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in letters.items()))
    regions = [
        Interval("a", 0, 1_500, "train"), Interval("a", 1_500, 2_500, "test"), Interval("a", 2_500, 5_000, "train"),
        Interval("b", 0, 900, "train"),
    ]  # fmt: skip
    return Unlabelled(build_store([fasta], tmp_path / "genome.zarr"), regions)


def places(store: GenomeStore, windows: np.ndarray) -> list[tuple[str, int]]:
    sizes = zip(store.contigs.names, store.contigs.lengths.tolist(), strict=True)
    whole = {name: store[name, slice(0, size)].tobytes().decode() for name, size in sizes}
    drawn = []
    for window in windows:
        [place] = [(name, text.find(decode(window))) for name, text in whole.items() if decode(window) in text]
        drawn.append(place)
    return drawn


def test_neighbours_lie_near_each_other_within_training_regions(source: Unlabelled) -> None:
    length, distance = 50, 300
    first, second = draw_neighbours(source, 400, length, distance, seed=3)
    assert first.shape == second.shape == (400, length)
    sides = zip(places(source.store, first), places(source.store, second), strict=True)
    across = 0
    for (contig, start), (other_contig, other) in sides:
        assert contig == other_contig
        assert length <= abs(start - other) <= distance
        for begin in (start, other):
            assert any(
                r.contig == contig and r.start <= begin and begin + length <= r.end
                for r in source.regions
                if r.name == "train"
            )
        across += start > other
    assert 100 < across < 300  # either side
    again = draw_neighbours(source, 400, length, distance, seed=3)
    np.testing.assert_array_equal(again[1], second)


def test_regions_without_neighbours_are_an_error(source: Unlabelled) -> None:
    with pytest.raises(GenomeLMError, match="overlap, windows being 50 long"):
        draw_neighbours(source, 10, 50, 49, 0)
    only_short = [Interval("a", 0, 60, "train"), Interval("a", 60, 5_000, "test")]
    with pytest.raises(GenomeLMError, match=r"genome\.zarr: regions of the training split hold too few pairs"):
        draw_neighbours(source._replace(regions=only_short), 10, 50, 300, 0)


def test_what_neighbours_share_is_large_and_what_they_differ_in_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    n, d = 4_000, 6
    shared = torch.randn(n, 1, generator=generator)  # along one direction, hidden below the noise along another
    mix = torch.randn(d, d, generator=generator)
    scale = torch.tensor([5.0, 1, 1, 1, 1, 1])

    def states() -> torch.Tensor:
        noise = torch.randn(n, d, generator=generator) * scale
        noise[:, 1:2] += 3 * shared
        return noise @ mix

    first, second = states(), states()
    mean, matrix = shared_directions(first, second)
    one = (first - mean) @ matrix
    variances = one.var(0)
    assert variances.max() > 0.9 * variances.sum()
    together = torch.cat([one[:, variances.argmax(), None].T, shared.T])
    assert torch.corrcoef(together)[0, 1].abs() > 0.85
    assert torch.corrcoef(torch.cat([first[:, :1].T, shared.T]))[0, 1].abs() < 0.3


def test_the_tuned_checkpoint_predicts_from_states_as_they_are(run: Path, source: Unlabelled, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    examples = []
    for number in range(60):
        at = number % 2
        p = [0.35, 0.15, 0.15, 0.35] if at else [0.15, 0.35, 0.35, 0.15]
        sequence = "".join(generator.choice(list("ACGT"), 40, p=p))
        split = ("train", "train", "valid", "test")[number // 2 % 4]
        examples.append(Example(f"s{number}", sequence, ("at" if at else "gc",), split))
    labelled = LabelledSet(examples, ("label",))
    config = FinetuneConfig(method="frozen", neighbours=200, neighbour_distance=200, epochs=30)
    for pool in ("mean", "bases"):
        out = tmp_path / pool
        result = finetune(
            run / "checkpoint",
            labelled,
            out,
            "classification",
            config,
            FinetuneOptions(pool=pool, strand="both", unlabelled=source),
        )
        assert next(e.value for e in result.metrics["test"] if e.metric == "accuracy") > 0.8
        model = genome_lm.load(out / "checkpoint")
        predicted = model.predict([example.sequence for example in labelled.of_split("test").examples])
        written = pd.read_parquet(out / "predictions.parquet")
        np.testing.assert_allclose(np.stack(predicted), written[["p_at", "p_gc"]], atol=1e-4)
    with pytest.raises(GenomeLMError, match="neighbours needs states of whole sequences"):
        finetune(
            run / "checkpoint", labelled, tmp_path / "none", "tokens", config, FinetuneOptions(unlabelled=source)
        )
    with pytest.raises(GenomeLMError, match="give both, or neither"):
        finetune(run / "checkpoint", labelled, tmp_path / "none", "classification", config)


def test_states_before_bases() -> None:
    from genome_lm.model import HyenaLM

    torch.manual_seed(0)
    model = HyenaLM(TINY_MODEL).eval()
    head = Head(HeadConfig("classification", ("a", "b"), "bases"), TINY_MODEL)
    sequence = "ACCNGTA"
    ids = torch.from_numpy(encode(sequence + "GG"))[None]  # two bases of padding, which do not count
    with torch.no_grad():
        got = head.features(model.backbone, ids, torch.tensor([len(sequence)]))
        layers = [*range(1, TINY_MODEL.n_layer), None]
        each = [states[0].clone() for _, states in model.backbone.every_layer(ids, layers)]
    expected = [
        sum((states[i] for i in range(len(sequence) - 1) if sequence[i + 1] == base), start=torch.zeros(()))
        / len(sequence) + torch.zeros(TINY_MODEL.d_model)
        for states in each for base in "ACGT"
    ]  # fmt: skip
    torch.testing.assert_close(got[0], torch.cat(expected))
