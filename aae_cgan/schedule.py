"""The training schedule: phase of a step, and whether the generator is updated. Pure functions of the step."""

from dataclasses import dataclass

from aae_cgan.config import Config

PHASES = ("guide", "autoencode", "gan", "joint")


@dataclass(frozen=True)
class PhaseState:
    """State of a step. `since`: steps since the phase began. `generator_updates`: updates of G in the phase so far."""

    phase: str
    since: int
    generator_updates: int
    generator: bool  # whether encoder and generator are updated
    guide_factor: float  # factor of lambda_guide


def phase_state(step: int, cfg: Config) -> PhaseState:
    """The state of `step` = 0 .. total_steps - 1.

    One step is one batch and one critic update. The generator is updated in every n_critic-th step, in the autoencoder
    phase in each step.
    """
    lengths = (cfg.guide_steps, cfg.train.autoencode_steps, cfg.train.gan_steps)
    first, phase = 0, PHASES[-1]
    for name, length in zip(PHASES, lengths, strict=False):
        if step < first + length:
            phase = name
            break
        first += length
    since = step - first
    every = cfg.loss.n_critic if phase in ("gan", "joint") else 1
    share = (step - cfg.guide_steps) / max(1, cfg.train.total_steps - cfg.guide_steps)
    guide_factor = float(share < cfg.loss.guide_end)
    return PhaseState(phase, since, since // every, (since + 1) % every == 0 and phase != "guide", guide_factor)


def boundaries(cfg: Config) -> list[tuple[str, int, int]]:
    """(phase, first step, end step) of the phases that the run has; the end is exclusive."""
    lengths = [cfg.guide_steps, cfg.train.autoencode_steps, cfg.train.gan_steps]
    lengths.append(cfg.train.total_steps - sum(lengths))
    found, first = [], 0
    for name, length in zip(PHASES, lengths, strict=True):
        if length > 0:
            found.append((name, first, first + length))
        first += length
    return found


def generator_steps(cfg: Config) -> int:
    """Number of generator updates in the whole run."""
    every = {"guide": 0, "autoencode": 1}
    return sum(
        0 if name == "guide" else (stop - start) // every.get(name, cfg.loss.n_critic)
        for name, start, stop in boundaries(cfg)
    )
