"""What a training draws from: sources, each a genome or a part of one, and how often each is drawn.

The workflow reads mixtures too, where only Snakemake's own libraries may be installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from genome_lm.config import CONDITION_IDS, Condition, check_condition
from genome_lm.documents import read_yaml
from genome_lm.errors import GenomeLMError, naming
from genome_lm.store_place import is_url
from genome_lm.text import repeated_names, some_of
from genome_lm.typed import Within, typed

UNCONDITIONED = 0.1
"""`MixtureConfig.unconditioned`, if nothing is said."""
Rule = Literal["bases", "equal"]
MOST_WEIGHT = 1e9
Weight = Annotated[float, Within(0, MOST_WEIGHT)]


@dataclass(frozen=True)
class BaseWeightsConfig:
    """How much each base of a genome counts in the loss.

    The weight of a base with a value is that value times `scale`, clipped. A BED file is a set: its bases have the
    value 1, whatever its columns say.

    Attributes:
        track: BED, bedGraph or bigWig file, by the name's end.
        scale: What values are multiplied by.
        clip: The least and the largest weight; without it, a negative weight is an error.
        missing: Weight of bases without a value. None is 1, and then a bigWig file must have every contig that is
            trained on.
    """

    track: str
    scale: Annotated[float, Within(0, MOST_WEIGHT, exclusive=True)] = 1.0
    clip: tuple[Weight, Weight] | None = None
    missing: Weight | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise GenomeLMError(f"base_weights: clip is {list(self.clip)}; give the least weight first")


@dataclass(frozen=True)
class SourceConfig:
    """A genome, or a part of one, to train on.

    Attributes:
        name: What logs and reports call it.
        genome: Genome store.
        intervals: BED file with the splits; `train` is learned from, `valid` is watched.
        weight: How often it is drawn, relative to the other sources; None leaves it to the mixture's rule. Weight
            0 leaves a source out, such as a species: it is watched alone, and needs `valid` regions, no `train` ones.
        base_weights: Weights of its bases in the loss; None weighs all alike.
        regions: BED file with the classes of its bases, such as that of `genome-lm genome regions`; goes with
            `classes`.
        classes: How often each class is drawn, relative to the others. The source is then as many sources, each named
            NAME/CLASS, whose regions are those of the class within the split.
        condition: Name that its windows are read under, such as its species or clade: the model can be told it later.
            Sources may share one.
    """

    name: str
    genome: str
    intervals: str
    weight: Weight | None = None
    base_weights: BaseWeightsConfig | None = None
    regions: str | None = None
    classes: dict[str, Weight] | None = None
    condition: Condition | None = None

    def __post_init__(self) -> None:
        if (self.regions is None) != (self.classes is None):
            raise GenomeLMError(f"source {self.name!r}: regions and classes go together")
        if self.classes is not None and not sum(self.classes.values()):
            raise GenomeLMError(f"source {self.name!r}: the weights of the classes sum to zero")
        if self.condition is not None:
            with naming(f"source {self.name!r}"):
                check_condition(self.condition)

    @property
    def parts(self) -> dict[str, float]:
        """The names of the sources that it is, and the share of its windows that each gives."""
        if self.classes is None:
            return {self.name: 1.0}
        total = sum(self.classes.values())
        return {f"{self.name}/{name}": weight / total for name, weight in self.classes.items() if weight}


@dataclass(frozen=True)
class MixtureConfig:
    """Sources, and how often each is drawn.

    Attributes:
        sources: At least one, with names of their own.
        weights: For sources without a weight: "bases" draws each in proportion to its training bases, "equal" all
            alike.
        temperature: With "bases", weights are the bases to this power: 1 is proportional, 0 is equal.
        hold_out: Names of sources that are left out, as by weight 0, whatever else says how often they are drawn.
        unconditioned: Fraction of the windows of a source with a condition that are read without it, so that the
            model can also be used without one.
    """

    sources: tuple[SourceConfig, ...]
    weights: Rule = "bases"
    temperature: Annotated[float, Within(0, 1)] = 1.0
    hold_out: tuple[str, ...] = ()
    unconditioned: Annotated[float, Within(0, 0.99)] = UNCONDITIONED

    def __post_init__(self) -> None:
        names = [name for source in self.sources for name in source.parts]
        if not names:
            raise GenomeLMError("mixture: no sources")
        if repeated := repeated_names(names):
            raise GenomeLMError(f"mixture: two sources are named {repeated[0]!r}; give each its own name")
        sources = [source.name for source in self.sources]
        if unknown := [name for name in self.hold_out if name not in sources]:
            raise GenomeLMError(f"mixture: hold_out: {unknown[0]!r:.100} is no source; there are {some_of(sources)}")
        if not any(map(self.is_drawn, self.sources)) and self.hold_out:
            raise GenomeLMError("mixture: hold_out leaves no source to train on")
        given = [source.weight for source in self.sources if source.weight is not None]
        if given and len(given) < len(self.sources):
            raise GenomeLMError("mixture: give a weight to every source, or to none")
        if given and not sum(given):
            raise GenomeLMError("mixture: the weights sum to zero")
        if given and (self.weights, self.temperature) != ("bases", 1.0):
            raise GenomeLMError("mixture: every source has a weight; leave out weights and temperature")
        if self.weights == "equal" and self.temperature != 1.0:
            raise GenomeLMError("mixture: temperature goes with weights: bases, not with equal")
        if len(self.conditions) > len(CONDITION_IDS):
            raise GenomeLMError(
                f"mixture: {len(self.conditions)} conditions, at most {len(CONDITION_IDS)}: let sources share one, "
                f"such as their clade; there are {some_of(self.conditions)}"
            )
        if self.unconditioned != UNCONDITIONED and not self.conditions:
            raise GenomeLMError("mixture: unconditioned goes with sources that have a condition")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions of the sources that are drawn, each once, in the order of the sources."""
        names = [
            source.condition for source in self.sources if self.is_drawn(source) and source.condition is not None
        ]
        return tuple(dict.fromkeys(names))

    def is_drawn(self, source: SourceConfig) -> bool:
        """Whether a source is trained on; else it is watched alone."""
        return source.weight != 0 and source.name not in self.hold_out

    def shares(self, bases: Sequence[int]) -> list[float]:
        """The fraction of the windows that each source gives.

        Args:
            bases: Training bases of each source.
        """
        if self.sources[0].weight is not None:
            weights = [source.weight or 0.0 for source in self.sources]
        else:
            exponent = self.temperature if self.weights == "bases" else 0.0
            weights = [float(count) ** exponent for count in bases]
        pairs = zip(weights, self.sources, strict=True)
        weights = [weight if self.is_drawn(source) else 0.0 for weight, source in pairs]
        return [weight / sum(weights) for weight in weights]


def one_source(genome: Path, intervals: Path) -> MixtureConfig:
    """The mixture of a single genome."""
    return MixtureConfig((SourceConfig("genome", str(genome), str(intervals)),))


def read_mixture(path: Path) -> MixtureConfig:
    """A mixture from a YAML file; paths in it are relative to its folder.

    Raises:
        GenomeLMError: If it can't be read, or is not a mixture.
    """
    values = read_yaml(path)
    with naming(path):
        config = mixture_of(values)
    return replace(config, sources=tuple(_within(path.parent, source) for source in config.sources))


def mixture_of(values: Any) -> MixtureConfig:
    """A mixture from plain values; `hold_out` may be the name of one source.

    Raises:
        GenomeLMError: If they are not of a mixture.
    """
    if isinstance(values, dict) and isinstance(name := values.get("hold_out"), str):
        values = {**values, "hold_out": [name]}
    return typed(MixtureConfig, values, "mixture")


def _within(folder: Path, source: SourceConfig) -> SourceConfig:
    """A source with its paths relative to a folder."""
    weights = source.base_weights
    return replace(
        source,
        genome=source.genome if is_url(source.genome) else str(folder / source.genome),
        intervals=str(folder / source.intervals),
        base_weights=weights and replace(weights, track=str(folder / weights.track)),
        regions=source.regions and str(folder / source.regions),
    )
