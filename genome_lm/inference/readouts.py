"""What the pass that scores a variant tells beside its log-likelihood ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.alphabet import NUCLEOTIDES
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.genome.variants import READOUTS
from genome_lm.text import some_of


@dataclass(frozen=True)
class Readouts:
    """Which readouts are wanted.

    Attributes:
        names: Keys of `READOUTS`; "llr" is always given.
        layer: Where the distances l2 and cosine are taken: None for the states after the final norm; k for the
            residual stream after block k (0: the embedding).
    """

    names: tuple[str, ...] = ("llr",)
    layer: int | None = None

    @classmethod
    def of(cls, names: Sequence[str], layer: int | None, config: ModelConfig) -> "Readouts":
        """Check what is asked of a model.

        Raises:
            GenomeLMError: On an unknown readout, or a layer that the model has not or that no readout asks for.
        """
        for name in names:
            if name not in READOUTS:
                raise GenomeLMError(f"no readout {name!r}; there are {some_of(tuple(READOUTS))}")
        if layer is not None and not 0 <= layer <= config.n_layer:
            raise GenomeLMError(
                f"there is no layer {layer}; this model has layers 0 (the embedding) to {config.n_layer}"
            )
        wanted = cls(tuple(name for name in READOUTS if name in names), layer)
        if layer is not None and not wanted.of_states:
            raise GenomeLMError(
                f"layer {layer} goes with the readouts l2 and cosine; {', '.join(names)} ask for none"
            )
        return wanted

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values, see `READOUTS`."""
        return tuple(value for name in self.names for value in READOUTS[name])

    @property
    def of_states(self) -> bool:
        """Whether hidden states are compared."""
        return "l2" in self.names or "cosine" in self.names


LLR = Readouts()


def site_values(wanted: Readouts, site: npt.NDArray[np.floating], ref: int, alt: int) -> dict[str, float]:
    """The readouts of what is predicted at the first base that differs.

    Args:
        wanted: Which ones.
        site: (4,) ln p of A, C, G and T there; NaN where nothing predicts them.
        ref: Token id of the reference there.
        alt: That of the alternative.
    """
    values = {}
    if "delta" in wanted.names:
        p_alt, p_ref = (float(np.exp(site[base - NUCLEOTIDES[0]], dtype=np.float64)) for base in (alt, ref))
        values["delta"] = p_alt - p_ref
    if "entropy" in wanted.names:
        p = np.exp(site, dtype=np.float64)
        values["entropy"] = float(np.log(p.sum()) - (p * site).sum() / p.sum())
    return values


@torch.no_grad()
def distances(wanted: Readouts, ref: Tensor, alt: Tensor) -> dict[str, float]:
    """The readouts of hidden states.

    Args:
        wanted: Which ones.
        ref: (n, D) states of the bases compared, from the first that differs on.
        alt: (n, D), those of the alternative.
    """
    values: dict[str, float] = {}
    for place, one, other in (("site", ref[0], alt[0]), ("flank", ref.mean(0), alt.mean(0))):
        one, other = one.double(), other.double()
        if "l2" in wanted.names:
            values[f"l2_{place}"] = float((one - other).norm())
        if "cosine" in wanted.names:
            values[f"cosine_{place}"] = float(1 - torch.nn.functional.cosine_similarity(one, other, dim=0))
    return values
