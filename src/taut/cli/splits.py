"""The split of a run or a table as a CSV file, and the command that makes one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from taut.cli.command import command
from taut.data.dataset import SPLITS, DataError, Dataset
from taut.data.leakage import pixel_keys
from taut.data.split import parse_fractions, split_by
from taut.data.table import read_table
from taut.sources import ReadFlags, is_folder, is_table, load_source


@command(without=("split_column", "train_list", "test_list", "split_fractions"))
def split(source: ReadFlags, fractions: str = "0.7,0.1,0.2", seed: int = 0, out: Path = Path("split.csv")) -> None:
    """Write the table of DATA with a column "split": train, valid and test, stratified, with patients kept whole.

    Args:
        source: a folder with --labels, or a table.
        fractions: the shares of train, valid and test.
        seed: another seed gives another split.
        out: the table to write.
    """
    parts, rows = write_split_table(source, fractions, seed, out)
    assert parts.split is not None
    counts = ", ".join(f"{int((parts.split == part).sum()):,} {part}" for part in SPLITS)
    for note in parts.notes:
        print(note)
    print(f"wrote {rows:,} rows to {out} ({counts} images); it is read with --split-column split")


def save_split(path: Path, parts: dict[str, Dataset]) -> None:
    """Write a CSV of every image: its group, a hash of its pixels, and its part of the split, train, valid or test."""
    tables = [
        pd.DataFrame(
            {
                "image": list(data.ids),
                "group": "" if data.groups is None else data.groups,
                "split": part,
                "pixels": pixel_keys(data),
            }
        )
        for part, data in parts.items()
        if len(data)
    ]
    pd.concat(tables).to_csv(path, index=False)


def write_split_table(source: ReadFlags, fractions: str, seed: int, out: Path) -> tuple[Dataset, int]:
    """Split the images of a table, and write its rows with a column `split`; returns the images and how many rows.

    All rows of an image have its part; rows without an image that can be used are left out. Raises DataError where
    DATA has no table, or `out` is there.
    """
    path = Path(source.data) if is_table(source.data) else source.labels
    if path is None or not is_folder(source.data):
        raise DataError(f"{source.data} has no table to write with a split: use --split-fractions with `taut train`")
    if out.exists():
        raise DataError(f"--out {out} is there already: choose another name")
    table = read_table(path)
    if "split" in table.columns:
        raise DataError(f"{path} has a column 'split' already: it is read with --split-column split")
    shares = parse_fractions(fractions)
    dataset = split_by(load_source(source, None, out.with_name(f"{out.stem}-skipped.csv")), shares, seed)
    assert dataset.split is not None
    assert dataset.lines is not None
    listed = dataset.lines > 0
    parts = dict(zip(dataset.lines[listed].tolist(), dataset.split[listed], strict=True))
    parts |= {line: parts[kept] for line, kept in dataset.repeats.items() if kept in parts}
    rows = table.loc[sorted(parts)]
    out.parent.mkdir(parents=True, exist_ok=True)
    rows.assign(split=rows.index.map(parts)).to_csv(out, index=False)
    return dataset.rows(listed), len(rows)
