"""Which blocks are computed again: the choice against all others, and the peak against a simulation of its events."""

import itertools
from collections.abc import Collection

import numpy as np
import pytest

from genome_lm.model.chain import Chain, Link


def random_chain(seed: int, blocks: int) -> Chain:
    generator = np.random.default_rng(seed)
    links = [
        Link(int(stored + kept), int(kept), int(temporary), float(again))
        for stored, kept, temporary, again in zip(
            *generator.integers(0, 50, (3, blocks)), generator.integers(1, 9, blocks), strict=True
        )
    ]
    return Chain(int(generator.integers(20)), tuple(links))


def simulated_peak(chain: Chain, recomputed: Collection[int]) -> int:
    """Go forward and back, taking and freeing memory event by event."""
    now = most = chain.fixed
    for number, link in enumerate(chain.links):
        now += link.input if number in recomputed else link.stored
        most = max(most, now)
    for number, link in reversed([*enumerate(chain.links)]):
        if number in recomputed:
            now += link.stored - link.input
        most = max(most, now + link.temporary)
        now -= link.stored
    assert now == chain.fixed
    return most


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_takes_less_time_within_the_memory(seed: int) -> None:
    chain = random_chain(seed, blocks=7)
    choices = [set(some) for n in range(8) for some in itertools.combinations(range(7), n)]
    peaks = {frozenset(choice): simulated_peak(chain, choice) for choice in choices}
    assert all(chain.peak(choice) == peak for choice, peak in peaks.items())
    assert chain.least == min(peaks.values())
    for room in (chain.least - 1, *range(chain.least, max(peaks.values()) + 5, 7)):
        times = [chain.time(choice) for choice, peak in peaks.items() if peak <= room]
        solution = chain.solve(room)
        if not times:
            assert solution is None
            continue
        assert solution is not None
        assert chain.peak(solution) <= room
        assert chain.time(solution) == pytest.approx(min(times))


def test_a_long_chain_of_two_kinds_is_solved_at_once() -> None:
    chain = Chain(0, (Link(10, 1, 5, 1.0), Link(17, 1, 3, 2.5)) * 200)
    solution = chain.solve(2_000)
    assert solution is not None
    assert chain.peak(solution) <= 2_000 < chain.peak(solution - {min(solution)})
