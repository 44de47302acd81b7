"""Progress on stderr: a bar where somebody is looking, a plain line now and then in the log of a cluster."""

import contextlib
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from genome_lm.text import printable

FIRST, SECONDS = 3.0, 30.0
"""Until the first plain line, which says how long it will take, and from one to the next; what takes less than the
first says nothing."""
_HEIGHTS = "▁▂▃▄▅▆▇█"


class _Display(Progress):
    """A bar with lines under it."""

    def __init__(self, *columns: ProgressColumn, **options: Any) -> None:
        self.below: Sequence[str] = ()
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and the lines, each cut to the width of the terminal."""
        yield from super().get_renderables()
        for line in self.below:
            yield Text(line, no_wrap=True, overflow="ellipsis")


class Sparkline:
    """A curve as a line of text, of any number of values: each character is the mean of equally many of them.

    What is above the upper quartile is drawn at full height: the first losses of a training would flatten the rest.

    Args:
        width: Most characters; an even number.
    """

    def __init__(self, width: int = 48) -> None:
        self._width, self._each = width, 1
        self._means: list[float] = []
        self._last: list[float] = []

    def add(self, value: float) -> None:
        """Add a value at the end."""
        self._last.append(value)
        if len(self._last) < self._each:
            return
        self._means.append(statistics.fmean(self._last))
        self._last.clear()
        if len(self._means) == self._width:
            self._means = [(one + two) / 2 for one, two in zip(self._means[::2], self._means[1::2], strict=True)]
            self._each *= 2

    def __str__(self) -> str:
        if len(self._means) < 2:
            return ""
        low, high = min(self._means), statistics.quantiles(self._means, n=4)[2]
        step = max(high - low, 1e-12) / (len(_HEIGHTS) - 1)
        return "".join(_HEIGHTS[min(len(_HEIGHTS) - 1, round((mean - low) / step))] for mean in self._means)


class Bar:
    """One line of progress; on a terminal, there may be more under it.

    Attributes:
        is_plain: Whether it writes to a log, which gets a line from time to time.
    """

    def __init__(self, display: _Display, task: TaskID, unit: str) -> None:
        self._display, self._task, self._unit = display, task, unit
        self.is_plain, self._due = display.disable, time.monotonic() + FIRST
        self._begun = time.monotonic(), 0.0

    def advance(self, amount: float) -> None:
        """Move on by so many units."""
        self._display.advance(self._task, amount)
        if self.is_plain and time.monotonic() >= self._due:
            self.say(self._line())
            self._due = time.monotonic() + SECONDS

    def say(self, text: str) -> None:
        """Write a line above the bar, or among the plain lines."""
        if self.is_plain:
            print(printable(text), file=sys.stderr, flush=True)
        else:
            self._display.console.print(Text(printable(text)), soft_wrap=True)

    def start(self, done: float, total: float) -> None:
        """Say anew how much there is, and how much of it is done, which does not count for the rate."""
        self._display.reset(self._task, completed=int(done), total=total or None)
        self._begun = time.monotonic(), done

    def describe(self, text: str) -> None:
        """Change the text before the bar."""
        self._display.update(self._task, description=printable(text))

    def show(self, lines: Sequence[str]) -> None:
        """Put lines under the bar, in place of those that are there; a log gets none."""
        self._display.below = [printable(line) for line in lines]

    def _line(self) -> str:
        """`embed: 1,200,000 of 4,000,000 bases (30 %), 20,000 bases/s, 0:02:20 left`."""
        task = next(task for task in self._display.tasks if task.id == self._task)
        since, done = self._begun
        rate = (task.completed - done) / max(1e-9, time.monotonic() - since)
        line = f"{task.description}: {task.completed:,.0f}"
        if task.total:
            line += f" of {task.total:,.0f} {self._unit} ({task.completed / task.total:.0%})"
        else:
            line += f" {self._unit}"
        line += f", {rate:,.0f} {self._unit}/s"
        if task.total and rate > 0:
            line += f", {timedelta(seconds=round(max(0, task.total - task.completed) / rate))} left"
        return line


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.percentage:.0f}% of {_short(task.total)}" if task.total else _short(task.completed))


def _short(amount: float) -> str:
    """Such as 950, 4.6 M or 3.1 G, for a bar that is to fit a line of the terminal."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.1f} {letter}"
    return f"{amount:.0f}"


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{_short(task.speed or 0)} {self.unit}/s")


@contextlib.contextmanager
def progress(description: str, total: float, unit: str) -> Iterator[Bar]:
    """How much is done, the rate, and the time left, unless the total is 0, unknown.

    Where stderr is a terminal, as a bar; otherwise as a plain line after `FIRST` seconds and then every `SECONDS`.
    """
    description_column = TextColumn("{task.description}", markup=False)
    columns = description_column, BarColumn(), _Amount(), _Rate(unit), TimeRemainingColumn()
    console = Console(stderr=True)
    # A batch may take long, and the rate is that of those which ended within this time.
    display = _Display(*columns, console=console, disable=not sys.stderr.isatty(), speed_estimate_period=300)
    # One that is disabled would still write an empty line when it ends, in rich before 14.3.
    with contextlib.nullcontext() if display.disable else display:
        yield Bar(display, display.add_task(printable(description), total=total or None), unit)
