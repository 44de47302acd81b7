"""Variants of a genome at a URL: the scores of the folder, with REFs and windows read ahead."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genome_lm.config import ModelConfig
from genome_lm.direction import BOTH
from genome_lm.formats.vcf import survey_records
from genome_lm.genome import GenomeStore, build, build_store, remote
from genome_lm.genome.variants import Variant
from genome_lm.inference import score_variants
from genome_lm.model import HyenaLM
from tests.conftest import Genome
from tests.inference.test_variants import LAYOUT, model_of
from tests.served import Server, serving

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture
def server(genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(build, "CHUNK", 64)  # so that each window finds chunks that are new
    build_store([genome.fasta], tmp_path / "g.zarr")
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    with serving(tmp_path) as made:
        yield made


def asked_within(store: GenomeStore, server: Server, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Requests within each read of the store from now on, once what was asked for ahead is here."""
    counts: list[int] = []
    for name in ("fetch", "fetch_many"):
        read = getattr(GenomeStore, name)

        def counted(self: GenomeStore, *given: Any, read: Any = read, **options: Any) -> np.ndarray:
            for batch in store._chunks._files._batches.values():  # type: ignore[union-attr]
                batch.replies.exception(10)
            before = len(server.asked)
            tokens: np.ndarray = read(self, *given, **options)
            counts.append(len(server.asked) - before)
            return tokens

        monkeypatch.setattr(GenomeStore, name, counted)
    return counts


def substitutions(genome: Genome) -> list[Variant]:
    """Variants that are so far apart that each has chunks of its own."""
    whole = genome.store["one"].tobytes().decode()
    return [Variant("one", at, whole[at], "CGTA"["ACGT".index(whole[at])]) for at in range(700, 12_000, 700)]


@pytest.mark.parametrize("direction", ["causal", "hidden"])
def test_windows_come_while_the_model_goes_through_those_before(
    genome: Genome, server: Server, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of() if direction == "causal" else masked_model()
    variants = substitutions(genome)
    expected = score_variants(model, genome.store, variants, LAYOUT, batch_tokens=3 * LAYOUT.window)
    store = GenomeStore(server.url, 40_000)
    counts = asked_within(store, server, monkeypatch)
    scores = score_variants(model, store, variants, LAYOUT, batch_tokens=3 * LAYOUT.window)
    np.testing.assert_array_equal(scores.llr_forward, expected.llr_forward)
    np.testing.assert_array_equal(scores.llr_reverse, expected.llr_reverse)
    assert scores.reasons == expected.reasons == [""] * len(variants)
    waits = sum(count > 0 for count in counts)
    assert len(counts) >= 2 * len(variants) // 3
    assert waits <= (2 if direction == "causal" else 0)  # the first batch of each strand
    monkeypatch.setattr(GenomeStore, "announce", lambda *_: None)
    counts.clear()
    store = GenomeStore(server.url, 40_000)
    score_variants(model, store, variants, LAYOUT, batch_tokens=3 * LAYOUT.window)
    assert sum(count > 0 for count in counts) >= len(variants)  # each REF, one by one


def masked_model() -> HyenaLM:
    shape = ModelConfig(d_model=16, n_layer=1, max_length=96, filter_order=8, direction=BOTH)
    return HyenaLM(shape).eval()


def test_refs_of_a_vcf_are_looked_up_together(
    genome: Genome, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{v.contig}\t{v.start + 1}\t.\t{v.ref}\t{v.alt}\t.\t.\t." for v in substitutions(genome)]
    odd = ["one\t999999999999999999\t.\tA\tC\t.\t.\t.", "three\t5\t.\tA\tC\t.\t.\t.", "one\t0\t.\tA\tC\t.\t.\t."]
    header = ["##fileformat=VCFv4.3", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    vcf = tmp_path / "v.vcf"
    vcf.write_text("\n".join([*header, *lines, *odd, ""]))
    store = GenomeStore(server.url, 40_000)
    counts = asked_within(store, server, monkeypatch)
    survey, local = (survey_records(vcf, vcf, each, str, 16) for each in (store, genome.store))
    assert survey.reasons == local.reasons == {"": len(lines), "outside_contig": 2, "unknown_contig": 1}
    assert survey.digest.digest() == local.digest.digest()
    assert len(counts) >= len(lines)
    assert not any(counts)
