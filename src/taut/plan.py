"""Every decision of a training run, how it is changed and kept; `taut.rules` takes it from the facts of the data."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from taut.data.augment import Augment
from taut.data.dataset import DataError
from taut.nn.vae import Architecture

MOST_FOLDS = 20
RULES = r"f1|youden|half|(sensitivity|specificity)=(0?\.\d+|1(\.0+)?)"  # of a threshold
LEAST = 1e-3  # of what may not be 0
OPTIONAL = ("train.unannotated", "model.width", "model.decoder_width", "model.weights", "objective.alpha")
RANGES = {
    **dict.fromkeys(("model.width", "model.z_dim", "model.decoder_width", "model.reduce"), (1, math.inf)),
    **dict.fromkeys(("train.steps", "train.accumulate", "train.log_every", "train.checkpoint_every"), (1, math.inf)),
    **dict.fromkeys(("train.batch_labelled", "train.batch_unlabelled", "train.learning_rate"), (0, math.inf)),
    **dict.fromkeys(("objective.mix", "model.stack", "train.looks"), (0, math.inf)),
    **dict.fromkeys(
        ("train.unannotated", "train.valid_fraction", "train.warmup", "train.ema", "objective.momentum"), (0, 1)
    ),
    **dict.fromkeys(("objective.threshold", "objective.capacity_c"), (0, 1)),
    **dict.fromkeys(("objective.sharpen", "augment.views"), (0, math.inf)),
    "objective.temperature": (LEAST, math.inf),
    "objective.share": (LEAST, 1),
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
    """Dimension of z."""
    decoder_width: int | None = None
    """Channels before the decoder's last doubling (or units of an MLP); None is its usual width."""
    reduce: int = 1
    """The reconstruction is at 1/reduce of the resolution, of area averages."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """p(x|z,c): bernoulli for grey values in [0, 1]; gaussian with one learnt variance for colours and features."""
    dropout: float = 0.0
    """Share of the features that the label head loses at random in training."""
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
    """ρ, the weight of log p(x|z,c); 0 trains no decoder."""
    beta_z: float = 1e-3
    """β_z, the weight of |KL(q(z|x) ‖ p(z)) − C_z|."""
    beta_c: float = 0.0
    """β_c, the weight of |KL(q(c_j|x) ‖ p(c_j)) − C_c|, summed over the labels."""
    alpha: float | None = None
    """α, the weight of KL(p̃(c_j|x) ‖ q(c_j|x)) of annotated cells; None weighs annotated images as if every image of a
    batch were annotated."""
    capacity_z: float = 10.0
    """C_z in nats."""
    capacity_c: float = 1.0
    """C_c as a share of the greatest label budget."""
    ramp: float = 0.3
    """Share of the steps in which the budgets rise from 0."""
    per: Literal["example", "batch"] = "example"
    """Whether the distances from the budgets are those of each image, or of the means over a batch."""
    prior: Literal["empirical", "uniform"] = "empirical"
    """p(c): smoothed frequencies of the annotated cells, or equal for all classes; --prevalence goes before both."""
    check_prior: bool = True
    """Whether p(c) of an only label is put aside there where what the network has learnt by `onset` contradicts it;
    not where that is 0."""
    balance: Literal["prior", "loss"] = "prior"
    """What knows of unequal frequencies of classes: p(c) alone, or the annotated term too, whose classes then weigh
    alike without a shift of q(c|x)."""
    auxiliary: float = 1.0
    """Weight of Σ_j KL(p̃(a_j|x) ‖ q(a_j|x)) of auxiliary variables, averaged over the images of which one is known."""
    mutual_information: float = 0.3
    """Weight of the mutual information I(x; c_j) over a batch (eq. 14); of one label it counts less where a batch has
    fewer images without annotation than annotated ones, by their ratio."""
    marginal: float = 2.0
    """Weight in it of KL(mean q(c_j|x) ‖ p(c_j)) over the batch; that of the mean entropy of q(c_j|x) is 1. Less of it
    counts of one label where a batch has fewer than 20 images a class."""
    sampling: Literal["relaxed", "straight-through", "enumerate"] = "relaxed"
    """How c ~ q(c|x) reaches the decoder: relaxed (Gumbel-softmax), hard with that gradient, or as a sum over all c."""
    temperature: float = 0.67
    """Temperature of the relaxation."""
    share: float = 0.25
    """Share of the rows that is decoded in a step."""
    source: Literal["none", "interpolation", "teacher"] = "teacher"
    """Where p(c|x) of what is not annotated is estimated: nowhere, by mixing images, or by a teacher on a weak view."""
    consistency: float = 1.0
    """Weight of KL(estimate ‖ q(c_j|x)) on the views of that source; in rivals, of their term of what is not
    annotated. It counts less where the mutual information does."""
    z_consistency: float = 0.0
    """Weight of the squared distance between the mean and deviation of q(z|x) of a mixed image and the mixtures of
    those of its two (interpolation)."""
    momentum: float = 0.0
    """Of the averaged teacher; 0 lets the network teach itself."""
    sharpen: float = 0.5
    """Temperature T of the teacher's estimates, q^(1/T): 1 leaves them, 0 takes the most probable class."""
    threshold: float = 0.0
    """Estimates whose greatest probability is below it do not count, label by label; 0 counts all. tighter-elbo asks
    more of a class that more than nine in ten images have."""
    alignment: float = 0.0
    """Power of distribution alignment, q·(p(c)/mean q)^a, label by label; 0 does not align."""
    onset: float = 0.0
    """Share of the steps before the mutual information and what is only estimated count; of images with one label not
    before the annotated ones have been passed over 20 times, or half of the steps are over. 0 waits for nothing."""
    full: float = 0.0
    """Share of the steps after which they count fully, later by as much as the onset is; in between they rise."""
    mix: float = 0.0
    """Mixup of strong views, λ ~ Beta(mix, mix); 0 does not mix."""
    adversary: float = 0.0
    """Length of the step that moves strong views to where q(c|x) changes most, as a share of the typical distance of an
    input from the mean one (an image from one of the mean colour); 0 moves none, and each step takes two passes
    less."""
    match: Literal["optimal", "random"] = "optimal"
    """Which images interpolation mixes: each with the one of the nearest q(z|x), or with any."""


@dataclass
class TrainPlan:
    """The training loop."""

    steps: int = 1500
    """Optimiser steps; --minutes sets them to what the time allows."""
    batch_labelled: int = 64
    """Images in a batch that are annotated, completely or in part."""
    batch_unlabelled: int = 256
    """Images in a batch that lack an annotation of some label."""
    unannotated: float | None = None
    """The share of these that is of images without any annotation, beside partly annotated ones; None: as they come."""
    learning_rate: float = 4e-3
    """The greatest one, of AdamW."""
    weight_decay: float = 5e-4
    """Of AdamW."""
    warmup: float = 0.3
    """Share of the steps in which the learning rate rises, before it falls along a cosine."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones that are kept."""
    accumulate: int = 1
    """Batches of which the gradients are averaged into one step."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Mixed precision of the networks; losses are float32 in any case."""
    valid_fraction: float = 0.0
    """Share of the annotated images held out for calibration; whole groups."""
    folds: int = 0
    """In place of that: so many more trainings, each with one fold of the annotations hidden to calibrate on."""
    calibration: Literal["temperature", "isotonic", "none"] = "temperature"
    """Fitted for each label on held-out annotations: a temperature, isotonic maps on top of it, or nothing."""
    threshold: str = "f1"
    """What a yes/no label's threshold maximises: f1 of the rarer class, youden (sensitivity + specificity), half (0.5),
    or sensitivity=0.95 or specificity=0.9: so much of the one on held-out images, and the most of the other."""
    looks: int = 16
    """How often held-out images, where 30 are annotated, judge the averaged weights during a training, to keep the
    latest ones that are not clearly worse than the best; 0 keeps the last ones."""
    log_every: int = 20
    """Steps between rows of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is one after five minutes too, and where Ctrl-C ends a run of one process."""


@dataclass
class Plan:
    """Every decision of a run; `plan.yaml` is this, and every field is a flag such as --train.steps."""

    model: ModelPlan = field(default_factory=ModelPlan)
    objective: ObjectivePlan = field(default_factory=ObjectivePlan)
    train: TrainPlan = field(default_factory=TrainPlan)
    augment: Augment = field(default_factory=Augment)
    seed: int = 0
    """Of weights, batches, views, and the draw of annotations."""

    def architecture(self, shape: tuple[int, ...]) -> Architecture:
        """The networks for inputs of a shape."""
        networks = dataclasses.asdict(self.model)
        del networks["weights"]  # where training starts says nothing of what is built
        return Architecture(shape=tuple(shape), **networks)

    def save(self, path: Path) -> None:
        """Write the plan as YAML."""
        path.parent.mkdir(parents=True, exist_ok=True)
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


def check_method(decisions: dict[str, Any], method: str, where: str) -> None:
    """DataError where decisions by dotted name are another method's whole plan, which would undo the method's own."""
    own = decisions.get("objective.name", method)
    whole = {f"objective.{item.name}" for item in dataclasses.fields(ObjectivePlan)}
    if own != method and len(whole & decisions.keys()) > len(whole) / 2:
        raise DataError(
            f"{where} is a whole plan of {own!r}, which would make another method of {method!r}: leave out all but "
            "what is to differ"
        )


def override(plan: Plan, changes: dict[str, Any], where: str) -> Plan:
    """The plan with some fields changed, given as nested or dotted names; types are checked by jsonargparse.

    Raises DataError naming the field that does not exist or whose value does not fit.
    """
    flat = flatten(dataclasses.asdict(plan))
    for name, value in flatten(changes).items():
        if name not in flat:
            section = [key for key in flat if key.split(".")[0] == name.split(".")[0]]
            there = section or dict.fromkeys(key.split(".")[0] for key in flat)
            raise DataError(f"{where}: {name!r} is not a field of a plan; there are {', '.join(there)}")
        flat[name] = value
    try:
        parsed = _parser().parse_object({"plan": _nest(flat)})
        changed = _build(parsed["plan"])
    except Exception as error:  # jsonargparse raises its own and argparse's errors
        text = " ".join(str(error).split())
        raise DataError(f"{where}: a value does not fit its field: {text[:300]}") from error
    _check_ranges(changed, where)
    _settle_calibration(changed, flatten(changes), where)
    return changed


@functools.cache
def _parser() -> Any:
    """The parser of plans, whose making takes longer than what it parses."""
    from jsonargparse import ArgumentParser  # slow to import, and not needed to predict

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Plan, "plan", instantiate=False)
    return parser


def _check_ranges(plan: Plan, where: str) -> None:
    for name, value in flatten(dataclasses.asdict(plan)).items():
        if value is None and name not in OPTIONAL:
            raise DataError(f"{where}: {name} needs a value")
        low, high = RANGES.get(name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not low <= value <= high:
            raise DataError(f"{where}: {name} {value:g} is not between {low:g} and {high:g}")
    if re.fullmatch(RULES, plan.train.threshold) is None:
        raise DataError(
            f"{where}: train.threshold {plan.train.threshold!r} is none of f1, youden, half, sensitivity=P and "
            "specificity=P, P between 0 and 1"
        )


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
