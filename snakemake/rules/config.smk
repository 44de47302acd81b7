"""The configuration, checked and completed; what it refers to."""

from configuration import (
    ConfigurationError,
    complete,
    data_names,
    data_with,
    evaluated_on,
    local_files,
    looked_at,
    mixture_values,
    set_genomes,
    set_kind,
    sources_of,
    split_tables,
)

try:
    STUDY = complete(
        config,
        [
            *(Path(path).parent for path in reversed(workflow.configfiles)),
            Path.cwd(),
            Path(workflow.basedir).parent,
        ],
    )
except ConfigurationError as error:
    raise WorkflowError(str(error)) from None


def options(values, leave_out=()):
    """A section of the configuration as options of a command."""
    return [
        f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}")
        for key, value in values.items()
        if key not in leave_out and value is not False
    ]


def some_options(values, *names):
    """Those of some names in a section of the configuration, as options of a command."""
    return options({name: values[name] for name in names if name in values})


MEMORY = some_options(config, "memory")
"""What all commands that run a model are told of it."""
