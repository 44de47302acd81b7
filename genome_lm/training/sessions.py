"""The sessions of a run: when, where and by which command it was started, and went on."""

import dataclasses
import json
import os
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from genome_lm.documents import MOST_BYTES, parse_json, read_bytes
from genome_lm.typed import Within, typed

SESSIONS = "sessions.jsonl"
"""In the folder of a run; a line of JSON per session."""


@dataclass(frozen=True)
class Session:
    """One process, or several together, that trained a run for some time.

    Attributes:
        started: Date and time with the offset from UTC, in ISO 8601.
        first_step: The step that it began with.
        device: Such as "cpu (2 threads)" or "4 × NVIDIA H100".
        command: What started it.
    """

    started: str
    first_step: Annotated[int, Within(0, 2**62)]
    device: str
    command: str


def add_session(run: Path, first_step: int, device: str) -> None:
    """Write down that a session begins now."""
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    session = Session(datetime.now().astimezone().isoformat(timespec="seconds"), first_step, device, command)
    with (run / SESSIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(session)) + "\n")


def read_sessions(run: Path) -> list[Session]:
    """The sessions of a run; a last line that a killed process left unfinished is passed over.

    Raises:
        GenomeLMError: If the file can't be read, or a line is not a session.
    """
    path = run / SESSIONS
    if not path.exists():
        return []
    whole_lines = read_bytes(path, MOST_BYTES).split(b"\n")[:-1]
    return [
        typed(Session, parse_json(line, f"{path}, line {number}"), f"{path}, line {number}")
        for number, line in enumerate(whole_lines, 1)
    ]
