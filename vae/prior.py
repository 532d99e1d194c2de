"""A Gaussian mixture fitted to the training codes: an alternative to N(0, I) for sampling faces."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COMPONENTS = 10


@dataclass(frozen=True)
class Mixture:
    """K Gaussians over codes: weight (K,), mean (K, Z), scale (K, Z, Z) lower triangular."""

    weight: Tensor
    mean: Tensor
    scale: Tensor

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """Samples (N, Z). Row i depends on seeds[i] only."""
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            k = int(torch.multinomial(self.weight, 1, generator=generator))
            noise = torch.randn(self.mean.shape[1], generator=generator)
            rows.append(self.mean[k] + self.scale[k] @ noise)
        return torch.stack(rows)


def fit_mixture(codes: Tensor) -> Mixture:
    """Fit by expectation maximisation to codes (N, Z), with full covariances and a fixed seed."""
    from sklearn.mixture import GaussianMixture

    fitted = GaussianMixture(COMPONENTS, covariance_type="full", random_state=0, reg_covar=1e-4).fit(
        codes.double().numpy()
    )
    covariance = torch.from_numpy(fitted.covariances_)
    weight, mean = (torch.from_numpy(v).float() for v in (fitted.weights_, fitted.means_))
    return Mixture(weight, mean, torch.linalg.cholesky(covariance).float())
