"""The rules: from the facts of a dataset to every decision of a training run. Nothing here ever sees test data."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.special import entr

from taut.evaluate.calibration import LEAST_OBSERVED
from taut.facts import SHARED, Facts
from taut.labels import LabelSpace
from taut.plan import Plan

FEW_ANNOTATED = 1000
HELD = 0.1  # share of the annotated inputs that calibrates
IMAGE_FOLDS = 2  # of images a training takes minutes
FOLDS = 3  # on parts of yeast's training rows, 3, 5 and 10 calibrated alike
SMALL = 5000
VIEWS = 8  # 16 took twice as long for as few errors
NOISE = 0.5  # standard deviations of features
ADVERSARY = 0.15  # of the typical distance of vectors from their mean
ADVERSARY_STILL = 0.2  # of the typical distance of images from the mean colour
FEW_OF_A_CLASS = 10  # annotated images
MOSTLY = 0.5  # share of the cells of several labels that are known
FINISHED = 0.98  # where this share of the images is annotated completely, batches keep no rows for the others
PASSES = 10  # over what is annotated, at least
LEARNT = 30  # passes over images with one label, while they are few; MOST_SHOWN images in all
MOST_SHOWN = 600_000
LARGE = 96  # pixels a side; what is larger has fewer rows in a batch
LEAST_ROWS = 80
TYPICAL_STD = 0.15  # of pixels; darker or flatter images than that vary less


def make_plan(
    facts: Facts, seed: int = 0, encoder: str | None = None, weights: str | None = None, still: bool = False
) -> Plan:
    """Every decision from the facts of the training set, and from the encoder and its weights where they are chosen.

    still: whether images are to be left as they are, without augmentation.
    """
    plan = Plan(seed=seed)
    _plan_model(plan, facts, encoder, weights)
    _plan_batches(plan, facts)
    _plan_augmentation(plan, facts)
    _plan_objective(plan, facts)
    if still and facts.is_image and facts.labels == 1:
        _plan_still(plan, facts)
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
    # Without a GPU a deep encoder takes few steps an hour: of chest X-rays at 128 pixels it then learns less.
    deep = side > LARGE and torch.cuda.is_available()
    plan.model.encoder = encoder or ("densenet-121" if deep else "conv")
    if plan.model.encoder == "conv":
        # A 4x4 grid of places learns 100 labels as fast, but then locks whole ways of writing into wrong classes.
        plan.model.pool = "meanmax"
        plan.train.learning_rate = 1.6e-2
        if facts.labels > 1:
            # With 5e-4 such a training learns its annotations by heart, the sooner the fewer there are of a label. One
            # label is learnt by heart in any case, and then 0.3 at this rate shakes the weights until nothing is left.
            few = max(facts.annotated_cells, default=0) < FEW_ANNOTATED
            plan.train.weight_decay = 1.0 if few else 0.3
        if facts.images >= SMALL:
            # Of equal training time, MNIST's wrong groups shrink further than with 16 channels and more steps.
            plan.model.width = 24
    if weights is not None:
        # What has been learnt elsewhere is to be kept, the sooner lost the deeper attention goes.
        plan.train.learning_rate = 1e-4 if plan.model.encoder.startswith("timm:") else 5e-4
    if facts.labels > 1 and whole_rows(facts) and facts.fully_annotated_images < FEW_ANNOTATED:
        # Whole rows tell much of few images; of a few cells each, dropout leaves too little to learn from.
        plan.model.dropout = 0.5
    plan.model.reduce = max(1, round(side / 32))
    if not facts.grey:
        plan.model.likelihood = "gaussian"


def _plan_batches(plan: Plan, facts: Facts) -> None:
    train = plan.train
    total, few = 320 if facts.is_image else 256, 128
    if facts.is_image and math.prod(facts.shape[1:]) > LARGE**2:
        # What a step keeps for its gradients grows with the pixels.
        total = max(LEAST_ROWS, round(total * 64**2 / math.prod(facts.shape[1:])))
        few = min(few, total)
    unfinished = facts.images - facts.fully_annotated_images
    holes = facts.annotated_images > facts.fully_annotated_images
    shared = facts.labels > 1 and holes and facts.annotated_images >= SHARED * facts.images
    if is_finished(facts):
        train.batch_labelled, train.batch_unlabelled = min(few, max(16, facts.images)), 0
    elif facts.annotated_images == 0:
        train.batch_labelled, train.batch_unlabelled = 0, min(256, total, facts.images)
    elif shared:
        # Partly annotated tables: annotated and unannotated cells share their images. Where these are seen often and
        # say little each, of equal time more of them a step taught more than more steps, on chest X-rays, canvases of
        # digits and yeast with a fifth of the cells. In a trial on scans with nine in ten, 128 taught more than 320.
        seldom = facts.is_image and PASSES * facts.images > few * train.steps
        alike = round(few * facts.images * facts.labels / sum(facts.annotated_cells))  # in known cells
        rows = few if seldom else min(total, alike, max(few, facts.images // 4))
        train.batch_labelled = math.ceil(rows * facts.fully_annotated_images / facts.images)
        train.batch_unlabelled, train.steps = rows - train.batch_labelled or 1, math.ceil(train.steps * few / rows)
    elif facts.is_image and facts.labels > 1:
        # Several labels take longer to learn than to guess: of equal time, more steps are worth more than more images
        # that nothing is said of. Of chest X-rays cross-entropy tells more after 3,000 than after 1,000. Auxiliary
        # variables teach from what is not annotated, too.
        others, train.steps = 32 if facts.auxiliary else 16, 3000
        if whole_rows(facts):
            train.batch_labelled, train.batch_unlabelled = total // 5, min(others, unfinished)
        else:
            # Of canvases with a twentieth of the cells, average precision on hidden cells was 0.976 after a minute and
            # 0.9995 after 2.5, and 0.786 and 0.998 with 64 annotated rows beside 256 others as they come (one draw).
            partly = facts.annotated_images - facts.fully_annotated_images
            train.batch_labelled = math.ceil(few * facts.fully_annotated_images / facts.annotated_images)
            rows, others = min(few - train.batch_labelled, max(16, partly)), min(others, unfinished - partly)
            train.batch_unlabelled, train.unannotated = rows + others, round(others / (rows + others), 3)
    else:
        share = round(total * facts.annotated_images / facts.images)
        train.batch_labelled = max(total // 5, min(share, facts.annotated_images))
        train.batch_unlabelled = min(total - train.batch_labelled, unfinished)
    if facts.images < SMALL and facts.labels == 1:  # several labels take longer to learn
        train.steps = 500
    known = max(facts.annotated_cells, default=0)
    many = facts.annotated_images >= FEW_ANNOTATED
    # Of 200 classes of two images each, a tenth of them would be half of what is known of forty classes.
    least = max(LEAST_OBSERVED, facts.classes[0] if facts.labels == 1 else 0)
    if HELD * known >= least and (facts.is_image or many):
        # A network that knows its annotated photographs by heart is far too sure of others. Where a tenth is enough for
        # a temperature, it is well spent.
        train.valid_fraction = HELD
    elif not facts.is_image and known >= LEAST_OBSERVED:
        # A training takes seconds, and no annotation can be spared.
        train.folds = FOLDS
    elif plan.model.encoder == "conv" and known >= LEAST_OBSERVED and _affords_folds(facts):
        # Of a rare finding neither a probability nor a threshold of one half can be believed as it is; and what has
        # learnt few annotated images by heart is far too sure of others.
        train.folds = IMAGE_FOLDS
    elif facts.labels > 1 and facts.is_image and many:
        train.valid_fraction = HELD  # too few cells of each label to calibrate on, enough of all to look at
    if not facts.is_image:
        # Of digits and of random features of MNIST, with a tenth to nine tenths annotated, 800 steps left 6 to 19 %
        # fewer errors than 400, and 1,200 between 8 % fewer and 5 % more than 800 (two or three draws each). Of
        # yeast's 14 labels 400 were better.
        train.learning_rate, train.steps = 2e-3, 800 if facts.labels == 1 else 400
    shown = 1.0 if shared else 0.0 if train.unannotated is None else 1 - train.unannotated
    rows, shown_images = train.batch_labelled + round(shown * train.batch_unlabelled), PASSES * facts.annotated_images
    if facts.is_image and facts.labels == 1:
        shown_images = max(shown_images, min(LEARNT * facts.annotated_images, MOST_SHOWN))
    if rows:
        train.steps = max(train.steps, math.ceil(shown_images / rows))


def _affords_folds(facts: Facts) -> bool:
    """Whether images are calibrated on folds: not many strokes of one label, nor where a fold shows a class once.

    Few annotated photographs leave a network far too sure: of 8,000 cats and dogs, 50 of each annotated, the NLL was
    1.44 without folds and 0.68 with two, at an error of 41 %; of ten classes, 20 of each, 2.83 and 1.89. Strokes need
    none, be they hard to tell: of the upper halves of MNIST's digits, five of each annotated, it was 0.48 and 0.52,
    since folds take two thirds of the time (`benchmarks.folds`, two draws each).
    """
    if facts.labels > 1:
        return True
    photographs = not facts.grey or has_tones(facts)
    return facts.annotated_images >= 2 * facts.classes[0] and (facts.images < SMALL or photographs)


def _plan_augmentation(plan: Plan, facts: Facts) -> None:
    augment = plan.augment
    if not facts.is_image:
        # As strong as this on six data sets of vectors, half of them with several labels: less taught less. But not
        # beyond what is near: where there are few features, or many vectors, it would hide what tells classes apart. Of
        # two spirals with 100 annotations 0.5 left an error of 31 %, 0.02 left 2 % (neighbours are 0.013 apart).
        augment.noise, augment.drop = min(NOISE, facts.spacing or NOISE), 0.3
        return
    augment.strong, augment.scale = 1.0, 0.1
    if plan.model.encoder == "conv":
        # A deep encoder reads 200,000 images for hours already: nine passes are for its owner to ask for.
        augment.views = VIEWS
    if facts.labels == 1:
        # Strong views of one object are mixed with one another instead of being distorted more.
        augment.erase, augment.shift = 1, 0.05
    else:
        # Several objects or findings: each is a smaller part of the image.
        augment.rotation, augment.shear = 10.0, 0.1
    if min(facts.shape[1:]) <= 12:
        # Half a pixel matters at this size, and interpolation blurs.
        augment.rotation, augment.shear, augment.shift = 10.0, 0.1, min(augment.shift, 0.08)
    # What is long would be turned out of its frame.
    narrow = min(facts.shape[1:]) / max(facts.shape[1:])
    augment.rotation, augment.shear = round(augment.rotation * narrow, 2), round(augment.shear * narrow, 4)
    tones = min(1.0, float(np.mean(facts.varying or [1.0])) / TYPICAL_STD)  # a change must leave something to see
    if not facts.grey:
        augment.brightness, augment.contrast = round(0.1 * tones, 4), 0.2
    elif has_tones(facts):
        # The exposure of a scan or a photograph says nothing of what it shows.
        augment.brightness, augment.contrast = round(0.15 * tones, 4), 0.3


def is_finished(facts: Facts) -> bool:
    """Whether all images are annotated completely, or all but so few that batches need no part for them."""
    return facts.fully_annotated_images >= FINISHED * facts.images


def whole_rows(facts: Facts) -> bool:
    """Whether what is annotated is annotated completely, or all but a few images of it."""
    return facts.fully_annotated_images >= FINISHED * facts.annotated_images


def estimates(facts: Facts) -> bool:
    """Whether labels are estimated where they are not annotated.

    Not where nothing is missing; nor of images with several labels where most cells are annotated, or which are scans
    or photographs: the findings of chest X-rays are predicted so poorly from a few hundred images that, in equal time,
    estimates of others cost AUROC with a fifth of the patients annotated, a fifth of the cells, and nearly nine in ten;
    and so it was, by less than draws differ, of canvases of CIFAR-10's photographs with a tenth of images or cells.
    """
    if is_finished(facts):
        return False
    if not facts.is_image or facts.labels == 1 or facts.annotated_images == 0:
        return True
    mostly_known = sum(facts.annotated_cells) >= MOSTLY * facts.images * facts.labels
    return not mostly_known and not has_tones(facts)


def has_tones(facts: Facts) -> bool:
    """Whether images are scans or photographs rather than strokes on an even ground.

    Of pixels that are black or white alone the variance is mean·(1 − mean): of MNIST it is 0.83 of that, of chest
    X-rays a quarter.
    """
    varying = [pair for pair in zip(facts.mean, facts.std, strict=True) if pair[1] <= 0.5]  # a flat channel has 1
    return all(std**2 < 0.5 * mean * (1 - mean) for mean, std in varying)


def _plan_objective(plan: Plan, facts: Facts) -> None:
    objective = plan.objective
    # What is hardened before annotations have been learnt hardens into wrong classes as easily as into right ones.
    objective.onset, objective.full = (0.15, 0.5) if facts.labels == 1 else (0.3, 0.6)
    # Of several labels most are told less of than one label of an object, and what cannot be told must stay unsure.
    objective.mutual_information = 1.0 if facts.is_image and facts.labels == 1 else 0.3
    if facts.annotated_images == 0:
        objective.onset = objective.full = 0.0  # there is nothing to wait for
    if facts.labels > 1 and facts.is_image:
        # Soft targets of several labels flatten one another, the more the longer a training takes: only what an
        # averaged network is nearly certain of is believed.
        objective.sharpen, objective.threshold, objective.momentum, objective.marginal = 0.0, 0.99, 0.99, 1.0
    elif facts.labels > 1:
        # A yes/no label is unsure for long, and is believed as far as it believes itself.
        objective.sharpen, objective.marginal = 1.0, 1.0
    elif facts.is_image:
        objective.mix, objective.sharpen = 0.75, 0.7
    if not estimates(facts):
        objective.source, objective.mutual_information = "none", 0.0
    if facts.is_image:
        pixels = float(np.prod(facts.shape)) / plan.model.reduce**2
        objective.reconstruction = objective.beta_z = min(0.01, 0.8 / pixels)
        if plan.model.likelihood == "gaussian":
            # Its log-likelihood is in units of the pixels' own variance, and pulls at the encoder so much more than
            # that of grey pixels. Of canvases of CIFAR-10's photographs average precision was 0.51 without it, 0.52
            # with it, and 0.53 without a decoder (one draw).
            variance = float(np.mean([std**2 for std in facts.varying] or [1.0]))
            objective.reconstruction = objective.beta_z = float(f"{objective.beta_z * variance:.3g}")
    else:
        objective.reconstruction = objective.beta_z = 1.0 / max(1, sum(std > 0 for std in facts.std))
        if facts.frequencies:
            # Entropies draw what cannot be told to p(c)^(m/(m − 1)), m being this weight: of m = 2 a class of 5 % is to
            # be one of 0.3 %. Where p(c) was wrong (85 and 15 % of classes of 60 and 40) 6 was better than 2, too, on
            # hidden components of MNIST (two draws); of images it was no gain (`benchmarks.rare`).
            objective.marginal = marginal_of(facts)
        if facts.labels == 1 and facts.spacing < 1:
            # Where neighbours are as far as any others (1,000 features of which ten tell something, 200 annotations) it
            # finds whatever changes the class: errors were 74 %, and 44 % without it.
            # Noise is all that is known to leave a vector's class alone, and most of it changes nothing: an adversary
            # finds what does. On hidden rows of digits and of random features of MNIST (three draws each) errors fell
            # by 1 to 6 %, the uncalibrated NLL by 6 to 26; of yeast's 14 labels nothing changed once calibrated.
            objective.adversary = ADVERSARY


def marginal_of(facts: Facts) -> float:
    """`objective.marginal` of an only label: 2 where its classes are alike, more the rarer some of them are."""
    return round(8 - 6 * float(entr(facts.frequencies).sum()) / math.log(len(facts.frequencies)), 2)


def _plan_still(plan: Plan, facts: Facts) -> None:
    """What differs for one label of images that nothing augments."""
    # Of MNIST without augmentation, in 500 steps that took a half longer, an adversary left errors of 1.5 and 1.7 % of
    # 100 labels, mixtures 1.8 and 8.4 (two draws, hidden images); of 20 labels 6.4 and 11.8, mixtures 18.8 and 48.5.
    plan.objective.mix, plan.objective.adversary = 0.0, ADVERSARY_STILL
    if facts.annotated_images < FEW_OF_A_CLASS * facts.classes[0]:
        # So few are learnt by heart, and what is learnt of them alone is of no use to wait for: of two of each of
        # MNIST's classes 18.1 and 6.4 % with and without waiting, with mixtures 45.4 and 18.8 %, 11.9 and 6.2 % (a
        # draw each); of four of each nothing changed. Nor can what it finds tell p(c) yet (`taut.frequency`): of five
        # of each it was 0.18 nats from it, p(c) was put aside, and the error was 70 %, and 2.9 without waiting (0.6
        # minutes, hidden images, one draw). Of ten of each nothing was wrong on any draw that is on file.
        plan.objective.onset, plan.objective.full = 0.0, 0.3


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
    """Why nothing is calibrated where too few images or none are held out and there are no folds, and what would.

    apart: how many annotated images, or groups of them, could be in different folds.
    """
    if plan.train.calibration == "none":
        return "not calibrated, as the plan says"
    known = max(facts.annotated_cells, default=0)
    if known < LEAST_OBSERVED:
        return f"not calibrated: no label has {LEAST_OBSERVED} annotated images, the least for a temperature"
    if apart < 2:
        return "not calibrated: all annotated images are of one group, of which none can be held out"
    folds = min(apart, FOLDS)
    images = "annotated images of a label" if facts.labels > 1 else "annotated images"
    return (
        f"not calibrated: {known} {images} are too few, or in too few groups, to hold some "
        f"out; --train.folds {folds} calibrates on {folds} more trainings, each with some annotations hidden"
    )


def fast_bf16() -> bool:
    """Whether bfloat16 is faster than float32 here: matrix units of the CPU (AMX) or a recent GPU."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
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
    tails = sum(knee > 0 for knee in facts.knee)
    lines = [
        f"{facts.images} inputs of {kind}; {facts.labels} label(s) of {', '.join(map(str, facts.classes))} classes",
        *([f"{tails} of the features have heavy tails; the arcsinh of each stands in for it"] if tails else []),
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
