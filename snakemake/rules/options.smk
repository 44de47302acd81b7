"""Options of commands, from the section `downstream` of the configuration and from manifests."""


def options_of(values):
    """A mapping as options of the command line; true is a flag."""
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in values.items()
        if value is not False
    ]


def tuning_options(suite):
    """What a benchmark is tuned with: the manifest's options, those of the configuration first."""
    manifest = yaml.safe_load(Path(PUBLIC[suite]["manifest"]).read_text())
    return {**manifest.get("options", {}), **PUBLIC[suite].get("finetune", {})}


def public_tables(names):
    """The comparison of each run with the published figures of these benchmarks."""
    return [path for name in names for path in for_runs(f"{name}.benchmark.csv")]
