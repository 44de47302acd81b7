"""The file of a mixture of genomes, as `genome-lm train --data` reads it."""

import sys
from pathlib import Path

import yaml

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file


def write(snakemake):
    """Write the output of the rule."""
    with replacing_file(Path(snakemake.output[0])) as temporary:
        temporary.write_text(yaml.safe_dump(snakemake.params.mixture, sort_keys=False), encoding="utf-8")


if "snakemake" in globals():
    with open(snakemake.log[0], "w", encoding="utf-8") as sys.stderr:  # noqa: F821
        try:
            write(snakemake)  # noqa: F821
        except GenomeLMError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
