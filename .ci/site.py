"""What MkDocs adds to docs/: files of the checkout as pages, and references that are made from the code."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click
from typer.main import get_command

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the checkout that are pages of the site."""
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
MODULES = (
    "genome_lm", "genome_lm.inference", "genome_lm.genome", "genome_lm.training", "genome_lm.finetune",
    "genome_lm.dataset", "genome_lm.evaluation", "genome_lm.checkpoint", "genome_lm.model", "genome_lm.kernels",
    "genome_lm.sklearn",
)  # fmt: skip
"""Modules whose public names the reference of Python has."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    pages = {uri: (ROOT / name).read_text() for name, uri in PAGES.items()}
    pages["reference/python.md"] = "# Python\n" + "".join(f"\n::: {module}\n" for module in MODULES)
    pages["reference/cli.md"] = command_reference()
    pages["reference/configuration.md"] = configuration_reference()
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the checkout into links within the site; what is no page goes into source/."""
    own = page.file.src_uri
    here = posixpath.dirname({uri: name for name, uri in PAGES.items()}.get(own, f"docs/{own}"))

    def within_site(match: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(here, match[1]))
        if name.startswith("docs/") or name in PAGES:
            uri = PAGES.get(name, name.removeprefix("docs/"))
        elif (ROOT / name).is_file():
            uri = f"source/{name.replace('.ci', 'ci')}.txt"
            if not files.get_file_from_path(uri):
                files.append(File.generated(config, uri, content=(ROOT / name).read_bytes()))
        else:
            return match[1]  # MkDocs tells of it
        return posixpath.relpath(uri, posixpath.dirname(own) or ".")

    return LINK.sub(within_site, markdown)


def command_reference() -> str:
    """All commands with their options, as `genome-lm COMMAND --help` has them."""
    from genome_lm_cli.main import app

    command = get_command(app)
    return get_docs_for_click(obj=command, ctx=command.make_context("genome-lm", [], resilient_parsing=True))


def configuration_reference() -> str:
    """Every key of the workflow's configuration, from its schema."""
    schema = yaml.safe_load((ROOT / "snakemake/schemas/config.schema.yaml").read_text())
    kinds = schema["$defs"]
    parts = [f"# {schema['title']}\n\n{schema['description']}\n\n{key_table(schema, kinds)}"]
    parts += [
        f"## {name}\n\n{part.get('description', '')}\n\n{key_table(part, kinds)}"
        for name, part in kinds.items()
        if "properties" in part
    ]
    return "\n\n".join(parts)


def key_table(schema: dict[str, Any], kinds: dict[str, Any]) -> str:
    """The keys of an object in the schema as a table; `kinds` are the schema's definitions."""
    rows = [
        f"| `{key}` | {value_kind(part, kinds)} | {shown(part['default']) if 'default' in part else ''} "
        f"| {' '.join(part.get('description', '').split())} |"
        for key, part in schema.get("properties", {}).items()
    ]
    return "\n".join(["| key | value | default | |", "| --- | --- | --- | --- |", *rows])


def value_kind(part: dict[str, Any], kinds: dict[str, Any]) -> str:
    """What a value may be, with a link to its own table where it has one."""
    if "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        return f"[{name}](#{name.lower()})" if "properties" in kinds[name] else value_kind(kinds[name], kinds)
    if "enum" in part:
        return ", ".join(shown(value) for value in part["enum"])
    if isinstance(part.get("additionalProperties"), dict):
        return f"names: {value_kind(part['additionalProperties'], kinds)}"
    if "items" in part:
        return f"list: {value_kind(part['items'], kinds)}"
    kinds = part.get("type", "")
    return " or ".join(kinds) if isinstance(kinds, list) else kinds


def shown(value: object) -> str:
    """A value as code."""
    return f"`{json.dumps(value)}`"
