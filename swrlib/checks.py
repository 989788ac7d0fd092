"""What many places check of what they are given, and say in one sentence."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch


def nearest(name: object, known: Iterable[str]) -> str:
    """Complete an error message about an unknown name: the nearest right one, or all of them."""
    known = [name for name in known if name]  # the model itself is a module without a name
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def check_name(what: str, value: Any, known: Iterable[str], refusal: str = "unknown") -> None:
    """Refuse a name that is none of those known, with the nearest right one.

    ``refusal`` is how the sentence begins, before what is named: "the model has no".

    Raises
    ------
    ValueError
        With what is named, and the name.
    """
    if value not in known:
        raise ValueError(f"{refusal} {what} {value!r}: {nearest(value, known)}")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number from ``least`` on; True and False are none.

    Raises
    ------
    ValueError
        With the name and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}: it must be a whole number from {least} on")


def checked_number(name: str, value: Any, below: float = math.inf) -> float:
    """Return a number from 0 on as a float; refuse anything else, True and False, too.

    Raises
    ------
    ValueError
        With the name and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name} is {value!r}: it must be a number from 0 on{limit}")
    return float(value)


def make_numbers(options: Any, *names: str, below: float = math.inf) -> None:
    """Make fields of a frozen dataclass that has a name floats: numbers as for `checked_number`."""
    for name in names:
        value = checked_number(f"{name} of {options.name}", getattr(options, name), below)
        object.__setattr__(options, name, value)


def make_whole(options: Any, *names: str) -> None:
    """Make fields of a frozen dataclass ints from 1 on; a text may have given them as 5.0."""
    for name in names:
        value = getattr(options, name)
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        check_whole(name, value)
        object.__setattr__(options, name, value)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Join names for a sentence; of many the first."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: Exception) -> str:
    """Return what an error says in one line; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def settle_numbers(options: Any) -> None:
    """Give the fields of a frozen dataclass whose default is a number the default's type, in place.

    So 1 and 1.0 are one value, and one run. None, for what is not there, stays.

    Raises
    ------
    ValueError
        If such a field is no number, or not a whole one where its default is.
    """
    for field in dataclasses.fields(options):
        kind, value = type(field.default), getattr(options, field.name)
        if kind not in (int, float) or value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or kind(value) != value:
            whole = "whole " if kind is int else ""
            raise ValueError(f"{field.name} is {value!r}: it must be a {whole}number")
        object.__setattr__(options, field.name, kind(value))


def import_package(module: str) -> Any:
    """Import a package that only some data sets need.

    Raises
    ------
    ImportError
        If it is missing or does not fit torch: one sentence that says what to do.
    """
    package = module.partition(".")[0].replace("PIL", "pillow")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"these data need {package}, which cannot be imported ({error}): `pip install "
            f"{package}` brings it, as does `pip install -e '.[book]'` in the project's folder"
        ) from error
    except RuntimeError as error:  # torchvision's operators are missing from another build of torch
        raise ImportError(
            f"{package} does not fit the installed torch {torch.__version__} ({error}), as when a "
            "CPU-only torch stands beside a CUDA torchvision: install the two together from one "
            "index with `pip install --force-reinstall torch torchvision`"
        ) from error


def warn(sentence: str) -> None:
    """Warn at the line of the user's own code that led here."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("swrlib", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, stacklevel=level)
