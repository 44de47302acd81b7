"""Progress bars: on stderr, and only where somebody is looking."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class Bar:
    """One line of progress."""

    def __init__(self, display: Progress, task: TaskID) -> None:
        self._display, self._task = display, task

    def advance(self, amount: float) -> None:
        """Move on by so many units."""
        self._display.advance(self._task, amount)

    def start(self, done: float, total: float) -> None:
        """Say anew how much there is, and how much of it is done."""
        self._display.update(self._task, completed=done, total=total or None)

    def describe(self, text: str) -> None:
        """Change the text before the bar."""
        self._display.update(self._task, description=text)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s")


@contextlib.contextmanager
def progress(description: str, total: float, unit: str) -> Iterator[Bar]:
    """A bar with its rate and the time left, unless the total is 0, unknown; shown if stderr is a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), _Rate(unit), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as display:
        yield Bar(display, display.add_task(description, total=total or None))
