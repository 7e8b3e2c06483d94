"""Arrays in a numpy .npz file, read without pickle: images or features, annotations, groups and split."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.array_labels import named_annotations, uncertain_cells
from taut.data.auxiliary import Auxiliary, read_auxiliary
from taut.data.cells import CellPolicy, with_policy
from taut.data.csv_table import EMPTY
from taut.data.dataset import SPLITS, DataError, Dataset, as_images, pixel_max, small_scale, without_sides_of_one
from taut.data.naming import PARTS, known_names
from taut.data.owners import NONE, own_group, says_owner
from taut.data.packed import decode_packed
from taut.data.signed import read_cells
from taut.data.table import plural
from taut.labels import Annotation, LabelError, LabelSpace, Scalar

ID_NAMES = ("image_id", "ids", "id")
UNLABELED = "_unlabeled"  # the ending of images without annotations, which are for training


def load_npz(
    path: Path,
    space: LabelSpace | None = None,
    group: str | None = None,
    unlabeled: Scalar | None = -1,
    white: float | None = None,
    annotated: bool = True,
    policy: CellPolicy | None = None,
    auxiliary: Sequence[str] = (),
    channels: int | None = None,
) -> Dataset:
    """The dataset of a .npz file.

    Inputs: `x` [N, ...]; or `jpeg`, the bytes of all images, with `offsets` [N + 1]; or `x_train`, `x_valid`
    and `x_test`, which also give the split; and beside any of them `x_unlabeled`, for training without annotations.
    Annotations: `y` (`y_train` ...) as `LabelSpace.encode` takes them; without them all images are unannotated. All of
    these may have other names (`known_names`). Also read: `label_names` [k] of yes/no labels, `class_names` (or
    `label_names` of one label) that integers in `y` count in, `split` [N] of names as in `PARTS`, `image_id`, `ids` or
    `id` [N], and the array that `group` names, where NaN, "", "nan" and "None" are a group of their own each.
    In a table `y` [N, k] of 0 and 1, NaN is an unannotated cell and −1 an uncertain one, but for rows without 0 and 1.
    unlabeled: the value of an unannotated image in a one-dimensional `y`; of text "", "nan" and "None" are, too.
    white, channels: as `as_images` takes them; by default white is that of all images but the test part's.
    annotated: whether annotations are read; without them `space` is needed, and no image has any.
    policy: what uncertain and unannotated cells of yes/no labels become; by default both are latent.
    auxiliary: arrays [N] that the encoder learns from beside the labels, and that are not predicted (`read_auxiliary`).
    Raises DataError or LabelError, in one sentence that names the file.
    """
    with _opened(path) as reader:
        return reader.dataset(space, group, unlabeled, white, annotated, policy, auxiliary, channels)


def is_pack(path: Path) -> bool:
    """Whether the inputs of a .npz file have names that `load_npz` knows; DataError for what is no such file."""
    with _loaded(path) as file:
        names = known_names(file.files, str(path))
    return any(name in names for name in ("x", "jpeg", *(f"x_{part}" for part in SPLITS)))


def has_array(path: Path, name: str) -> bool:
    """Whether a .npz file has an array, or one of that name for each part; DataError as from `load_npz`."""
    with _opened(path) as reader:
        return reader.has(name)


@contextmanager
def _opened(path: Path) -> Iterator[_Reader]:
    with _loaded(path) as file:
        yield _Reader(path, file)


@contextmanager
def _loaded(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    # An open file and not its path, because np.load leaves a damaged file open.
    with path.open("rb") as file:
        try:
            opened = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a numpy .npz file, or it is damaged") from error
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds a single array, not the named arrays of a numpy .npz file")
        with opened:
            yield opened


class _Reader:
    """One open file and the endings of its inputs: [""], or "_train", "_valid", "_test" as there are, and UNLABELED."""

    def __init__(self, path: Path, file: Any) -> None:
        """Find the layout: DataError where the file has none of those that are known."""
        self.path, self._file = path, file
        self._own = known_names(file.files, str(path))
        self.names = tuple(self._own)
        self._told: list[str] = []  # of annotations, while they are read
        parts = [part for part in SPLITS if f"x_{part}" in self.names]
        layouts = [name for name in ("x", "jpeg") if name in self.names] + (["x_train ..."] if parts else [])
        if not layouts:
            raise DataError(
                f"{path} has no images: expected 'x' or 'images', 'jpeg' and 'offsets', or 'x_train' and 'x_test', "
                f"but found {self._found()}"
            )
        if len(layouts) > 1:
            raise DataError(f"{path} has images in several layouts, {' and '.join(layouts)}: keep one of them")
        known = (*parts, UNLABELED[1:])
        strange = [name for name in self.names if parts and name.startswith("x_") and name[2:] not in known]
        if strange:
            raise DataError(
                f"{path}: {', '.join(map(repr, strange))} beside {', '.join(f'x_{part}' for part in parts)} is no part "
                f"of a split: call it x_train, x_valid or x_test, and its annotations alike, or leave it out"
            )
        self.suffixes = [f"_{part}" for part in parts] or [""]
        if f"x{UNLABELED}" in self.names:
            self.suffixes.append(UNLABELED)

    def dataset(
        self,
        space: LabelSpace | None,
        group: str | None,
        unlabeled: Scalar | None,
        white: float | None,
        annotated: bool,
        policy: CellPolicy | None,
        auxiliary: Sequence[str],
        channels: int | None,
    ) -> Dataset:
        packed = "jpeg" in self.names
        inputs = [self._jpegs() if packed and not suffix else self.get(f"x{suffix}") for suffix in self.suffixes]
        for suffix, part in zip(self.suffixes, inputs, strict=True):
            if part.ndim < 2:
                raise DataError(
                    f"{self.path}: {self._own[f'x{suffix}']!r} has shape {list(part.shape)}: expected images or vectors"
                )
            if part.shape[1:] != inputs[0].shape[1:] or part.dtype != inputs[0].dtype:
                first = self._own.get(f"x{self.suffixes[0]}", "jpeg")
                raise DataError(
                    f"{self.path}: {self._own[f'x{suffix}']!r} is {part.dtype} {list(part.shape)}, which does not fit "
                    f"{first!r}, {inputs[0].dtype} {list(inputs[0].shape)}"
                )
        lengths = [len(part) for part in inputs]
        count = sum(lengths)
        x, split = without_sides_of_one(np.concatenate(inputs) if len(inputs) > 1 else inputs[0]), self._split(lengths)
        del inputs, part  # of many gigabytes one copy less
        white = (255.0 if packed else _white(x, split)) if white is None else white
        notes = small_scale(x, white)
        x = as_images(x, str(self.path), white, channels)
        if annotated:
            space, annotation, doubtful = self._annotations(lengths, space, unlabeled, policy)
        else:
            assert space is not None
            annotation, doubtful = _unannotated(space, count), None
        if policy is not None and policy.uncertain != CellPolicy.uncertain and len(space) == 1:
            raise DataError(f"{self.path} does not take --uncertain: of one label -1 is no annotation")
        ids = next((self._column(name, lengths) for name in ID_NAMES if self.has(name)), np.arange(count))
        owner, told = self._own_group(lengths, split) if group is None else (None, [])
        group = group or owner
        if group is None or (group == NONE and not self.has(NONE)):
            groups, ungrouped = None, list[str]()
        else:
            groups, ungrouped = self._groups(group, lengths)
        others = self._auxiliary(auxiliary, lengths, split)
        dataset = Dataset(
            name=self.path.name,
            x=x,
            space=space,
            annotation=annotation,
            ids=[str(value) or f"unlabeled:{row}" for row, value in enumerate(ids)],
            groups=groups,
            owner=owner,
            split=split,
            notes=[
                *notes,
                *ungrouped,
                *told,
                *self._told,
                *([] if others is None else [others.describe()]),
            ],
            pixel_max=white if x.ndim == 4 else None,
            auxiliary=others,
        )
        if policy is None and doubtful is None:
            return dataset
        said = np.repeat([self._annotates(suffix) for suffix in self.suffixes], lengths)
        return with_policy(dataset, policy or CellPolicy(), said, doubtful)

    def get(self, name: str) -> NDArray[Any]:
        """One array of the file."""
        name = self._own.get(name, name)
        try:
            array = self._file[name]
        except ValueError as error:
            raise DataError(
                f"{self.path}: array {name!r} holds pickled Python objects, which could run code "
                "and are not read: save it as numbers or text"
            ) from error
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.path}: array {name!r} is damaged") from error
        if not isinstance(array, np.ndarray):
            raise DataError(f"{self.path}: {name!r} is not a numpy array")
        return array

    def _annotates(self, suffix: str) -> bool:
        """Whether there are annotations beside the inputs of an ending."""
        return f"y{suffix}" in self.names

    def _found(self) -> str:
        return ", ".join(self._own.values()) or "nothing"

    def has(self, name: str) -> bool:
        """Whether there is such an array, or one for each part but the unlabelled one."""
        parts = [suffix for suffix in self.suffixes if suffix != UNLABELED]
        return name in self.names or all(f"{name}{suffix}" in self.names for suffix in parts)

    def _column(self, name: str, lengths: list[int], rest: str = "") -> NDArray[Any]:
        """A value for every image, [N], from one array or from one for each part.

        rest: that of unlabelled images of which no array has one (NaN beside numbers with a point).
        """
        parts = dict(zip(self.suffixes, lengths, strict=True))
        bare = parts.pop(UNLABELED, 0)
        count = sum(parts.values())
        if name in self.names and (not bare or self._length(name) == count + bare):
            column, bare = self._sized(name, count + bare), 0
        elif name in self.names:
            column = self._sized(name, count)
        else:
            column = np.concatenate([self._sized(f"{name}{suffix}", n) for suffix, n in parts.items()])
        if column.ndim != 1:
            raise DataError(f"{self.path}: {name!r} has shape {list(column.shape)}: expected a value for each image")
        column = column.astype(str) if column.dtype.kind == "S" else column
        if not bare:
            return column
        if f"{name}{UNLABELED}" in self.names:
            return np.concatenate([column, self._sized(f"{name}{UNLABELED}", bare)])
        return np.concatenate([column, np.full(bare, np.nan if column.dtype.kind == "f" else rest)])

    def _length(self, name: str) -> int:
        array = self.get(name)
        return len(array) if array.ndim else 1

    def _sized(self, name: str, count: int) -> NDArray[Any]:
        array = self.get(name)
        if array.ndim == 0 or len(array) != count:
            raise DataError(f"{self.path}: {self._own[name]!r} has {self._length(name):,} entries for {count:,} images")
        return array

    def _groups(self, group: str, lengths: list[int]) -> tuple[NDArray[Any], list[str]]:
        """The group of every image, as a table says it, and what is worth telling of it."""
        self._check_array(group, "--group")
        groups = self._column(group, lengths)
        missing = np.isnan(groups) if groups.dtype.kind == "f" else np.isin(groups.astype(str), [*EMPTY, "None"])
        if groups.dtype.kind == "f" and not np.any(groups[~missing] % 1):
            groups = np.where(missing, 0, groups).astype(np.int64)
        if not missing.any():
            return groups, []
        alone = [f"{self.path}:{row}" for row in range(len(groups))]
        words = plural(int(missing.sum()), "image has", "images have")
        return np.where(missing, alone, groups.astype(str)), [f"{words} no {group!r}: each is a group of its own."]

    def _auxiliary(self, names: Sequence[str], lengths: list[int], split: NDArray[Any] | None) -> Auxiliary | None:
        """The auxiliary values of the arrays of some names."""
        for name in names:
            self._check_array(name, "--auxiliary")
            if name in ("x", "y", "split", *ID_NAMES):
                raise DataError(f"{self.path}: --auxiliary {name!r} says nothing beside the images and their labels")
        columns = {name: self._column(name, lengths) for name in names}
        learnt = None if split is None else split != "test"
        return read_auxiliary(columns, f"{self.path}: --auxiliary", learnt) if names else None

    def _check_array(self, name: str, flag: str) -> None:
        """DataError, naming a flag, where there is no array that it names."""
        if self.has(name):
            return
        taken = {f"{name}{suffix}" for name in ("x", "y") for suffix in self.suffixes}
        taken |= {"jpeg", "offsets", "label_names", "class_names"}
        others = ", ".join(name for name in self.names if name not in taken) or "none"
        raise DataError(f"{self.path} has no array {name!r} that {flag} names; other arrays there: {others}")

    def _split(self, lengths: list[int]) -> NDArray[Any] | None:
        if "" not in self.suffixes:
            return np.repeat(["train" if end == UNLABELED else end[1:] for end in self.suffixes], lengths)
        if "split" not in self.names:
            return None
        given = self._column("split", lengths, "train").astype(str)
        split = np.array([PARTS.get(part.strip().lower(), "") for part in given.tolist()])
        if (split == "").any():
            row = int(np.argmax(split == ""))
            raise DataError(f"{self.path}: 'split' of row {row} is {str(given[row])!r}, not one of {', '.join(SPLITS)}")
        return split

    def _annotations(
        self, lengths: list[int], space: LabelSpace | None, unlabeled: Scalar | None, policy: CellPolicy | None
    ) -> tuple[LabelSpace, Annotation, NDArray[np.bool_] | None]:
        """The label space of all parts together, their annotations (where there are any), and the uncertain cells."""
        if f"y{UNLABELED}" in self.names:
            raise DataError(
                f"{self.path}: {self._own[f'y{UNLABELED}']!r} are annotations of images that are to have none: leave "
                "them out, or put both beside the annotated ones"
            )
        tables = {
            i: self._sized(f"y{suffix}", n)
            for i, (suffix, n) in enumerate(zip(self.suffixes, lengths, strict=True))
            if self._annotates(suffix)
        }
        stray = {"y", *(f"y_{part}" for part in SPLITS)} & set(self.names) - {f"y{suffix}" for suffix in self.suffixes}
        if stray:
            raise DataError(
                f"{self.path}: annotations {sorted(stray)} without images of the same ending: {self._found()}"
            )
        if not tables and space is None:
            raise DataError(
                f"{self.path} has no annotations 'y': pass --classes N for clusters, or in Python an explicit label "
                f"space; found {self._found()}"
            )
        try:
            if len({table.shape[1:] for table in tables.values()}) > 1:
                raise LabelError("the annotations of its parts have different shapes")
            if tables:
                whole = np.concatenate(list(tables.values()))
                if whole.ndim == 2 and whole.shape[1] > 1 and whole.dtype.kind in "biuf":
                    negative = policy is not None and policy.uncertain == "negative"
                    whole, told = read_cells(whole, unlabeled, negative, space is not None, f"{self.path}: ")
                    self._told += told
                named, unlabeled, space = named_annotations(
                    whole, space, unlabeled, self._texts("label_names"), self._texts("class_names")
                )
                ends = np.cumsum([len(table) for table in tables.values()])[:-1]
                tables = dict(zip(tables, np.split(named, ends), strict=True))
            assert space is not None
            doubtful = [np.zeros((n, len(space)), dtype=bool) for n in lengths]
            for i, y in tables.items():
                if space.binary and y.shape[1:] == (len(space),) and uncertain_cells(y).any():
                    doubtful[i], tables[i] = uncertain_cells(y), np.where(uncertain_cells(y), np.nan, y)
            parts = [
                space.encode(tables[i], unlabeled) if i in tables else _unannotated(space, n)
                for i, n in enumerate(lengths)
            ]
        except LabelError as error:
            raise LabelError(f"{self.path}: {error}") from error
        targets = np.concatenate([part.targets for part in parts])
        doubts = np.concatenate(doubtful)
        annotation = Annotation(targets, np.concatenate([part.observed for part in parts]))
        return space, annotation, doubts if doubts.any() else None

    def _texts(self, name: str) -> list[str] | None:
        if name not in self.names:
            return None
        array = self.get(name)
        return [str(value) for value in (array.astype(str) if array.dtype.kind == "S" else array).ravel()]

    def _jpegs(self) -> NDArray[np.uint8]:
        """The images of `jpeg` and `offsets`, [N, C, H, W]."""
        if "offsets" not in self.names:
            raise DataError(f"{self.path} has 'jpeg' but no 'offsets' [N + 1]; found {self._found()}")
        return decode_packed(self.get("jpeg"), self.get("offsets"), str(self.path))

    def _own_group(self, lengths: list[int], split: NDArray[Any] | None) -> tuple[str | None, list[str]]:
        """The array that says whose an image is and is the group where no flag names one, and what to say of such."""
        bare = {name.removesuffix(suffix) for name in self.names for suffix in self.suffixes}
        owners = {}
        for name in sorted(bare):
            if says_owner(name) and self.has(name):
                with suppress(DataError):  # objects, or of another length, which are not read where nothing asks
                    values = pd.Series(self._column(name, lengths))
                    owners[name] = values.mask(values.isin([*EMPTY, "None"]))
        return own_group("Array", owners, None if split is None else pd.Series(split))


def _white(x: NDArray[Any], split: NDArray[Any] | None) -> float | None:
    """`pixel_max` of all images but the test part's, where there are others; of all bytes; None of what is no image."""
    if x.ndim < 3 or x.dtype.kind not in "biuf":
        return None
    known = np.ones(len(x), dtype=bool) if split is None or x.dtype == np.uint8 else split != "test"
    return pixel_max(x if known.all() or not known.any() else x[known])


def _unannotated(space: LabelSpace, count: int) -> Annotation:
    return space.encode(np.full((count, space.width), np.nan))
