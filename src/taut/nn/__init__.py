"""Networks: encoders, decoders, and the LabelVAE that joins them."""

from taut.nn.vae import Architecture, LabelVAE, Posterior

__all__ = ["Architecture", "LabelVAE", "Posterior"]
