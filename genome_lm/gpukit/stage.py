"""The process of a stage, which `genome_lm.gpukit.runner` starts: `python -m genome_lm.gpukit.stage MODULE JSON`."""

import json
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from genome_lm.gpukit.forms import FORMS
from genome_lm.gpukit.kit import Kit


def main(module: str, arguments: dict[str, Any]) -> None:
    """Run a stage.

    Args:
        module: Name of a module with a function `run` that takes a `Kit`.
        arguments: Of the kit, as JSON values.
    """
    logging.basicConfig(level=logging.WARNING)
    paths = {name: Path(arguments[name]) if arguments[name] else None for name in ("expected", "fasta")}
    folder, results = Path(arguments["folder"]), Path(arguments["results"])
    kit = Kit(FORMS[arguments["form"]], torch.device(arguments["device"]), folder, results, **paths)
    import_module(module).run(kit)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
