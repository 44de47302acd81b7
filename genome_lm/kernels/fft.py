"""Sizes at which FFT libraries are fast."""

from functools import lru_cache


@lru_cache(maxsize=1024)
def fast_fft_size(least: int) -> int:
    """The smallest even 2^a · 3^b · 5^c that is at least `least`; FFT libraries are quick at such sizes."""
    best = 1 << max(1, (least - 1).bit_length())
    power_of_five = 1
    while power_of_five < best:
        odd = power_of_five
        while odd < best:
            twos = max(1, (-(-least // odd) - 1).bit_length())
            best = min(best, odd << twos)
            odd *= 3
        power_of_five *= 5
    return best
