"""M1+M2, the two-stage model (Kingma et al. 2014, section 2.3)."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from taut import latent
from taut.baselines.m2 import M2
from taut.nn import Posterior
from taut.nn.stacked import StackedDecoder, StackedEncoder, gaussian_parameters
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms


class M1M2(M2):
    """First a VAE without labels, p(x|z1)·p(z1); then M2 on its z1, q(c|z1), q(z2|z1,c), p(z1|z2,c).

    ρ·E log p(x|z1) − β_z·KL(q(z1|x) ‖ p(z1)), and then M2's bound with log p(z1|z2,c) in the place of log p(x|z,c),
    plus α·log q(c|z1) of what is annotated. Several yes/no labels are enumerated together, as in M2.
    The first half of the steps trains the VAE, the second half the rest on samples of q(z1|x), which learns no more;
    in each the learning rate rises and falls (Kingma 2014, sec. 2.3 and 4.1: z1 and z2 of 50 dimensions; α as in M2).
    p(z1|z2,c) is a Gaussian whose mean and log-variance are both functions of z2 and c, as in the paper's code: with a
    variance of 1, about that of z1 as a whole, z2 and c would be worth little to the bound.
    The weights ρ and β_z of M2 hold in both stages. The logged bound is one on log p(x) in the first, on log p(z1) in
    the second.
    Limits: those of M2; what the VAE did not keep is lost to the labels, and the two stages share no gradient.
    """

    settings: ClassVar[dict[str, Any]] = {**M2.settings, "model.stack": 50, "model.z_dim": 50}
    stages = 2

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of the stage that the step belongs to."""
        if self.stages * step < self.steps:
            return self.first_stage(model, batch)
        with torch.no_grad():
            z1 = latent.gaussian_sample(*first_posterior(model, batch))
        return self.loss_of(Second(model), Batch(z1, batch.targets, batch.observed, ignored=batch.ignored))

    def first_stage(self, model: LabelVAE, batch: Batch) -> LossTerms:
        """Minus ρ·E log p(x|z1) + β_z·KL(q(z1|x) ‖ p(z1)), a batch mean in nats."""
        mean, log_var = first_posterior(model, batch)
        decoder = cast(StackedDecoder, model.decoder)
        parameters = decoder.image(latent.gaussian_sample(mean, log_var)).float()
        likelihood = model.log_likelihood(batch.x, parameters).mean()
        kl = latent.gaussian_kl(mean, log_var).mean()
        return LossTerms(
            total=-self.weighted(likelihood, kl),
            reconstruction=likelihood.detach(),
            kl_z=kl.detach(),
            bound=(likelihood - kl).detach() if self.unweighted else None,
        )


def first_posterior(model: LabelVAE, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z1|x): [N, D1] each."""
    return cast(StackedEncoder, model.encoder).z1(model.standardise(batch.x))


class Second:
    """The second stage seen as an M2 whose data is z1."""

    def __init__(self, model: LabelVAE) -> None:
        self.model, self.log_prior = model, model.log_prior
        self.encoder = cast(StackedEncoder, model.encoder)
        self.decoder = cast(StackedDecoder, model.decoder)

    def encode(self, z1: Tensor) -> Posterior:
        """q(c|z1) and q(z2|z1,c) of [N, D1]."""
        return self.model.posterior(self.encoder.read(z1))

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """The mean and the log-variance of p(z1|z2,c), side by side: [N, 2·D1]."""
        parameters: Tensor = self.decoder.second(z, c)
        return parameters.float()

    def log_likelihood(self, z1: Tensor, parameters: Tensor) -> Tensor:
        """log p(z1|z2,c), [N] nats."""
        return latent.gaussian_log_likelihood(z1, *gaussian_parameters(parameters))
