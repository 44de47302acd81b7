"""Rates of an H100, and what a kernel costs at them; see `costs`."""

from typing import NamedTuple

COPY = 3.0e12
"""Bytes per second that an H100 reads from and writes to memory."""
CACHE = 5.5e12
"""Bytes per second that an H100's L2 delivers."""
PLAIN = 67e12
"""Operations per second of an H100 in float32, those outside products of matrices."""
MATRIX = 800e12
"""Operations per second in products of large matrices of bfloat16."""
OWN_MATRIX = 0.8 * MATRIX
"""The same in products that are Triton kernels."""
ISSUED = 0.5 * 132 * 4 * 1.7e9
"""Instructions per second that the kernels on tiles are taken to issue: half of what an H100's processors could."""
COUNTED_TAPS = 3
"""Of the short convolutions whose instructions are counted; fewer and more count like these."""


class Cost(NamedTuple):
    """What one sequence of one channel costs."""

    bytes: float  # read from and written to memory
    cached: float  # read from and written to L2
    matrix: float  # operations in products of matrices of bfloat16, in bf16x3 three times those of float32
    plain: float  # other operations, float32
    floor: float  # seconds that it takes at least
    resident: float  # the same, if what stands between the passes never leaves L2

    @property
    def memory_floor(self) -> float:
        """Seconds that the transfers from and to memory take."""
        return self.bytes / COPY


def cost_of(moved: float, cached: float, matrix: float, plain: float, seconds: float, between: float = 0.0) -> Cost:
    """The cost of one kernel, whose operations take so many seconds; `between`: bytes of what is moved."""
    floor, resident = (max(part / COPY, cached / CACHE, seconds) for part in (moved, moved - between))
    return Cost(moved, cached, matrix, plain, floor, resident)


def shared(cost: Cost, batch: int) -> Cost:
    """A sequence's part of what is done once a batch."""
    return Cost(*(count / batch for count in cost))
