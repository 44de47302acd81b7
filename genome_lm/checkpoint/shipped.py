"""The models that come with this package, each a checkpoint in a folder of `genome_lm/models` with its card."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "models"


def shipped_models() -> list[str]:
    """Their names."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def shipped_folder(name: str) -> Path | None:
    """The checkpoint of this name; None if there is none."""
    return FOLDER / name if name in shipped_models() else None
