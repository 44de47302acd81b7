"""The work itself: for a kind and a side, a function that does it once and gives its result."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.alphabet import LETTER_TO_TOKEN, NUCLEOTIDES, decode
from genome_lm.bench.original import OriginalLM
from genome_lm.bench.original_file import OriginalFileLM
from genome_lm.bench.peers import MultimoleculeLM, PeerLM, PortLM, TransformerLM
from genome_lm.bench.sides import OURS, Kind, Side
from genome_lm.config import PRESETS, ModelConfig
from genome_lm.genome import GenomeStore
from genome_lm.model import HyenaLM
from genome_lm.optional import require

BASES_LOADED = 8 << 20
"""Bases of a run of `load`, one window at least and `MOST_WINDOWS` at most."""
MOST_WINDOWS = 2_000
PROMPT = 16
"""Bases before those that `generate` makes."""

Way = HyenaLM | OriginalLM | PeerLM
Work = Callable[[int], npt.NDArray[np.generic]]
"""Takes the number of the run, gives an array to compare the sides by."""


@dataclass(frozen=True)
class Job:
    """One thing to measure.

    Attributes:
        kind: What is done.
        length: Bases of a sequence or window; new bases of `generate`, after a prompt of `PROMPT`.
        preset: Size of the model; of no meaning to `load`.
        fasta: Plain FASTA of the genome that `load` reads.
        genome: Its store.
        seed: Of weights, sequences and windows.
        original: The original's standalone file, for the side that runs it.
        layers: Blocks of the model; 0 for the preset's.
        port: The folder for transformers, for the side that runs it.
    """

    kind: Kind
    length: int
    preset: str = ""
    fasta: str = ""
    genome: str = ""
    seed: int = 0
    original: str = ""
    layers: int = 0
    port: str = ""

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""
        shape = PRESETS[self.preset]
        return replace(shape, n_layer=self.layers) if self.layers else shape

    @property
    def bases(self) -> int:
        """Bases that a run handles."""
        return self.length * (self.windows if self.kind == "load" else 1)

    @property
    def windows(self) -> int:
        """Windows of a run of `load`."""
        return max(1, min(MOST_WINDOWS, BASES_LOADED // self.length))


def prepare(job: Job, side: Side) -> Work:
    """Make ready what a run needs; what happens here is not timed."""
    implementation = side.implementation
    if job.kind == "load":
        return _load_store(job) if implementation == OURS else _load_pyfaidx(job)
    torch.manual_seed(job.seed)
    model = HyenaLM(replace(job.config, **side.shape))
    # The sequence is one base longer for the targets of training; the last is no input.
    length = PROMPT if job.kind == "generate" else job.length + 1
    ids = torch.randint(NUCLEOTIDES[0], NUCLEOTIDES[-1] + 1, (1, length))
    # After the bases: the original's own file draws first weights of its own.
    way = _way(model, job, implementation)
    if job.kind == "generate":
        return _generate(model, ids, job) if implementation == OURS else _recompute(way, ids, job)
    pair = model.config.direction.shifted(ids[:, : job.length + model.config.direction.offset])
    return _forward(way, pair[0]) if job.kind == "forward" else _train(way, model, *pair)


def _way(model: HyenaLM, job: Job, implementation: str) -> Way:
    """The model as a side computes it."""
    if implementation == OURS:
        return model
    if implementation == "original-file":
        return OriginalFileLM(Path(job.original), model)
    if implementation == "port":
        return PortLM(Path(job.port), model.config)
    if implementation == "multimolecule":
        return MultimoleculeLM(model)
    return TransformerLM(model.config) if implementation == "transformer" else OriginalLM(model)


def _forward(way: Way, ids: Tensor) -> Work:
    """Logits of a sequence."""
    way.eval()

    def run(_number: int) -> npt.NDArray[np.generic]:
        with torch.no_grad():
            return way(ids).numpy()

    return run


def _train(way: Way, model: HyenaLM, ids: Tensor, targets: Tensor) -> Work:
    """A step of AdamW with clipping, after the recipe; its result is the gradients after clipping."""
    way.train()
    parameters = way.ordered if isinstance(way, PeerLM) else [*model.parameters()]
    groups = parameters if isinstance(way, PeerLM) else model.parameter_groups(weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups, lr=6e-4)

    def run(number: int) -> npt.NDArray[np.generic]:
        torch.manual_seed(number)  # the same dropout on every side
        optimizer.zero_grad(set_to_none=True)
        way.loss(ids, targets).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).numpy()

    return run


def _generate(model: HyenaLM, prompt: Tensor, job: Job) -> Work:
    """The likeliest base each time; the result is their log-likelihoods."""
    from genome_lm.inference import GenomeLM  # here, since its imports would count as memory of the other kinds

    lm, letters = GenomeLM(model), decode(prompt[0].numpy())

    def run(_number: int) -> npt.NDArray[np.generic]:
        return lm.generate([letters], job.length, temperature=0)[0].log_likelihoods

    return run


def _recompute(way: Way, prompt: Tensor, job: Job) -> Work:
    """The same by a forward pass over the whole sequence for each new base."""
    way.eval()

    def run(_number: int) -> npt.NDArray[np.generic]:
        ids, likelihoods = prompt, []
        with torch.no_grad():
            for _ in range(job.length):
                scores = way(ids)[0, -1].log_softmax(0)
                base = NUCLEOTIDES[0] + int(scores[list(NUCLEOTIDES)].argmax())
                likelihoods.append(float(scores[base]))
                ids = torch.cat([ids, ids.new_tensor([[base]])], dim=1)
        return np.array(likelihoods, dtype=np.float32)

    return run


def _windows(
    job: Job, store: GenomeStore, number: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Contigs, starts and strands of a run's windows, uniform over the places where a window fits."""
    generator = np.random.default_rng([job.seed, job.length, number])
    room = np.maximum(0, store.contigs.lengths - job.length + 1)
    contigs = generator.choice(len(room), size=job.windows, p=room / room.sum())
    return contigs, generator.integers(room[contigs]), generator.random(job.windows) < 0.5


def _load_store(job: Job) -> Work:
    store = GenomeStore(Path(job.genome))

    def run(number: int) -> npt.NDArray[np.generic]:
        contigs, starts, reverse = _windows(job, store, number)
        return store.fetch_many(contigs, starts, job.length, reverse)

    return run


def _load_pyfaidx(job: Job) -> Work:
    store, fasta = GenomeStore(Path(job.genome)), require("pyfaidx").Fasta(job.fasta)

    def run(number: int) -> npt.NDArray[np.generic]:
        tokens = np.empty((job.windows, job.length), dtype=np.uint8)
        for row, contig, start, reverse in zip(tokens, *_windows(job, store, number), strict=True):
            read = fasta.get_seq(store.contigs.names[contig], start + 1, start + job.length, rc=bool(reverse))
            row[:] = LETTER_TO_TOKEN[np.frombuffer(read.seq.encode(), dtype=np.uint8)]
        return tokens

    return run
