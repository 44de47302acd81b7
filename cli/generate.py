"""`genome-lm generate`: new sequence from a model."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing
from genome_lm_cli.options import (
    Condition,
    Device,
    Force,
    Json,
    Memory,
    Seed,
    Threads,
)
from genome_lm_cli.output import say, table

if TYPE_CHECKING:
    from genome_lm.genome import Contig


def generate(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint of any form: folder, .ckpt, or OWNER/NAME on the hub.", metavar="CKPT")
    ],
    out: Annotated[
        Path, typer.Option(help="FASTA to write; bgzip if it ends in .gz; - is standard output.", metavar="OUT.fa")
    ],
    length: Annotated[int, typer.Option(help="Bases of each sequence, after the prompt.")],
    fasta: Annotated[
        Path | None, typer.Option(help="Prompts, FASTA, plain or compressed; - is standard input.")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt, in place of --fasta; can be repeated.")] = None,
    samples: Annotated[int, typer.Option(help="Sequences for each prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest base.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest bases.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest bases that reach this probability together.")
    ] = None,
    seed: Seed = 0,
    with_prompt: Annotated[bool, typer.Option("--with-prompt", help="Write prompts before the new bases.")] = False,
    check_against: Annotated[
        Path | None,
        typer.Option(help="Training sequence, genome store or FASTA: report what is copied.", metavar="G.zarr|FASTA"),
    ] = None,
    kmer: Annotated[int, typer.Option(help="Length of the words that --check-against looks up.")] = 32,
    batch: Annotated[int | None, typer.Option(help="Sequences at one time; default: by memory.")] = None,
    condition: Condition = None,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Continue prompts with new bases, A, C, G and T alone.

    The cost for L bases is O(L log² L), and the probabilities are those of the full forward, to rounding. The same
    seed gives the same sequences, whatever the batches, to rounding. With --check-against, the longest exact match
    that each sequence shares with the training sequence, on either strand, and the fraction of its k-mers in there.

    Example: genome-lm generate run/checkpoint --prompt ACGTTGCA --length 1000 --samples 4 --out new.fa
    """
    from genome_lm.genome import fasta_records
    from genome_lm.inference import load, write_generated

    to_stdout = str(out) == "-"
    if not to_stdout:
        refuse_existing(out, force)
    elif as_json:
        raise GenomeLMError("--json and --out - both write to standard output; give one of them another place")
    if (fasta is None) == (not prompt):
        raise GenomeLMError("give the prompts either by --fasta or by --prompt")
    if kmer < 1:
        raise GenomeLMError(f"--kmer {kmer}: must be at least 1")
    if fasta is not None:
        prompts = [(record.id, record.sequence) for record in fasta_records(fasta)]
    else:
        prompts = [(f"prompt{number}", text.strip()) for number, text in enumerate(prompt or [], 1)]
    contigs = _contigs(check_against) if check_against is not None else None
    names, sequences = [name for name, _ in prompts], [text for _, text in prompts]
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    generated = load(checkpoint, device, condition=condition).generate(
        sequences,
        length,
        samples=samples,
        **settings,
        names=names,
        batch=batch,
    )
    said = {"model": checkpoint, "condition": condition, **settings}
    write_generated(out, generated, names, said, sequences if with_prompt else None)
    rows = [
        {
            "id": f"{names[one.prompt]}/{one.sample + 1}",
            "length": len(one.sequence),
            "log_likelihood": float(one.log_likelihoods.sum()),
            "gc": (one.sequence.count("G") + one.sequence.count("C")) / len(one.sequence),
        }
        for one in generated
    ]
    if contigs is not None:
        for row, copied in zip(rows, _check([one.sequence for one in generated], contigs, kmer), strict=True):
            row.update(copied)
    if as_json:
        typer.echo(json_text({"out": str(out), **said, "kmer": kmer, "sequences": rows}))
        return
    _show(rows, kmer, to_stdout)
    if not to_stdout:
        say(f"wrote {out}: {len(generated):,} sequences of {length:,} bases")


def _contigs(path: Path) -> "Iterable[Contig]":
    """The training sequence; a wrong path is an error at once, before the work begins."""
    from genome_lm.genome import GenomeStore, fasta_contigs, store_contigs
    from genome_lm.store_place import is_url

    if is_url(path):
        return store_contigs(GenomeStore(path))
    if not path.exists():
        raise GenomeLMError(f"{path}: no such genome store or FASTA file")
    return store_contigs(GenomeStore(path)) if path.is_dir() else fasta_contigs(path)


def _check(sequences: list[str], contigs: "Iterable[Contig]", kmer: int) -> list[dict[str, Any]]:
    from genome_lm.alphabet import encode
    from genome_lm.inference import find_memorised

    return [
        {
            "longest_match": copied.longest._asdict() | {"length": copied.longest.length} if copied.longest else None,
            # NaN for sequences shorter than the k-mer.
            "kmer_fraction": copied.kmer_fraction if copied.kmer_fraction == copied.kmer_fraction else None,
        }
        for copied in find_memorised([encode(sequence) for sequence in sequences], contigs, kmer)
    ]


def _show(rows: list[dict[str, Any]], kmer: int, stderr: bool) -> None:
    from genome_lm.genome.places import place_text

    columns = ["", "bases", "nats/base", "GC"]
    checked = "longest_match" in rows[0]
    if checked:
        columns += ["longest match", f"{kmer}-mers in genome"]
    shown = []
    for row in rows:
        cells = [row["id"], f"{row['length']:,}", f"{-row['log_likelihood'] / row['length']:.4f}", f"{row['gc']:.1%}"]
        if checked:
            match, fraction = row["longest_match"], row["kmer_fraction"]
            cells += [f"{match['length']:,}" if match else "0", "" if fraction is None else f"{fraction:.2%}"]
        shown.append(cells)
    table("generated", columns, shown, stderr)
    for row in rows:
        if (match := row.get("longest_match")) and match["length"] >= kmer:
            place = place_text(match["contig"], match["start"], match["end"], match["strand"])
            say(f"{row['id']}: {match['length']:,} bases are those of {place}", stderr)
