"""Health checks of a training run. A check warns once, after it failed several times in a row."""

PATIENCE = 3  # failures in a row before a message


class Monitor:
    """Counts consecutive failures of each check. A new phase and a resumed run start again at 0."""

    def __init__(self) -> None:
        self.phase, self.failures = "", {}

    def update(self, found: dict[str, str], phase: str = "") -> list[str]:
        """Messages of the checks that have now failed `PATIENCE` times in a row.

        found: {name: message} of the checks that failed this time; a check that is not in it starts again at 0.
        phase: of a run whose checks differ between phases.
        """
        before = self.failures if phase == self.phase else {}
        self.phase = phase
        self.failures = {name: before.get(name, 0) + 1 for name in found}
        return [found[name] for name, times in self.failures.items() if times == PATIENCE]
