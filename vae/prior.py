"""Codes of faces that were never seen."""

import torch
from torch import Tensor

from vae.session import Session

DENSITIES = ("normal", "gmm")
COMPONENTS = 10  # of the mixture


def draw_codes(session: Session, n: int, density: str) -> Tensor:
    """(n, Z), on the CPU, a function of the seed: from N(0, I), or from a mixture of Gaussians fitted to the training
    codes (`gmm`), which knows where they really lie."""
    if density == "normal":
        return torch.randn(n, session.method.cfg.model.latent_dim, generator=session.generator)
    from sklearn.mixture import GaussianMixture

    codes = session.codes("train").mu.double().numpy()
    mixture = GaussianMixture(COMPONENTS, covariance_type="full", random_state=0, reg_covar=1e-4).fit(codes)
    mixture.random_state = session.args.seed
    return torch.from_numpy(mixture.sample(n)[0]).float()[torch.randperm(n, generator=session.generator)]
