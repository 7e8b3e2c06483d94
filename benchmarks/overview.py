"""The README's table of results, from benchmarks/results/*.json: a row for each setting, taut beside some others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import RESULTS

CROSS_ENTROPY = "masked_cross_entropy"
WORDS = {
    CROSS_ENTROPY: "cross-entropy alone",
    "supervised": "cross-entropy alone",
    "label_spreading": "LabelSpreading",
    "svc": "SVC",
    "vat": "VAT",
    "mixmatch": "MixMatch",
    "freematch": "FreeMatch",
    "fixmatch": "FixMatch",
    "siddharth": "Siddharth's",
    "m2": "M2",
    "one-vs-rest logistic regression, tuned": "tuned logistic regression",
    "taut, no decoder": "without its decoder",
    "taut, no folds": "without folds",
    "supervised, two folds": "cross-entropy alone",
    "all annotated": "with all annotations",
    "taut, standardised alone": "without the arcsinh",
    "logistic regression": "logistic regression",
}


class Row(NamedTuple):
    """One setting: what it is, the figure that is shown, its file, taut's name there, and those of others."""

    setting: str
    figure: str
    file: str
    others: tuple[str, ...] = ()
    own: str = "taut"


FIGURES = {
    "error": ("error, %", 2),
    "nll": ("NLL, nats", 2),
    "ap_macro": ("average precision", 3),
    "auroc_macro": ("AUROC", 3),
    "ood_turned": ("AUROC of turned images", 3),
    "seconds_to_3.12": ("seconds of training", 0),
}
FOLDS = ("taut, no folds", "supervised, two folds"), "taut, two folds"
FOLDS_TEN, FOLDS_TWO = ("folds-ten-classes", *FOLDS), ("folds-cats-and-dogs", *FOLDS)
ROWS = (
    Row("`digits`, 5 labels a class", "error", "digits", (CROSS_ENTROPY, "label_spreading", "svc")),
    Row("MNIST, 100 labels, 4 minutes", "error", "mnist-100-augmented"),
    Row(
        "… 1 minute", "error", "rivals-augmented", ("vat", "mixmatch", "freematch", "m2", "supervised"), "tighter-elbo"
    ),
    Row("… 6 minutes", "error", "rivals-augmented-6-minutes", ("vat", "mixmatch"), "tighter-elbo"),
    Row(
        "… until it stays under 3.12 %, the published figure of SHOT-VAE's Smooth-ELBO",
        "seconds_to_3.12",
        "mnist-speed",
    ),
    Row("… 20 labels, 4 minutes", "error", "mnist-20-augmented"),
    Row(
        "… 100 labels, no augmentation, 1 minute",
        "error",
        "rivals-plain",
        ("siddharth", "m2", "freematch", "supervised"),
        "tighter-elbo",
    ),
    Row(
        "… no augmentation, 6 minutes",
        "error",
        "rivals-plain-6-minutes",
        ("m2", "siddharth", "freematch", "vat"),
        "tighter-elbo",
    ),
    Row("… the same, ten draws", "error", "mnist-100-plain-6-minutes"),
    Row("… 50 labels, no augmentation, 4 minutes", "error", "mnist-50-plain"),
    Row("… 20 labels, no augmentation, 4 minutes", "error", "mnist-20-plain"),
    Row(
        "… 20 labels, no augmentation, 1 minute",
        "error",
        "rivals-plain-20-labels",
        ("siddharth", "m2", "freematch", "supervised"),
        "tighter-elbo",
    ),
    Row(
        "MNIST's training images, 60 % of one digit, 10 labels of each, half a minute; hidden training images",
        "error",
        "unbalanced-10-labels",
        ("fixmatch", "supervised"),
    ),
    Row(
        "eights among MNIST's training images as vectors, 5 % of them, 100 annotated; hidden training images",
        "ap_macro",
        "rare-vectors",
        ("fixmatch", "supervised"),
    ),
    Row(
        "MNIST's training images as exponentials of components, ten of each class annotated; hidden ones",
        "error",
        "tails-exponentials",
        ("taut, standardised alone", "fixmatch", "supervised", "logistic regression"),
    ),
    Row(
        "… as vectors of pixels",
        "error",
        "tails-pixels",
        ("taut, standardised alone", "fixmatch", "supervised", "logistic regression"),
    ),
    Row(
        "… as counts of photons",
        "error",
        "tails-counts",
        ("taut, standardised alone", "fixmatch", "supervised", "logistic regression"),
    ),
    Row("6,000 images of MNIST, half annotated, 0.4 minutes", "error", "shares-mnist-50", ("mixmatch", "supervised")),
    Row("… 90 % annotated", "error", "shares-mnist-90", ("mixmatch", "supervised")),
    Row(
        "CIFAR-10 (JPEG re-encoded), 4,000 labels, 1.2 minutes", "error", "shares-cifar10-8", ("mixmatch", "supervised")
    ),
    Row("… 8,000 training images, 20 of each class annotated, 0.8 minutes; hidden ones", "error", *FOLDS_TEN),
    Row("… the same", "nll", *FOLDS_TEN),
    Row("… cats and dogs, 50 of each annotated, 0.8 minutes; hidden training images", "error", *FOLDS_TWO),
    Row("… the same", "nll", *FOLDS_TWO),
    Row("`digit-grid`, 20 % of the cells", "ap_macro", "digit-grid", (CROSS_ENTROPY,)),
    Row("… 5 % of the cells, 2 minutes", "ap_macro", "grid-cells-5", (CROSS_ENTROPY, "fixmatch")),
    Row("… 5 % of the canvases, 1 minute", "ap_macro", "grid-rows-5", (CROSS_ENTROPY, "fixmatch")),
    Row(
        "chest X-rays, 10 % of the patients, 2 minutes",
        "auroc_macro",
        "xrays-patients-10-2-minutes",
        (CROSS_ENTROPY, "fixmatch", "all annotated"),
    ),
    Row(
        "… 20 % of the patients, 2 minutes",
        "auroc_macro",
        "xrays-patients-20-2-minutes",
        (CROSS_ENTROPY, "fixmatch", "all annotated"),
    ),
    Row("… 20 % of the cells, 2 minutes", "auroc_macro", "xrays-cells-20-2-minutes", (CROSS_ENTROPY,)),
    Row("… turned by a quarter: told from others, 1 minute", "ood_turned", "xrays-foreign", ("taut, no decoder",)),
    Row(
        "yeast's features, 10 % of the rows",
        "ap_macro",
        "yeast",
        (CROSS_ENTROPY, "one-vs-rest logistic regression, tuned"),
    ),
)


def overview(folder: Path = RESULTS) -> str:
    """The table as Markdown; a setting that is not measured has no row."""
    lines = ["| setting | figure | taut | others | draws | file |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        path = folder / f"{row.file}.json"
        summary = json.loads(path.read_text())["summary"] if path.exists() else {}
        if row.own not in summary:
            continue
        name, digits = FIGURES[row.figure]
        cell = summary[row.own][row.figure]
        found = {WORDS[other]: summary[other][row.figure] for other in row.others if other in summary}
        others = ", ".join(f"{word} {shown(value, digits)}" for word, value in found.items())
        worst = f", the worst {cell['max']:.{digits}f}" if row.figure == "error" and cell["n"] > 4 else ""
        own = shown(cell, digits) + worst
        every = max(value["n"] for value in summary[row.own].values())
        missed = row.figure == "seconds_to_3.12" and cell["n"] < every
        draws = f"{cell['n']} of {every} that reached it" if missed else str(cell["n"])
        lines.append(f"| {row.setting} | {name} | {own} | {others} | {draws} | `{row.file}` |")
    return "\n".join(lines)


def shown(value: dict[str, Any], digits: int) -> str:
    """A figure's mean ± standard deviation, or its only value."""
    spread = f" ± {value['std']:.{digits}f}" if value["n"] > 1 and "std" in value else ""
    return f"{value['mean']:.{digits}f}{spread}"
