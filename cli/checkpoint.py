"""`genome-lm checkpoint`: import, export, extend, publish and look at checkpoints."""

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from genome_lm.errors import check_range, naming
from genome_lm.files import refuse_existing
from genome_lm_cli.options import Force, Json, Threads
from genome_lm_cli.output import finish, table

_GPU_FIGURES = "forward", "training", "recomputed"
app = typer.Typer(help="Import, export, extend, publish and look at checkpoints.", no_args_is_help=True)

Source = Annotated[
    str, typer.Argument(help="Checkpoint of any form: folder, .ckpt, or OWNER/NAME on the hub.", metavar="CKPT")
]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub.")]


class Format(StrEnum):
    """Forms that other programs read."""

    hf = "hf"
    safetensors = "safetensors"
    transformers = "transformers"


class PushFormat(StrEnum):
    """Forms that the hub can have."""

    genome_lm = "genome-lm"
    transformers = "transformers"


@app.command("import")
def import_(
    checkpoint: Source,
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    revision: Revision = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint of any form into a native one; no code in it is run.

    Example: genome-lm checkpoint import hyenadna.ckpt --out hyenadna
    """
    from genome_lm.checkpoint import open_checkpoint, save_checkpoint

    refuse_existing(out, force)
    opened = open_checkpoint(checkpoint, revision=revision)
    save_checkpoint(out, opened.model, opened.provenance, opened.heads)
    context = opened.model.config.max_length
    finish(
        as_json, f"wrote {out}: {opened.form}, context {context:,}", path=str(out), form=opened.form, context=context
    )


@app.command()
def export(
    checkpoint: Source,
    out: Annotated[Path, typer.Option(help="Folder (hf) or file (safetensors) to write.", metavar="OUT")],
    form: Annotated[Format, typer.Option("--format", help="Form to write.")] = Format.hf,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint for other programs.

    --format hf and safetensors write what the Hugging Face port of HyenaDNA has. --format transformers writes a
    folder that AutoModel and AutoTokenizer open by trust_remote_code without genome-lm: it has the code too.

    Example: genome-lm checkpoint export run/checkpoint --format transformers --out my-model
    """
    from genome_lm.checkpoint import export_checkpoint, export_for_transformers, open_checkpoint

    refuse_existing(out, force)
    opened = open_checkpoint(checkpoint)
    left_out = bool(opened.heads) and form is not Format.transformers
    if form is Format.transformers:
        with naming(str(checkpoint)):
            export_for_transformers(opened.model, out, opened.only_head())
    else:
        export_checkpoint(opened.model, out, "hf" if form is Format.hf else "safetensors")
    told = "; the head of the tuned model has no place in this form and is left out" if left_out else ""
    finish(as_json, f"wrote {out}{told}", path=str(out), format=form.value, head_left_out=left_out)


@app.command()
def extend(
    checkpoint: Source,
    max_length: Annotated[int, typer.Option(help="The new context in bases.")],
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Stretch a model's filters over a longer context; tune it afterwards (`genome-lm train --init`).

    Example: genome-lm checkpoint extend run/checkpoint --max-length 4096 --out longer
    """
    from genome_lm.checkpoint import extend_context, open_checkpoint, save_checkpoint

    refuse_existing(out, force)
    opened = open_checkpoint(checkpoint)
    extended = extend_context(opened.model, max_length)
    before = opened.model.config.max_length
    save_checkpoint(out, extended, {**opened.provenance, "extended_from_max_length": before}, opened.heads)
    text = f"wrote {out}: context {before:,} → {max_length:,}; tune it with `genome-lm train --init {out}`"
    finish(as_json, text, path=str(out), context=max_length, context_before=before)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Native checkpoint.", metavar="FOLDER")],
    repo: Annotated[str, typer.Argument(help="Where it goes on the hub.", metavar="OWNER/NAME")],
    form: Annotated[
        PushFormat, typer.Option("--format", help="genome-lm, or the form that transformers opens.")
    ] = PushFormat.genome_lm,
    public: Annotated[bool, typer.Option("--public", help="Let all see a new repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Put a model on the Hugging Face hub, with a model card: the folder's README.md, or one that is written.

    The files are written anew from the model, and go in one commit. Nothing else that lies in the folder is sent.

    Example: genome-lm checkpoint push run/checkpoint me/my-model --dry-run
    """
    from genome_lm.checkpoint import push_checkpoint

    sizes, commit = push_checkpoint(folder, repo, form is PushFormat.transformers, public, dry_run)
    if not as_json:
        table(repo, ("file", "bytes"), [(name, f"{size:,}") for name, size in sizes.items()])
    done = "nothing is sent in a dry run" if commit is None else f"wrote {commit}"
    finish(
        as_json, f"{done}: {len(sizes)} files, {sum(sizes.values()):,} bytes", repo=repo, commit=commit, files=sizes
    )


@app.command()
def info(
    checkpoint: Source,
    length: Annotated[int | None, typer.Option(help="Bases to tell the memory for; default: the context.")] = None,
    revision: Revision = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this CPU for up to ten seconds, and forecast times.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show a checkpoint's form, size, context, vocabulary, provenance, and the memory that it needs.

    With --measure, also the time of a forward pass and of a training step on this machine.

    Example: genome-lm checkpoint info LongSafari/hyenadna-small-32k-seqlen-hf --length 32768
    """
    from genome_lm.alphabet import VOCABULARY
    from genome_lm.checkpoint import open_checkpoint
    from genome_lm.model.memory import cuda_forecast, forward_bytes, training_bytes
    from genome_lm.model.pace import measure_pace

    opened = open_checkpoint(checkpoint, revision=revision)
    config = opened.model.config
    length = config.max_length if length is None else length
    check_range("--length", length, 1, config.max_length)
    on_gpu = cuda_forecast(config, length)
    facts = {
        "form": opened.form,
        "parameters": sum(parameter.numel() for parameter in opened.model.parameters()),
        "context": config.max_length,
        "vocabulary": list(VOCABULARY),
        "model": config.to_dict(),
        "length": length,
        "forward_bytes": forward_bytes(config, length),
        "training_bytes": training_bytes(config, length),
        "cuda": on_gpu,
        "provenance": opened.provenance,
    }
    if measure:
        pace = measure_pace(config, length)
        facts["forward_seconds"] = pace.forward_seconds(config, length)
        facts["training_seconds"] = pace.step_seconds(config, length)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    rows = [
        ("form", opened.form),
        ("parameters", f"{facts['parameters']:,}"),
        ("context", f"{config.max_length:,} bases"),
        ("shape", ", ".join(f"{name} {value}" for name, value in config.to_dict().items() if name != "max_length")),
        ("vocabulary", " ".join(f"{token}={number}" for number, token in enumerate(VOCABULARY))),
        (f"memory, forward of {length:,} bases", f"{forward_bytes(config, length) / 1e9:.2f} GB (CPU, estimated)"),
        (f"memory, training step of {length:,}", f"{training_bytes(config, length) / 1e9:.2f} GB (CPU, estimated)"),
        *_gpu_rows(on_gpu),
        *(
            (f"time, {what} of {length:,}", f"{facts[name]:.2f} s (this CPU, forecast)")
            for what, name in (("forward", "forward_seconds"), ("training step", "training_seconds"))
            if name in facts
        ),
        ("provenance", json.dumps(opened.provenance, indent=1)),
    ]
    table(str(checkpoint), ("", ""), rows)


def _gpu_rows(forecast: dict[str, dict[str, int]]) -> Iterator[tuple[str, str]]:
    """The forecast for a GPU as rows of a table."""
    for precision, needed in forecast.items():
        forward, training, recomputed = (f"{needed[f'{name}_bytes'] / 1e9:.2f} GB" for name in _GPU_FIGURES)
        yield (
            f"the same on a GPU, {precision}",
            f"forward {forward}, training step {training}, or {recomputed} if blocks are recomputed (counted)",
        )
