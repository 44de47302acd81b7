"""The suite: every analysis on one model, as tidy tables with what it takes to run each again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genome_lm import __version__
from genome_lm.checkpoint import weights_sha256
from genome_lm.dataset import Annotation, LabelledSet
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.context import loss_by_context, recall
from genome_lm.evaluation.invariances import codon_sensitivity, shuffle_sensitivity, strand_consistency
from genome_lm.evaluation.perplexity import evaluate_perplexity
from genome_lm.evaluation.probes import probe_set
from genome_lm.evaluation.variants import variant_separation
from genome_lm.files import replacing_folder
from genome_lm.genome import GenomeStore, Interval, of_split
from genome_lm.inference import GenomeLM
from genome_lm.optional import require
from genome_lm.progress import progress

SUMMARY = "suite.json"
ANALYSES = ("perplexity", "context", "recall", "strands", "shuffles", "codons", "variants", "probes")


@dataclass(frozen=True)
class SuiteInput:
    """What a model is evaluated on; an analysis whose input is missing is left out.

    Attributes:
        store: The genome.
        intervals: With the splits; the suite looks at `split`, baselines are fitted on `train`.
        split: Which split is looked at.
        annotation: Genes of the genome, for the codons.
        variants: A VCF file and the genome store that it is of.
        sets: Labelled sets to probe, by name.
        files: What is to be known of the input files, as JSON values.
    """

    store: GenomeStore
    intervals: Sequence[Interval]
    split: str = "test"
    annotation: Annotation | None = None
    variants: tuple[Path, GenomeStore] | None = None
    sets: Mapping[str, LabelledSet] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def run_suite(
    model: GenomeLM,
    given: SuiteInput,
    out: Path,
    *,
    only: Sequence[str] = (),
    scale: float = 1.0,
    command: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """Run the analyses and write a folder: suite.json, with everything, and a tidy CSV for each analysis.

    Args:
        model: The model.
        given: What it is evaluated on.
        out: Folder to write; one that is there is replaced.
        only: Names of analyses (see `ANALYSES`); empty for all that the input allows.
        scale: Windows, genes and variants are drawn in these proportions of the usual numbers.
        command: What was called, for the record.
        seed: Of everything that is drawn.

    Returns:
        What suite.json holds: tables by name, each a list of rows, and the record.

    Raises:
        GenomeLMError: On an unknown analysis, or one whose input is missing.
    """
    pd = require("pandas")
    chosen = _chosen(only, given)
    regions = of_split(given.intervals, given.split)
    lm, store = model.model, given.store
    tables: dict[str, list[dict[str, Any]]] = {}

    def number(usual: int) -> int:
        return max(4, round(scale * usual))

    with progress("suite", len(chosen), "analyses") as bar:
        for name in chosen:
            bar.describe(name)
            if name == "perplexity":
                tables[name] = _perplexity(model, given, number(400_000))
            elif name == "context":
                tables[name] = loss_by_context(lm, store, regions, windows=number(200), seed=seed)
            elif name == "recall":
                tables[name] = recall(lm, store, regions, windows=number(60), seed=seed)
            elif name == "strands":
                tables[name] = strand_consistency(lm, store, regions, number(100), seed)
            elif name == "shuffles":
                tables[name] = shuffle_sensitivity(lm, store, regions, number(100), seed)
            elif name == "codons" and given.annotation is not None:
                tables[name] = codon_sensitivity(lm, store, given.annotation, regions, genes=number(60), seed=seed)
            elif name == "variants" and given.variants is not None:
                vcf, genome = given.variants
                summary, each = variant_separation(lm, genome, vcf, most=number(400), seed=seed)
                tables[name], tables["variants_each"] = summary, each
            elif name == "probes":
                tables[name] = [
                    {"set": title, **row}
                    for title, each_set in given.sets.items()
                    for row in probe_set(model, each_set)
                ]
            bar.advance(1)
    result = {
        "record": {
            "command": command, "genome_lm_version": __version__, "weights_sha256": weights_sha256(lm),
            "model": lm.config.to_dict(), "genome": store.provenance, "split": given.split,
            "files": dict(given.files), "seed": seed, "scale": scale,
        },
        "tables": tables,
    }  # fmt: skip
    with replacing_folder(out) as folder:
        (folder / SUMMARY).write_text(json.dumps(result, indent=2) + "\n")
        for name, rows in tables.items():
            pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    return result


def _chosen(only: Sequence[str], given: SuiteInput) -> list[str]:
    if unknown := sorted(set(only) - set(ANALYSES)):
        raise GenomeLMError(f"analysis {', '.join(unknown)}: there are {', '.join(ANALYSES)}")
    lacking = {
        "codons": given.annotation is None and "--annotation",
        "variants": given.variants is None and "--vcf and --vcf-genome",
        "probes": not given.sets and "--set",
    }
    for name in only:
        if lacking.get(name):
            raise GenomeLMError(f"analysis {name} needs {lacking[name]}")
    return [name for name in ANALYSES if (name in only if only else not lacking.get(name))]


def _perplexity(model: GenomeLM, given: SuiteInput, bases: int) -> list[dict[str, Any]]:
    found = evaluate_perplexity(model.model, given.store, given.intervals, given.split, max_bases=bases)
    scores = [found.model, *found.baselines]
    return [{"name": s.name, "loss": s.loss, "perplexity": s.perplexity, "bits_per_base": s.bits_per_base,
             "targets": found.targets} for s in scores]  # fmt: skip
