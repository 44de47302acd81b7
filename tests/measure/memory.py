"""Peaks of memory beside their forecast: `python -m tests.measure.memory`.

Each case runs in a process of its own. Its base is what it holds after a pass of a tiny model, so that libraries are
loaded, after the test of oneDNN's products, which only larger models need, and without the free memory that both
leave. Then comes one pass of a model with random weights: a forward pass without gradients, an embedding ("embed")
or likelihoods ("score") as users ask for them, or a training step (forward, backward, AdamW). A row has the most
memory in the meantime, the forecast, and their ratio. From the first, the base is taken, and the code of libraries
that only this pass runs: both are in `PROCESS_BYTES`.
On a GPU (--device cuda) both figures are of the allocator: the most that was allocated.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genome_lm.config import PRESETS, ModelConfig

if TYPE_CHECKING:
    import torch

    from genome_lm.model import HyenaLM

LENGTHS = 1_024, 8_192, 32_768, 131_072
LAYOUTS = "hyena", "hyena-se", "hyena-mr", "attention", "attention-local", "attention-dilated", "attention-recall"
MODES = "forward", "embed", "score", "training"
MOST = 12e9
"""Cases whose forecast is over this many bytes are left out."""
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--layouts", nargs="*", default=[], help="in place of the presets' own; their shapes stay")
    parser.add_argument("--lengths", nargs="*", type=int, default=LENGTHS)
    parser.add_argument(
        "--fractions", nargs="*", type=float, default=[], help="of each preset's context, in place of --lengths"
    )
    parser.add_argument("--modes", nargs="*", default=["forward", "training"], choices=MODES)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--recompute", default="auto", help="auto, all, none, or every-second")
    parser.add_argument(
        "--precision",
        choices=["float32", "bf16-mixed", "bf16", "int8"],
        default="float32",
        help="bf16-mixed of training, bf16 and int8 of the other modes",
    )
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a case is stopped")
    parser.add_argument("--fields", type=json.loads, default={}, help="JSON of other fields of the shape")
    parser.add_argument(
        "--context-devices", type=int, default=1, help="processes that share each sequence in training"
    )
    parser.add_argument("--most", type=float, default=MOST)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--times", action="store_true", help="times of passes beside their forecast, on a CPU")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps((measure_shared if arguments.case.get("devices", 1) > 1 else measure)(arguments.case)))
        return
    if arguments.times:
        for preset in arguments.presets:
            for length in arguments.lengths:
                if length <= PRESETS[preset].max_length:
                    show_times(preset, length, arguments.precision)
        return
    ratios = []
    for preset in arguments.presets:
        for layout in arguments.layouts or [PRESETS[preset].layout]:
            most = PRESETS[preset].max_length
            for length in [int(part * most) for part in arguments.fractions] or arguments.lengths:
                if length > most:
                    continue
                for mode in arguments.modes:
                    case = {"preset": preset, "length": length, "mode": mode, "rows": arguments.rows,
                            "recompute": arguments.recompute, "fields": {**arguments.fields, "layout": layout},
                            "device": arguments.device, "precision": arguments.precision,
                            "devices": arguments.context_devices}  # fmt: skip
                    ratios += show(case, arguments.most, arguments.limit)
    if ratios:
        within = sum(abs(ratio - 1) <= 0.15 for ratio in ratios)
        print(f"{within} of {len(ratios)} within 15 %; {min(ratios):.2f} to {max(ratios):.2f}, "
              f"median {statistics.median(ratios):.2f}")  # fmt: skip


def show(case: dict[str, Any], most: float, limit: float) -> list[float]:
    """Run a case in a process and print its row; its ratio, if it was run."""
    needed = forecast(case)
    layout, batch = case["fields"]["layout"], f"{case['rows']} x {case['length']:,}"
    name = f"{case['preset']:13} {layout:36.36} {case['mode']:8} {case['precision']:10} {batch:>12}"
    if needed > most:
        print(f"{name}  left out: {needed / 1e9:.2f} GB", flush=True)
        return []
    command = [sys.executable, "-m", "tests.measure.memory", "--case", json.dumps(case)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"{name}  stopped after {limit:.0f} s; forecast {needed / 1e6:,.0f} MB", flush=True)
        return []
    if run.returncode:
        print(f"{name}  failed: {run.stderr.strip().splitlines()[-1:]}", flush=True)
        return []
    figures = json.loads(run.stdout)
    ratio = needed / figures["peak"]
    print(f"{name}  measured {figures['peak'] / 1e6:8,.1f} MB  forecast {needed / 1e6:8,.1f} MB  ratio {ratio:.2f}",
          flush=True)  # fmt: skip
    return [ratio]


def forecast(case: dict[str, Any]) -> int:
    """Bytes that the case should take."""
    from genome_lm.model import memory

    config = replace(PRESETS[case["preset"]], **case["fields"])
    if case["device"] == "cuda":
        return _cuda_forecast(config, case)
    if case["mode"] != "training":
        return memory.forward_bytes(config, case["length"], case["rows"], precision=case["precision"])
    if case["recompute"] == "auto":
        every = frozenset(range(config.n_layer * memory.recomputes_all(config, case["length"], case["rows"])))
    else:
        every = _recomputed(config, case["recompute"])
    small = memory.small_in(case["precision"])
    if (devices := case.get("devices", 1)) > 1:
        from genome_lm.model.context_memory import shared_chain

        return shared_chain(config, case["length"], case["rows"], devices, small).peak(every)
    return memory.training_chain(config, case["length"], case["rows"], small=small).peak(every)


def _cuda_forecast(config: ModelConfig, case: dict[str, Any]) -> int:
    from genome_lm.model.memory import cuda_forecast

    if case["rows"] != 1 or case["recompute"] not in ("auto", "all"):
        raise SystemExit("on a GPU: --rows 1, and --recompute auto or all")
    training = "training" if case["recompute"] == "auto" else "recomputed"
    return cuda_forecast(config, case["length"])["float32"][
        f"{training if case['mode'] == 'training' else 'forward'}_bytes"
    ]


def _recomputed(config: ModelConfig, name: str) -> frozenset[int]:
    """The blocks that a word names."""
    return frozenset(
        {"all": range(config.n_layer), "none": range(0), "every-second": range(0, config.n_layer, 2)}[name]
    )


def measure(case: dict[str, Any]) -> dict[str, int]:
    """Bytes of a pass in this process, and those before it."""
    from genome_lm.allocator import give_back_holes, keep_freed_memory
    from genome_lm.threads import limit_threads

    limit_threads()
    keep_freed_memory()
    import torch

    from genome_lm.kernels.cpu.torch_private import has_fused_linear

    config = replace(PRESETS[case["preset"]], **case["fields"])
    device = torch.device(case["device"])
    _pass(replace(config, d_model=12, d_inner=48, heads=0, filter_groups=0, max_length=600), 600, case, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        _pass(config, case["length"], case, device)
        return {"peak": torch.cuda.max_memory_allocated() - base, "base": base}
    has_fused_linear()
    give_back_holes()
    base, files = _field("VmRSS"), _field("RssFile")
    _RESET.write_text("5", encoding="utf-8")
    _pass(config, case["length"], case, device)
    return {"peak": _field("VmHWM") - base - (_field("RssFile") - files), "base": base}


def measure_shared(case: dict[str, Any]) -> dict[str, int]:
    """`measure` of the process with the most, of those that share each sequence."""
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_shared, (case, folder), case["devices"])
        found = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")]
    return max(found, key=lambda each: int(each["peak"]))


def _shared(rank: int, case: dict[str, Any], folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=case["devices"])
    (Path(folder) / f"{rank}.json").write_text(json.dumps(measure(case)), encoding="utf-8")
    dist.destroy_process_group()


def show_times(preset: str, length: int, precision: str) -> None:
    """Print the times of a forward pass and a training step: the least of three, and the forecast before them."""
    import torch

    from genome_lm.model import HyenaLM, pace

    config = PRESETS[preset]
    since = time.perf_counter()
    in_bfloat16 = precision == "bf16-mixed"
    forecast_ = pace.measure_pace(config, length, in_bfloat16=in_bfloat16)
    taken = time.perf_counter() - since
    model, ids = HyenaLM(config), torch.randint(7, 11, (1, length))
    forward = min(pace.timed(model, ids, training=False) for _ in range(3))
    step = min(pace.timed(model, ids, training=True, in_bfloat16=in_bfloat16) for _ in range(3))
    told = forecast_.forward_seconds(config, length), forecast_.step_seconds(config, length)
    print(
        f"{preset:13} {length:9,}  measured in {taken:.1f} s; forward {forward:.2f} s, forecast / measured "
        f"{told[0] / forward:.2f}; training step {step:.2f} s, {told[1] / step:.2f}", flush=True,
    )  # fmt: skip


def _pass(config: ModelConfig, length: int, case: dict[str, Any], device: "torch.device") -> None:
    """The pass of the case, of a model of this shape and sequences of this length."""
    import torch

    from genome_lm.model import HyenaLM

    model, ids = HyenaLM(config).to(device), torch.randint(7, 11, (case["rows"], length), device=device)
    if case["mode"] != "training":
        model.lower_precision(case["precision"])
        _infer(model.eval(), ids, case["mode"])
        return
    if (devices := case.get("devices", 1)) > 1:
        from genome_lm.training.context_parallel import make_context

        model.backbone.context = make_context(devices, "exact")
    if case["recompute"] != "auto":
        model.backbone.recomputed = lambda _rows, _length: _recomputed(config, case["recompute"])
    optimizer = torch.optim.AdamW(model.train().parameters())
    # The states of AdamW are there from the first step on.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16-mixed"):
        loss = model.loss(ids, ids)
    loss.backward()
    optimizer.step()


def _infer(model: "HyenaLM", ids: "torch.Tensor", mode: str) -> None:
    """A pass without gradients of all sequences at one time."""
    import torch

    from genome_lm.alphabet import decode
    from genome_lm.inference.model import GenomeLM

    if mode == "forward":
        with torch.no_grad():
            model(ids)
        return
    sequences, positions = [decode(row.numpy()) for row in ids], ids.numel()
    if mode == "embed":
        GenomeLM(model).embed(sequences, strand="forward", batch_tokens=positions)
    else:
        GenomeLM(model).log_likelihood(sequences, batch_tokens=positions)


def _field(name: str) -> int:
    return int(_STATUS.read_text(encoding="utf-8").split(f"{name}:")[1].split()[0]) << 10


if __name__ == "__main__":
    main()
