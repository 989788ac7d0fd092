"""Which records are of a neighbour's setting: those that have its options, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

#: Strengths were chosen on seeds from here on, which are judged nowhere.
CHOOSING = 100


def option(rows: pd.DataFrame, name: str, default: Any) -> pd.Series:
    """Return an option of the model, which the records have only where it departs."""
    column = rows.get(f"model_{name}", pd.Series(index=rows.index, dtype=object))
    return column.astype(object).where(column.notna(), default)


def of_setting(
    records: pd.DataFrame, required: Mapping[str, Any], defaults: Mapping[str, Any]
) -> pd.DataFrame:
    """Keep the records of one setting.

    Parameters
    ----------
    records : DataFrame
        What `swrlib.load_records` returns.
    required : mapping
        By column: the value that it must have; a list where it holds lists.
    defaults : mapping
        By column: the value that it must have where it is there at all.
    """
    if not set(required) <= set(records):
        return records[:0]
    keep = pd.Series(True, records.index)
    for name, value in required.items():
        if isinstance(value, list):
            keep &= records[name].map(lambda x, value=value: np.ndim(x) > 0 and [*x] == value)
        else:
            keep &= records[name] == value
    for name in records.columns.intersection([*defaults]):
        keep &= records[name].isna() | (records[name] == defaults[name])
    return records[keep.astype(bool)]
