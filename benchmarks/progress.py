"""The progress of a benchmark: running jobs, waiting jobs, and the estimated remaining time."""

import sys
import time
from collections.abc import Sequence

from benchmarks.jobs import Job, chain_minutes, left_minutes

REFRESH, LINE_EVERY = 2.0, 60.0  # s between two lines in a terminal, and elsewhere


class Progress:
    """Shows the state of jobs: in a terminal one line that is overwritten, else a line per change and per minute."""

    def __init__(self, workers: int) -> None:
        self.workers, self.written = workers, 0.0
        self.states: list[str] = []

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Show the state of the jobs, if it changed or the last line is old."""
        states, now, terminal = [job.state for job in jobs], time.monotonic(), sys.stdout.isatty()
        if states == self.states and now - self.written < (REFRESH if terminal else LINE_EVERY):
            return
        line = status_line(jobs, self.workers)
        print(f"\r\x1b[2K{line}" if terminal else line, end="" if terminal else "\n", flush=True)
        self.states, self.written = states, now

    def close(self) -> None:
        """End the line of a terminal."""
        if sys.stdout.isatty():
            print()


def status_line(jobs: Sequence[Job], workers: int) -> str:
    """`12 of 30 done, 1 failed | running: vae 45 %, flow 3 % | 16 left | about 38 min`."""
    count = lambda *states: sum(job.state in states for job in jobs)  # noqa: E731
    running = [f"{job.name} {job.progress():.0%}".replace("%", " %") for job in jobs if job.state == "running"]
    failed = f", {count('failed', 'left out')} failed" if count("failed", "left out") else ""
    parts = [f"{count('done', 'kept')} of {len(jobs)} done{failed}"]
    parts += [f"running: {', '.join(running)}"] if running else []
    parts += [f"{count('waiting')} left"] if count("waiting") else []
    left = remaining_minutes(jobs, workers)
    return " | ".join([*parts, f"about {left:.0f} min"] if left else parts)


def remaining_minutes(jobs: Sequence[Job], workers: int) -> float:
    """Estimated minutes to the end: the longest chain, or all work over the workers, times the speed so far."""
    finished = [job for job in jobs if job.state == "done"]
    expected = sum(job.minutes for job in finished)
    speed = sum(job.seconds for job in finished) / 60 / expected if expected else 1.0
    waiting = [job for job in jobs if not job.finished]
    longest = max((chain_minutes(job, jobs) for job in waiting), default=0.0)
    return max(longest, sum(left_minutes(job) for job in waiting) / workers) * speed


def summary(jobs: Sequence[Job]) -> str:
    """One line per job that is not done or kept, and the counts."""
    lines = [f"{job.name}: {job.state}: {job.reason}" for job in jobs if job.state in ("failed", "left out")]
    done, kept = sum(job.state == "done" for job in jobs), sum(job.state == "kept" for job in jobs)
    return "\n".join([*lines, f"{done} done, {kept} kept from before, {len(lines)} failed or left out"])
