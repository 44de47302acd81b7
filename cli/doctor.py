"""`genome-lm doctor`: what is installed, what computes, and whether it computes right."""

from pathlib import Path
from typing import Annotated

import typer

from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError
from genome_lm_cli.options import Json, Threads
from genome_lm_cli.output import say, table


def doctor(
    context: typer.Context,
    gpu: Annotated[bool, typer.Option("--gpu", help="Prove the whole GPU path instead: at most 5 minutes.")] = False,
    results: Annotated[
        Path | None, typer.Option(help="With --gpu: file for all that was measured, JSON.", metavar="FILE")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show versions, devices and the kernels chosen for them, and test those against float64 arithmetic.

    With --gpu, kernels, models, training and inference run on the GPU, each in a process of its own: values and
    gradients against float64, a run that is killed and resumed, times beside torch.fft.

    Exits with 1 if a kernel computes something else than the reference, forward or backward, or a stage fails.

    Example: genome-lm doctor

    Example: genome-lm doctor --gpu --results gpu.json
    """
    if gpu or results is not None:
        _prove_gpu(gpu, results, as_json)
        return
    from genome_lm.doctor import TOLERANCE, examine

    report = examine(context.obj)
    if as_json:
        typer.echo(json_text(report))  # infinity, what could not be computed, is null there, and `error` says why
    else:
        libraries = [(name, version or "not installed") for name, version in report["libraries"].items()]
        rows = [("genome-lm", report["genome_lm"]), ("Python", report["python"]), *libraries]
        rows.append(("CUDA", report["cuda"] or "not in this torch"))
        rows.append(("CPU threads", f"{report['cpu_threads']} ({report['cpu_threads_reason']})"))
        rows += [("memory", f"{report['memory_bytes'] / 1e9:.1f} GB"), ("platform", report["platform"])]
        for name, key in (("CPU stages", "compiled_stages"), ("first windows of a genome", "compiled_windows")):
            rows.append((name, "compiled" if report[key] else f"plain: {report[f'{key}_reason']}"))
        rows += [(f"plain, not torch's {name}", why) for name, why in report["torch_functions_replaced"].items()]
        if report["kernel_forced"]:
            rows.append(("GENOME_LM_KERNEL", report["kernel_forced"]))
        table("installed", ("", ""), rows)
        columns = "device", "name", "inference", "training", "forward", "backward", ""
        table(
            f"kernels for long sequences, and their relative difference from float64 (allowed: {TOLERANCE:g})",
            columns,
            [
                (
                    *(device[key] for key in ("device", "name", "inference", "training")),
                    f"{device['forward']:.1e}",
                    f"{device['backward']:.1e}",
                    "right" if device["passed"] else "WRONG",
                )
                for device in report["devices"]
            ],
        )
        if report["cpus_free"] < report["cpu_threads"]:
            say(
                f"other programs leave {report['cpus_free']} CPUs free for {report['cpu_threads']} threads, which "
                "will wait for each other: --threads takes fewer"
            )
        for device in report["devices"]:
            if device["error"]:
                say(f"{device['device']}: {device['error']}")
        say(
            "all is well"
            if report["passed"]
            else "something is wrong: don't trust results of the devices marked WRONG"
        )
    if not report["passed"]:
        raise typer.Exit(1)


def _prove_gpu(gpu: bool, results: Path | None, as_json: bool) -> None:
    """The short form of the GPU kit."""
    from genome_lm.doctor import prove_gpu
    from genome_lm.gpukit import summary

    if not gpu:
        raise GenomeLMError("--results goes with --gpu")
    proof = prove_gpu(results, lambda line: say(line, stderr=as_json))
    if as_json:
        typer.echo(json_text(proof, indent=1))
    else:
        say(f"\n{summary(proof)}" + (f"\nwrote {results}" if results else ""))
    if not proof["passed"]:
        raise typer.Exit(1)
