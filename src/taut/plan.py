"""From the facts of a dataset to every decision of a training run; nothing here ever sees test data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from taut.data.augment import Augment
from taut.data.dataset import DataError
from taut.evaluate.calibration import LEAST_OBSERVED
from taut.facts import Facts
from taut.labels import LabelSpace
from taut.nn.vae import Architecture

FEW_ANNOTATED = 1000
FOLDS, MOST_FOLDS = 3, 20  # on parts of yeast's training rows, 3, 5 and 10 calibrated alike
SMALL = 5000
OPTIONAL = ("model.width", "model.decoder_width", "model.weights", "objective.alpha")
RANGES = {
    **dict.fromkeys(("model.width", "model.z_dim", "model.decoder_width", "model.reduce"), (1, math.inf)),
    **dict.fromkeys(("train.steps", "train.accumulate", "train.log_every", "train.checkpoint_every"), (1, math.inf)),
    **dict.fromkeys(("train.batch_labelled", "train.batch_unlabelled", "train.learning_rate"), (0, math.inf)),
    **dict.fromkeys(("objective.mix", "model.stack", "train.looks"), (0, math.inf)),
    **dict.fromkeys(("train.valid_fraction", "train.warmup", "train.ema", "objective.momentum"), (0, 1)),
    "train.folds": (0, MOST_FOLDS),
    **dict.fromkeys(("objective.onset", "objective.full", "objective.ramp"), (0, 1)),
}


@dataclass
class ModelPlan:
    """The networks."""

    encoder: str = "conv"
    """One of mlp, conv, wrn-28-2, preact-resnet-18, densenet-121, resnet-18, resnet-50, or timm:NAME."""
    weights: str | None = None
    """A file of weights (.safetensors, or a torch state dict) or a run that the encoder starts from; None for none."""
    width: int | None = None
    """Channels of the first layer (or units of an MLP); None is the encoder's usual width."""
    pool: Literal["mean", "meanmax", "grid"] = "mean"
    """How the label head reads the last map; see `MapEncoder`."""
    z_dim: int = 16
    decoder_width: int | None = None
    reduce: int = 1
    """The reconstruction is at 1/reduce of the resolution, of area averages."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    dropout: float = 0.0
    z_given_c: bool = False
    """Whether z has the posterior q(z|x,c) of M2 instead of q(z|x)."""
    stack: int = 0
    """Dimension of the first latent of M1+M2; 0 for none."""


@dataclass
class ObjectivePlan:
    """The method, the constants of the tighter ELBO (eq. 16) and of the source of label posteriors."""

    name: str = "tighter-elbo"
    """The method: tighter-elbo, or a rival of `taut.baselines`."""
    reconstruction: float = 1e-3
    """ρ."""
    beta_z: float = 1e-3
    beta_c: float = 0.0
    alpha: float | None = None
    """α; None weighs annotated images as if every image of a batch were annotated."""
    capacity_z: float = 10.0
    """C_z in nats."""
    capacity_c: float = 1.0
    """C_c as a share of the greatest label budget."""
    ramp: float = 0.3
    """Share of the steps in which the budgets rise from 0."""
    per: Literal["example", "batch"] = "example"
    prior: Literal["empirical", "uniform"] = "empirical"
    balance: Literal["prior", "loss"] = "prior"
    """What knows of unequal frequencies of classes: p(c) alone, or the annotated term too, whose classes then weigh
    alike without a shift of q(c|x)."""
    mutual_information: float = 0.3
    marginal: float = 2.0
    sampling: Literal["relaxed", "straight-through", "enumerate"] = "relaxed"
    temperature: float = 0.67
    share: float = 0.25
    """Share of the rows that is decoded in a step."""
    source: Literal["none", "interpolation", "teacher"] = "teacher"
    consistency: float = 1.0
    z_consistency: float = 0.0
    momentum: float = 0.0
    """Of the averaged teacher; 0 lets the network teach itself."""
    sharpen: float = 0.5
    threshold: float = 0.0
    alignment: float = 0.0
    onset: float = 0.0
    """Share of the steps before the mutual information and what is only estimated count."""
    full: float = 0.0
    """Share of the steps after which they count fully; in between they rise."""
    mix: float = 0.0
    """Mixup of strong views, λ ~ Beta(mix, mix); 0 does not mix."""
    match: Literal["optimal", "random"] = "optimal"


@dataclass
class TrainPlan:
    """The training loop."""

    steps: int = 1500
    batch_labelled: int = 64
    batch_unlabelled: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 5e-4
    warmup: float = 0.3
    """Share of the steps in which the learning rate rises, before it falls along a cosine."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones that are kept."""
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    valid_fraction: float = 0.0
    """Share of the annotated images held out for calibration; whole groups."""
    folds: int = 0
    """In place of that: so many more trainings, each with one fold of the annotations hidden to calibrate on."""
    calibration: Literal["temperature", "isotonic", "none"] = "temperature"
    """Fitted for each label on held-out annotations: a temperature, isotonic maps on top of it, or nothing."""
    threshold: Literal["f1", "youden", "half"] = "f1"
    """What a two-class label's threshold maximises on them: F1, sensitivity + specificity, or nothing (0.5)."""
    looks: int = 16
    """How often held-out annotations, where there are any, judge the averaged weights during a training, to keep the
    latest ones that are not clearly worse than the best; 0 keeps the last ones."""
    log_every: int = 20
    checkpoint_every: int = 500


@dataclass
class Plan:
    """Every decision of a run; `plan.yaml` is this, and every field is a flag such as --train.steps."""

    model: ModelPlan = field(default_factory=ModelPlan)
    objective: ObjectivePlan = field(default_factory=ObjectivePlan)
    train: TrainPlan = field(default_factory=TrainPlan)
    augment: Augment = field(default_factory=Augment)
    seed: int = 0

    def architecture(self, shape: tuple[int, ...]) -> Architecture:
        """The networks for inputs of a shape."""
        networks = dataclasses.asdict(self.model)
        del networks["weights"]  # where training starts says nothing of what is built
        return Architecture(shape=tuple(shape), **networks)

    def save(self, path: Path) -> None:
        """Write the plan as YAML."""
        path.write_text(yaml.safe_dump(dataclasses.asdict(self), sort_keys=False))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan; DataError naming the file and the field where it does not fit."""
        return override(cls(), read_plan(path), str(path))


def read_plan(path: Path) -> dict[str, Any]:
    """The nested dictionary in a plan file; DataError where there is none."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"the plan {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise DataError(f"the plan {path} is not a mapping of sections")
    return data


def override(plan: Plan, changes: dict[str, Any], where: str) -> Plan:
    """The plan with some fields changed, given as nested or dotted names; types are checked by jsonargparse.

    Raises DataError naming the field that does not exist or whose value does not fit.
    """
    from jsonargparse import ArgumentParser  # slow to import, and not needed to predict

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Plan, "plan", instantiate=False)
    flat = flatten(dataclasses.asdict(plan))
    for name, value in flatten(changes).items():
        if name not in flat:
            section = [key for key in flat if key.split(".")[0] == name.split(".")[0]]
            there = section or dict.fromkeys(key.split(".")[0] for key in flat)
            raise DataError(f"{where}: {name!r} is not a field of a plan; there are {', '.join(there)}")
        flat[name] = value
    try:
        parsed = parser.parse_object({"plan": _nest(flat)})
        changed = _build(parsed["plan"])
    except Exception as error:  # jsonargparse raises its own and argparse's errors
        text = " ".join(str(error).split())
        raise DataError(f"{where}: a value does not fit its field: {text[:300]}") from error
    _check_ranges(changed, where)
    _settle_calibration(changed, flatten(changes), where)
    return changed


def _check_ranges(plan: Plan, where: str) -> None:
    for name, value in flatten(dataclasses.asdict(plan)).items():
        if value is None and name not in OPTIONAL:
            raise DataError(f"{where}: {name} needs a value")
        low, high = RANGES.get(name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not low <= value <= high:
            raise DataError(f"{where}: {name} {value:g} is not between {low:g} and {high:g}")


def _settle_calibration(plan: Plan, asked: dict[str, Any], where: str) -> None:
    """Of the two ways to have annotations to calibrate on, the one that is asked for replaces the other."""
    train = plan.train
    if train.folds == 1:
        raise DataError(f"{where}: train.folds 1 hides all annotations at once; 0 has no folds, 2 is the least")
    if not (train.folds and train.valid_fraction):
        return
    if {"train.folds", "train.valid_fraction"} <= asked.keys():
        raise DataError(
            f"{where}: train.folds {train.folds} and train.valid_fraction {train.valid_fraction:g} are two ways to "
            "calibrate: leave one of them out"
        )
    if "train.folds" in asked:
        train.valid_fraction = 0.0
    else:
        train.folds = 0


def _build(parsed: Any) -> Plan:
    values = parsed.as_dict()
    return Plan(
        ModelPlan(**values["model"]),
        ObjectivePlan(**values["objective"]),
        TrainPlan(**values["train"]),
        Augment(**values["augment"]),
        values["seed"],
    )


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested dictionary by dotted name."""
    items: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        items |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return items


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return nested


def make_plan(facts: Facts, seed: int = 0, encoder: str | None = None, weights: str | None = None) -> Plan:
    """Every decision from the facts of the training set, and from the encoder and its weights where they are chosen."""
    plan = Plan(seed=seed)
    _plan_model(plan, facts, encoder, weights)
    _plan_batches(plan, facts)
    _plan_augmentation(plan, facts)
    _plan_objective(plan, facts)
    plan.train.precision = "bf16" if fast_bf16() and facts.is_image else "fp32"
    return plan


def _plan_model(plan: Plan, facts: Facts, encoder: str | None, weights: str | None) -> None:
    plan.model.weights = weights
    if not facts.is_image:
        plan.model.encoder, plan.model.likelihood = "mlp", "gaussian"
        plan.model.z_dim = max(2, min(16, facts.shape[0] // 2))
        plan.model.width = plan.model.decoder_width = 128
        return
    side = min(facts.shape[1:])
    plan.model.encoder = encoder or ("conv" if side <= 96 else "densenet-121")
    if plan.model.encoder == "conv":
        # A 4x4 grid of places learns 100 labels as fast, but then locks whole ways of writing into wrong classes.
        plan.model.pool = "meanmax"
        plan.train.learning_rate = 1.6e-2
        if facts.labels > 1:
            # With 5e-4 such a training learns its annotations by heart; 1 is better in 3,000 steps, but not in 500.
            plan.train.weight_decay = 0.3
        if facts.images >= SMALL:
            # Of equal training time, MNIST's wrong groups shrink further than with 16 channels and more steps.
            plan.model.width = 24
    if weights is not None:
        # What has been learnt elsewhere is to be kept.
        plan.train.learning_rate = 5e-4
    if facts.labels > 1 and facts.annotated_images == facts.fully_annotated_images < FEW_ANNOTATED:
        # Whole rows tell much of few images; of a few cells each, dropout leaves too little to learn from.
        plan.model.dropout = 0.5
    plan.model.reduce = max(1, round(side / 32))
    if not facts.grey:
        plan.model.likelihood = "gaussian"


def _plan_batches(plan: Plan, facts: Facts) -> None:
    train = plan.train
    total = 320 if facts.is_image else 256
    unfinished = facts.images - facts.fully_annotated_images
    if unfinished == 0:
        train.batch_labelled, train.batch_unlabelled = min(128, max(16, facts.images)), 0
    elif facts.annotated_images == 0:
        train.batch_labelled, train.batch_unlabelled = 0, min(256, facts.images)
    elif facts.annotated_images == facts.images:
        # Partly annotated tables: annotated and unannotated cells share their images.
        train.batch_labelled = math.ceil(128 * facts.fully_annotated_images / facts.images)
        train.batch_unlabelled = 128 - train.batch_labelled or 1
    else:
        train.batch_labelled = total // 5
        others = total - total // 5
        if facts.labels > 1 and facts.annotated_images == facts.fully_annotated_images:
            # Several labels take longer to learn than to guess: of equal time, more steps are worth more than more
            # images that nothing is said of.
            others = total // 5
        train.batch_unlabelled = min(others, max(32, unfinished))
    if facts.images < SMALL:
        train.steps = 500
    if facts.annotated_images >= FEW_ANNOTATED:
        train.valid_fraction = 0.1
    elif not facts.is_image and max(facts.annotated_cells, default=0) >= LEAST_OBSERVED:
        # A training takes seconds, and no annotation can be spared.
        train.folds = FOLDS
    if not facts.is_image:
        train.learning_rate, train.steps = 2e-3, 400


def _plan_augmentation(plan: Plan, facts: Facts) -> None:
    augment = plan.augment
    if not facts.is_image:
        # As strong as this on six data sets of vectors, half of them with several labels: less taught less.
        augment.noise, augment.drop = 0.5, 0.3
        return
    augment.strong, augment.scale = 1.0, 0.1
    if facts.labels == 1:
        # Strong views of one object are mixed with one another instead of being distorted more.
        augment.erase, augment.shift = 1, 0.05
    else:
        # Several objects or findings: each is a smaller part of the image.
        augment.rotation, augment.shear = 10.0, 0.1
    if min(facts.shape[1:]) <= 12:
        # Half a pixel matters at this size, and interpolation blurs.
        augment.rotation, augment.shear, augment.shift = 10.0, 0.1, min(augment.shift, 0.08)
    if not facts.grey:
        augment.brightness, augment.contrast = 0.1, 0.2
    elif has_tones(facts):
        # The exposure of a scan or a photograph says nothing of what it shows.
        augment.brightness, augment.contrast = 0.15, 0.3


def has_tones(facts: Facts) -> bool:
    """Whether grey images are scans or photographs rather than strokes on an even ground.

    Of pixels that are black or white alone the variance is mean·(1 − mean): of MNIST it is 0.83 of that, of chest
    X-rays a quarter.
    """
    mean, std = facts.mean[0], facts.std[0]
    return std**2 < 0.5 * mean * (1 - mean)


def _plan_objective(plan: Plan, facts: Facts) -> None:
    objective = plan.objective
    if facts.is_image or facts.labels > 1:
        # What is hardened before annotations have been learnt hardens into wrong classes as easily as into right ones.
        objective.onset, objective.full = (0.15, 0.5) if facts.labels == 1 else (0.3, 0.6)
        # Of several labels most are told less of than one label of an object, and what cannot be told must stay unsure.
        objective.mutual_information = 1.0 if facts.labels == 1 else 0.3
    if facts.annotated_images == 0:
        objective.onset = objective.full = 0.0  # there is nothing to wait for
    if facts.labels > 1:
        # A yes/no label is unsure for long, and is believed as far as it believes itself.
        objective.sharpen, objective.marginal = 1.0, 1.0
    elif facts.is_image:
        objective.mix, objective.sharpen = 0.75, 0.7
    if facts.images == facts.fully_annotated_images:
        objective.source, objective.mutual_information = "none", 0.0
    if facts.is_image:
        pixels = float(np.prod(facts.shape)) / plan.model.reduce**2
        objective.reconstruction = objective.beta_z = min(0.01, 0.8 / pixels)
    else:
        objective.reconstruction = objective.beta_z = 1.0 / facts.shape[0]


def advice(facts: Facts, plan: Plan) -> str | None:
    """What else to try, in one sentence, or None."""
    weights = plan.model.weights
    if weights is None or not facts.is_image or facts.annotated_images >= FEW_ANNOTATED:
        return None
    frozen = f"--frozen {weights}" if Path(weights).is_dir() else f"--frozen {plan.model.encoder} --weights {weights}"
    return (
        f"With {facts.annotated_images} annotated images and weights that know other images, first try {frozen} in the "
        "place of the --model flags: it trains on the features in seconds, and cannot unlearn them"
    )


def uncalibrated(facts: Facts, plan: Plan, apart: int) -> str:
    """Why nothing is calibrated where no image is held out and there are no folds, and what would.

    apart: how many annotated images, or groups of them, could be in different folds.
    """
    if plan.train.calibration == "none":
        return "not calibrated, as the plan says"
    if max(facts.annotated_cells, default=0) < LEAST_OBSERVED:
        return f"not calibrated: no label has {LEAST_OBSERVED} annotated images, the least for a temperature"
    if apart < 2:
        return "not calibrated: all annotated images are of one group, of which none can be held out"
    folds = min(apart, FOLDS)
    return (
        f"not calibrated: {facts.annotated_images} annotated images are too few to hold some out; --train.folds "
        f"{folds} calibrates on {folds} more trainings, each with some annotations hidden"
    )


def fast_bf16() -> bool:
    """Whether bfloat16 is faster than float32 here: matrix units of the CPU (AMX) or a recent GPU."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def _became(facts: Facts, j: int) -> str:
    """What the uncertain and blank cells of a label became, where its table has any."""
    parts = [
        f"{counts[j]} {name} → {fates[j]}"
        for name, counts, fates in (
            ("uncertain", facts.uncertain, facts.uncertain_as),
            ("blank", facts.blank, facts.blank_as),
        )
        if counts and counts[j]
    ]
    return f"; in the table {', '.join(parts)}" if parts else ""


def describe(facts: Facts, space: LabelSpace, plan: Plan) -> str:
    """The facts found and the decisions taken, for people."""
    share = 100 * facts.annotated_images / facts.images
    kind = "x".join(map(str, facts.shape)) + (" image" if facts.is_image else " features")
    cells = sum(facts.annotated_cells)
    lines = [
        f"{facts.images} inputs of {kind}; {facts.labels} label(s) of {', '.join(map(str, facts.classes))} classes",
        f"{facts.annotated_images} images ({share:.1f} %) carry an annotation, {facts.fully_annotated_images} of them "
        f"a complete one; {cells} of {facts.images * facts.labels} cells are known",
        *(
            f"  {label.name}: {known} known"
            + (f", {positive} of them {label.classes[-1]}" if len(label.classes) == 2 else "")
            + _became(facts, j)
            for j, (label, known, positive) in enumerate(
                zip(space, facts.annotated_cells, facts.positives, strict=True)
            )
        ),
        "",
        yaml.safe_dump(dataclasses.asdict(plan), sort_keys=False).rstrip(),
    ]
    return "\n".join(lines)
