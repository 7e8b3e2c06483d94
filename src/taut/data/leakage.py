"""Images that must not be on both sides of a split: those of one patient (group), and those of the same pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from taut.data.cache import workers
from taut.data.dataset import DataError, Dataset
from taut.data.mapped import UNKNOWN

BLOCK = 128  # images that a thread hashes at once
SHOWN = 5  # leaks named in the sentence; all of them are in the report


def pixel_keys(dataset: Dataset) -> NDArray[np.object_]:
    """A hash of each image's decoded pixels, [N]; None for feature vectors and for images of one colour.

    Images of one colour are all alike and give nothing away. Hashes are kept, and shared by subsets of a dataset, so
    that pixels changed in place afterwards keep theirs. Features of a frozen encoder have their images'.
    """
    rows, keys = dataset.traced().rows, dataset.traced().keys
    if not dataset.is_image:
        return np.array([None if key == UNKNOWN else key for key in keys[rows]], dtype=object)
    unknown = np.flatnonzero(keys[rows] == UNKNOWN)
    blocks = [unknown[start : start + BLOCK] for start in range(0, len(unknown), BLOCK)]

    def hashed(block: NDArray[np.intp]) -> list[str | None]:
        return [pixel_key(np.asarray(dataset.x[i])) for i in block]

    with ThreadPoolExecutor(workers()) as pool:
        for block, found in zip(blocks, pool.map(hashed, blocks), strict=True):
            keys[rows[block]] = found
    return np.asarray(keys[rows])


def pixel_key(pixels: NDArray[Any]) -> str | None:
    """The hash of one image [C, H, W], None where it is of one colour."""
    if np.all(pixels == pixels[:, :1, :1]):
        return None
    return hashlib.blake2b(np.ascontiguousarray(pixels).data.cast("B"), digest_size=16).hexdigest()


def units(dataset: Dataset) -> NDArray[np.intp]:
    """What a split must keep together, as numbers [N]: images of one group, and images of the same pixels."""
    count = len(dataset)
    links = [dataset.groups, pixel_keys(dataset)]
    rows, columns, offset = [], [], count
    for keys in links:
        if keys is None:
            continue
        known = np.flatnonzero([key is not None for key in keys])
        if len(known):
            _, number = np.unique(np.asarray(keys[known], dtype=str), return_inverse=True)
            rows.append(known)
            columns.append(number + offset)
            offset += int(number.max()) + 1
    if not rows:
        return np.arange(count)
    i, j = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=(offset, offset))
    _, component = connected_components(graph, directed=False)
    _, number = np.unique(component[:count], return_inverse=True)
    return np.asarray(number, dtype=np.intp)


def find_leaks(parts: Mapping[str, Dataset], pixels: bool = True) -> pd.DataFrame:
    """Every image whose group or pixels are in more than one part: kind, value, part and image."""
    tables = []
    for part, dataset in parts.items():
        kinds: dict[str, NDArray[np.object_] | None] = {
            "group": None if dataset.groups is None else dataset.groups.astype(str).astype(object),
            "pixels": pixel_keys(dataset) if pixels else None,
        }
        tables += [
            pd.DataFrame({"kind": kind, "value": values, "part": part, "image": list(dataset.ids)})
            for kind, values in kinds.items()
            if values is not None
        ]
    if not tables:
        return pd.DataFrame(columns=["kind", "value", "part", "image"])
    listed = pd.concat(tables, ignore_index=True).dropna(subset="value")
    several = listed.groupby(["kind", "value"])["part"].transform("nunique") > 1
    return listed[several].sort_values(["kind", "value", "part", "image"], ignore_index=True)


def check_leakage(
    parts: Mapping[str, Dataset], report: Path | None = None, pixels: bool = True, refuse: bool = True
) -> list[str]:
    """Refuse parts with a group or an image in common: DataError that names the first few.

    parts: by the name that the sentence gives them.  report: a CSV file for all of them, written only where there are
    any.  pixels: whether images are compared.  refuse: False returns the sentences instead.
    """
    leaks = find_leaks(parts, pixels) if len(parts) > 1 else pd.DataFrame()
    if leaks.empty:
        return []
    sentences = []
    for kind, leaking in leaks.groupby("kind", sort=True):
        sides = " and the ".join(name for name in parts if name in set(leaking["part"]))
        values = leaking.groupby("value")["image"].agg(lambda images: " = ".join(images.iloc[:3]))
        first = list(values.index if kind == "group" else values)[:SHOWN]
        what = "groups are" if kind == "group" else "images are, pixel for pixel,"
        sentences.append(f"{len(values)} {what} in both the {sides} part, such as {', '.join(map(str, first))}")
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        leaks.to_csv(report, index=False)
        sentences[-1] += f" (all of them are in {report})"
    if refuse:
        raise DataError(f"{'; '.join(sentences)}: --leakage report goes on all the same")
    return [f"{sentence}." for sentence in sentences]


def seen_before(path: Path, dataset: Dataset) -> str | None:
    """The sentence that names images whose pixels or group the run of a split.csv learnt from or held out, or None."""
    table = pd.read_csv(path, dtype=str) if path.is_file() else pd.DataFrame()
    if "pixels" not in table.columns:  # a run from before they were written
        return None
    known = table[table["split"] != "test"]
    by_pixels = known.dropna(subset="pixels").drop_duplicates("pixels").set_index("pixels")["image"]
    keys = pixel_keys(dataset)
    same = np.array([key in by_pixels.index for key in keys], dtype=bool)
    found, learnt = [], "that the run was trained or calibrated on, such as"
    if same.any():
        i = int(np.argmax(same))
        what = f"are, pixel for pixel, ones {learnt} {dataset.ids[i]} = {by_pixels[keys[i]]}"
        found.append(f"{same.sum()} of these {len(keys)} images {what}")
    if dataset.groups is not None and "group" in known:
        names = set(known["group"].dropna())
        groups = dataset.groups.astype(str)
        related = np.array([name in names for name in groups], dtype=bool) & ~same
        if related.any():
            which = "others" if found else f"of these {len(keys)} images"
            found.append(f"{related.sum()} {which} are of groups {learnt} {groups[int(np.argmax(related))]}")
    if not found:
        return None
    return f"{', and '.join(found)}: on them figures flatter the model, and a calibration is too sure"
