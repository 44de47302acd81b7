"""`genome-lm doctor`: what is installed, what computes, and whether it computes right."""

import json

import typer

from genome_lm_cli.options import Json
from genome_lm_cli.output import say, table


def doctor(as_json: Json = False) -> None:
    """Show versions, devices and the kernels chosen for them, and test those against float64 arithmetic.

    Exits with 1 if a kernel computes something else than the reference, forward or backward.

    Example: genome-lm doctor

    Example: genome-lm doctor --json
    """
    from genome_lm.doctor import TOLERANCE, examine

    found = examine()
    if as_json:
        # JSON has no infinity: what could not be computed is null, and `error` says why.
        devices = [{k: None if v == float("inf") else v for k, v in d.items()} for d in found["devices"]]
        typer.echo(json.dumps({**found, "devices": devices}, indent=2, allow_nan=False))
    else:
        libraries = [(name, version or "not installed") for name, version in found["libraries"].items()]
        rows = [("genome-lm", found["genome_lm"]), ("Python", found["python"]), *libraries]
        rows += [("CUDA", found["cuda"] or "not in this torch"), ("CPU threads", str(found["cpu_threads"]))]
        rows += [("memory", f"{found['memory_bytes'] / 1e9:.1f} GB"), ("platform", found["platform"])]
        stages = "compiled" if found["compiled_stages"] else "plain: no C compiler that works, or not Linux"
        rows.append(("CPU stages", stages))
        if found["kernel_forced"]:
            rows.append(("GENOME_LM_KERNEL", found["kernel_forced"]))
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
                for device in found["devices"]
            ],
        )
        for device in found["devices"]:
            if device["error"]:
                say(f"{device['device']}: {device['error']}")
        say(
            "all is well"
            if found["passed"]
            else "something is wrong: don't trust results of the devices marked WRONG"
        )
    if not found["passed"]:
        raise typer.Exit(1)
