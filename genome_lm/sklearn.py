"""A model as a transformer of scikit-learn, for pipelines: sequences in, embeddings out."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from genome_lm.inference import load


class Embedder(TransformerMixin, BaseEstimator):
    """Embeddings of sequences, such as `make_pipeline(Embedder("bacteria-900k"), LogisticRegression())`.

    Nothing is learned. `fit` opens the checkpoint, so that copies and pickles made before it are small.

    Args:
        checkpoint: See `genome_lm.load`.
        pool: See `GenomeLM.embed`.
        layer: See `GenomeLM.embed`.
        strand: See `GenomeLM.embed`.
        device: See `genome_lm.load`.
        batch_tokens: See `GenomeLM.embed`.

    Attributes:
        model_: The `GenomeLM`, once fitted.
        n_features_out_: Numbers of an embedding, once fitted.
    """

    def __init__(
        self,
        checkpoint: str = "bacteria-900k",
        pool: str = "mean",
        layer: int | None = None,
        strand: str | None = None,
        device: str | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.pool = pool
        self.layer = layer
        self.strand = strand
        self.device = device
        self.batch_tokens = batch_tokens

    def fit(self, X: Iterable[str], y: Any = None) -> "Embedder":  # noqa: N803
        """Open the checkpoint; the sequences are not looked at."""
        self.model_ = load(self.checkpoint, self.device)
        self.n_features_out_ = self._embed(["A"]).shape[1]
        return self

    def transform(self, X: Iterable[str]) -> npt.NDArray[np.float32]:  # noqa: N803
        """Embed sequences.

        Args:
            X: n DNA sequences: a list, an array, a series of pandas or polars, or a table of one such column.

        Returns:
            (n, n_features_out_) float32.

        Raises:
            GenomeLMError: See `GenomeLM.embed`.
            ValueError: If there is more than one column.
        """
        check_is_fitted(self)
        return self._embed(_sequences(X))

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """genomelm0, genomelm1, …, as scikit-learn's own transformers name theirs."""
        check_is_fitted(self)
        return np.array([f"genomelm{number}" for number in range(self.n_features_out_)], dtype=object)

    def _embed(self, sequences: list[str]) -> npt.NDArray[np.float32]:
        if self.pool == "none":
            raise ValueError("pool none gives vectors of each base: use another pool here, or GenomeLM.embed")
        options = {"pool": self.pool, "layer": self.layer, "strand": self.strand, "batch_tokens": self.batch_tokens}
        return np.asarray(self.model_.embed(sequences, **options)).reshape(len(sequences), -1)  # type: ignore[arg-type]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.requires_fit = True
        tags.no_validation = True
        return tags


def _sequences(values: Any) -> list[str]:
    array = np.asarray(values, dtype=object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"sequences of shape {array.shape}: give a list of them, or one column of a table")
    return array.tolist()
