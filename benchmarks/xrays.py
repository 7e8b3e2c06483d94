"""NIH chest X-rays of 64 pixels, 14 findings: few patients annotated, few cells, or many cells uncertain.

The pack's own split keeps patients apart. A draw hides annotations of the training part; the valid part stays annotated
and chooses the step whose weights are kept (`kept`) and calibrates them, for every method alike, since with few
annotations a method may be past its best before the minutes are over. Each training has the same networks and minutes.
No choice was made on test labels. Give the number of draws, the minutes, and names of settings and of methods to
change them: `python -m benchmarks.xrays 3 4.0 patients-10 cells-20 taut masked_cross_entropy`; every budget has files
of its own, the default's under the short name. `more` measures the other rivals that know several labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, chosen, find_pack, record
from benchmarks.foreign import digits, noisy, photographs, turned
from taut.baselines import DEFAULT
from taut.data import load_dataset
from taut.data.cells import BLANK, UNCERTAIN, CellPolicy, annotate, settle
from taut.data.dataset import Dataset
from taut.data.leakage import check_leakage
from taut.evaluate.metrics import evaluate
from taut.evaluate.ood import ood_auroc
from taut.fit import Fitted, fit
from taut.flags import DataFlags
from taut.plan import override
from taut.sources import draw_annotations, named_parts

PACK = "nih_cxr14_all_64.npz"
NAMES = {
    "taut": DEFAULT,
    "masked_cross_entropy": "supervised",
    "pseudo-label": "pseudo-label",
    "mean-teacher": "mean-teacher",
    "fixmatch": "fixmatch",
    "interpolation": "shot-vae",
}
MORE = {name: name for name in ("pi-model", "vat", "mixmatch", "freematch", "siddharth")}
POLICIES = {"latent": "latent", "U-ones": "positive", "U-zeros": "negative", "ignore": "ignore"}
UNSURE = (0.1, 0.3)  # share of the negative and of the positive cells that become uncertain
KNOWN = ("sex", "age", "view")  # of every image of the pack
NONE: Mapping[str, Any] = {}

MINUTES = 1.0

Draw = Callable[[int], Dataset]
Method = Callable[[int], dict[str, Any]]


# --- draws --------------------------------------------------------------------------------------------------


@cache
def parts(pack: str = PACK) -> tuple[Dataset, Dataset]:
    """The training images with the valid part, and the test images, all annotated, refused if a patient is in two.

    Of the whole pack sex, age and view are there as auxiliary variables, for draws that keep them.
    Raises DataError where $TAUT_DATA has no such pack.
    """
    path = find_pack(pack, "x, y, label_names, patient_id, split")
    data = load_dataset(str(path), group="patient_id", auxiliary=KNOWN if pack == PACK else None)
    training, testing = data.rows(data.split != "test"), data.part("test")
    check_leakage(named_parts(training, testing))
    return training, testing


def everything(seed: int) -> Dataset:
    """All annotations of the training part."""
    return dataclasses.replace(parts()[0], auxiliary=None)


def hidden(seed: int, auxiliary: bool = False, **shares: float) -> Dataset:
    """The training images with a part of the annotations: labelled_fraction of the patients, or labelled_cells."""
    drawn = draw_annotations(parts()[0], DataFlags(PACK, **shares), seed)
    return drawn if auxiliary else dataclasses.replace(drawn, auxiliary=None)


def blanks_negative(seed: int, **shares: float) -> Dataset:
    """The same draw as a table whose blank cells are read as negative."""
    drawn = hidden(seed, **shares)
    return settled(drawn, np.where(drawn.annotation.observed, classes(parts()[0]), BLANK), CellPolicy(blank="negative"))


def unsure(seed: int, policy: str) -> Dataset:
    """All images annotated, but some cells of the training part uncertain, which a policy makes something of."""
    training = parts()[0]
    codes = classes(training)
    lost = np.random.default_rng(seed).random(codes.shape) < np.array(UNSURE)[codes]
    lost &= (training.split == "train")[:, None]
    return settled(training, np.where(lost, UNCERTAIN, codes), CellPolicy(uncertain=policy))


def classes(dataset: Dataset) -> Any:
    """The class of every cell of fully annotated yes/no labels, [N, k] of 0 and 1."""
    return dataset.annotation.targets[:, 1::2].astype(np.int16)


def settled(dataset: Dataset, codes: Any, policy: CellPolicy) -> Dataset:
    """The dataset with the annotations that a policy makes of cells [N, k]."""
    annotation = annotate(dataset.space, settle(dataset.space, codes, policy))
    return dataclasses.replace(dataset, annotation=annotation, cells=codes, policy=policy, auxiliary=None)


# --- one training -------------------------------------------------------------------------------------------


def one(draw: Draw, objective: str, minutes: float, seed: int, changes: Mapping[str, Any] = NONE) -> dict[str, Any]:
    """Figures of one training on the test part, of a plan with some changes."""
    change = partial(override, changes=dict(changes), where="benchmark")
    return figures(fit(draw(seed), change, minutes, seed, quiet=True, objective=objective), parts()[1])


def figures(fitted: Fitted, testing: Dataset) -> dict[str, Any]:
    """Means over the labels, with the method's own temperatures and (raw) without; and the AUROC of each label."""
    found, raw = (evaluate(fitted.model, testing, calibrated=calibrated) for calibrated in (True, False))
    by_label = {name: row["auroc"] for name, row in found["per_label"].items() if row["auroc"] is not None}
    return {
        **{name: found[name] for name in ("auroc_macro", "ap_macro", "nll", "ece", "error")},
        **{f"raw_{name}": raw[name] for name in ("nll", "ece")},
        "parameters": sum(p.numel() for p in fitted.model.parameters()),
        "steps": fitted.result.steps,
        "kept": fitted.result.kept,
        "seconds": round(fitted.result.seconds, 1),
        "auroc": {name: round(value, 4) for name, value in by_label.items()},
    }


# --- settings -----------------------------------------------------------------------------------------------


@cache
def annotated(minutes: float, seed: int) -> dict[str, Any]:
    """Masked cross-entropy with every annotation of the training part: what few annotations fall short of."""
    return one(everything, "supervised", minutes, seed)


def patients(share: float, names: Mapping[str, str], minutes: float) -> dict[str, Method]:
    """A share of the patients annotated, all others without annotations."""
    draw = partial(hidden, labelled_fraction=share)
    return {name: partial(one, draw, objective, minutes) for name, objective in names.items()}


def few_patients(share: float, minutes: float) -> dict[str, Method]:
    """The same, with what all annotations reach."""
    return {**patients(share, NAMES, minutes), "all annotated": partial(annotated, minutes)}


def few_cells(minutes: float) -> dict[str, Method]:
    """Every image annotated in a random fifth of its cells."""
    draw = partial(hidden, labelled_cells=0.2)
    names = ("taut", "masked_cross_entropy", "mean-teacher")
    blanks = partial(blanks_negative, labelled_cells=0.2)
    return {
        **{name: partial(one, draw, NAMES[name], minutes) for name in names},
        "blanks-as-negative": partial(one, blanks, "supervised", minutes),
    }


def uncertain(minutes: float) -> dict[str, Method]:
    """Uncertain cells by every policy, with taut's objective and with masked cross-entropy."""
    return {
        f"{name}, {policy}": partial(one, partial(unsure, policy=fate), NAMES[name], minutes)
        for name in ("taut", "masked_cross_entropy")
        for policy, fate in POLICIES.items()
    }


def imbalance(minutes: float) -> dict[str, Method]:
    """Findings are rare: what the prior knows of that, what the loss, and what nothing does."""
    draw = partial(hidden, labelled_fraction=0.2)
    changes = {
        "taut": {},
        "taut, by the loss": {"objective.balance": "loss"},
        "taut, by neither": {"objective.prior": "uniform"},
    }
    return {name: partial(one, draw, DEFAULT, minutes, changes=change) for name, change in changes.items()}


def also_known(share: float, minutes: float) -> dict[str, Method]:
    """A share of the patients annotated; sex, age and view of all images learnt from, or not."""
    draw = partial(hidden, labelled_fraction=share)
    return {
        name + words: partial(one, partial(draw, auxiliary=known), NAMES[name], minutes)
        for name in ("taut", "masked_cross_entropy")
        for words, known in (("", False), (", auxiliary", True))
    }


def foreign(minutes: float) -> dict[str, Method]:
    """A fifth of the patients annotated; how well images that are no such X-rays are told from test images."""
    draw = partial(hidden, labelled_fraction=0.2)
    changes = {"taut": {}, "taut, no decoder": {"objective.reconstruction": 0.0, "objective.beta_z": 0.0}}
    return {name: partial(told_apart, draw, minutes, change) for name, change in changes.items()}


def told_apart(draw: Callable[[int], Dataset], minutes: float, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """AUROC of the out-of-distribution score, of foreign images against half of the test images."""
    change = partial(override, changes=dict(changes), where="benchmark")
    fitted = fit(draw(seed), change, minutes, seed, quiet=True)
    inside, others = parts()[1].x[::2], parts()[1].x[1::2]
    side = inside.shape[-1]
    outside = {
        "photographs": photographs(side),
        "digits": digits(side),
        "negative": 255 - others,
        "turned": turned(others),
        "noisy": noisy(others),
    }
    found = {f"ood_{name}": round(ood_auroc(fitted.model, inside, images), 4) for name, images in outside.items()}
    return {**figures(fitted, parts()[1]), **found}


SETTINGS: dict[str, tuple[str, Callable[[float], dict[str, Method]]]] = {
    "patients-10": ("10 % of the training patients annotated, the rest unlabelled", partial(few_patients, 0.1)),
    "patients-20": ("20 % of the training patients annotated, the rest unlabelled", partial(few_patients, 0.2)),
    "cells-20": ("every training image annotated in a random 20 % of its cells", few_cells),
    "uncertain": ("30 % of the positive and 10 % of the negative training cells made uncertain", uncertain),
    "auxiliary-10": (
        "10 % of the training patients annotated; sex, age and view known of all",
        partial(also_known, 0.1),
    ),
    "auxiliary-20": (
        "20 % of the training patients annotated; sex, age and view known of all",
        partial(also_known, 0.2),
    ),
    "imbalance": (
        "20 % of the training patients annotated; rare findings known to the prior or to the loss",
        imbalance,
    ),
    "foreign": ("20 % of the training patients annotated; foreign and changed images told from X-rays", foreign),
}
ADDED = {"patients-10": partial(patients, 0.1, MORE), "patients-20": partial(patients, 0.2, MORE)}


def main(seeds: int = 3, minutes: float = MINUTES, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default all, draw by draw; `more` adds the other rivals.

    names: of settings, and of methods where not all of a setting's are to be measured.
    """
    budget = "" if minutes == MINUTES else f"-{minutes:g}-minutes"
    for seed in range(seeds):
        for name in [name for name in names if name in SETTINGS] or SETTINGS:
            what, methods = SETTINGS[name]
            about = f"NIH chest X-rays, 64 pixels, 14 findings; {what}; {minutes:g} min a training"
            added = ADDED[name](minutes) if "more" in names and name in ADDED else {}
            every = {**methods(minutes), **added}
            some = {method: run for method, run in every.items() if method in names} or every
            record(f"xrays-{name}{budget}", about, some, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen([*SETTINGS, *NAMES, "blanks-as-negative", "all annotated", "more"])
    main(*counts, names=words)
