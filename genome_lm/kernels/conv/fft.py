"""Sizes at which FFT libraries are fast."""

from functools import lru_cache

NEAR = 15 / 16
"""A power of two is taken if `least` is at least this fraction of it."""


@lru_cache(maxsize=1024)
def fast_fft_size(least: int) -> int:
    """The smallest even 2^a · 3^b · 5^c that is at least `least`, or a power of two if it is hardly larger.

    FFT libraries are fast at such sizes. At 2 million, a power of two that is 5 % larger takes a fifth less time.
    """
    best = 1 << max(1, (least - 1).bit_length())
    if best * NEAR <= least:
        return best
    power_of_five = 1
    while power_of_five < best:
        odd = power_of_five
        while odd < best:
            twos = max(1, (-(-least // odd) - 1).bit_length())
            best = min(best, odd << twos)
            odd *= 3
        power_of_five *= 5
    return best
