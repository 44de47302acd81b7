"""Sizes at which FFT libraries are fast."""

import bisect
import math
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


_QUICK_FOR_MKL = (
    512, 560, 576, 640, 672, 768, 896, 1_024, 1_152, 1_280, 1_296, 1_344, 1_536, 1_792, 2_048, 2_160, 2_304,
    2_560, 2_592, 2_688, 2_880, 3_072, 3_200, 3_456, 3_600, 3_840, 3_888, 4_096, 4_608, 4_800, 5_120, 5_376,
    5_600, 6_048, 6_144, 6_912, 7_168, 7_200, 8_192, 8_960, 9_216, 10_240, 10_752, 10_800, 11_664, 12_288,
    13_824, 14_400, 15_360, 15_552, 16_128, 17_280, 18_432, 19_200, 21_504, 21_600, 23_328, 25_600, 28_672,
    30_720, 36_864, 43_008, 51_200, 55_296, 57_344, 61_440, 73_728, 86_016, 102_400, 122_880, 131_072,
    172_032, 221_184, 226_800, 262_144, 262_500, 272_160, 279_936, 286_720, 291_600, 307_200, 320_000,
    322_560, 345_600, 349_920, 354_294, 384_000, 414_720, 453_600, 504_000, 560_000, 600_000, 630_000,
    720_000, 777_600, 816_480, 840_000, 933_120, 972_000, 995_328, 1_012_500, 1_260_000, 1_344_000,
    1_458_000, 1_500_000, 1_612_800, 1_620_000, 1_800_000, 2_000_000, 2_073_600, 2_400_000, 2_419_200,
    2_430_000, 2_733_750, 2_939_328, 3_024_000, 3_125_000, 3_265_920, 3_280_500, 3_359_232, 3_483_648, 3_500_000,
    3_628_800, 3_732_480, 4_050_000, 4_251_528, 4_252_500,
)  # fmt: skip
"""Of the sizes of MKL's transforms of real numbers with AVX-512, those that are 3 % quicker than each greater one.

They were measured (`tests.measure.fft_sizes`). A power of two from a million on takes twice as long as its
neighbours, as what stands in one column of it meets in a few sets of the caches.
"""


def quick_size_for_mkl(least: int) -> int:
    """A size of at least `least` at which MKL's transforms of real numbers are quick."""
    if least < _QUICK_FOR_MKL[0]:
        return fast_fft_size(least)
    if least > _QUICK_FOR_MKL[-1]:
        return 2 * quick_size_for_mkl(-(-least // 2))
    return _QUICK_FOR_MKL[bisect.bisect_left(_QUICK_FOR_MKL, least)]


LANES = 16
"""Columns that the transform in steps takes at one time."""
ROWS = tuple(1 << power for power in range(4, 11))
"""Rows of a matrix, as step one in C takes them."""
WIDTH, MOST_WIDTH = 9, 32
"""Columns per row at which both steps together are quickest (`tests.measure.convolutions --sizes`), and at most."""


@lru_cache(maxsize=1024)
def step_sizes(length: int) -> tuple[int, int]:
    """Rows and columns of a matrix of at least `length` values, for the transform in steps.

    Of the matrices with the fewest values, it is the one whose shape is nearest to `WIDTH`.
    """
    sizes = [(rows, step_columns(length, rows)) for rows in ROWS]
    allowed = [(rows, columns) for rows, columns in sizes if columns <= MOST_WIDTH * rows] or sizes[-1:]
    return min(allowed, key=lambda size: (math.prod(size), abs(math.log(size[1] / size[0] / WIDTH))))


def step_columns(length: int, rows: int) -> int:
    """The fewest columns: a multiple of `LANES`, without prime factors above 7."""
    return LANES * _next_smooth(-(-length // (rows * LANES)))


def _next_smooth(least: int) -> int:
    while not _is_smooth(least):
        least += 1
    return least


def _is_smooth(size: int) -> bool:
    """Whether it is 2^a · 3^b · 5^c · 7^d."""
    for factor in (2, 3, 5, 7):
        while size % factor == 0:
            size //= factor
    return size == 1
