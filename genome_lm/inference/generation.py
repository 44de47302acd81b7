"""New sequence from a model, base by base: A, C, G and T, exact, reproducible by seed."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import PAD, decode
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_output, replacing_file
from genome_lm.genome.codes import Codes
from genome_lm.inference.sampling import Sampling
from genome_lm.kernels import Draws, Replayed, own_threads
from genome_lm.machine import budget, total_memory
from genome_lm.model import HyenaLM
from genome_lm.model.memory import forward_bytes, process_bytes
from genome_lm.model.mixers import mixer_class
from genome_lm.model.room import as_option
from genome_lm.model.stepping import Stepper
from genome_lm.progress import progress

STATE_BYTES = 1 << 30
"""What the states of a batch may take, unless its size is asked for."""
MOST = 64
"""Sequences of a batch at most, unless its size is asked for."""
BASE_BYTES = 8
"""Of a new base in memory: its letter, its likelihood, and a share of what each sequence needs beside them."""
LINE = 60
"""Bases of a line of FASTA."""
SMALL_STEP = 1 << 20
"""Sequences times the squared width up to which a step on a CPU is no quicker with several threads, and on a busy
machine a hundred times slower: they wait for each other in every operation."""


class Generated(NamedTuple):
    """A generated sequence.

    Attributes:
        prompt: Number of the prompt, from 0.
        sample: Number of the sample of this prompt, from 0.
        sequence: The new bases, without the prompt.
        log_likelihoods: (length,) float32, ln p(base | prompt and bases before) in nats under the model itself, over
            all 16 rows of its head and at temperature 1: what `GenomeLM.log_likelihood` gives for the whole.
    """

    prompt: int
    sample: int
    sequence: str
    log_likelihoods: npt.NDArray[np.float32]


def generate(
    model: HyenaLM, prompts: Sequence[Codes], length: int, samples: int, sampling: Sampling, batch: int | None
) -> list[Generated]:
    """Continue each prompt; see `GenomeLM.generate`.

    Args:
        model: The language model, in eval mode.
        prompts: n arrays of token ids, none empty, each at most the model's context less `length`.
        length: Bases of each sequence.
        samples: Sequences for each prompt.
        sampling: How bases are drawn.
        batch: Sequences at one time; None for as many as `STATE_BYTES` and `MOST` allow.

    Returns:
        n · samples sequences, the samples of a prompt one after the other.

    Raises:
        GenomeLMError: If the model was loaded in low precision.
    """
    if model.precision != "float32":
        raise GenomeLMError(f"generation computes in float32; load the model without precision {model.precision}")
    stepper = Stepper(model, length)
    # Prompts of like length together, so that little padding is read with them.
    order = sorted(product(range(len(prompts)), range(samples)), key=lambda pair: len(prompts[pair[0]]))
    size = batch or batch_size(model.config, length, max(map(len, prompts), default=0))
    generated: dict[tuple[int, int], Generated] = {}
    with progress("generate", len(order) * length, "bases") as bar:
        for start in range(0, len(order), size):
            pairs = order[start : start + size]
            numbers = np.stack([sampling.draws(*pair, length) for pair in pairs], axis=1)
            # Elsewhere each token waits for the device anyway, and not every device has float64.
            draws = sampling.prepared(torch.from_numpy(numbers).to(stepper.device if stepper.replayed else "cpu"))
            generating = Generating(stepper, prompts, [prompt for prompt, _ in pairs], draws)
            is_small = stepper.device.type == "cpu" and len(pairs) * stepper.width**2 <= SMALL_STEP
            with own_threads(1) if is_small else contextlib.nullcontext():
                _run(generating, length, partial(bar.advance, len(pairs)))
            tokens, likelihoods = draws.tokens.cpu().numpy(), draws.log_likelihoods.cpu().numpy()
            for column, pair in enumerate(pairs):
                generated[pair] = Generated(*pair, decode(tokens[:, column]), likelihoods[:, column].copy())
    return [generated[pair] for pair in sorted(generated)]


def check_room(context: int, prompt: int, length: int, name: str) -> None:
    """Raise a `GenomeLMError` if a prompt and the new bases exceed the model's context; it says what would fit.

    Args:
        context: Bases that the model takes.
        prompt: Bases of the prompt.
        length: New bases.
        name: What the error calls the prompt.
    """
    if prompt + length <= context:
        return
    ways = [f"ask for {context - prompt:,} new ones at most"] if prompt < context else []
    ways += [f"keep the last {context - length:,} bases of the prompt"] if length < context else []
    raise GenomeLMError(
        f"{name}: a prompt of {prompt:,} bases and {length:,} new ones are more than the model's context of "
        f"{context:,}; {', or '.join(ways) or 'shorten both'}"
    )


def check_memory(prompts: int, length: int, samples: int) -> None:
    """Raise a `GenomeLMError` if the new bases with their likelihoods do not fit the memory, where all are held."""
    if prompts * length * samples * BASE_BYTES > total_memory():
        raise GenomeLMError(
            f"samples {samples:,}: {prompts * length * samples:,} bases in all do not fit this machine's memory; ask "
            "for fewer at one time, each time with another seed"
        )


def batch_size(config: ModelConfig, length: int, longest: int) -> int:
    """Sequences whose states fit `STATE_BYTES`, or what the memory budget leaves for them: 1 to `MOST`.

    Args:
        config: Of the model.
        length: Bases to generate.
        longest: Bases of the longest prompt.

    Raises:
        GenomeLMError: If the budget does not do for one sequence; it says what would do.
    """
    # While a prompt is read: residual stream, its norm, and the MLP's or a group's streams.
    kept = sum(mixer_class(name).step_values(config, longest, length) for name in config.mixers)
    each = 4 * (kept + 4 * config.d_model * longest)
    room = STATE_BYTES
    if (allowed := budget()) is not None:
        least = process_bytes("forward") + forward_bytes(config, 1) + each
        if least > allowed:
            raise GenomeLMError(
                f"generating {length:,} bases needs at least {as_option(least)} of memory, the budget is "
                f"{as_option(allowed, down=True)}: give --memory {as_option(least)} or more, or ask for fewer bases"
            )
        room = min(room, allowed - least + each)
    return min(MOST, max(1, room // each))


class Generating:
    """A batch of sequences that are generated base by base, without waiting for a device on which steps are replayed.

    Args:
        stepper: For as many positions as `draws` has.
        prompts: n arrays of token ids.
        numbers: R numbers of the prompts that the sequences go on from.
        draws: By what bases are drawn; takes them.
    """

    @torch.inference_mode()
    def __init__(self, stepper: Stepper, prompts: Sequence[Codes], numbers: Sequence[int], draws: Draws) -> None:
        unique, rows = np.unique(numbers, return_inverse=True)
        lengths = torch.tensor([len(prompts[number]) for number in unique])
        ids = np.full((len(unique), int(lengths.max())), PAD, dtype=np.int64)
        for row, number in enumerate(unique):
            ids[row, : lengths[row]] = prompts[number]
        self._stepper, self._draws = stepper, draws
        self._logits = stepper.prefill(torch.from_numpy(ids).to(stepper.device), lengths, torch.from_numpy(rows))
        replayed = Replayed(self._token, stepper.device, stepper.length - 1)
        self._step = replayed if stepper.replayed else self._token

    @property
    def is_captured(self) -> bool:
        """Whether tokens are launched as a CUDA graph by now."""
        return isinstance(self._step, Replayed) and self._step.is_captured

    @torch.inference_mode()
    def advance(self) -> None:
        """Draw the next base of each sequence, and read it."""
        self._step()
        self._stepper.settle()

    @torch.inference_mode()
    def finish(self) -> None:
        """Draw the last base of each sequence."""
        self._stepper.operations.drawn(self._logits, self._draws)

    def _token(self) -> None:
        operations = self._stepper.operations
        self._logits.copy_(self._stepper.read(operations.drawn(self._logits, self._draws)))


def _run(generating: Generating, length: int, advance: Callable[[], None]) -> None:
    """Generate so many bases of each sequence; `advance` is called after each."""
    for _ in range(length - 1):
        generating.advance()
        advance()
    generating.finish()
    advance()


def write_generated(
    path: Path,
    generated: Sequence[Generated],
    names: Sequence[str],
    settings: dict[str, Any],
    prompts: Sequence[str] | None = None,
) -> None:
    """Write FASTA, to a file whole or not at all; gzip if the name ends in .gz.

    A header has the id (the prompt's name, a slash, the number of the sample from 1), the log-likelihood of the new
    bases in nats, and the settings, as key=value.

    Args:
        path: The file; one that is there is replaced. - is standard output.
        generated: What to write.
        names: Names of the prompts.
        settings: What the headers say of how it was generated; None is left out.
        prompts: To be written before the new bases, if at all.

    Raises:
        GenomeLMError: If it can't be written.
    """
    said = "".join(f" {key}={value}" for key, value in settings.items() if value is not None)
    with contextlib.ExitStack() as stack:
        if str(path) == "-":
            file = stack.enter_context(_standard_output())
        else:
            temporary = stack.enter_context(replacing_file(path))
            file = stack.enter_context(open_output(temporary))
        for one in generated:
            total = float(one.log_likelihoods.sum(dtype=np.float64))
            file.write(f">{names[one.prompt]}/{one.sample + 1} length={len(one.sequence)} ")
            file.write(f"log_likelihood={total:.4f}{said}\n")
            sequence = (prompts[one.prompt] if prompts is not None else "") + one.sequence
            file.writelines(sequence[at : at + LINE] + "\n" for at in range(0, len(sequence), LINE))


@contextlib.contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Standard output in UTF-8, as all our files are, whatever the locale."""
    file = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    try:
        yield file
        file.flush()
    finally:
        file.detach()
