"""The table beside a folder of images: which columns hold paths and labels, and what their cells say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.cells import BLANK, UNCERTAIN, UNSAID
from taut.data.dataset import DataError
from taut.data.joined import SEPARATOR, Column, are_lists, other_separator
from taut.data.naming import case_notes, classes_in_order, is_unnamed
from taut.data.owners import says_owner
from taut.data.signed import SIGNED_NO, is_signed, signed
from taut.labels import Label, LabelError, LabelSpace, Scalar
from taut.values import is_one_hot, whole_numbers

STRANGE = {"text": 0.5, "number": 0.1}  # share of other cells up to which a column was to be a yes/no label
UNSURE = ("uncertain", "equivocal", "?")
LABEL_NAMES = (  # of columns that are probably meant, in small letters
    *("label", "labels", "class", "classes", "class_name", "category", "target", "species"),
    *("diagnosis", "dx", "finding", "findings", "grade", "level", "severity", "stage"),
)
WORDS = {
    **dict.fromkeys(("yes", "y", "true", "positive", "present"), "1"),
    **dict.fromkeys(("no", "n", "false", "negative", "absent"), "0"),
    **dict.fromkeys(UNSURE, "-1"),
}


@dataclass
class Cells:
    """What a table says: the index of each cell's class, [N, k], or UNCERTAIN, BLANK (yes/no labels) or UNSAID."""

    space: LabelSpace
    codes: NDArray[np.int64]
    notes: list[str] = field(default_factory=list)


def plural(count: int, one: str, many: str) -> str:
    """A count with its noun: "1 row", "2,411 rows"."""
    return f"{count:,} {one if count == 1 else many}"


def listed(names: Sequence[object], limit: int = 20) -> str:
    """Names one after the other, the first few of many."""
    texts = [str(name) for name in names[:limit]]
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return (", ".join(texts) or "none") + more


def class_text(value: Scalar) -> str:
    """A class as a cell of a table says it: 3.0 is "3"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def without(cells: Column, unlabeled: Scalar) -> Column:
    """A column with the cells blank that say what means unannotated."""
    return cells.mask(whole_numbers(cells) == class_text(unlabeled))


def check_column(table: pd.DataFrame, column: str, flag: str) -> None:
    """DataError where the column that a flag names is not in the table."""
    if column not in table.columns:
        raise DataError(f"{flag} {column!r} is not a column of the table; its columns: {listed(list(table.columns))}")


def read_labels(
    table: pd.DataFrame,
    used: Sequence[str],
    label_columns: Sequence[str] | None,
    space: LabelSpace | None,
    unlabeled: Scalar | None,
    separator: str | None,
    yes_no: Sequence[str] = (),
    negative: bool = False,
) -> Cells:
    """The labels of columns: yes/no where all cells are 0, 1 (or such words), −1 or blank, else a class for each text.

    used: columns that hold something else. label_columns: the columns of the labels; without them those named
    as the labels of `space`, or all yes/no columns, or the only column that is left or that is called as a label is.
    unlabeled: a value that means unannotated; −1 does in a column of classes alone.
    yes_no: columns of yes/no labels, whatever their cells say, such as nothing.
    negative: whether uncertain cells are to be negative, so that −1 is no where all yes/no cells are 1 or −1.
    Yes/no columns that no flag names, of which each row with annotations has a single 1, are one label's classes.
    Raises DataError where it is not clear which columns hold labels, LabelError for a cell that does not fit.
    """
    rest = [str(name) for name in table.columns if name not in used and not is_unnamed(str(name))]
    unused: list[str] = []
    if unlabeled is not None and unlabeled != -1:
        if space is None and not any((whole_numbers(table[name]) == class_text(unlabeled)).any() for name in rest):
            unused = [f"No cell says {class_text(unlabeled)!r}, which --unlabeled names."]
        table = table.assign(**{name: without(table[name], unlabeled) for name in rest})
    if space is not None and len(space) == 1 and label_columns is None:
        classes = [class_text(value) for value in space.labels[0].classes]
        if len(classes) > 2 and set(classes) <= set(rest) and space.names[0] not in rest:
            return _read_one_hot(table, classes, space)
    if space is not None and set(label_columns or ()) <= set(space.names):
        there = [label for label in space if label.name in rest and label.name in (label_columns or rest)]
        if 0 < len(there) < len(space):
            names = [label.name for label in there]
            part = read_labels(table, used, names, LabelSpace(tuple(there)), unlabeled, separator, yes_no, negative)
            codes = np.full((len(table), len(space)), UNSAID)
            codes[:, [space.names.index(name) for name in names]] = part.codes
            absent = [name for name in space.names if name not in names]
            return Cells(space, codes, [*part.notes, f"Labels that the table has no column of: {listed(absent)}."])
    chosen = list(label_columns or _choose_columns(table, rest, space, separator))
    for name in chosen:
        check_column(table, name, "--label-columns")
    if not chosen and space is None:
        raise DataError(
            "no column of the table holds labels: name them with --label-columns, or pass --classes N for clusters (in "
            f"Python an explicit label space); columns: {listed(list(table.columns))}"
        )
    alone = space is not None and len(space) == len(chosen) == 1 and (label_columns or _may_mean(rest, chosen, space))
    if space is not None and chosen and not alone:
        if set(chosen) != set(space.names):
            raise DataError(
                f"the labels {listed(space.names)} are asked for, but the columns are {listed(chosen)}: rename those "
                "that are meant"
            )
        chosen = list(space.names)
    elif space is not None and not chosen:
        return Cells(space, np.full((len(table), len(space)), UNSAID), ["The table has no labels."])
    given = list(space) if space is not None else [Label(name, (0, 1)) if name in yes_no else None for name in chosen]
    read = [_read_column(table[name], label, unlabeled, separator) for name, label in zip(chosen, given, strict=True)]
    codes = np.stack([column for _, column in read], axis=1)
    left = [name for name in rest if name not in chosen and not says_owner(name)]  # of owners `own_group` tells
    notes = [*unused, *([f"Columns not used: {listed(left)}."] if left else [])]
    if space is None and label_columns is None and len(rest) > 1 == len(chosen) and not _is_yes_no(table[chosen[0]]):
        notes = [f"The label is column {chosen[0]!r}, by its name: --label-columns names others.", *notes]
    several = len(chosen) > 1 or (chosen and left)
    if several and space is None and label_columns is None and not yes_no and _is_yes_no(table[chosen[0]]):
        notes = [f"Labels, as the columns of only 0 and 1, or yes and no: {listed(chosen)}.", *notes]
        notes += [note for name in left if (note := _almost(table[name].dropna()))]
        notes += [
            f"{name!r} says the same in every row: if it is no label, name the others with --label-columns."
            for name in chosen
            if table[name].notna().all() and table[name].nunique() == 1
        ]
    if space is None:
        notes += [note for label, codes_of in read if label.classes != (0, 1) for note in _class_notes(label, codes_of)]
    binary = np.array([label.classes == (0, 1) for label, _ in read])
    known = np.select([codes == UNCERTAIN, codes == BLANK], [-1.0, np.nan], codes)[:, binary]
    words = any(table[str(label.name)].str.lower().isin(UNSURE).any() for label, _ in read if label.name in table)
    if not yes_no and not words and is_signed(known):
        complete = not np.isnan(known).any()
        if negative and complete:
            codes = np.where(binary & (codes == UNCERTAIN), 0, codes)
            notes.append(SIGNED_NO)
        elif space is None:
            notes.append(signed(complete))
    if (
        space is None
        and label_columns is None
        and not yes_no
        and is_one_hot(np.where(codes == BLANK, np.nan, codes), least=2 * len(chosen))
    ):
        note = (
            f"Each annotated row has a single 1 in {listed(chosen)}: read as the classes of one label; --label-columns "
            "with their names makes them yes/no labels."
        )
        one = _read_one_hot(table, chosen, LabelSpace.multiclass(chosen))
        return replace(one, notes=[note, *notes])
    return Cells(space or LabelSpace(tuple(label for label, _ in read)), codes, notes)


def _may_mean(rest: Sequence[str], chosen: Sequence[str], space: LabelSpace) -> bool:
    """Whether the only column of a table is that of an only label: yes and no are said of any, so that its name counts.

    The classes of another label tell themselves.
    """
    name, own = chosen[0].casefold(), space.names[0].casefold()
    called = name == own or not {name, own}.isdisjoint((*LABEL_NAMES, "label_0"))
    return list(chosen) == list(rest) and (space.labels[0].classes != (0, 1) or called)


def _class_notes(label: Label, codes: NDArray[np.int64]) -> list[str]:
    """The classes that a column was found to have, in which a slip of the pen is one, and what may be slips."""
    counts = np.bincount(codes[codes >= 0], minlength=len(label.classes))
    shown = listed([f"{value} ({plural(n, 'row', 'rows')})" for value, n in zip(label.classes, counts, strict=True)])
    names = [str(value) for value in label.classes]
    unsure = [
        f"{name!r} is a class of {label.name!r}: if it means that nothing is known, pass --unlabeled {name}."
        for name in names
        if name.lower() in UNSURE
    ]
    return [f"Classes of {label.name!r}: {shown}.", *case_notes(names), *unsure]


def _read_one_hot(table: pd.DataFrame, columns: Sequence[str], space: LabelSpace) -> Cells:
    """One label from a column for each of its classes: a row has a single 1, or is blank where nothing is known."""
    codes = np.stack([_read_yes_no(table[name], name)[1] for name in columns], axis=1)
    blank, single = (codes == BLANK).all(axis=1), (codes == 1).sum(axis=1) == 1
    wrong = ~blank & ~single
    if wrong.any():
        row = table.index[int(np.argmax(wrong))]
        raise LabelError(f"row {row} has not a single 1 in the columns {listed(columns)} of one label's classes")
    return Cells(space, np.where(blank, UNSAID, codes.argmax(axis=1))[:, None])


def _almost(cells: Column) -> str | None:
    """Why a column of mostly 0 and 1 (or such words) is no label, or None for another column; no cell is blank."""
    numbers = _numbers(cells, WORDS)
    wrong = ~np.isin(numbers, (0, 1, -1))
    kind = "text" if np.isnan(numbers[wrong]).all() else "number"
    if wrong.all() or wrong.mean() > STRANGE[kind]:
        return None
    first = int(np.argmax(wrong))
    return (
        f"{cells.name!r} is no label, since row {cells.index[first]} says {cells.iloc[first]!r}: leave such cells "
        "blank, or name that text with --unlabeled."
    )


def _choose_columns(table: pd.DataFrame, rest: list[str], space: LabelSpace | None, separator: str | None) -> list[str]:
    """The label columns where no flag names them."""
    if space is not None and set(space.names) <= set(rest):
        return list(space.names)
    yes_no = [name for name in rest if _is_yes_no(table[name])]
    others = [name for name in rest if name not in yes_no]
    if yes_no and others and all(table[name].notna().all() and table[name].nunique() == 1 for name in yes_no):
        rest, yes_no = others, []  # columns that are the same in all rows tell nothing
    named = [name for name in others if name.lower() in LABEL_NAMES and _may_be_classes(table[name].dropna())]
    if yes_no and named:
        raise DataError(
            f"it is not clear which columns hold labels: {listed(yes_no)} of 0 and 1 (or such words), or "
            f"{listed(named)}: name them with --label-columns, or a column of joined names with --joined-column"
        )
    if yes_no or not rest:
        return yes_no
    almost = next((note for name in rest if (note := _almost(table[name].dropna()))), "")
    if len(named) == 1 and not almost:
        rest = named
    if len(rest) > 1:
        raise DataError(
            "it is not clear which columns hold labels, as none has only 0, 1 and blank cells: name them "
            f"with --label-columns, or with --joined-column a column of names such as 'A{separator or SEPARATOR}B'; "
            f"columns: {listed(rest)}" + (almost and f"; {almost.removesuffix('.')}")
        )
    cells = table[rest[0]].dropna()
    if cells.nunique() > max(20, len(cells) // 2) and not are_lists(cells):
        raise DataError(
            f"the cells of column {rest[0]!r} hardly repeat ({cells.nunique():,} different ones in "
            f"{len(cells):,} rows), as classes would: if they are classes, name it with --label-columns"
        )
    mark = None if separator else other_separator(cells, share=0.5)
    if mark is not None:
        raise DataError(
            f"column {rest[0]!r} seems to have names joined by {mark!r}: name it with --joined-column and --separator "
            f"{mark!r}, or with --label-columns if each cell is one class"
        )
    return rest


def _may_be_classes(cells: Column) -> bool:
    """Whether cells, none of them blank, repeat as classes do, or are lists of names."""
    return 1 < cells.nunique() <= len(cells) // 2 or (len(cells) > 0 and are_lists(cells))


def _numbers(cells: Column, words: Mapping[str, str] | None = None) -> NDArray[np.float64]:
    """The numbers that cells say, NaN for other text and blanks; each different cell is read once.

    words: what stands for a number, in any case of letters.
    """
    positions, texts = pd.factorize(cells)
    said = [(words or {}).get(text.lower(), text) for text in texts]
    numbers = pd.to_numeric(pd.Series(said, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
    return np.append(numbers, np.nan)[positions]


def _is_yes_no(cells: Column) -> bool:
    """Whether all cells that are not blank say yes, no or uncertain, and some more than a word for uncertain."""
    said = cells.dropna()
    known = _numbers(said, WORDS)
    return bool(np.isin(known, (0, 1, -1)).all()) and not bool(said.str.lower().isin(UNSURE).all())


def _read_column(
    cells: Column, label: Label | None, unlabeled: Scalar | None, separator: str | None
) -> tuple[Label, NDArray[np.int64]]:
    """One column as its label and its codes [N]."""
    name = str(cells.name) if label is None else label.name
    if (label is None and _is_yes_no(cells)) or (label is not None and label.classes == (0, 1)):
        return _read_yes_no(cells, name)
    if label is None and cells.isna().all():
        raise LabelError(f"column {name!r} is blank in every row: leave it out of --label-columns")
    texts = whole_numbers(cells) if unlabeled is None else without(whole_numbers(cells), unlabeled)
    known = texts.notna().to_numpy()
    if label is None:
        label = Label(name, _classes(texts.dropna(), separator))
    index = {class_text(value): c for c, value in enumerate(label.classes)}
    codes = texts.map(index).to_numpy(dtype=np.float64, na_value=np.nan)
    strange = known & np.isnan(codes)
    if strange.any():
        row = int(np.argmax(strange))
        raise LabelError(
            f"label {name!r}, row {cells.index[row]}: {texts.iloc[row]!r} is not one of its classes {list(index)[:20]}"
        )
    return label, np.where(known, codes, UNSAID).astype(np.int64)


def _read_yes_no(cells: Column, name: str) -> tuple[Label, NDArray[np.int64]]:
    values = _numbers(cells, WORDS)
    wrong = cells.notna().to_numpy() & ~np.isin(values, (0, 1, -1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise LabelError(f"label {name!r}, row {cells.index[row]}: {cells.iloc[row]!r} is not 0, 1, -1 or blank")
    codes = np.where(np.isnan(values), BLANK, np.where(values == -1, UNCERTAIN, values)).astype(np.int64)
    return Label(name, (0, 1)), codes


def _classes(texts: Column, separator: str | None) -> tuple[str, ...]:
    """The classes of a column, numbers in their order; refuses what cannot be classes."""
    name = texts.name
    numbers, said = _numbers(texts), _numbers(texts, WORDS)
    mark = separator or SEPARATOR
    lists = separator is None and are_lists(texts)
    if lists or texts.str.contains(mark, regex=False).any():
        what = "lists of names" if lists else f"names joined by {mark!r}"
        raise DataError(f"column {name!r} has {what}: name it with --joined-column, not with --label-columns")
    if np.isin(numbers, (0, 1)).any() and np.isnan(numbers).any():
        row = int(np.argmax(np.isnan(said if np.isnan(said).any() else numbers)))
        raise LabelError(
            f"label {name!r}, row {texts.index[row]}: {texts.iloc[row]!r} in a column of 0 and 1 is "
            "ambiguous: leave the cell blank where it is not annotated, name that text with --unlabeled, or give all "
            "classes names"
        )
    if np.any(numbers != np.round(numbers), where=~np.isnan(numbers)):
        raise DataError(f"column {name!r} holds continuous values such as {texts.iloc[0]}, which are not classes")
    numeric = len(numbers) > 0 and not np.isnan(numbers).any()
    classes = tuple(sorted(set(texts), key=float) if numeric else classes_in_order(list(set(texts))))
    if len(classes) < 2:
        raise LabelError(f"label {name!r} has {len(classes)} class {list(classes)}: at least two are needed")
    return classes
