"""The split of a run or a table as a CSV file, and the command that makes one."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.cli.command import command
from taut.data.csv_table import read_table
from taut.data.dataset import SPLITS, DataError, Dataset
from taut.data.leakage import pixel_keys
from taut.data.split import parse_fractions, split_by
from taut.data.table import plural
from taut.flags import ReadFlags
from taut.sources import is_folder, is_table, label_table, load_source


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
    print(f"wrote {rows:,} rows to {out} ({counts} images), which are read with")
    print(f"taut train {shlex.join(_reading(source, out, parts).arguments())}")


def _reading(source: ReadFlags, out: Path, parts: Dataset) -> ReadFlags:
    """The flags that read a written split as those of DATA read its table: its images are where they were."""
    if not is_table(source.data):
        return replace(source, labels=out, split_column="split")
    folder, images = Path(source.data).parent, source.images
    if folder.resolve() != out.parent.resolve() and not any(os.path.isabs(name) for name in parts.ids):
        images = images or folder
    return replace(source, data=str(out), images=images, split_column="split")


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


def with_saved_split(dataset: Dataset, path: Path, tested: bool) -> Dataset:
    """The images that a split.csv has, each in its part there, with notes on those that only one of both has.

    tested: whether the test part of the file is of other data. Raises DataError where none is there, or where images
    come and go that have numbers in place of ids.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table = table[table["split"] != "test"] if tested else table
    # Of an id that repeats the part that is learnt from, which comes first, counts for all.
    parts = dict(zip(table["image"][::-1], table["split"][::-1], strict=True))
    split = np.array([parts.get(name, "") for name in dataset.ids])
    new, gone = int((split == "").sum()), len(parts.keys() - set(dataset.ids))
    if new == len(split):
        raise DataError(f"no image of {dataset.name} is in {path}: name what to evaluate on with --data")
    if new + gone and list(dataset.ids) == [str(i) for i in range(len(dataset))]:
        raise DataError(
            f"{dataset.name} has other rows than {path}, and no ids that tell which ones: name what to evaluate on "
            "with --data"
        )
    return _in_parts(dataset, split, gone, path)


def with_known_parts(dataset: Dataset, path: Path) -> Dataset:
    """Other data than a run's in the parts of its split.csv, where they are the run's own in another place.

    They are where the pixels of most images are there, and some in its test part. Data that are others, or have a
    split, stay as they are, as do vectors: their ids may be those of others.
    """
    if dataset.split is not None or not path.is_file():
        return dataset
    table = pd.read_csv(path, dtype=str, keep_default_na=False)[::-1]  # the part that is learnt from counts
    if "pixels" not in table:  # a run from before they were written
        return dataset
    parts = dict(zip(table["pixels"], table["split"], strict=True)) | {"": ""}
    split = np.array([parts.get(key or "", "") for key in pixel_keys(dataset)])
    if (split == "").mean() > 0.5 or not (split == "test").any():
        return dataset
    note = f"The images are the run's own, and in the parts that they have in {path}."
    return _in_parts(replace(dataset, notes=[*dataset.notes, note]), split, 0, path)


def _in_parts(dataset: Dataset, split: NDArray[np.str_], gone: int, path: Path) -> Dataset:
    """The images that have a part, with notes on others and on those of a split.csv that are gone."""
    new = int((split == "").sum())
    notes = [f"{plural(new, 'image is', 'images are')} not in {path}: left out."] if new else []
    notes += [f"{plural(gone, 'image', 'images')} in {path} cannot be found any more."] if gone else []
    dataset = replace(dataset, split=split, notes=[*dataset.notes, *notes])
    return dataset.rows(split != "") if new else dataset


def write_split_table(source: ReadFlags, fractions: str, seed: int, out: Path) -> tuple[Dataset, int]:
    """Split the images of a table, and write its rows with a column `split`; returns the images and how many rows.

    All rows of an image have its part; rows without an image that can be used are left out. Raises DataError where
    DATA has no table, or `out` is there.
    """
    path = label_table(source)
    if path is None or not is_folder(source.data):
        raise DataError(
            f"{source.data} has no table of images to write with a split: use --split-fractions with `taut train`"
        )
    if is_table(source.data) and not is_table(str(out)):
        raise DataError(f"--out {out} does not end in .csv, by which `taut train` knows a table")
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
