"""Scores against those of random variants, by a scorer whose values are known."""

from pathlib import Path

import numpy as np
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.genome.classes import BaseClasses
from genome_lm.genome.variants import Variant, VariantScores
from genome_lm.jobs.calibration import Calibration, Kind
from tests.conftest import Genome


@pytest.fixture
def calibration(genome: Genome, tmp_path: Path) -> Calibration:
    bed = tmp_path / "c.bed"
    bed.write_text("one\t0\t1000\tcoding\none\t1000\t40000\tintron\n")
    calls: list[int] = []

    def score(variants: list[Variant]) -> VariantScores:
        calls.append(len(variants))
        llr = np.arange(len(variants), dtype=float)
        nothing = np.full((len(variants), 4), np.nan)
        counts = np.zeros((len(variants), 2), dtype=np.int64)
        return VariantScores(llr, llr, nothing, nothing, counts, counts, [""] * len(variants))

    made = Calibration(genome.store, BaseClasses.read(bed, genome.store), 50, 1, tmp_path / "cache", {}, score)
    made.calls = calls  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("variant", "kind"),
    [
        (Variant("one", 500, "C", "T"), Kind(1, "C>T", 1, 1)),
        (Variant("one", 1_500, "GC", "GT"), Kind(2, "C>T", 1, 1)),
        (Variant("one", 500, "CAA", "C"), Kind(1, "", 2, 0)),
        (Variant("one", 500, "C", "<DEL>", 503), Kind(1, "", 2, 0)),
        (Variant("one", 999, "C", "<INS>", None, "ACG"), Kind(2, "", 0, 3)),
        (Variant("one", 500, "C", "<INV>", 540), Kind(1, "INV", 39, 0)),
        (Variant("one", 500, "C", "C[two:5["), None),
        (Variant("one", 500, "C", "C"), None),
        (Variant("two", 500, "C", "T"), None),
    ],
)
def test_kinds(calibration: Calibration, variant: Variant, kind: Kind | None) -> None:
    assert calibration.kind_of(variant) == kind


@pytest.mark.parametrize(
    "kind", [Kind(1, "C>T", 1, 1), Kind(2, "", 7, 0), Kind(1, "", 0, 4), Kind(1, "DUP", 9, 0), Kind(2, "", 3, 2)]
)
def test_random_variants_are_of_their_kind(calibration: Calibration, genome: Genome, kind: Kind) -> None:
    variants = calibration.draw(kind)
    assert len(variants) == 50 == len({variant[:2] for variant in variants}) or kind.region == 1
    assert variants == calibration.draw(kind)
    for variant in variants:
        start = variant.start + (1 if variant.is_structural else 0)
        assert (start < 1_000) == (kind.region == 1)
        assert variant.ref == "N" or genome.store[
            "one", variant.start : variant.start + len(variant.ref)
        ].tobytes().decode().upper() == (variant.ref)
        if kind != Kind(2, "", 3, 2):
            assert calibration.kind_of(variant) == kind


def test_z_and_p_and_the_cache(calibration: Calibration) -> None:
    variants = [Variant("one", 500, "C", "T"), Variant("one", 600, "C", "T"), Variant("one", 5, "C", "C[two:5[")]
    values = calibration.calibrated(variants, np.array([-1.0, 24.0, 3.0]))
    scores = np.arange(50.0)
    np.testing.assert_allclose(values["llr_z"][:2], (np.array([-1, 24]) - 24.5) / scores.std(ddof=1))
    np.testing.assert_allclose(values["llr_p"][:2], [1 / 51, 26 / 51])
    assert np.isnan([values["llr_z"][2], values["llr_p"][2]]).all()
    assert calibration.calls == [50]  # type: ignore[attr-defined]
    calibration._backgrounds.clear()
    again = calibration.calibrated(variants, np.array([-1.0, 24.0, 3.0]))
    np.testing.assert_array_equal(again["llr_z"], values["llr_z"])
    assert calibration.calls == [50]  # type: ignore[attr-defined]
    (file,) = calibration.folder.iterdir()
    file.write_bytes(b"half")
    calibration._backgrounds.clear()
    with pytest.raises(GenomeLMError, match=r"\.npy: a damaged background"):
        calibration.background(Kind(1, "C>T", 1, 1))
