"""What cells of yes/no labels become that state neither: uncertain ones (−1) and blank ones, by a policy."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from taut.data.dataset import DataError, Dataset
from taut.labels import Annotation, LabelError, LabelSpace
from taut.prevalence import YES_NO, find_class, stated_prior

UNSAID, BLANK, UNCERTAIN = -1, -2, -3  # codes of cells without a class; no row, or no class, says anything: UNSAID
LATENT, IGNORED = -1.0, -2.0  # what a cell can become beside a class or a probability
FATES = "latent, positive, negative, ignore, soft=P"
SUSPICIOUS = 0.9  # share of positives among the observed cells of a label that is often blank
MANY = 0.25  # blank cells over observed ones

_ENTRY = re.compile(
    r"(?:(?P<label>.+)=)?\s*(?P<fate>latent|positive|negative|ignore|soft=(?P<p>[\d.]+(?:[eE][+-]?\d+)?))\s*$"
)


@dataclass(frozen=True)
class CellPolicy:
    """What uncertain and blank cells of yes/no labels become, in the syntax of the flags.

    Each is one of latent (an unobserved c_j), positive, negative, ignore (no term of the labels knows of the cell) and
    soft=P (annotated with the probability P), for all labels, or by label: "latent,Edema=positive".
    """

    uncertain: str = "latent"
    blank: str = "latent"

    def fates(self, space: LabelSpace) -> dict[int, list[str]]:
        """What becomes of the cells of each label, by the code of the cell; DataError naming the flag."""
        return {
            UNCERTAIN: parse_policy("--uncertain", self.uncertain, space),
            BLANK: parse_policy("--blank", self.blank, space),
        }


def chosen_policy(uncertain: str | None, blank: str | None, usual: str) -> CellPolicy:
    """The policy of two flags; usual: what the table's format makes of the blank cells of labels that none names."""
    if blank is None:
        blank = usual
    elif all(found is not None and found["label"] is not None for found in map(_match, blank.split(","))):
        blank = f"{usual},{blank}"
    return CellPolicy(uncertain or CellPolicy.uncertain, blank)


def check_policy(space: LabelSpace, uncertain: str | None, blank: str | None) -> None:
    """DataError where a flag says what cells of yes/no labels become and there are no such labels."""
    given = [flag for flag, value in (("--uncertain", uncertain), ("--blank", blank)) if value is not None]
    if given and not any(label.classes == YES_NO for label in space):
        what = "; ".join(f"{label.name!r} has the classes {', '.join(map(str, label.classes[:5]))}" for label in space)
        raise DataError(f"{' and '.join(given)} is for yes/no labels, of which there are none: {what}")


def _match(entry: str) -> re.Match[str] | None:
    return _ENTRY.match(entry.strip())


def parse_policy(flag: str, text: str, space: LabelSpace) -> list[str]:
    """What becomes of the cells of each label [k], from "latent" or "latent,Edema=positive,Fracture=soft=0.3".

    An entry without a label is for all that are not named. Raises DataError for an unknown fate or label.
    """
    usual: str | None = None
    named: dict[str, str] = {}
    for entry in text.split(","):
        found = _match(entry)
        if found is None:
            raise DataError(f"{flag} {text!r}: {entry.strip()!r} is none of {FATES}, nor one of them as LABEL=…")
        label, fate = found["label"], found["fate"]
        if found["p"] is not None and not 0 <= _number(found["p"]) <= 1:
            raise DataError(f"{flag} {text!r}: {fate} is not a probability between 0 and 1")
        if (label or "").strip() in named or (label is None and usual is not None):
            raise DataError(f"{flag} {text!r} says twice what becomes of {(label or 'all labels').strip()!r}")
        if label is None:
            usual = fate
        else:
            named[label.strip()] = fate
    yes_no = [label.name for label in space if label.classes == YES_NO]
    unknown = [name for name in named if name not in yes_no]
    if unknown:
        raise DataError(
            f"{flag} {text!r}: {unknown[0]!r} is not one of the yes/no labels {', '.join(yes_no) or '(none)'}"
        )
    return [named.get(label.name, usual or "latent") for label in space]


def parse_prevalence(text: str | None, space: LabelSpace) -> dict[str, float]:
    """Probabilities by label ("yes") or LABEL=CLASS, from "Edema=0.1,grade=high=0.02" or a YAML file of a mapping.

    Raises DataError for what is neither, for what `find_class` does not know, and for values not between 0
    and 1, or that do not add up.
    """
    if text is None:
        return {}
    values = _read_mapping(Path(text)) if text.endswith((".yaml", ".yml")) else _mapping(text)
    given = {name: _number(value) for name, value in values.items()}
    for name, p in given.items():
        if np.isnan(p):
            raise DataError(f"--prevalence {name}={values[name]} is not between 0 and 1")
    try:
        stated_prior(space, np.zeros(space.width, dtype=np.float32), given)
    except LabelError as error:
        raise DataError(f"--{error}") from error
    return given


def _mapping(text: str) -> dict[str, object]:
    values: dict[str, object] = {}
    for entry in text.split(","):
        name, equals, value = entry.rpartition("=")
        if not equals:
            raise DataError(f"--prevalence {text!r}: {entry.strip()!r} is not LABEL=P, nor is it a YAML file")
        values[name.strip()] = value.strip()
    return values


def _read_mapping(path: Path) -> dict[str, object]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"--prevalence {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise DataError(f"--prevalence {path} is not a mapping of labels to probabilities")
    return {str(name): value for name, value in values.items()}


def _number(value: object) -> float:
    """A number, or NaN for what is none."""
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


# --- from codes to annotations ----------------------------------------------------------------------------


def settle(space: LabelSpace, codes: NDArray[np.integer], policy: CellPolicy) -> NDArray[np.float64]:
    """What each cell [N, k] becomes: the class, the probability of "yes", LATENT or IGNORED."""
    values = np.where(codes >= 0, codes, LATENT).astype(np.float64)
    for code, fates in policy.fates(space).items():
        became = np.array([_value(fate) for fate in fates])
        values = np.where(codes == code, became, values)
    return values


def _value(fate: str) -> float:
    if fate.startswith("soft="):
        return float(fate.removeprefix("soft="))
    return {"latent": LATENT, "ignore": IGNORED, "positive": 1.0, "negative": 0.0}[fate]


def settle_together(
    space: LabelSpace, codes: NDArray[np.int64], policy: CellPolicy, images: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Values, as from `settle`, and codes [N, k] where the rows of one image say together what each says in part.

    A cell is blank that no row fills in. Yes/no cells that differ are uncertain where rows agree on another one, as
    those of several readers do, which the sentences tell. Other rows of which a cell differs stay as they are.
    images: [N] numbers of the rows' images, below 0 for those that are not there.
    """
    codes, rows = codes.copy(), np.flatnonzero(pd.Series(images).duplicated(keep=False))
    values = settle(space, codes, CellPolicy("latent", "latent"))  # what a row states goes before another's doubt
    keys, latent = np.asarray(images)[rows], values[rows] == LATENT
    known = pd.DataFrame(np.where(latent, np.nan, values[rows])).groupby(keys)
    low, high = known.transform("min").to_numpy(), known.transform("max").to_numpy()
    unknown = np.isnan(low)
    yes_no = np.array([label.classes == YES_NO for label in space])
    differ, shared = ~unknown & (low != high), (low == high) & (known.transform("count").to_numpy() > 1)
    readers = shared.any(axis=1) & differ.any(axis=1) & ~differ[:, ~yes_no].any(axis=1)
    agree = (readers | ~differ.any(axis=1))[:, None]
    said = pd.DataFrame(np.where(latent & ~unknown, UNCERTAIN, codes[rows])).groupby(keys)
    # Of what states no class, uncertain says more than blank does, and blank more than UNSAID.
    code = np.where(unknown, said.transform("min"), said.transform("max"))
    values[rows] = np.where(agree & ~unknown, low, values[rows])
    codes[rows] = np.where(agree, np.where(differ, UNCERTAIN, code), codes[rows])
    values = np.where((codes == BLANK) | (codes == UNCERTAIN), settle(space, codes, policy), values)
    count = len(np.unique(keys[readers & (keys >= 0)]))  # below 0 is what is not there
    words = "image has rows that differ" if count == 1 else "images have rows that differ"
    return values, codes, [f"{count:,} {words} in some yes/no cells: these cells are uncertain."] if count else []


def annotate(space: LabelSpace, values: NDArray[np.float64]) -> Annotation:
    """The annotations of settled cells [N, k]."""
    targets = np.full((len(values), space.width), np.nan)
    for column, label, block in zip(values.T, space, space.blocks, strict=True):
        known = column >= 0
        if label.classes == YES_NO:
            targets[known, block] = np.stack([1 - column[known], column[known]], axis=1)
        else:
            targets[known, block] = np.eye(len(label.classes))[column[known].astype(np.intp)]
    ignored = values == IGNORED
    return replace(space.encode(targets), ignored=ignored if ignored.any() else None)


def with_policy(
    dataset: Dataset, policy: CellPolicy, said: NDArray[np.bool_], doubtful: NDArray[np.bool_] | None = None
) -> Dataset:
    """An array's dataset with its unannotated cells of yes/no labels taken as blank ones.

    Cells of images without any annotation are left where there are several labels: nothing was said of those images.
    But where some cells of an image are uncertain and others blank, it was.
    said: the images [N] that the array is of.  doubtful: the cells [N, k] that are uncertain ones instead.
    """
    annotation = dataset.annotation
    classes = [np.nan_to_num(annotation.targets)[:, block].argmax(axis=1) for block in dataset.space.blocks]
    yes_no = np.array([label.classes == YES_NO for label in dataset.space])
    spoken = annotation.observed.any(axis=1)
    if doubtful is not None:
        spoken |= doubtful.any(axis=1) & ~doubtful.all(axis=1)
    some = np.asarray(spoken if len(dataset.space) > 1 else said)[:, None]
    codes = np.where(annotation.observed, np.stack(classes, axis=1), np.where(yes_no & some, BLANK, UNSAID))
    if doubtful is not None:
        codes = np.where(doubtful & (codes == BLANK), UNCERTAIN, codes)
    if any(set(fates) != {"latent"} for fates in policy.fates(dataset.space).values()):
        filled = annotate(dataset.space, np.where(codes < 0, settle(dataset.space, codes, policy), LATENT))
        seen = np.repeat(annotation.observed, dataset.space.sizes, axis=1)
        annotation = Annotation(
            np.where(seen, annotation.targets, filled.targets), annotation.observed | filled.observed, filled.ignored
        )
    notes = [*dataset.notes, *cell_notes(dataset.space, codes, policy)]
    return replace(dataset, annotation=annotation, cells=codes.astype(np.int16), policy=policy, notes=notes)


def certain(dataset: Dataset) -> Dataset:
    """The dataset to judge a model on, whatever cells are taken as in training: uncertain ones are not annotated.

    Nor are blank ones that are taken as a probability: nobody has said what is true of them.
    """
    kept = ~_unknown(dataset)
    if kept.all():
        return dataset
    annotation = dataset.annotation
    seen = np.repeat(kept, dataset.space.sizes, axis=1)
    targets = np.where(seen, annotation.targets, np.nan).astype(np.float32)
    return replace(dataset, annotation=replace(annotation, targets=targets, observed=annotation.observed & kept))


def _unknown(dataset: Dataset) -> NDArray[np.bool_]:
    """The cells [N, k] that say nothing certain."""
    if dataset.cells is None:
        return np.zeros(dataset.annotation.observed.shape, dtype=bool)
    policy = dataset.policy or CellPolicy()
    soft = np.array([fate.startswith("soft") for fate in policy.fates(dataset.space)[BLANK]], dtype=bool)
    return np.asarray((dataset.cells == UNCERTAIN) | ((dataset.cells == BLANK) & soft))


def cell_notes(space: LabelSpace, codes: NDArray[np.integer], policy: CellPolicy) -> list[str]:
    """What became of the uncertain cells, and of the blank ones where they did not stay unannotated."""
    notes = []
    for code, what in ((UNCERTAIN, "−1 (uncertain)"), (BLANK, "blank")):
        counts: dict[str, int] = {}
        for fate, number in zip(policy.fates(space)[code], (codes == code).sum(axis=0).tolist(), strict=True):
            counts[fate] = counts.get(fate, 0) + number
        counts = {fate: number for fate, number in counts.items() if number}
        if not counts or (code == BLANK and set(counts) == {"latent"}):
            continue
        total = sum(counts.values())
        words = {"latent": "unannotated", "ignore": "ignored"}
        parts = [words.get(fate, fate) + (f" ({n:,})" if len(counts) > 1 else "") for fate, n in counts.items()]
        notes.append(f"{total:,} {'cell is' if total == 1 else 'cells are'} {what}: taken as {', '.join(parts)}.")
    return notes


def unscored(dataset: Dataset) -> list[str]:
    """The sentence that says how many cells of a test set are not scored, if any."""
    unknown = _unknown(dataset)
    blank = 0 if dataset.cells is None else int((unknown & (dataset.cells == BLANK)).sum())
    counts = {"uncertain": int(unknown.sum()) - blank, "blank": blank}
    said = [f"{n:,} {what} {'cell is' if n == 1 else 'cells are'} not scored." for what, n in counts.items() if n]
    return [" ".join(said)] if said else []


def annotation_notes(dataset: Dataset) -> list[str]:
    """What to know of the annotations that are learnt from: classes without any, and counts that may be no prior."""
    return [*_absent(dataset), *_equal(dataset), *_positives(dataset)]


def _absent(dataset: Dataset) -> list[str]:
    """The classes that no image is annotated with, where some are; of yes/no labels `_positives` tells the noes."""
    seen = iter(np.nansum(dataset.annotation.targets, axis=0) > 0)
    names = [(f"{label.name} = {value}", label.classes, value) for label in dataset.space for value in label.classes]
    absent = [name for name, classes, value in names if not next(seen) and (classes, value) != (YES_NO, 0)]
    return [f"No image is annotated with {_some(absent)}."] if absent and dataset.annotation.observed.any() else []


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _equal(dataset: Dataset) -> list[str]:
    """A warning where an only label has equally many annotations of each class, as if so many had been picked."""
    annotation = dataset.annotation
    counts = np.nansum(annotation.targets, axis=0)
    if len(dataset.space) > 1 or annotation.observed.all() or dataset.prevalence or counts[0] != round(counts[0]):
        return []
    if counts[0] < 1 or (counts != counts[0]).any():
        return []
    return [
        f"Every class has {counts[0]:,.0f} annotations, and p(c) is taken as equal for all classes: where they are not "
        "equally frequent, state it with --prevalence CLASS=P."
    ]


def _positives(dataset: Dataset) -> list[str]:
    """A warning where cells seem to be filled in because they are positive, so that their share is no prior."""
    annotation = dataset.annotation
    observed = annotation.observed
    latent = ~observed if annotation.ignored is None else ~(observed | annotation.ignored)
    partly = latent & observed.any(axis=1, keepdims=True)
    stated = {known[0] for name in dataset.prevalence if (known := find_class(dataset.space, name)) is not None}
    found = []
    for j, (label, block) in enumerate(zip(dataset.space, dataset.space.blocks, strict=True)):
        count = int(observed[:, j].sum())
        if label.classes != YES_NO or count == 0 or j in stated:
            continue
        yes = float(annotation.targets[observed[:, j], block][:, 1].sum())
        many = partly[:, j].sum() >= MANY * count
        if (yes == count and latent[:, j].any()) or (yes >= SUSPICIOUS * count and many):
            found.append(f"{label.name} ({yes:,.0f} of {count:,})")
    if not found:
        return []
    return [
        f"Nearly all observed cells are positive: {_some(found)}. If cells are filled in because they are positive, "
        "the prior estimated from them is too high: state it with --prevalence LABEL=P, or take blanks as --blank "
        "negative."
    ]
