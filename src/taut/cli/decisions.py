"""The flags that replace planned decisions, for every command that plans."""

from __future__ import annotations

import functools
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from taut.baselines import DEFAULT, find_objective
from taut.budget import check_budget
from taut.nn.weights import find_weights
from taut.plan import Plan, check_method, flatten, override, read_plan

# What `taut.rules` decides from the facts of the data.
PLANNED = {
    "model": ("encoder", "width", "pool", "z_dim", "decoder_width", "reduce", "likelihood", "dropout"),
    "objective": (
        *("reconstruction", "beta_z", "mutual_information", "marginal", "source", "momentum"),
        *("sharpen", "threshold", "onset", "full", "mix", "adversary", "share"),
    ),
    "train": (
        *("steps", "batch_labelled", "batch_unlabelled", "unannotated", "learning_rate", "weight_decay"),
        *("precision", "valid_fraction", "folds"),
    ),
    "augment": (
        *("rotation", "scale", "shift", "shear", "brightness", "contrast"),
        *("erase", "strong", "noise", "drop", "views"),
    ),
}


@dataclass
class PlanFlags:
    """What replaces planned decisions: a plan file, and flags, which go before it."""

    seed: int | None = None
    """of the draw of annotations, the weights and the batches; by default that of --plan, or 0."""
    objective: str | None = None
    """tighter-elbo (the default), or a rival: supervised, pseudo-label, pi-model, mean-teacher, vat, mixmatch,
    fixmatch, freematch, m2, m1m2, siddharth, shot-vae, joint-vae, vae."""
    plan: Path | None = None
    """a YAML file of decisions that override the planned ones."""
    changes: dict[str, Any] | None = None
    """set by flags such as --train.steps 500."""

    def file(self) -> dict[str, Any]:
        """The decisions of --plan by dotted name."""
        return {} if self.plan is None else flatten(read_plan(self.plan))

    def first_seed(self) -> int:
        """The seed of --seed, of --plan, or 0."""
        return int(self.file().get("seed", 0)) if self.seed is None else self.seed

    def method(self) -> str:
        """The method that --objective, --objective.name or a plan file names, in this order."""
        return str(
            self.objective or (self.changes or {}).get("objective.name") or self.file().get("objective.name") or DEFAULT
        )

    def ignored(self, minutes: float | None) -> list[str]:
        """A sentence where a flag sets the number of steps beside a budget, which sets it too."""
        steps = (self.changes or {}).get("train.steps")
        ignored = minutes is not None and steps is not None
        return [f"--train.steps {steps} has no effect: --minutes sets the number of steps"] if ignored else []

    def change(self, planned: Plan) -> Plan:
        """The planned decisions with those that --plan and flags ask for in their place."""
        # These two are settled before, by `first_seed` and `method`.
        settled = {"seed": planned.seed, "objective.name": planned.objective.name}
        if self.plan is not None:
            check_method(self.file(), planned.objective.name, str(self.plan))
            planned = override(planned, {**self.file(), **settled}, str(self.plan))
        changes = {name: value for name, value in (self.changes or {}).items() if name not in settled}
        return override(planned, changes, "command line") if changes else planned

    def check(self, *methods: str, minutes: float | None = None) -> None:
        """Refuse what is wrong whatever the data are, before these are read, which may take hours.

        methods: those of a comparison, of which nothing may be left to train; by default `method`, for which weights
        must be there.  Raises DataError, or ValueError for an unknown method.
        """
        check_budget(minutes)
        for name in methods or (self.method(),):
            find_objective(name)
            planned = Plan()
            planned.objective.name = name
            weights = self.change(planned).model.weights
            if weights is not None and not methods:
                find_weights(Path(weights))


@functools.cache
def plan_help(method: bool) -> str:
    """A line for each flag of the plan: its type or choices, its default, and its docstring.

    method: whether the flag --objective.name is among them.
    """
    from docstring_parser import parse_from_object  # slow to import

    lines = [
        'decisions of the plan; what is "planned" from the data is printed by `taut plan DATA`, and the methods of '
        "--objective have some defaults of their own:"
    ]
    plan, sections = Plan(), typing.get_type_hints(Plan)
    for section, planned in PLANNED.items():
        said = {item.arg_name: item.description or "" for item in parse_from_object(sections[section]).params}
        for name, kind in typing.get_type_hints(sections[section]).items():
            default = "planned" if name in planned else f"default {_shown(getattr(getattr(plan, section), name))}"
            if method or (section, name) != ("objective", "name"):
                about = " ".join(said.get(name, "").split())
                lines.append(f"  --{section}.{name} {_kind(kind)} ({default})  {about}".rstrip())
    return "\n".join(lines)


def _kind(kind: Any) -> str:
    """A type as the help has it: its name, or the choices."""
    if kind is bool:
        return "{true,false}"
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(typing.get_args(kind)) + "}"
    return " or ".join(item.__name__ for item in typing.get_args(kind) or (kind,) if item is not type(None))


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value)
