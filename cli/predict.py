"""`genome-lm predict`: what a tuned model says about sequences."""

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genome_lm.errors import GenomeLMError, naming
from genome_lm.files import refuse_existing, require_suffix
from genome_lm_cli.options import (
    BatchTokens,
    Bed,
    ContigNames,
    Device,
    Fasta,
    Force,
    Json,
    Memory,
    NameMap,
    Names,
    Precision,
    PrecisionWord,
    Split,
    Threads,
    check_bed_options,
    intervals_of,
    parse_shard,
)
from genome_lm_cli.output import finish, resumed

if TYPE_CHECKING:
    import pandas as pd

    from genome_lm.genome import Record
    from genome_lm.inference import GenomeLM
    from genome_lm.jobs.score_bases import ScoredSequences
    from genome_lm.progress import Bar

PIECE = 1 << 20
"""Bases whose predictions are held."""


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint that `genome-lm finetune` wrote.", metavar="CKPT")],
    out: Annotated[
        Path, typer.Option(help="Table: .csv, .tsv or .parquet; tracks: .bw or .bedgraph.", metavar="OUT")
    ],
    fasta: Fasta = None,
    genome: Annotated[
        Path | None, typer.Option(help="Genome store, with --bed; tracks: all of it without.", metavar="G.zarr")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Table of pairs: sequence, sequence_2, perhaps id.", metavar="TABLE")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Which head predicts, of a model that was tuned with several.", metavar="NAME")
    ] = None,
    bed: Bed = None,
    split: Split = None,
    contig_names: Names = ContigNames.as_is,
    contig_map: NameMap = None,
    window: Annotated[
        int | None, typer.Option(help="Cut longer sequences into windows; tracks: default as tuned.")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="From one window to the next; default: --window.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: tracks of the i-th of n parts; join them with genome-lm gather.")
    ] = None,
    batch_tokens: BatchTokens = 32_768,
    precision: Precision = PrecisionWord.float32,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Predict with a tuned model: a row per sequence, or per base where it predicts at each.

    Of a BED file's intervals with the strand - in column 6, the reverse complement is read. Rows have contig, start
    and end (0-based, end excluded, as in BED) and the BED's further columns. An id is NAME|contig:first-last(strand),
    1-based with both ends in it, as in --region and samtools; the second of equal rows ends in #2.

    Tracks go to bigWig or bedGraph too, along whole contigs or in the bins that intervals touch; several tracks to
    OUT.NAME.bw. A killed job goes on where it was.

    Example: genome-lm predict tuned/checkpoint --fasta genes.fa --out predictions.csv

    Example: genome-lm predict tuned/checkpoint --genome g.zarr --out predicted.bw
    """
    from genome_lm.dataset import TABLES, write_table
    from genome_lm.formats.tracks import TRACKS
    from genome_lm.genome import GenomeStore, fasta_records, interval_records
    from genome_lm.genome import windows as cut
    from genome_lm.inference import load
    from genome_lm.jobs.predict_tracks import predict_tracks
    from genome_lm.progress import progress

    is_track = require_suffix(out, (*TABLES, *TRACKS), any_case=True) in TRACKS
    if (is_track and stride is not None) or (not is_track and shard is not None):
        raise GenomeLMError("--stride goes with tables, and --shard with tracks")
    if is_track and pairs is not None:
        raise GenomeLMError(f"--pairs goes to tables; end the name of --out in {', '.join(TABLES)}")
    if stride is not None and window is None:
        raise GenomeLMError("--stride goes with --window")
    check_bed_options(bed, split, contig_names, contig_map)
    if is_track:
        sequences = _sequences(fasta, genome, bed, (split, contig_names, contig_map))
        part = parse_shard(shard) if shard is not None else None
        options = {"window": window, "batch_tokens": batch_tokens, "shard": part, "force": force}
        model = load(checkpoint, device, head=head, precision=precision.value)
        written = predict_tracks(model, sequences, out, **options)
        paths = [str(path) for path in written.paths]
        text = f"wrote {', '.join(paths)}: {written.bins:,} bins" + resumed(written.resumed, written.parts)
        facts = {"resumed": written.resumed, "parts": written.parts, "precision": model.model.precision}
        finish(as_json, text, paths=paths, bins=written.bins, **facts)
        return
    refuse_existing(out, force)
    if pairs is not None:
        if any(option is not None for option in (fasta, genome, bed, window)):
            raise GenomeLMError("--pairs has its sequences itself: leave --fasta, --genome, --bed and --window out")
        model = load(checkpoint, device, head=head, precision=precision.value)
        _predict_pairs(model, pairs, out, batch_tokens, as_json)
        return
    if fasta is not None and genome is None and bed is None:
        records = fasta_records(fasta)
    elif fasta is None and genome is not None and bed is not None:
        store = GenomeStore(genome)
        records = interval_records(store, intervals_of(bed, store, split, contig_names, contig_map))
    else:
        raise GenomeLMError("give either --fasta, or --genome and --bed")
    if window is not None:
        records = cut(records, window, stride or window)
    model = load(checkpoint, device, head=head, precision=precision.value)
    with naming(checkpoint):
        has_pairs = model.tuned_head.config.pair != "none"
    if has_pairs:
        raise GenomeLMError(f"{checkpoint}: was tuned on pairs of sequences; give --pairs with a table of them")
    counter = count()
    counted = (record for record, _ in zip(records, counter, strict=False))
    with progress("predict", 0, "bases") as bar:
        rows = write_table(out, _predicted(model, counted, batch_tokens, bar))
    total = next(counter)
    facts = {"records": total, "rows": rows, "precision": model.model.precision}
    finish(as_json, f"wrote {out}: {total:,} sequences, {rows:,} rows", path=str(out), **facts)


def _predict_pairs(model: "GenomeLM", pairs: Path, out: Path, batch_tokens: int, as_json: bool) -> None:
    from genome_lm.dataset import read_pairs, write_table
    from genome_lm.finetune import prediction_table

    if model.tuned_head.config.pair == "none":
        raise GenomeLMError("--pairs: the model was tuned on single sequences; give --fasta, or --genome and --bed")
    names, firsts, seconds = read_pairs(pairs)
    predicted = model.predict(firsts, seconds=seconds, names=names, batch_tokens=batch_tokens)
    rows = write_table(out, [prediction_table(model.tuned_head.config, names, predicted)])
    facts = {"records": rows, "rows": rows, "precision": model.model.precision}
    finish(as_json, f"wrote {out}: {rows:,} pairs", path=str(out), **facts)


def _sequences(
    fasta: Path | None, genome: Path | None, bed: Path | None, of_bed: tuple[str | None, ContigNames, Path | None]
) -> "ScoredSequences":
    from genome_lm.genome import GenomeStore, Interval, store_contigs
    from genome_lm.jobs.score_bases import ScoredSequences

    if (fasta is None) == (genome is None) or (bed is not None and genome is None):
        raise GenomeLMError("give either --fasta, or --genome, perhaps with --bed")
    if fasta is not None:
        return ScoredSequences.of_fasta(fasta)
    assert genome is not None
    store = GenomeStore(genome)
    if bed is None:
        return ScoredSequences.of_genome(store, [Interval(c.name, 0, c.length) for c in store_contigs(store)])
    return ScoredSequences.of_genome(store, intervals_of(bed, store, *of_bed))


def _predicted(
    model: "GenomeLM", records: Iterable["Record"], batch_tokens: int, bar: "Bar"
) -> Iterator["pd.DataFrame"]:
    """Predictions piece by piece, so that memory does not grow with the input."""
    import numpy as np

    from genome_lm.finetune import prediction_table
    from genome_lm.genome import pieces
    from genome_lm.genome.records import place_columns

    assert model.head is not None
    for piece in pieces(records, max(batch_tokens, PIECE)):
        names, sequences = [record.id for record in piece], [record.sequence for record in piece]
        predicted = model.predict(sequences, names=names, batch_tokens=batch_tokens)
        bar.advance(sum(map(len, sequences)))
        table = prediction_table(model.head.config, names, predicted)
        counts = [len(rows) if model.head.config.per_position else 1 for rows in predicted]
        for number, (name, values) in enumerate(place_columns(piece).items(), start=1):
            table.insert(number, name, np.repeat(values, counts))
        yield table
