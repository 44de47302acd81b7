"""Training: it learns, goes on after a kill bit for bit, keeps gradients of filters exact, and fits long contexts."""

import copy
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from genome_lm.direction import CAUSAL
from genome_lm.genome import GenomeStore, build_store, split_genome, write_bed
from genome_lm.gpukit.forms import Form
from genome_lm.gpukit.kit import Case, Kit, Skip
from genome_lm.kernels import forced_backend, outside_autocast
from genome_lm.mixture_config import one_source
from genome_lm.model import HyenaLM
from genome_lm.model.cuda_memory import cuda_recomputed, cuda_training_bytes
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.mixers.filter import ImplicitFilter
from genome_lm.training import Machine, Stage, TrainingConfig, read_metrics, train

_BASES = 400_000
"""Of the made genome."""
_OF_STORES = "zarr", "numcodecs", "google_crc32c"
_MOST_OF_FORECAST = 1.15
"""Weights, gradients and AdamW's state are not in the forecast."""
_FILTER_BOUND = 1e-3
"""Largest relative error of a filter's gradient in a bf16-mixed pass: rounding to bfloat16 alone makes 3e-3."""


def run(kit: Kit) -> None:
    """The runs on a genome, if one can be stored, then single steps."""
    with kit.case("genome") as case:
        missing = [library for library in _OF_STORES if find_spec(library) is None]
        if missing and not kit.on_gpu:  # on a GPU it is an error: there the kit brings them along
            raise Skip(f"needs {', '.join(missing)}")
        store = _genome(kit)
        case.record(bases=int(store.contigs.lengths.sum()))
    if (kit.folder / "splits.bed").exists():
        with kit.case("learning", precision="bf16-mixed") as case:
            _learn(case, kit)
        with kit.case("killed and resumed") as case:
            _resume(case, kit)
    with kit.case("gradients of the filters", precision="bf16-mixed") as case:
        _filter_gradients(case, kit)
    with kit.case("one step at full length", precision="bf16-mixed") as case:
        _long_step(case, kit)


def train_here(folder: Path, form: Form, device: str, out: Path) -> None:
    """The run of the form, in this process."""
    sizes = form.training
    config = TrainingConfig(
        stages=(Stage(sizes.length, sizes.steps),), tokens_per_step=sizes.tokens, device_tokens=sizes.tokens,
        lr=sizes.lr, warmup_fraction=0.2, precision="bf16-mixed", valid_every=sizes.steps, valid_windows=4,
        checkpoint_every=5,
    )  # fmt: skip
    train(
        one_source(folder / "genome.zarr", folder / "splits.bed"),
        out,
        sizes.model,
        config,
        machine=Machine(device=device),
    )


def _genome(kit: Kit) -> GenomeStore:
    fasta = kit.fasta
    if fasta is None:
        fasta = kit.folder / "made.fa"
        fasta.write_text(f">made\n{_made_dna(_BASES)}\n", encoding="utf-8")
    store = build_store([fasta], kit.folder / "genome.zarr", fasta.name)
    write_bed(kit.folder / "splits.bed", split_genome(store, block=20_000, gap=1_000))
    return store


def _made_dna(bases: int) -> str:
    """DNA in which most bases follow from the one before: a model that learns comes to 1.57 bits per base."""
    generator = np.random.default_rng(0)
    step = generator.choice(4, size=bases, p=(0.1, 0.6, 0.2, 0.1))
    return "".join("ACGT"[code] for code in np.cumsum(step) % 4)


def _child(kit: Kit, out: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; from genome_lm.gpukit.forms import FORMS; "
        "from genome_lm.gpukit.stages.training import train_here; "
        "train_here(Path(sys.argv[1]), FORMS[sys.argv[2]], sys.argv[3], Path(sys.argv[4]))"
    )
    arguments = str(kit.folder), kit.form.name, str(kit.device), str(out)
    with _errors(out).open("w", encoding="utf-8") as stderr:
        return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=stderr)


def _errors(out: Path) -> Path:
    """Where the process of a run writes what goes wrong."""
    return out.with_suffix(".stderr")


def _train(kit: Kit, out: Path) -> None:
    """A run to its end."""
    if _child(kit, out).wait():
        raise RuntimeError(_errors(out).read_text(encoding="utf-8", errors="replace").strip()[-1_500:])


def _learn(case: Case, kit: Kit) -> None:
    """Undisturbed, to a loss that only a model that learns reaches."""
    _train(kit, kit.folder / "undisturbed")
    rows = read_metrics(kit.folder / "undisturbed")
    last = [row.bits_per_base for row in rows[-10:]]
    case.record(first_bits=rows[0].bits_per_base, bases_per_second=rows[-2].bases_per_second)
    case.record(memory_MB=rows[-1].memory_mb)
    case.bounded("bits", float(np.mean(last)), kit.form.training.most_bits)


def _resume(case: Case, kit: Kit) -> None:
    """The weights of a run that was killed are those of one that was not."""
    out = kit.folder / "killed"
    process = _child(kit, out)
    while process.poll() is None and _steps(out) < kit.form.training.kill_at:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    case.record(killed_after=_steps(out))
    case.demand("it was killed on its way", not (out / "checkpoint").exists())
    _train(kit, out)
    weights = [(kit.folder / name / "checkpoint" / "model.safetensors") for name in ("undisturbed", "killed")]
    case.demand("the same weights, bit for bit", weights[0].read_bytes() == weights[1].read_bytes())


def _steps(run: Path) -> int:
    path = run / "metrics.csv"
    return max(0, path.read_text(encoding="utf-8").count("\n") - 1) if path.exists() else 0


def _filter_gradients(case: Case, kit: Kit) -> None:
    """From the gradient of a filter, those of its parameters follow as they do in float64."""
    torch.manual_seed(0)
    model = HyenaLM(kit.form.model).to(kit.device).train()
    ids = torch.randint(7, 11, (2, min(1_025, kit.form.model.max_length)), device=kit.device)
    reached: dict[ImplicitFilter, torch.Tensor] = {}
    forward = ImplicitFilter.forward

    def watched(self: ImplicitFilter, length: int, part: slice = slice(None)) -> torch.Tensor:
        h = forward(self, length, part)
        h.register_hook(lambda gradient: reached.update({self: gradient.double()}))
        return h

    ImplicitFilter.forward = watched  # type: ignore[method-assign]
    # The fused operations of a CPU make filters piece by piece.
    plain = nullcontext() if kit.on_gpu else forced_backend("reference")
    try:
        with plain, torch.autocast(kit.device.type, dtype=torch.bfloat16):
            loss = model.loss(*CAUSAL.shifted(ids))
            with outside_autocast(loss):
                loss.backward()
    finally:
        ImplicitFilter.forward = forward  # type: ignore[method-assign]
    worst = 0.0
    for long_filter, gradient in reached.items():
        exact = copy.deepcopy(long_filter).double()
        h = forward(exact, gradient.shape[1])
        for parameter, want in zip(
            long_filter.parameters(), torch.autograd.grad(h, list(exact.parameters()), gradient), strict=True
        ):
            assert parameter.grad is not None
            worst = max(worst, float((parameter.grad.double() - want).norm() / want.norm()))
    case.demand("every filter got a gradient", len(reached) == kit.form.model.n_layer)
    case.bounded("error", worst, _FILTER_BOUND)


def _long_step(case: Case, kit: Kit) -> None:
    """Forward, backward and AdamW at the full length of a model; its peak of memory beside the forecast."""
    config = kit.form.training.single
    length = config.max_length
    model = HyenaLM(config).to(kit.device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(7, 11, (1, length + 1), device=kit.device)
    if kit.on_gpu:
        torch.cuda.reset_peak_memory_stats(kit.device)
        batch = GpuBatch(config, 1, length, torch.bfloat16)
        free = torch.cuda.mem_get_info(kit.device)[0]
        recomputed = cuda_recomputed(batch, free)
        forecast = cuda_training_bytes(batch, recomputed)
        if forecast > free:
            raise Skip(f"needs {forecast / 1e9:.0f} GB of free memory, of which there are {free / 1e9:.0f}")
        case.record(forecast_GB=round(forecast / 1e9, 2), recomputed_blocks=len(recomputed))
    start = time.perf_counter()
    with torch.autocast(kit.device.type, dtype=torch.bfloat16):
        loss = model.loss(*CAUSAL.shifted(ids))
        with outside_autocast(loss):
            loss.backward()
    optimizer.step()
    kit.synchronize()
    case.record(length=length, loss=float(loss.detach()), step_seconds=round(time.perf_counter() - start, 2))
    case.demand("the loss is finite", bool(torch.isfinite(loss)))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    case.demand("all gradients are finite", all(bool(torch.isfinite(g).all()) for g in gradients))
    if kit.on_gpu:
        peak = torch.cuda.max_memory_allocated(kit.device)
        case.record(peak_GB=round(peak / 1e9, 2))
        case.bounded("peak over forecast", peak / forecast, _MOST_OF_FORECAST)
