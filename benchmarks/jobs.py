"""Run commands, several at a time. Existing outputs are kept, and one failure does not stop the other commands."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

GRACE = 60.0  # s that a stopped command has for its last checkpoint
POLL = 0.5  # s between two looks at the running commands
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Job:
    """A command with the files that it makes.

    `state`: waiting, running, done (exit code 0), kept (its outputs were there), failed, or left out (a job that it
    needs has failed). A job is kept if all outputs exist, none is older than an input, and `check` agrees.
    """

    name: str
    command: Sequence[str]
    needs: tuple[str, ...] = ()  # names of the jobs that must be done or kept before
    outputs: tuple[Path, ...] = ()
    inputs: tuple[Path, ...] = ()
    check: Callable[[], bool] = lambda: True  # whether outputs that exist are what the command would make
    minutes: float = 1.0  # estimate
    progress: Callable[[], float] = lambda: 0.0  # share in [0, 1] that is done, also of a job that waits
    state: str = "waiting"
    seconds: float = 0.0  # wall time of this call
    reason: str = ""  # why it failed or was left out
    process: subprocess.Popen | None = field(default=None, repr=False)
    started: float = 0.0

    @property
    def finished(self) -> bool:
        return self.state in ("done", "kept", "failed", "left out")

    @property
    def succeeded(self) -> bool:
        return self.state in ("done", "kept")

    def is_current(self) -> bool:
        """Whether the outputs are there, not older than the inputs, and those of this command."""
        if not self.outputs or not all(path.is_file() for path in self.outputs):
            return False
        newest = max((path.stat().st_mtime for path in self.inputs if path.is_file()), default=0.0)
        return min(path.stat().st_mtime for path in self.outputs) >= newest and self.check()


def run_jobs(
    jobs: Sequence[Job],
    logs: Path,
    cwd: Path,
    workers: int = 2,
    report: Callable[[Sequence[Job]], None] = lambda j: None,
) -> Sequence[Job]:
    """Run the jobs, at most `workers` at a time, each on one thread, and set `state` of each job.

    The output of a job goes to <logs>/<name>.log. Ctrl-C and SIGTERM stop the running commands (SIGTERM, so that a
    training saves its last step; SIGKILL after 60 s) and raise KeyboardInterrupt. A second call continues.

    Args:
        report: called after every change and several times a second.

    Raises:
        ValueError: a job needs an unknown job, or two jobs have one name.
        KeyboardInterrupt: stopped.
    """
    by_name = {job.name: job for job in jobs}
    if len(by_name) < len(jobs) or any(name not in by_name for job in jobs for name in job.needs):
        raise ValueError("names of jobs must differ, and every needed job must be there")
    order = sorted(jobs, key=lambda job: -chain_minutes(job, jobs))
    with _terminate_as_interrupt():
        try:
            while not all(job.finished for job in jobs):
                for job in order:
                    _collect(job, logs, cwd)
                for job in order:
                    _advance(job, by_name, logs, cwd, workers)
                report(jobs)
                if any(job.state == "running" for job in jobs):
                    time.sleep(POLL)
        finally:
            stop(jobs)
            report(jobs)
    return jobs


def chain_minutes(job: Job, jobs: Sequence[Job]) -> float:
    """Minutes from the start of a job to the end of the longest chain of jobs that need it."""
    following = [other for other in jobs if job.name in other.needs]
    return left_minutes(job) + max((chain_minutes(other, jobs) for other in following), default=0.0)


def left_minutes(job: Job) -> float:
    """Estimated minutes that a job still takes."""
    return 0.0 if job.finished else job.minutes * (1 - min(max(job.progress(), 0.0), 1.0))


def _advance(job: Job, by_name: dict[str, Job], logs: Path, cwd: Path, workers: int) -> None:
    """Start a waiting job, or mark it as kept or left out, as soon as the jobs that it needs have ended."""
    before = [by_name[name] for name in job.needs]
    if job.state != "waiting" or not all(other.finished for other in before):
        return
    missing = [other.name for other in before if not other.succeeded]
    if missing:
        job.state, job.reason = "left out", f"needs {', '.join(missing)}"
    elif not any(other.state == "done" for other in before) and job.is_current():
        job.state = "kept"
    elif sum(other.state == "running" for other in by_name.values()) < workers:
        _start(job, logs, cwd)


def _start(job: Job, logs: Path, cwd: Path) -> None:
    path = log_path(job, logs)
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict.fromkeys(THREADS, "1")
    job.started = time.monotonic()
    with open(path, "ab") as file:
        file.write(f"$ {' '.join(job.command)}\n".encode())
        file.flush()
        # A session of its own: Ctrl-C reaches this process alone, which then stops the command in order.
        job.process = subprocess.Popen(
            job.command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    job.state = "running"


def log_path(job: Job, logs: Path) -> Path:
    """The file with the output of a job."""
    return logs / f"{job.name.replace(' ', '_').replace('/', '_')}.log"


def _collect(job: Job, logs: Path, cwd: Path) -> None:
    """Record the exit code and the time of a job that has ended."""
    if job.state != "running" or job.process is None or (code := job.process.poll()) is None:
        return
    job.seconds = time.monotonic() - job.started
    missing = [os.path.relpath(path, cwd) for path in job.outputs if not path.is_file()]
    log = os.path.relpath(log_path(job, logs), cwd)
    if code:
        job.state, job.reason = "failed", f"exit code {code}, see {log}"
    elif missing:
        job.state, job.reason = "failed", f"did not write {missing[0]}, see {log}"
    else:
        job.state = "done"


def stop(jobs: Sequence[Job]) -> None:
    """Stop the running commands and wait for them."""
    running = [job for job in jobs if job.state == "running" and job.process is not None]
    for job in running:
        _signal(job.process, signal.SIGTERM)
    end = time.monotonic() + GRACE
    for job in running:
        try:
            job.process.wait(max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C does not wait
            _signal(job.process, signal.SIGKILL)
            job.process.wait()
        job.seconds, job.state = time.monotonic() - job.started, "waiting"


def _signal(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a command and to all processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, number)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside the block."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
