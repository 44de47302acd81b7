"""Genomes by name: the manifests that come with genome-lm, and where NCBI, UCSC and Ensembl keep an assembly's files.

Each archive is asked by its documented interface where the files are; then they are plain files with checksums, which
`genome_lm.download` gets and resumes. NCBI's zip packages are made on request, so that a cut one begins anew: the
Datasets service is asked for the folder of the same files instead.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genome_lm.documents import parse_json, read_yaml
from genome_lm.errors import GenomeLMError
from genome_lm.fetch import PAUSES, fetch
from genome_lm.files import writing
from genome_lm.manifests import Source, read_manifest
from genome_lm.progress import progress
from genome_lm.shipped import shipped_folder

BASES = {
    "NCBI": "https://api.ncbi.nlm.nih.gov/datasets/v2",
    "UCSC": "https://hgdownload.soe.ucsc.edu/goldenPath",
    "ENSEMBL": "https://rest.ensembl.org",
    "ENSEMBL_FTP": "https://ftp.ensembl.org/pub",
    "ENSEMBL_GENOMES_FTP": "https://ftp.ensemblgenomes.ebi.ac.uk/pub",
}
"""Addresses of the archives; the variable GENOME_LM_<NAME>_URL gives another one, such as a mirror."""
_ACCESSION = re.compile(r"GC[AF]_[0-9]{9}(\.[0-9]+)?", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
"""An assembly, a species, or a file, as it stands in an address."""
_DIVISIONS = ("Vertebrates", "Plants", "Fungi", "Metazoa", "Protists")
"""Of Ensembl, without Bacteria: tens of thousands of genomes, which NCBI has too."""


def genome_sources(genome: str) -> tuple[Source, ...]:
    """The files of a genome.

    Args:
        genome: A manifest's file (NAME.yaml, a path with a slash, or - for standard input), the name of a manifest
            that comes with genome-lm (hg38), an accession of NCBI with its version (GCF_000005845.2), ucsc:NAME
            (ucsc:danRer11) or ensembl:NAME, an assembly or a species (ensembl:GRCm39).

    Raises:
        GenomeLMError: If there is no such genome, an archive does not answer, or answers in another form.
    """
    archive, colon, name = genome.partition(":")
    if genome == "-" or genome.endswith((".yaml", ".yml")) or "/" in genome:
        return read_manifest(Path(genome)).files
    if _ACCESSION.fullmatch(genome):
        return _of_ncbi(genome.upper())
    if colon and archive in _ARCHIVES:
        if not _NAME.fullmatch(name):
            raise GenomeLMError(f"{genome}: {name!r} is no name of an assembly")
        return _ARCHIVES[archive](name)
    manifests = _shipped()
    if genome.lower() in manifests:
        return read_manifest(manifests[genome.lower()]).files
    raise GenomeLMError(
        f"{genome}: no genome of this name comes with genome-lm ({', '.join(manifests)}); give a manifest "
        "(NAME.yaml), an accession of NCBI (GCF_000005845.2), ucsc:NAME or ensembl:NAME"
    )


def _shipped() -> dict[str, Path]:
    """The manifests of genomes that come with genome-lm, by name in lower case."""
    paths = sorted(shipped_folder("data_manifests").glob("*.yaml"))
    # The others are of benchmarks.
    return {path.stem.lower(): path for path in paths if "assembly" in read_yaml(path)}


def _of_ncbi(accession: str) -> tuple[Source, ...]:
    """FASTA and, where there is one, GFF3 of an assembly, from the folder that NCBI Datasets names."""
    if "." not in accession:
        raise GenomeLMError(f"{accession}: give its version too, such as {accession}.1")
    url = f"{_base('NCBI')}/genome/accession/{accession}/links"
    folder = _ncbi_folder(parse_json(_text(url, _ncbi_key()), url), accession)
    if folder is None:
        raise GenomeLMError(
            f"{accession}: NCBI Datasets names no folder of files; look whether the accession is right and not "
            f"suppressed: https://www.ncbi.nlm.nih.gov/datasets/genome/{accession}"
        )
    stem = f"{folder.rpartition('/')[2]}_genomic"
    listing = f"{folder}/md5checksums.txt"
    checksums = _checksums(listing)
    if f"{stem}.fna.gz" not in checksums:
        raise GenomeLMError(f"{listing}: {stem}.fna.gz is not listed; has NCBI the sequence of {accession}?")
    names = [name for name in (f"{stem}.fna.gz", f"{stem}.gff.gz") if name in checksums]
    return tuple(Source(f"{folder}/{name}", name, md5=checksums[name]) for name in names)


def _ncbi_folder(reply: Any, accession: str) -> str | None:
    """The address of an assembly's folder, if the reply of Datasets has one."""
    links = reply.get("assembly_links") if isinstance(reply, dict) else None
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("assembly_link_type") == "FTP_LINK":
            folder = re.sub("^ftp://", "https://", str(link.get("resource_link"))).rstrip("/")
            if re.fullmatch(rf"https?://[!-~]+/{re.escape(accession)}_[!-.0-~]+", folder):
                return folder
    return None


def _ncbi_key() -> dict[str, str]:
    """The header with the key of the variable NCBI_API_KEY, which allows more requests per second."""
    key = os.environ.get("NCBI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise GenomeLMError("NCBI_API_KEY: holds a character that no key has")
    return {"api-key": key} if key else {}


def _of_ucsc(database: str) -> tuple[Source, ...]:
    """FASTA, soft-masked."""
    folder = f"{_base('UCSC')}/{database}/bigZips"
    name = f"{database}.fa.gz"
    # Some lists leave the file out; the length that the server announces is checked then.
    return (Source(f"{folder}/{name}", name, md5=_checksums(f"{folder}/md5sum.txt").get(name)),)


def _of_ensembl(name: str) -> tuple[Source, ...]:
    """FASTA, soft-masked and without alternative haplotypes where there is such a file, and GFF3.

    Ensembl's own checksums have 16 bits: the length that the server announces says more.
    """
    for division in _DIVISIONS:
        url = f"{_base('ENSEMBL')}/info/species?division=Ensembl{division}&content-type=application/json"
        pairs = [pair for pair in _ensembl_species(parse_json(_text(url), url)) if name.lower() in pair.lowered]
        if len(pairs) > 1:
            choices = ", ".join(f"ensembl:{pair.species}" for pair in pairs)
            raise GenomeLMError(f"ensembl:{name}: several species have an assembly of this name; give one: {choices}")
        if pairs:
            return _in_ensembl(division, *pairs[0])
    raise GenomeLMError(
        f"ensembl:{name}: Ensembl has no assembly or species of this name; see https://www.ensembl.org/info/about/"
        "species.html, or give NCBI's accession, as for bacteria"
    )


class _EnsemblGenome(NamedTuple):
    species: str
    assembly: str

    @property
    def lowered(self) -> set[str]:
        return {self.species.lower(), self.assembly.lower()}


def _ensembl_species(reply: Any) -> Iterator[_EnsemblGenome]:
    """The genomes in a reply of Ensembl's; without those whose names do not fit in an address."""
    entries = reply.get("species") if isinstance(reply, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        words = [str(entry.get(key)) if isinstance(entry, dict) else "" for key in ("name", "assembly")]
        if all(_NAME.fullmatch(word) for word in words):
            yield _EnsemblGenome(*words)


def _in_ensembl(division: str, species: str, assembly: str) -> tuple[Source, ...]:
    """The files of a species in the current release."""
    is_vertebrate = division == "Vertebrates"
    url = f"{_base('ENSEMBL')}/info/{'data' if is_vertebrate else 'eg_version'}?content-type=application/json"
    reply = parse_json(_text(url), url)
    try:
        release = int(reply["releases"][0] if is_vertebrate else reply["version"])
    except (LookupError, TypeError, ValueError):
        raise GenomeLMError(f"{url}: the server's reply names no release") from None
    root = f"{_base('ENSEMBL_FTP')}/release-{release}"
    if not is_vertebrate:
        root = f"{_base('ENSEMBL_GENOMES_FTP')}/{division.lower()}/release-{release}"
    stem = f"{species.capitalize()}.{assembly}"
    fasta, annotation = f"{root}/fasta/{species}/dna", f"{root}/gff3/{species}"
    choices = [f"{stem}.dna_sm.{part}.fa.gz" for part in ("primary_assembly", "toplevel")]
    listed = _listed(f"{fasta}/CHECKSUMS")
    sequence = next((choice for choice in choices if choice in listed), None)
    if sequence is None:
        raise GenomeLMError(f"{fasta}/CHECKSUMS: neither {' nor '.join(choices)} is listed; see {fasta}")
    genes = f"{stem}.{release}.gff3.gz"
    sources = [Source(f"{fasta}/{sequence}", sequence)]
    if genes in _listed(f"{annotation}/CHECKSUMS"):
        sources.append(Source(f"{annotation}/{genes}", genes))
    return tuple(sources)


_ARCHIVES = {"ucsc": _of_ucsc, "ensembl": _of_ensembl}


def _base(archive: str) -> str:
    return os.environ.get(f"GENOME_LM_{archive}_URL", BASES[archive]).rstrip("/")


def _checksums(url: str) -> dict[str, str]:
    """MD5 sums by file name, from a list of md5sum's form."""
    rows = (line.split(maxsplit=1) for line in _text(url).decode("utf-8", "replace").splitlines())
    pairs = [(row[1].strip().removeprefix("*").removeprefix("./"), row[0].lower()) for row in rows if len(row) == 2]
    return {name: checksum for name, checksum in pairs if re.fullmatch("[0-9a-f]{32}", checksum)}


def _listed(url: str) -> set[str]:
    """Names of the files in a list of sum's form: checksum, blocks, name."""
    return {line.split()[-1] for line in _text(url).decode("utf-8", "replace").splitlines() if line.strip()}


def _text(url: str, headers: Mapping[str, str] | None = None) -> bytes:
    """What a web server sends, all of it."""
    with tempfile.TemporaryDirectory() as folder, progress(url, 0, "B") as bar:
        path = Path(folder) / "reply"
        with writing(path):
            fetch(url, path, PAUSES, bar, has_checksum=False, headers=headers)
        return path.read_bytes()
