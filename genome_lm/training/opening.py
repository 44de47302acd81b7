"""The sources of a mixture, opened to train on."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from genome_lm.errors import GenomeLMError, naming
from genome_lm.files import sha256
from genome_lm.formats.base_weights import open_base_weights
from genome_lm.genome import BaseClasses, GenomeStore, WindowSampler, of_split, read_bed, without_overlaps
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.mixture_config import MixtureConfig, SourceConfig, one_source
from genome_lm.training.callbacks import Watched
from genome_lm.training_config import TrainingConfig


class OpenSources(NamedTuple):
    """The sources that windows are drawn from; each class of a source with classes is one.

    Attributes:
        mixture: What draws the windows.
        watched: Where each source is validated.
        records: What run.json says of each.
    """

    mixture: Mixture
    watched: list[Watched]
    records: list[dict[str, Any]]


class _Part(NamedTuple):
    """A source, or a class of one."""

    source: Source
    watched: Watched
    record: dict[str, Any]


def open_sources(data: MixtureConfig, config: TrainingConfig) -> OpenSources:
    """Open all sources.

    Raises:
        GenomeLMError: If a file can't be read or is of another assembly, or a source or a class of one has nothing to
            train on; it names the source, where it has a name of the user's.
    """
    opened: list[list[_Part]] = []
    for source in data.sources:
        is_plain = data == one_source(Path(source.genome), Path(source.intervals))  # the user gave it no name
        with naming(None if is_plain else f"source {source.name!r}"):
            opened.append(list(_parts(source, config, data.is_drawn(source))))
    shares_of_sources = data.shares([sum(part.source.sampler.bases for part in parts) for parts in opened])
    shares = [
        share * of_part
        for share, source in zip(shares_of_sources, data.sources, strict=True)
        for of_part in source.parts.values()
    ]
    every = [part for parts in opened for part in parts]
    mixture = Mixture([part.source for part in every], shares, data.unconditioned)
    records = [{"share": share, **part.record} for part, share in zip(every, mixture.schedule.shares, strict=True)]
    for record in records:
        if "condition" in record:
            record["unconditioned"] = data.unconditioned
    return OpenSources(mixture, [part.watched for part in every], records)


def _parts(source: SourceConfig, config: TrainingConfig, is_drawn: bool) -> Iterator[_Part]:
    """The sources that a source is, in the order of its `parts`."""
    store, path = GenomeStore(Path(source.genome)), Path(source.intervals)
    regions = without_overlaps(read_bed(path, store))
    with naming(path):
        of_split(regions, "train" if is_drawn else "valid")
    trained = [region for region in regions if region.name == "train"]
    others = [region for region in regions if region.name != "train"]
    watched = [region for region in regions if region.name == "valid"]
    record: dict[str, Any] = {"genome": store.provenance, "intervals_sha256": sha256(path)}
    weigh = None
    if is_drawn and (weights := source.base_weights) is not None:
        weigh = open_base_weights(weights, store, trained)
        options = {name: value for name, value in asdict(weights).items() if name != "track"}
        record["base_weights"] = {"sha256": sha256(Path(weights.track)), **options}
    if source.regions is not None:
        record["regions_sha256"] = sha256(Path(source.regions))
    if source.condition is not None:
        record["condition"] = source.condition
    for name, classes in _classes(source, store):
        own = trained if classes is None else classes.within(store, trained)
        if is_drawn and not own:
            name = name.removeprefix(f"{source.name}/")
            raise GenomeLMError(f"{source.regions}: no base of split 'train' has the class {name!r}")
        if weigh is not None and classes is not None:
            with naming(name):
                weigh.require_weight(own)
        sampler = WindowSampler(
            store, [*own, *others], "train", config.seed, config.reverse_complement, config.max_n_fraction
        )
        opened = Source(name, sampler, weigh, source.condition)
        yield _Part(opened, Watched(store, watched, classes, source.condition), {"name": name, **record})


def _classes(source: SourceConfig, store: GenomeStore) -> list[tuple[str, BaseClasses | None]]:
    """The names of the sources that a source is, and the class of each."""
    if source.regions is None or source.classes is None:
        return [(source.name, None)]
    classes = BaseClasses.read(Path(source.regions), store)
    with naming(source.regions):
        each = [classes.only(name) for name in source.classes]
    return [(name, only) for only in each if (name := f"{source.name}/{only.names[0]}") in source.parts]
