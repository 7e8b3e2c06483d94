"""Label variables: their names and classes, and the way from annotations to targets and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taut.values import is_missing, is_one_hot

Scalar = str | int | float | bool


class LabelError(ValueError):
    """An annotation that cannot be understood; the message names the label, the row and the value."""


@dataclass(frozen=True)
class Label:
    """One discrete label variable c_j: a name and its classes, in the order of the logits."""

    name: str
    classes: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        """Keep the classes, of any sequence or array, as Python's own values, which JSON can hold."""
        object.__setattr__(self, "classes", tuple(_plain(value) for value in self.classes))


@dataclass(frozen=True)
class Annotation:
    """Annotations in the form that the mathematics takes.

    targets: [N, W] probabilities p̃(c_j|x), one block a label; NaN where the label is not annotated, so that
        a hidden annotation that reached a loss would show at once.
    observed: [N, k] bool, the mask m.
    ignored: [N, k] bool, cells that take no part: neither annotated nor estimated; None where there are none.
    """

    targets: NDArray[np.float32]
    observed: NDArray[np.bool_]
    ignored: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Any) -> Annotation:
        return Annotation(self.targets[rows], self.observed[rows], None if self.ignored is None else self.ignored[rows])

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Whether an image has an annotation and no cell that is left to be estimated: [N]."""
        settled = self.observed if self.ignored is None else self.observed | self.ignored
        return np.asarray(settled.all(axis=1) & self.observed.any(axis=1))


@dataclass(frozen=True)
class LabelSpace:
    """The k label variables of a task: one c-way label, k yes/no labels, or any mix.

    The logits of all labels lie side by side in one row of `width` = Σ_j c_j numbers, label after label.
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        """Refuse an empty space, repeated names, and labels of fewer than two or repeated classes."""
        if not self.labels:
            raise LabelError("a label space needs at least one label")
        names = [label.name for label in self.labels]
        if len(set(names)) < len(names):
            raise LabelError(f"label names are repeated: {sorted({n for n in names if names.count(n) > 1})}")
        for label in self.labels:
            if len(label.classes) < 2:
                raise LabelError(
                    f"label {label.name!r} has {len(label.classes)} class ({list(label.classes)}): "
                    "a classifier needs at least two classes"
                )
            if len(set(label.classes)) < len(label.classes):
                raise LabelError(f"label {label.name!r} repeats a class: {list(label.classes)}")

    # --- construction -------------------------------------------------------------------------------------

    @classmethod
    def multiclass(
        cls, classes: Sequence[Scalar] | NDArray[Any] | int | np.integer[Any], name: str = "label"
    ) -> LabelSpace:
        """One label with the given classes, or with classes 0 … n − 1."""
        return cls((Label(name, tuple(range(classes) if isinstance(classes, int | np.integer) else classes)),))

    @classmethod
    def multilabel(cls, names: Sequence[str] | int | np.integer[Any]) -> LabelSpace:
        """k yes/no labels (classes 0 and 1) with the given names, or named label_0 … label_{k−1}."""
        texts = [f"label_{j}" for j in range(names)] if isinstance(names, int | np.integer) else [str(n) for n in names]
        return cls(tuple(Label(text, (0, 1)) for text in texts))

    @classmethod
    def infer(cls, y: ArrayLike, unlabeled: Scalar | None = -1, names: Sequence[str] | None = None) -> LabelSpace:
        """The label space that the dtype and shape of an annotation array speak for.

        y: [N] class values (one c-way label) or [N, k] cells 0, 1 or NaN (k yes/no labels).
        unlabeled: the value of an unannotated image in [N] arrays, or None where every value is a class;
            NaN always means unannotated.
        names: label names, [k].

        Raises LabelError where the array fits both readings or neither.
        """
        array = np.asarray(y)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim == 1:
            values = _observed_values(array, unlabeled)
            if len(values) == 0:
                raise LabelError("no image is annotated: pass an explicit LabelSpace that names the classes")
            numbers = values.tolist() if array.dtype.kind in "fO" else []
            uneven = [v for v in numbers if isinstance(v, float) and not v.is_integer()]
            if uneven:
                raise LabelError(
                    f"annotations of continuous values (such as {uneven[0]!r}) are not "
                    "classes; Unknown label type: continuous. For soft labels pass an explicit LabelSpace"
                )
            classes = np.unique(values).tolist()
            name = names[0] if names else "label"
            if len(classes) == 1 and len(values) < len(array):
                raise LabelError(
                    f"label {name!r} has 1 class ({classes}): a classifier needs at least two classes; "
                    f"if {unlabeled!r} is one of them, say unlabeled=None"
                )
            return cls((Label(name, tuple(classes)),))
        if array.ndim != 2:
            raise LabelError(f"annotations have shape {list(array.shape)}: expected [N] or [N, k]")
        return cls._infer_table(array, names)

    @classmethod
    def _infer_table(cls, array: NDArray[Any], names: Sequence[str] | None) -> LabelSpace:
        if array.dtype.kind not in "biuf":
            raise LabelError(f"a table of dtype {array.dtype} is ambiguous: pass an explicit LabelSpace")
        k = array.shape[1]
        texts = list(names) if names is not None else [f"label_{j}" for j in range(k)]
        if len(texts) != k:
            raise LabelError(f"{len(texts)} label names for {k} columns")
        values = np.asarray(array, dtype=np.float64)
        known = ~np.isnan(values)
        odd = known & (values != 0) & (values != 1)
        if odd.any():
            row, column = np.argwhere(odd)[0]
            value = values[row, column]
            hint = (
                "soft labels need an explicit LabelSpace (one c-way label or k yes/no labels?)"
                if 0 < value < 1
                else "say what it means: NaN for an unannotated cell (or uncertain='latent' for -1); for more classes "
                "an explicit LabelSpace, or a table and --labels"
            )
            raise LabelError(f"label {texts[column]!r}, row {row}: {value:g} is ambiguous; {hint}")
        if is_one_hot(values, least=2 if known.all() else 2 * k):
            raise LabelError(
                f"every annotated row of the {k} columns has exactly one 1, which is ambiguous: pass "
                f"LabelSpace.multiclass for one {k}-way label (in a file, class numbers of shape [N] are one), or "
                f"LabelSpace.multilabel for {k} yes/no labels"
            )
        return cls.multilabel(texts)

    # --- shape --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The label names, [k]."""
        return tuple(label.name for label in self.labels)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of classes of each label, [k]."""
        return tuple(len(label.classes) for label in self.labels)

    @property
    def width(self) -> int:
        """Σ_j c_j, the number of logits."""
        return sum(self.sizes)

    @property
    def blocks(self) -> tuple[slice, ...]:
        """The columns of each label's logits, [k]."""
        ends = np.cumsum(self.sizes)
        return tuple(slice(int(end) - size, int(end)) for end, size in zip(ends, self.sizes, strict=True))

    @property
    def binary(self) -> bool:
        """Whether every label is yes/no, with the classes 0 and 1."""
        return all(label.classes == (0, 1) for label in self.labels)

    # --- annotations to targets ---------------------------------------------------------------------------

    def encode(self, y: ArrayLike, unlabeled: Scalar | None = -1) -> Annotation:
        """Annotations as targets and mask.

        y: [N] class values where k = 1; [N, k] class values; or soft labels, [N, W] probabilities (blocks that
            add up to 1) or, for yes/no labels, [N, k] probabilities of "yes". NaN or None in a cell, or
            `unlabeled` where k = 1, means unannotated.

        Raises LabelError naming the label, the row and the value that does not fit.
        """
        array = np.asarray(y)
        k = len(self)
        if array.ndim == 1 and k == 1:
            return self._encode_values(array[:, None], unlabeled)
        if array.ndim != 2:
            raise LabelError(f"annotations have shape {list(array.shape)}: expected [N, {k}] for {k} labels")
        if array.shape[1] == self.width and array.dtype.kind in "biuf" and self.width != k:
            return self._encode_blocks(np.asarray(array, dtype=np.float64))
        if array.shape[1] != k:
            raise LabelError(
                f"annotations have {array.shape[1]} columns: expected {k} (a label each) or "
                f"{self.width} (a probability for each class)"
            )
        if self.binary and array.dtype.kind in "biuf":
            yes = np.array(array, dtype=np.float64)
            if k == 1:
                yes[is_missing(array[:, 0], unlabeled)] = np.nan
            return self._encode_yes(yes)
        return self._encode_values(array, unlabeled if k == 1 else None)

    def _encode_yes(self, yes: NDArray[np.float64]) -> Annotation:
        observed = ~np.isnan(yes)
        wrong = observed & ((yes < 0) | (yes > 1))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise LabelError(
                f"label {self.names[column]!r}, row {row}: {yes[row, column]:g} is neither 0, 1, NaN nor a probability"
            )
        targets = np.stack([1 - yes, yes], axis=2).reshape(len(yes), self.width)
        return Annotation(targets.astype(np.float32), observed)

    def _encode_blocks(self, soft: NDArray[np.float64]) -> Annotation:
        observed = np.zeros((len(soft), len(self)), dtype=bool)
        for j, (label, block) in enumerate(zip(self.labels, self.blocks, strict=True)):
            known = ~np.isnan(soft[:, block])
            observed[:, j] = known.all(axis=1)
            total = np.where(known, soft[:, block], 0).sum(axis=1)
            negative = (np.where(known, soft[:, block], 0) < 0).any(axis=1)
            wrong = (known.any(axis=1) & ~observed[:, j]) | (observed[:, j] & (negative | (np.abs(total - 1) > 1e-4)))
            if wrong.any():
                row = int(np.argmax(wrong))
                raise LabelError(
                    f"label {label.name!r}, row {row}: {soft[row, block].tolist()} are not probabilities of sum 1"
                )
        targets = np.where(np.repeat(observed, self.sizes, axis=1), soft, np.nan)
        return Annotation(targets.astype(np.float32), observed)

    def _encode_values(self, values: NDArray[Any], unlabeled: Scalar | None) -> Annotation:
        n = len(values)
        targets = np.full((n, self.width), np.nan, dtype=np.float32)
        observed = np.zeros((n, len(self)), dtype=bool)
        for j, (label, block) in enumerate(zip(self.labels, self.blocks, strict=True)):
            column = values[:, j]
            missing = is_missing(column, unlabeled)
            index = np.full(n, -1)
            for c, value in enumerate(label.classes):
                index[np.asarray(column == value, dtype=bool) & ~missing] = c
            unknown = (index < 0) & ~missing
            if unknown.any():
                row = int(np.argmax(unknown))
                raise LabelError(
                    f"label {label.name!r}, row {row}: {_plain(column[row])!r} is not one of its classes "
                    f"{list(label.classes)[:20]}"
                )
            observed[:, j] = ~missing
            targets[~missing, block] = np.eye(len(label.classes), dtype=np.float32)[index[~missing]]
        return Annotation(targets, observed)

    # --- and back -----------------------------------------------------------------------------------------

    def decode(self, annotation: Annotation, unlabeled: Scalar | None = -1) -> NDArray[Any]:
        """Annotations from targets and mask, in a form that `encode` takes.

        Returns [N] class values where k = 1 (with `unlabeled`, or None where it is a class or not of the classes'
        type), [N, k] cells with NaN for yes/no labels, [N, k] class values with None otherwise; soft targets come
        back as [N, W] probabilities with NaN.
        """
        filled = np.where(np.isnan(annotation.targets), 0, annotation.targets)
        seen = np.repeat(annotation.observed, self.sizes, axis=1)
        if self.binary and len(self) > 1:
            return np.asarray(np.where(annotation.observed, filled[:, 1::2], np.nan))
        if not np.all((filled == 0) | (filled == 1)):
            return np.asarray(np.where(seen, filled, np.nan))
        columns: list[NDArray[Any]] = [
            np.asarray(label.classes)[filled[:, block].argmax(axis=1)]
            for label, block in zip(self.labels, self.blocks, strict=True)
        ]
        if len(self) == 1:
            if annotation.observed.all():
                return columns[0]
            classes = self.labels[0].classes
            text = any(isinstance(value, str) for value in classes)
            if unlabeled is None or unlabeled in classes or isinstance(unlabeled, str) != text:
                column = columns[0].astype(object)
                column[~annotation.observed[:, 0]] = None
                return column
            return np.asarray(np.where(annotation.observed[:, 0], columns[0], np.asarray(unlabeled)))
        table = np.stack([column.astype(object) for column in columns], axis=1)
        table[~annotation.observed] = None
        return table

    def decide(self, probabilities: NDArray[np.floating[Any]], thresholds: ArrayLike | None = None) -> NDArray[np.intp]:
        """The index of the class that is decided for: [N, k], from [N, W] probabilities.

        The most probable class; of two, the last one where its probability is above the label's threshold, [k].
        """
        index = np.stack([probabilities[:, block].argmax(axis=1) for block in self.blocks], axis=1)
        if thresholds is not None:
            for j, (size, limit) in enumerate(zip(self.sizes, np.asarray(thresholds), strict=True)):
                if size == 2:
                    index[:, j] = probabilities[:, self.blocks[j]][:, 1] > limit
        return index

    def predict(self, probabilities: NDArray[np.floating[Any]], thresholds: ArrayLike | None = None) -> NDArray[Any]:
        """The class that `decide` decides for: [N] where k = 1, else [N, k], from [N, W] probabilities."""
        index = self.decide(probabilities, thresholds)
        columns = [np.asarray(label.classes)[index[:, j]] for j, label in enumerate(self.labels)]
        if len(self) == 1:
            return columns[0]
        same = len({column.dtype.kind for column in columns}) == 1
        return np.stack([c if same else c.astype(object) for c in columns], axis=1)

    # --- priors and checks --------------------------------------------------------------------------------

    def prior(self, annotation: Annotation, kind: str = "empirical") -> NDArray[np.float32]:
        """log p(c), [W] nats: "uniform", or "empirical" = (n_c + 1) / (n + K) of the observed cells.

        A label without an observed cell gets the uniform prior; no class ever gets probability 0.
        """
        if kind not in ("empirical", "uniform"):
            raise ValueError(f"prior {kind!r} is neither 'uniform' nor 'empirical'")
        seen = np.repeat(annotation.observed, self.sizes, axis=1)
        counts = np.where(seen, annotation.targets, 0).sum(axis=0, dtype=np.float64)
        if kind == "uniform":
            counts = np.zeros_like(counts)
        log_prior = np.empty(self.width)
        for block, size in zip(self.blocks, self.sizes, strict=True):
            log_prior[block] = np.log(counts[block] + 1) - np.log(counts[block].sum() + size)
        return log_prior.astype(np.float32)

    def check_observed(self, annotation: Annotation) -> None:
        """Refuse a label that no image is annotated with while others are (LabelError naming it).

        Without any annotation at all there is nothing to refuse: the classes are clusters then.
        """
        counts = annotation.observed.sum(axis=0)
        if counts.any() and not counts.all():
            never = [name for name, count in zip(self.names, counts, strict=True) if count == 0]
            raise LabelError(
                f"no image is annotated with {', '.join(map(repr, never))}, while other labels are: drop it"
            )

    # --- JSON ---------------------------------------------------------------------------------------------

    def to_json(self) -> list[dict[str, Any]]:
        """A list of {"name", "classes"} that `from_json` takes."""
        return [{"name": label.name, "classes": list(label.classes)} for label in self.labels]

    @classmethod
    def from_json(cls, data: Sequence[dict[str, Any]]) -> LabelSpace:
        """The label space that `to_json` wrote."""
        return cls(tuple(Label(str(entry["name"]), tuple(entry["classes"])) for entry in data))


def _plain(value: Any) -> Scalar:
    """A numpy scalar as Python's own, so that it can be written as JSON; whole floats as they are."""
    return value.item() if isinstance(value, np.generic) else value  # type: ignore[no-any-return]


def _observed_values(array: NDArray[Any], unlabeled: Scalar | None) -> NDArray[Any]:
    values = array[~is_missing(array, unlabeled)]
    if array.dtype.kind == "O" and len({isinstance(v, str) for v in values}) > 1:
        raise LabelError("annotations mix text and numbers: make them one type")
    return values
