"""How the Triton kernels of implicit filters cut up positions and channels."""

CHANNELS = 64
"""Channels that a program takes at one time."""
VALUES = 4_096
"""Hidden values that a program takes at one time."""
PROGRAMS = 512
"""Programs of a launch that are enough to fill a GPU, and parts that the gradients of weights are summed from."""


def positions_of(width: int, sums: bool = False) -> int:
    """Positions that a program takes at one time; kernels with `sums` over positions need more registers."""
    return min(64, VALUES // width) // (2 if sums else 1)


def blocks_of_channels(length: int, channels: int, width: int) -> int:
    """Blocks of channels that a program of the forward takes: all, but where that leaves too few programs."""
    blocks, positions = -(-channels // CHANNELS), -(-length // positions_of(width))
    return -(-blocks // min(blocks, -(-PROGRAMS // positions)))


def blocks_of_positions(length: int, width: int, programs: int) -> tuple[int, int]:
    """Blocks of positions that a program takes where their sums are kept, and the number of such programs."""
    blocks = -(-length // positions_of(width, sums=True))
    per_program = -(-blocks // programs)
    return per_program, -(-blocks // per_program)
