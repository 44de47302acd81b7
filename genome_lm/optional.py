"""Libraries that some uses need and most do without: imported where they are used, named where they are missing."""

from importlib import import_module
from typing import Any

from genome_lm.errors import GenomeLMError

_PACKAGES = {
    "Bio": "biopython",
    "fsspec": "'genome-lm[remote]'",
    "google_crc32c": "google-crc32c",
    "sklearn": "scikit-learn",
    "sqlalchemy": "mlflow",
    "yaml": "PyYAML",
}
"""What pip calls a library, where Python calls it otherwise."""
_USES = {
    "Bio": "compressed outputs, flat files and genetic codes",
    "fsspec": "genome stores by URL",
    "gffutils": "GFF3 and GTF files",
    "google_crc32c": "genome stores",
    "h5py": ".h5ad files",
    "huggingface_hub": "checkpoints from the Hugging Face hub",
    "jsonschema": "manifests of downloads",
    "matplotlib": "figures",
    "mlflow": "runs in MLflow",
    "multimolecule": "comparisons with multimolecule",
    "numcodecs": "genome stores",
    "openpyxl": ".xlsx tables",
    "pandas": "tables",
    "pyBigWig": "bigWig files",
    "pyfaidx": "comparisons with pyfaidx",
    "pysam": "VCF and BCF files",
    "requests": "downloads",
    "scipy": "rank correlations and clusters of homologous regions",
    "sklearn": "linear probes",
    "sqlalchemy": "runs in MLflow on this machine",
    "tensorboard": "TensorBoard's files",
    "transformers": "comparisons with a folder of the port",
    "urllib3": "downloads",
    "wandb": "runs in Weights & Biases",
    "yaml": "YAML files",
    "zarr": "embeddings and scores in zarr",
}


def require(name: str) -> Any:
    """Import a library, or a module of one, for a use that needs it.

    Args:
        name: Full name of the module.

    Returns:
        The module.

    Raises:
        GenomeLMError: If it is not installed, or a library that it needs itself is not.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        package = _PACKAGES.get(library := missing.partition(".")[0], library)
        use = _USES[name.partition(".")[0]]
        raise GenomeLMError(f"{missing} is not installed, and {use} need it: pip install {package}") from error
