"""What is said of wrong arguments, and sequences that may have no end."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Sequence
from typing import Any

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxdict = 4, 8
_repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxfrozenset = 8
_repr.maxstring = _repr.maxother = 120
_repr.maxlong = 60


def shown(value: object) -> str:
    """The value as a message shows it: its repr, but short, and never an error itself."""
    try:
        return _repr.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def listed(value: Any, most: int) -> tuple[Any, ...]:
    """The elements, one more than `most` of them at the most: what goes on may have no end.

    TypeError for what has no elements.
    """
    try:
        return tuple(itertools.islice(value, most + 1))
    except NotImplementedError as error:  # a memoryview of several dimensions
        raise TypeError(str(error)) from None


def flag(value: object, name: str) -> bool:
    """True or False."""
    try:
        return bool(value)
    except (TypeError, ValueError):  # arrays have more than one answer
        raise TypeError(f"{name} must be True or False, got {shown(value)}") from None


def needed(needs: object, names: Sequence[str]) -> tuple[bool, ...]:
    """Which of the names `needs` holds, a name or some of them."""
    try:
        given = (needs,) if isinstance(needs, str) else listed(needs, 64)
        wanted = set(given)
    except (TypeError, ValueError):  # of elements that no hash can be made of, too
        raise TypeError(f"needs must be names out of {names}, got {shown(needs)}") from None
    if len(given) > 64 or not wanted <= set(names):
        known = " and ".join([", ".join(map(repr, names[:-1])), repr(names[-1])])
        raise ValueError(f"needs may name {known}, got {shown(needs)}")
    return tuple(name in wanted for name in names)
