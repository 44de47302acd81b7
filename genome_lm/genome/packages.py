"""Zip packages of NCBI Datasets: the FASTA of a genome within them."""

import re
import struct
import zipfile
from collections.abc import Iterator

from genome_lm.compression import DAMAGES
from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import Codes
from genome_lm.genome.counted_file import IndexedFile
from genome_lm.genome.fasta import FastaFile, Header
from genome_lm.text import one_line

MAGIC = b"PK\x03\x04"
"""The first bytes of a zip file."""
_MEMBER = re.compile(r"(?:.*/)?ncbi_dataset/data/(GC[AF]_[0-9.]+)/(?!rna\.fna$|cds_from_genomic\.fna$)[^/]+\.fna")
"""A genome's FASTA, whole or a file per chromosome; transcripts lie beside it."""
_DAMAGES = (*DAMAGES, zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, ValueError)
"""What the standard library raises on a damaged or encrypted zip file."""


class PackageFile(IndexedFile):
    """A zip package of NCBI Datasets.

    Its md5sum.txt is not looked at: a zip file has a checksum of each file in it, which is looked at on reading.
    """

    def __iter__(self) -> Iterator[Header | Codes]:
        """Headers and codes as those of `FastaFile`.

        Raises:
            GenomeLMError: If the package is damaged, holds no genome, or holds more than one; else see `FastaFile`.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                for member in self._members(archive):
                    with archive.open(member) as file:
                        yield from FastaFile(self.path / member.filename).parse(file)
                    self._advance(member.compress_size)
        except OSError as error:
            raise GenomeLMError(f"{self.path}: can't read: {error.strerror or error}") from error
        except _DAMAGES as error:
            raise GenomeLMError(
                f"{self.path}: can't read: cut off or damaged: {one_line(error)}; get it again"
            ) from error

    def _members(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        matches = [(info, _MEMBER.fullmatch(info.filename)) for info in archive.infolist()]
        members = [(info, match[1]) for info, match in matches if match is not None]
        genomes = sorted({accession for _, accession in members})
        if len(genomes) != 1:
            holds = f"{len(genomes)} genomes ({', '.join(genomes[:5])})" if genomes else "no genome's FASTA"
            raise GenomeLMError(
                f"{self.path}: holds {holds}, where a zip package of NCBI Datasets with one is read; unpack it, and "
                "give the FASTA files that you want"
            )
        return [info for info, _ in members]
