"""Labels that a table has as joined names in one column, such as NIH's findings "A|B"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.cells import BLANK, UNSAID
from taut.data.dataset import DataError
from taut.data.joined import SEPARATOR, other_separator, split_names
from taut.data.table import Cells, check_column, listed
from taut.labels import LabelError, LabelSpace

NO_FINDING = ("no finding", "no findings", "none", "normal")


def read_joined(
    table: pd.DataFrame,
    column: str,
    space: LabelSpace | None,
    separator: str | None,
    images: NDArray[np.intp],
    vocabulary: Sequence[str] | None = None,
) -> Cells:
    """Yes/no labels of a column of names such as "A|B" or "['A', 'B']": a name that a cell leaves out means no.

    "No Finding" (or another of `NO_FINDING`) means no to all; a blank cell is BLANK for all. images: the image [N] of
    each row, −1 for none; the names of all rows of an image count together, unless one row says "No Finding" and
    another does not. vocabulary: the names that cells can have. A label of the space that cells cannot have, or that
    none has beside names that are not labels, is UNSAID. Raises LabelError where a cell says "No Finding" beside
    another name, and for names that only their case tells apart; DataError where no cell has a name (of the space), or
    where names that repeat seem to be joined otherwise.
    """
    check_column(table, column, "--joined-column")
    cells = table[column].reset_index(drop=True)
    if separator is None and (other_mark := other_separator(cells)) is not None:
        raise DataError(
            f"--joined-column {column!r} seems to have names joined by {other_mark!r}, such as "
            f"{cells[cells.str.contains(other_mark, regex=False, na=False)].iloc[0]!r}: say so with --separator "
            f"{other_mark!r}, or that each cell is one name with --separator {SEPARATOR!r}"
        )
    names = split_names(cells, separator, table.index)
    none = names.str.lower().isin(NO_FINDING) & ~names.isin([] if space is None else space.names)
    # All but the usual words are names of findings where a cell has them beside others.
    alone = ~names.index.duplicated(keep=False)
    beside = set(names[none & ~alone].str.lower()) - set(NO_FINDING[:1])
    none &= ~names.str.lower().isin(beside)
    both = set(names.index[none]) & set(names.index[~none])
    if both:
        row = min(both)
        raise LabelError(f"row {table.index[row]}: {cells[row]!r} in {column!r} says both no finding and a finding")
    nothing = names.index[none].to_numpy()
    names = names[~none]
    found = sorted(set(names))
    _check_case(found, () if space is None else space.names, column)
    space = space or (LabelSpace.multilabel(found) if found else None)
    if space is None or not (len(nothing) or set(space.names) & set(found)):
        wanted = "of labels" if space is None else listed(space.names)
        raise DataError(
            f"--joined-column {column!r} has no names {wanted} joined by {separator or SEPARATOR!r}; it has "
            f"{listed(found)}"
        )
    if not space.binary:
        raise DataError(f"--joined-column {column!r} gives yes/no labels, but other labels are asked for")
    position = {name: j for j, name in enumerate(space.names)}
    known = names[names.isin(list(position))]
    codes = np.where(cells.notna().to_numpy()[:, None], 0, np.full((1, len(space)), BLANK))
    codes[known.index.to_numpy(), known.map(position).to_numpy(dtype=np.int64)] = 1
    shared = pd.Series(images).duplicated(keep=False).to_numpy() & (images >= 0)
    shared &= ~np.isin(images, images[nothing]) | ~np.isin(images, images[names.index.to_numpy()])
    codes[shared] = pd.DataFrame(codes[shared]).groupby(images[shared]).transform("max").to_numpy()
    other = [name for name in found if name not in position]
    notes = [f"Names in {column!r} that are not labels here: {listed(other)}."] if other else []
    # What a table has other names for, or none, it does not say no to by leaving it out.
    possible = vocabulary or (() if other else space.names)
    absent = [name for name in space.names if name not in (*possible, *found)]
    if absent:
        codes[:, [position[name] for name in absent]] = UNSAID
        notes.append(f"Labels that {column!r} does not name: {listed(absent)}.")
    return Cells(space, codes, notes)


def _check_case(found: Sequence[str], labels: Sequence[str], column: str) -> None:
    """LabelError for a name that only the case of letters tells from another: each would be no where the other is yes.

    labels: that are there already, whatever their names.
    """
    others = pd.Series([*found, *(name for name in labels if name not in found)], dtype=object)
    alike = others.str.casefold().duplicated(keep=False)
    if (alike & ~others.isin(labels)).any():
        names = listed(sorted(others[alike]))
        raise LabelError(f"column {column!r} has names that differ in case alone, {names}: write them alike")
