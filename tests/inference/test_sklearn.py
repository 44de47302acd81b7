"""The transformer of scikit-learn."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import genome_lm
from genome_lm.errors import GenomeLMError
from genome_lm.sklearn import Embedder

SEQUENCES = ["ACGTACGT", "ACC", "TTTTGGA", "GATTACA"]


def test_it_embeds_as_the_model_does(run: Path) -> None:
    checkpoint = str(run / "checkpoint")
    embedder = Embedder(checkpoint, strand="both", layer=1).fit(SEQUENCES)
    expected = genome_lm.load(checkpoint).embed(SEQUENCES, strand="both", layer=1)
    frame = pd.DataFrame({"sequence": SEQUENCES})
    for values in (SEQUENCES, np.array(SEQUENCES), frame["sequence"], frame):
        np.testing.assert_array_equal(embedder.transform(values), expected)
    assert len(embedder.get_feature_names_out()) == expected.shape[1]
    copy = pickle.loads(pickle.dumps(clone(embedder).set_params(pool="max")))
    assert (copy.pool, copy.strand, hasattr(copy, "model_")) == ("max", "both", False)
    assert embedder.set_output(transform="pandas").transform(frame).columns[0] == "genomelm0"


def test_it_stands_in_a_pipeline(run: Path) -> None:
    pipeline = make_pipeline(Embedder(str(run / "checkpoint"), pool="max"), LogisticRegression())
    labels = [0, 1, 1, 0]
    assert pipeline.fit(SEQUENCES, labels).predict(SEQUENCES).shape == (4,)


@pytest.mark.parametrize(
    "check",
    "estimator_cloneable estimator_repr get_params_invariance no_attributes_set_in_init set_params "
    "estimator_tags_renamed valid_tag_types parameters_default_constructible mixin_order".split(),
)
def test_checks_of_scikit_learn_that_need_no_numbers(check: str) -> None:
    """The others feed matrices."""
    getattr(estimator_checks, f"check_{check}")("Embedder", Embedder())


def test_bad_input_is_refused(run: Path) -> None:
    embedder = Embedder(str(run / "checkpoint")).fit(SEQUENCES)
    with pytest.raises(GenomeLMError, match="'X' at position 3 is not a DNA letter"):
        embedder.transform(["ACXT"])
    with pytest.raises(ValueError, match="one column"):
        embedder.transform([["AC", "GT"]])
    with pytest.raises(ValueError, match="pool none"):
        Embedder(str(run / "checkpoint"), pool="none").fit(SEQUENCES)
