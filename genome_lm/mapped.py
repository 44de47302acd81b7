"""Sequences whose items are made when they are asked for, and held no longer."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")
Made = TypeVar("Made")


class Mapped(Sequence[Made], Generic[Item, Made]):
    """What a function makes of each item of a sequence, anew each time.

    Args:
        items: The sequence.
        make: A pure function of an item.
    """

    def __init__(self, items: Sequence[Item], make: Callable[[Item], Made]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, number: int) -> Made: ...
    @overload
    def __getitem__(self, number: slice) -> "Mapped[Item, Made]": ...
    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return Mapped(self._items[number], self._make)
        return self._make(self._items[number])
