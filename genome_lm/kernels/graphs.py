"""Work that is repeated on the same buffers, launched on a GPU as one CUDA graph."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from genome_lm.errors import GenomeLMError
from genome_lm.kernels.variables import variable

log = logging.getLogger(__name__)

VARIABLE = "GENOME_LM_GRAPHS"
LEAST = 32
"""Calls for which a capture is worth its time, some ten milliseconds."""
WARM = 2
"""Calls before the work is captured: they compile kernels, and libraries take what memory they keep."""


class Replayed:
    """Calls of the same work: the first ones as it is, the others as one launch of a captured CUDA graph.

    The work is carried out once per call either way, with the same operations on the same buffers, so results are the
    same to the bit. Where it can't be captured, it goes on as it is, and a warning says why. The variable
    GENOME_LM_GRAPHS keeps all work as it is (`off`; `auto` or unset: captured).

    Args:
        work: Reads and writes buffers that stay where they are, and waits for nothing on the device. It is kept, and
            with it these buffers.
        device: Where it computes.
        times: How often it will be called; fewer than `LEAST` calls are made as they are.
    """

    def __init__(self, work: Callable[[], None], device: torch.device, times: int) -> None:
        self._work, self._device, self._times = work, device, times
        self._launch, self._calls = work, 0

    @property
    def is_captured(self) -> bool:
        """Whether the work is launched as a graph by now."""
        return self._launch is not self._work

    def __call__(self) -> None:
        """Do the work once; in inference mode."""
        if self._calls == WARM and self._times >= LEAST and not _is_off():
            self._launch = captured(self._work, self._device)
        self._calls += 1
        self._launch()


def _is_off() -> bool:
    value = os.environ.get(VARIABLE, "auto")
    if value not in ("auto", "off"):
        raise GenomeLMError(f"{VARIABLE}={value}: use auto or off")
    return value == "off"


def without_graphs() -> AbstractContextManager[None]:
    """A context in which GENOME_LM_GRAPHS keeps work from being captured; the variable comes back as it was."""
    return variable(VARIABLE, "off")


def captured(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The work as a graph's replay, without carrying it out; the work itself where it can't be captured.

    It has been called before, so that nothing is compiled while it is captured.
    """
    try:
        # What torch itself keeps for a graph must not be made in inference mode: later graphs write to it outside.
        with torch.inference_mode(False), torch.cuda.device(device):
            graph = torch.cuda.CUDAGraph()
            # What other threads ask of the device, such as memory, does not break this capture.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"), torch.inference_mode():
                work()
    except Exception as error:  # whatever driver and libraries may raise: it is the reason
        reason = next(iter(str(error).strip().splitlines()), "")
        log.warning("%s: each token is launched by itself, without a CUDA graph: %s", device, reason)
        return work
    return graph.replay
