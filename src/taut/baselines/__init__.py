"""The objectives by name: taut's own, and its rivals, each in a file with its paper, its formula and its limits."""

from __future__ import annotations

from taut.baselines.fixmatch import FixMatch
from taut.baselines.freematch import FreeMatch
from taut.baselines.joint_vae import JointVAE
from taut.baselines.m1m2 import M1M2
from taut.baselines.m2 import M2
from taut.baselines.mean_teacher import MeanTeacher
from taut.baselines.mixmatch import MixMatch
from taut.baselines.pi_model import PiModel
from taut.baselines.pseudo_label import PseudoLabel
from taut.baselines.shot_vae import ShotVAE
from taut.baselines.siddharth import Siddharth
from taut.baselines.supervised import Supervised
from taut.baselines.vae import VAE
from taut.baselines.vat import VAT
from taut.objective import Objective
from taut.tighter import TighterELBO

DEFAULT = "tighter-elbo"
OBJECTIVES: dict[str, type[Objective]] = {
    DEFAULT: TighterELBO,
    "supervised": Supervised,
    "pseudo-label": PseudoLabel,
    "pi-model": PiModel,
    "mean-teacher": MeanTeacher,
    "vat": VAT,
    "mixmatch": MixMatch,
    "fixmatch": FixMatch,
    "freematch": FreeMatch,
    "m2": M2,
    "m1m2": M1M2,
    "siddharth": Siddharth,
    "shot-vae": ShotVAE,
    "joint-vae": JointVAE,
    "vae": VAE,
}


def find_objective(name: str) -> type[Objective]:
    """The class of an objective; ValueError naming those that there are."""
    if name not in OBJECTIVES:
        raise ValueError(f"--objective {name!r} is not one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
