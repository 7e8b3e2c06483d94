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
    parts = write_split_table(source, fractions, seed, out)
    assert parts.split is not None
    counts = ", ".join(f"{int((parts.split == part).sum()):,} {part}" for part in SPLITS)
    for note in parts.notes:
        print(note)
    print(f"wrote {len(parts):,} rows to {out} ({counts}); it is read with --split-column split")


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


def seen_before(path: Path, dataset: Dataset) -> str | None:
    """The sentence that names images whose pixels the run of a split.csv learnt from or held out, None for none."""
    table = pd.read_csv(path, dtype=str) if path.is_file() else pd.DataFrame()
    if "pixels" not in table.columns:  # a run from before they were written
        return None
    known = table[table["split"] != "test"].dropna(subset="pixels").drop_duplicates("pixels").set_index("pixels")
    keys = pixel_keys(dataset)
    found = [i for i, key in enumerate(keys) if key in known.index]
    if not found:
        return None
    first = f"{dataset.ids[found[0]]} = {known.loc[keys[found[0]], 'image']}"
    return (
        f"{len(found)} of these {len(keys)} images are, pixel for pixel, ones that the run was trained or calibrated "
        f"on, such as {first}: on them the figures flatter the model"
    )


def write_split_table(source: ReadFlags, fractions: str, seed: int, out: Path) -> Dataset:
    """Split the images of a table, and write its rows with a column `split`; returns them with that split.

    Rows without an image that can be used are left out. Raises DataError where DATA has no table, or `out` is there.
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
    rows = table.loc[dataset.lines[listed]].assign(split=dataset.split[listed])
    out.parent.mkdir(parents=True, exist_ok=True)
    rows.sort_index().to_csv(out, index=False)
    return dataset.rows(listed)
