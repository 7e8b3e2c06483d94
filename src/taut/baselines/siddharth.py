"""Semi-supervised deep generative models trained in one stage (Siddharth et al. 2017)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from taut import latent
from taut.baselines.m2 import M2, Generative
from taut.nn.vae import Posterior


class Siddharth(M2):
    """M2's model with sampled instead of marginalised labels (Siddharth 2017, eq. 4-8).

    Not annotated: c is a relaxed sample of q(c|x), one decoder pass:
    ρ·E log p(x|z,c) − β_z·KL(q(z|x,c)‖p(z)) − KL(q(c|x)‖p(c)), where the paper's ρ and β_z are 1.
    Annotated: the self-normalised importance-weighted term
    Σ_s w_s·log[p(x,c,z_s)/q(c,z_s|x)] / Σ_s w_s + (1 + α)·log q(c|x), w_s = q(c|x,z_s).
    With the factorisation q(c|x)·q(z|x,c) of the paper's image models all w_s are equal, so it is
    M2's −L_l(x, c) + α·log q(c|x). What the paper's γ weighs, all that is annotated, counts here by its share of a
    batch (`train.batch_labelled`). α is 50 here, which brings the cross-entropy to the scale of a bound of pixels.
    With k labels each is drawn by itself: O(k·c), without M2's limit.
    Limits: the relaxation biases the bound; with α = 0 annotations do not reach q(c|x).
    """

    settings: ClassVar[dict[str, Any]] = {**M2.settings, "objective.alpha": 50.0}
    enumerates = False

    def _marginal(self, model: Generative, x: Tensor, posterior: Posterior, log_r: Tensor) -> Tensor:
        """One relaxed sample of c in the place of the sum: [N] nats."""
        c = latent.relaxed_sample(log_r, self.sizes, self.plan.temperature)
        # The expected log-prior is analytic, as the entropy is.
        mean, log_var = posterior.given(c)
        z = latent.gaussian_sample(mean, log_var)
        expected = torch.where(log_r > -1e3, log_r.exp() * model.log_prior, 0).sum(-1)
        likelihood: Tensor = model.log_likelihood(x, model.decode(z, c))
        return self.weighted(likelihood, latent.gaussian_kl(mean, log_var)) + expected
