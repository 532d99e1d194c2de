"""From the table of systems to jobs: train the judges and every system, then measure each."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from benchmarks.jobs import Job
from benchmarks.systems import CLASSIFIERS, ENTRIES, GUIDE, JUDGES, SYSTEMS, System, Training
from benchmarks.tables import METHODS
from engine.checkpoint import name_of
from engine.errors import UserError
from engine.files import sha256

QUICK_SPEED = (
    0.1  # guess: time of a quick job over that of a whole one; only the estimate of the remaining time uses it
)


@dataclass(frozen=True)
class Plan:
    """The folders of a benchmark, and its systems, seeds and length. All paths are relative to the repository."""

    quick: bool = False
    seeds: tuple[int, ...] = (0,)
    systems: tuple[System, ...] = SYSTEMS

    @property
    def folder(self) -> Path:
        """Logs, exports, tables and the page."""
        return Path("runs/benchmark_quick" if self.quick else "runs/benchmark")

    @property
    def runs(self) -> Path:
        """Run directories of the methods."""
        return self.folder / "runs" if self.quick else Path("runs")

    @property
    def results(self) -> Path:
        """Results files: results/ is for whole runs only."""
        return self.folder / "results" if self.quick else Path("results")

    def judges(self) -> list[str]:
        """Run directories of the judges; quick ones are trained for a quick benchmark."""
        return [str(self.runs / "evaluation" / name) for name in JUDGES]


def plan_jobs(plan: Plan, root: Path) -> list[Job]:
    """All jobs of a benchmark; `root` is the repository."""
    jobs = [training_job(plan, root, training, 0) for training in CLASSIFIERS]
    judges = tuple(job.name for job in jobs if job.name != classifier_name(GUIDE))
    for benchmark in sorted({name for system in plan.systems for name in system.benchmarks}):
        jobs.append(baselines_job(plan, root, benchmark, judges))
    for system in plan.systems:
        last = []
        for seed in plan.seeds:
            needs: tuple[str, ...] = ()
            for training in system.trainings:
                jobs.append(training_job(plan, root, training, seed, needs))
                needs = (jobs[-1].name,)
            if system.boundary:
                jobs.append(boundary_job(plan, root, system, seed, needs))
            last.append(jobs[-1].name)
        jobs += [measurement_job(plan, root, system, name, (*judges, *last)) for name in system.benchmarks]
    return jobs


def job(plan: Plan, name: str, words: Sequence[str], minutes: float, **more: object) -> Job:
    """A job that runs Python on `words`."""
    return Job(name, [sys.executable, *words], minutes=minutes * (QUICK_SPEED if plan.quick else 1.0), **more)


def classifier_name(config: str) -> str:
    """The name of the job that trains a judge or guide."""
    return f"train evaluation/{config}"


def training_job(plan: Plan, root: Path, training: Training, seed: int, needs: tuple[str, ...] = ()) -> Job:
    """Train one run up to its last step; the same command resumes."""
    run, words = training.run_dir(plan.runs, seed), training.command(plan.runs, seed, plan.quick)
    total = total_steps(root, words)
    outputs = [last_checkpoint(root / run, total)]
    if training.family == "evaluation":  # written when the judge has been tested
        outputs.append(root / run / "test_metrics.json")
    name = f"train {run.relative_to(plan.runs)}"
    share = share_done(root / run / "log.jsonl", total)
    return job(plan, name, words, training.minutes, needs=needs, outputs=tuple(outputs), progress=share)


def total_steps(root: Path, words: Sequence[str]) -> int:
    """train.total_steps of a training command: the override, else the config's."""
    key = "train.total_steps="
    given = [word.removeprefix(key) for word in words if word.startswith(key)]
    config = root / words[words.index("--config") + 1]
    return int(given[-1] if given else yaml.safe_load(config.read_text(encoding="utf-8"))["train"]["total_steps"])


def last_checkpoint(run: Path, total: int) -> Path:
    """The checkpoint that shows a run as complete: that of `total` steps, or the newest one of more steps."""
    found = sorted((run / "checkpoints").glob("step_*.pt"))
    longer = [path for path in found if path.name >= name_of(total)]
    return longer[-1] if longer else run / "checkpoints" / name_of(total)


def share_done(log: Path, total: int) -> Callable[[], float]:
    """A function that reads the share of the steps done from the last line of log.jsonl."""

    def share() -> float:
        if not log.is_file():
            return 0.0
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = [line for line in file.read().splitlines() if line.startswith(b"{") and line.endswith(b"}")]
        return json.loads(lines[-1])["step"] / total if lines else 0.0

    return share


def boundary_job(plan: Plan, root: Path, system: System, seed: int, needs: tuple[str, ...]) -> Job:
    """InterFaceGAN: score sampled codes with the guide and fit the boundaries."""
    run = system.run_dir(plan.runs, seed)
    guide = plan.runs / "evaluation" / GUIDE
    words = [f"{system.trainings[-1].family}/sample.py", "boundary", "--run-dir", str(run), "--guide", str(guide)]
    words += ["--num", "3000"] if plan.quick else []
    inputs = (weights_of(plan, root, system, seed),)
    outputs = (root / run / "boundaries_w_ridge_rank.pt",)
    name, needs = f"boundaries of {run.relative_to(plan.runs)}", (*needs, classifier_name(GUIDE))
    return job(plan, name, words, 3, needs=needs, outputs=outputs, inputs=inputs)


def weights_of(plan: Plan, root: Path, system: System, seed: int) -> Path:
    """The last checkpoint of the run that edits."""
    words = system.trainings[-1].command(plan.runs, seed, plan.quick)
    return last_checkpoint(root / system.run_dir(plan.runs, seed), total_steps(root, words))


def measure_words(plan: Plan, benchmark: str, method: str) -> list[str]:
    """The command of one measurement without the runs."""
    words = ["scripts/benchmark.py", benchmark, method]
    where = ["--out", str(plan.results), "--keep", str(plan.folder / "exports" / benchmark / method)]
    return [*words, *where, *(["--quick", "--judges", str(plan.runs / "evaluation")] if plan.quick else [])]


def baselines_job(plan: Plan, root: Path, benchmark: str, judges: tuple[str, ...]) -> Job:
    """Measure the baselines of a benchmark."""
    path = root / plan.results / benchmark / "baselines.json"
    words = measure_words(plan, benchmark, "baselines")
    check = lambda: is_measured(path, root, [], plan.judges())  # noqa: E731
    return job(plan, f"{benchmark} baselines", words, 2, needs=judges, outputs=(path,), check=check)


def measurement_job(plan: Plan, root: Path, system: System, benchmark: str, needs: tuple[str, ...]) -> Job:
    """Measure the runs of one system by one benchmark."""
    runs = [system.run_dir(plan.runs, seed) for seed in plan.seeds]
    words = measure_words(plan, benchmark, system.name) + [str(run) for run in runs]
    path = root / plan.results / benchmark / f"{system.name}.json"
    more = {
        "outputs": (path,),
        "inputs": tuple(file for run in runs for file in (root / run).glob("boundaries_*.pt")),
        "check": lambda: is_measured(path, root, runs, plan.judges(), page_exports(plan, system, benchmark)),
    }
    return job(plan, f"{benchmark} {system.name}", words, system.measure_minutes * len(runs), needs=needs, **more)


def page_exports(plan: Plan, system: System, benchmark: str = "") -> dict[str, Path]:
    """{title: folder} of the exports that the page shows: edits of drawn32 and samples, of the first seed."""
    run, exports = system.run_dir(plan.runs, plan.seeds[0]).name, plan.folder / "exports"
    found = {}
    if "drawn32" in system.benchmarks and benchmark in ("", "drawn32"):
        found[system.title] = exports / "drawn32" / system.name / run
    for row in ENTRIES.get(system.name, ()):
        found[METHODS[row]] = exports / "drawn32_attributes" / system.name / f"{row}_{run}"
    return found


def is_export(folder: Path) -> bool:
    """Whether a folder holds exported images."""
    return (folder / "manifest.csv").is_file()


def is_measured(
    path: Path,
    root: Path,
    runs: Sequence[Path],
    judges: Sequence[str],
    exports: Mapping[str, Path] = MappingProxyType({}),
) -> bool:
    """Whether a results file is of the present weights of these runs and judges, and its exports are still there."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if any(run["metrics"] for run in record["runs"]) and not all(is_export(root / out) for out in exports.values()):
        return False
    measured = {run["run"]: run.get("sha256") for run in record["runs"] if runs}
    graded = {judge["run"]: judge["sha256"] for judge in record["protocol"]["judges"]}
    if {str(run): weights_hash(root / run) for run in runs} != measured or not graded.keys() <= set(judges):
        return False
    return all(weights_hash(root / run) == digest for run, digest in graded.items())


def weights_hash(run: Path) -> str:
    """SHA-256 of the checkpoint that a run is opened with; "" if there is none."""
    found = [*sorted((run / "checkpoints").glob("step_*.pt")), *(run / "checkpoints").glob("best.pt")]
    return sha256(found[-1]) if found else ""


def failures(plan: Plan, jobs: Sequence[Job]) -> dict[str, dict[str, str]]:
    """{benchmark: {method: reason}} of the measurements that are not there."""
    found: dict[str, dict[str, str]] = {}
    by_name = {each.name: each for each in jobs}
    for system in plan.systems:
        for benchmark in system.benchmarks:
            measured = by_name[f"{benchmark} {system.name}"]
            if measured.state in ("failed", "left out"):
                cause = root_cause(measured, by_name)
                found.setdefault(benchmark, {})[system.name] = f"{cause.name}: {cause.reason}"
    return found


def root_cause(failed: Job, by_name: dict[str, Job]) -> Job:
    """The failed job behind a job that was left out."""
    while failed.state == "left out":
        failed = next(by_name[name] for name in failed.needs if by_name[name].state in ("failed", "left out"))
    return failed


def chosen(names: Sequence[str]) -> tuple[System, ...]:
    """The systems with these names; all for none.

    Raises:
        UserError: an unknown name.
    """
    known = {system.name: system for system in SYSTEMS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--only {unknown[0]}: expected one of {', '.join(known)}")
    return tuple(known[name] for name in names) if names else SYSTEMS
