"""Where a run is: the phase of a step, whose turn it is, how long weights have moved. Pure functions of the step."""

from dataclasses import dataclass

from aae_cgan.config import Config

PHASES = ("guide", "autoencode", "gan", "joint")


@dataclass(frozen=True)
class PhaseState:
    """A step's place. `since` counts from the phase's first step, `turns` the generator's steps in it before this."""

    phase: str
    since: int
    turns: int
    generator: bool  # whether encoder and generator move
    guided: float  # factor of lambda_guide


def phase_state(step: int, cfg: Config) -> PhaseState:
    """The clock of `step` = 0 .. total_steps - 1.

    One step is one batch and one critic update; the generator moves in every n_critic-th. While the autoencoder
    learns alone it moves in each.
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
    guided = float(share < cfg.loss.guide_end)
    return PhaseState(phase, since, since // every, (since + 1) % every == 0 and phase != "guide", guided)


def boundaries(cfg: Config) -> list[tuple[str, int, int]]:
    """(phase, first step, step after its last) of the phases that the run has."""
    lengths = [cfg.guide_steps, cfg.train.autoencode_steps, cfg.train.gan_steps]
    lengths.append(cfg.train.total_steps - sum(lengths))
    found, first = [], 0
    for name, length in zip(PHASES, lengths, strict=True):
        if length > 0:
            found.append((name, first, first + length))
        first += length
    return found


def generator_steps(cfg: Config) -> int:
    """How often the generator moves in the whole run."""
    every = {"guide": 0, "autoencode": 1}
    return sum(
        0 if name == "guide" else (stop - start) // every.get(name, cfg.loss.n_critic)
        for name, start, stop in boundaries(cfg)
    )
