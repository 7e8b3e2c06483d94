"""A CSV file as a table of text, however spreadsheets have written it."""

from __future__ import annotations

import csv
import re
import warnings
from pathlib import Path

import pandas as pd

from taut.data.dataset import DataError
from taut.data.joined import Column

EMPTY = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
DECIMAL_COMMA = r"-?\d+,\d+"
FIRST_ROW = 2  # the row of a table's first image as a spreadsheet counts, below the header


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file as text, NaN where a cell is blank, NA or NaN; the index counts rows as a spreadsheet does.

    Semicolons or tabs may be between its columns; beside semicolons a number may have a decimal comma. Raises DataError
    where the file is not there, is no table in UTF-8, or has no rows.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such table")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            separator, before = _column_separator(path)
            # pandas would number equal names.
            names = pd.Series(_header(path, separator, before), dtype=object).str.strip()
            table = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                encoding="utf-8-sig",
                keep_default_na=False,
                skip_blank_lines=False,
                index_col=False,
                skiprows=before,
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: save the table as CSV in UTF-8") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, pd.errors.ParserWarning, csv.Error) as error:
        raise DataError(f"{path} is not a CSV table: {' '.join(str(error).split())}") from error
    table.index = pd.RangeIndex(FIRST_ROW, FIRST_ROW + len(table))
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    twice = names[names.duplicated() & (names != "")]
    if len(twice):
        raise DataError(f"{path} has two columns named {twice.iloc[0]!r}: name them differently")
    known = table.apply(_known, decimal_comma=separator == ";").dropna(how="all")
    if known.empty:
        raise DataError(f"{path} has no rows below its header")
    return known


def _column_separator(path: Path) -> tuple[str, int]:
    """What stands between the columns, and how many lines there are before the header: 1 where Excel's sep=; is.

    What there is most of in the header, outside of quotes, where no such line says it.
    """
    with path.open(encoding="utf-8-sig") as file:
        header = re.sub(r'"[^"]*"', "", file.readline())
    said = re.fullmatch(r"sep=(.)\s*", header.lower())
    return (said[1], 1) if said else (max((",", ";", "\t"), key=header.count), 0)


def _header(path: Path, separator: str, before: int) -> list[str]:
    """The names of the columns, as they are in the file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for _ in range(before):
            file.readline()
        return next(csv.reader(file, delimiter=separator), [])


def _known(column: Column, decimal_comma: bool) -> Column:
    """The cells of a column without spaces around them, NaN where blank; each different cell is looked at once.

    decimal_comma: whether a column of nothing but numbers with one is a column of numbers.
    """
    positions, cells = pd.factorize(column)
    texts = pd.Series(cells, dtype=object).str.strip()
    texts = texts.mask(texts.isin(EMPTY))
    if decimal_comma and texts.notna().any() and texts.dropna().str.fullmatch(DECIMAL_COMMA).all():
        texts = texts.str.replace(",", ".", regex=False)
    # Only the different cells become texts of pandas: making these of Python's takes long.
    known = texts.astype(column.dtype).array.take(positions, allow_fill=True)
    return pd.Series(known, index=column.index, name=column.name)
