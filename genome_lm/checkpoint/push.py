"""Models to the Hugging Face hub: only what this package writes, all files in one commit."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genome_lm import __version__
from genome_lm.checkpoint.for_transformers import export_for_transformers
from genome_lm.checkpoint.hub import HUB_ID
from genome_lm.checkpoint.native import save_checkpoint
from genome_lm.checkpoint.opening import Opened, open_checkpoint
from genome_lm.documents import MOST_BYTES, read_bytes
from genome_lm.errors import GenomeLMError, naming
from genome_lm.optional import require

_README = "README.md"
_CARD = """---
library_name: genome-lm
tags: [dna, genomics]
---
# {name}

A language model of DNA, written by genome-lm {version}. {parameters:,} parameters, contexts to {max_length:,} bases,
a token per base. It {reading}.{data}

```python
import genome_lm

model = genome_lm.load("{repo}")
vectors = model.embed(["ACGTTGCA", "ACCA"])
```

config.json has the model's shape, what it was trained on, and the SHA-256 of the weights. Nothing here is code.
"""


def push_checkpoint(
    folder: Path, repo: str, for_transformers: bool = False, public: bool = False, dry_run: bool = False
) -> tuple[dict[str, int], str | None]:
    """Put a model on the hub, by HF_ENDPOINT and the token that huggingface_hub has.

    The files are written anew from the opened model. So nothing else that lies in the folder is sent, and no pickle.
    In what the checkpoint says of its training, the user's home is written ~.

    Args:
        folder: A native checkpoint. Its README.md goes along as the model card; without one, a card is written.
        repo: OWNER/NAME, which is made if it is not there.
        for_transformers: Send the form that transformers opens, with its code, in place of the native one.
        public: Whether a new repository can be seen by all; one that is there stays as it is.
        dry_run: Send nothing.

    Returns:
        Bytes of each file by its name, and the commit's address; None in a dry run.

    Raises:
        GenomeLMError: If the folder is not a native checkpoint, or the hub takes it not.
    """
    if not HUB_ID.fullmatch(repo):
        raise GenomeLMError(f"{repo}: not the name of a repository on the hub; write OWNER/NAME")
    if not folder.is_dir():
        raise GenomeLMError(f"{folder}: no such folder; give that of a native checkpoint")
    opened = open_checkpoint(folder)
    if opened.form != "genome-lm":
        raise GenomeLMError(
            f"{folder}: a checkpoint of {opened.form}, not of genome-lm; make it one by `genome-lm checkpoint import`"
        )
    with _files(opened, folder, repo, for_transformers) as written:
        sizes = {path.name: path.stat().st_size for path in sorted(written.iterdir())}
        return sizes, None if dry_run else _send(written, sizes, repo, public)


@contextmanager
def _files(opened: Opened, folder: Path, repo: str, for_transformers: bool) -> Iterator[Path]:
    """A temporary folder of the files to send."""
    with tempfile.TemporaryDirectory() as temporary:
        written = Path(temporary) / "model"
        if for_transformers:
            with naming(str(folder)):
                export_for_transformers(opened.model, written, opened.only_head())
            card = (written / _README).read_text(encoding="utf-8").replace("# model", f"# {repo.split('/')[1]}")
            card = card.replace('from_pretrained(".", ', f'from_pretrained("{repo}", ')
        else:
            save_checkpoint(written, opened.model, _without_home(opened.provenance), opened.heads)
            card = _card(opened, repo)
        own = _own_card(folder)
        (written / _README).write_bytes(read_bytes(own, MOST_BYTES) if own.exists() else card.encode())
        yield written


def _own_card(folder: Path) -> Path:
    """The folder's README.md, which need not be there; no link to a file elsewhere, whose text would be published."""
    own = folder / _README
    if own.is_symlink() and not own.resolve().is_relative_to(folder.resolve()):
        raise GenomeLMError(f"{own}: a link to {own.resolve()}, outside of the folder; put a copy of the card there")
    return own


def _without_home(value: Any) -> Any:
    """JSON values in whose texts the path of the user's home, which names the user, is written ~."""
    home = str(Path.home())
    if isinstance(value, str) and home != "/":
        return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value)
    if isinstance(value, dict):
        return {name: _without_home(each) for name, each in value.items()}
    return [_without_home(each) for each in value] if isinstance(value, list) else value


def _card(opened: Opened, repo: str) -> str:
    config = opened.model.config
    sources = opened.provenance.get("sources")
    names = [str(source.get("name")) for source in sources or () if isinstance(source, dict)]
    return _CARD.format(
        name=repo.split("/")[1],
        repo=repo,
        version=__version__,
        parameters=sum(parameter.numel() for parameter in opened.model.parameters()),
        max_length=config.max_length,
        reading="predicts hidden bases from both sides"
        if config.direction.sees_following
        else "predicts the next base",
        data=f" It was trained on {', '.join(names)}." if names else "",
    )


def _send(written: Path, sizes: dict[str, int], repo: str, public: bool) -> str:
    """One commit of all files; its address."""
    hub = require("huggingface_hub")
    api = hub.HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        files = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(written / name)) for name in sizes]
        return str(api.create_commit(repo, files, commit_message=f"Written by genome-lm {__version__}").commit_url)
    except Exception as error:
        # The hub's library lets errors of its HTTP library through, of several lines.
        told = " ".join(str(error).split())
        raise GenomeLMError(
            f"{repo}: can't be put on {api.endpoint}: {told}; HF_TOKEN, or `hf auth login`, needs a token "
            "that may write"
        ) from error
