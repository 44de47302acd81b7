import numpy as np
import pytest
import torch

from genome_lm.errors import GenomeLMError
from genome_lm.inference.pooling import Pooling, parse_pool, pool_states


@pytest.mark.parametrize("text", ["sum", "bins", "bins:", "bins:0", "bins:-1", "bins:x", "bins:²", "mean:3", ""])
def test_unknown_pools(text: str) -> None:
    with pytest.raises(GenomeLMError, match="use mean, last, max, none, bins:N"):
        parse_pool(text)


@pytest.mark.parametrize("length", [7, 8, 23])
def test_bins_cover_every_base_once_and_are_the_same_ones_on_both_strands(length: int) -> None:
    states = torch.randn(1, length + 5, 3)
    pooled = pool_states(states, [(2, length + 2)], Pooling("bins", 7), reverse=False)[0]
    weights = np.diff([length * i // 7 for i in range(8)])
    np.testing.assert_allclose(weights @ pooled.numpy() / length, states[0, 2:-3].mean(0), atol=1e-6)
    turned = states.flip(1)
    other = pool_states(turned, [(3, length + 3)], Pooling("bins", 7), reverse=True)[0]
    np.testing.assert_allclose(other, pooled, atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "max", "last", "none", "bins:3"])
@pytest.mark.parametrize("reverse", [False, True])
def test_rows_of_one_length_together_equal_rows_one_by_one(pool: str, reverse: bool) -> None:
    states = torch.randn(4, 9, 3)
    together = pool_states(states, [(1, 8)] * 4, parse_pool(pool), reverse)
    mixed = pool_states(torch.cat([states, states[:1]]), [*[(1, 8)] * 4, (0, 9)], parse_pool(pool), reverse)
    assert len(together) == 4
    for one, other in zip(together, mixed, strict=False):
        torch.testing.assert_close(one, other)
