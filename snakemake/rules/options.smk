"""What the rules of the downstream part share."""


def options_of(values):
    """A mapping as options of the command line; true is a flag."""
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in values.items()
        if value is not False
    ]
