"""An analysis of the suite: what it is given, what it gives back, and what the report says of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from genome_lm.dataset import Annotation, LabelledSet
from genome_lm.genome import GenomeStore, Interval, of_split, without_overlaps
from genome_lm.inference import GenomeLM
from genome_lm.model import HyenaLM

Row = dict[str, Any]


@dataclass(frozen=True)
class SuiteInput:
    """What a model is evaluated on. An analysis whose input is missing is left out.

    The `options` of a field are those of `genome-lm evaluate-suite` that give it.

    Attributes:
        store: The genome.
        intervals: With the splits; the suite looks at `split`, baselines are fitted on `train`.
        split: Which split is looked at.
        annotation: Genes of the genome.
        genetic_code: NCBI's number of the code of genes of which the annotation does not say it.
        variants: A VCF file and the genome store that it is of.
        sets: Labelled sets by name.
        files: What is to be known of the input files, as JSON values.
    """

    store: GenomeStore
    intervals: Sequence[Interval]
    split: str = "test"
    annotation: Annotation | None = field(default=None, metadata={"options": "--annotation"})
    genetic_code: int = 1
    variants: tuple[Path, GenomeStore] | None = field(default=None, metadata={"options": "--vcf and --vcf-genome"})
    sets: Mapping[str, LabelledSet] = field(default_factory=dict, metadata={"options": "--set"})
    files: Mapping[str, str] = field(default_factory=dict)

    def options_for(self, name: str) -> str:
        """The options that would give a missing input; empty if it is there, or if `name` is empty."""
        if not name or getattr(self, name):
            return ""
        return next(each.metadata["options"] for each in fields(self) if each.name == name)


@dataclass(frozen=True)
class Setting:
    """What an analysis works with.

    Attributes:
        model: The model.
        given: What it is evaluated on.
        scale: How many cases are drawn, in proportion to the usual numbers.
        seed: Of everything that is drawn.
    """

    model: GenomeLM
    given: SuiteInput
    scale: float
    seed: int

    @property
    def lm(self) -> HyenaLM:
        """The model as a module of torch."""
        return self.model.model

    @property
    def store(self) -> GenomeStore:
        """The genome."""
        return self.given.store

    @property
    def regions(self) -> list[Interval]:
        """The intervals of the split that is looked at."""
        return without_overlaps(of_split(self.given.intervals, self.given.split))

    def number(self, usual: int) -> int:
        """How many cases to draw where `usual` are drawn at scale 1."""
        return max(4, round(self.scale * usual))


class Tables(NamedTuple):
    """What an analysis has found.

    Attributes:
        summary: The table that the report shows; all rows have the same columns.
        each: A row per case, for a CSV file of its own; empty for no such file.
    """

    summary: list[Row]
    each: Sequence[Row] = ()


@dataclass(frozen=True)
class Analysis:
    """An analysis of the suite.

    Attributes:
        words: What the report says above the table.
        run: The analysis itself.
        draw: The figure of the summary as SVG text. It imports matplotlib when it is called, not before.
        needs: The field of `SuiteInput` without which it is left out; empty for none.
        causal: Whether it is left out of models that read both ways.
    """

    words: str
    run: Callable[[Setting], Tables]
    draw: Callable[[list[Row]], str]
    needs: str = ""
    causal: bool = False

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("an analysis needs words for the report")
