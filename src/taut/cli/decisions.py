"""The flags that replace planned decisions, for every command that plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taut.baselines import DEFAULT
from taut.plan import Plan, flatten, override, read_plan


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

    def change(self, planned: Plan) -> Plan:
        """The planned decisions with those that --plan and flags ask for in their place."""
        # These two are settled before, by `first_seed` and `method`.
        settled = {"seed": planned.seed, "objective.name": planned.objective.name}
        if self.plan is not None:
            planned = override(planned, {**self.file(), **settled}, str(self.plan))
        changes = {name: value for name, value in (self.changes or {}).items() if name not in settled}
        return override(planned, changes, "command line") if changes else planned
