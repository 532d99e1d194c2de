"""Train every system, measure it, and write the results, the tables and the page (`make benchmark`).

    python scripts/benchmark_all.py [--quick] [--seeds 0 1 2] [--only vae flow] [--workers 2]

Two commands run at a time, each on one thread. Their output goes to runs/benchmark/logs/. A second call continues: it
keeps complete runs, and results that are newer than their weights. If a system fails, the others continue; the tables
and the page show the failure, and the exit code is 1. Ctrl-C stops the trainings after a checkpoint.

`--quick` shortens trainings and tests to about ten minutes on two cores. Its output goes to runs/benchmark_quick/, and
each file is marked as quick.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.jobs import Job, run_jobs
from benchmarks.plan import Plan, chosen, failures, is_export, page_exports, plan_jobs
from benchmarks.progress import Progress, summary
from benchmarks.record import QUICK_NOTE, ROOT
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text, lock


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    with exit_on_user_error():
        plan = Plan(args.quick, tuple(dict.fromkeys(args.seeds)), chosen(args.only))
        jobs, start = plan_jobs(plan, ROOT), time.monotonic()
        if args.list:
            print("\n".join(f"{job.name}: {shlex.join(['python', *job.command[1:]])}" for job in jobs))
            return
        with lock(ROOT / plan.folder / ".lock", wait=False, message="is in use"):
            try:
                run(plan, jobs, args.workers)
                broken = finish(plan, jobs)
            except KeyboardInterrupt:
                print("\nstopped. Run the same command again to continue.")
                raise SystemExit(130) from None
        if plan.quick:
            print(QUICK_NOTE)
        print(f"{summary(jobs)}; {(time.monotonic() - start) / 60:.0f} min")
        print("\n".join(["wrote", *(f"  {path}" for path in written_files(plan))]))
        if broken or any(not job.succeeded for job in jobs):
            raise SystemExit(1)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="shortened trainings, few faces; into runs/benchmark_quick/"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds that every system is trained with")
    parser.add_argument("--only", nargs="+", default=[], help="systems; default: all")
    parser.add_argument("--workers", type=int, default=2, help="commands at a time")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    return parser.parse_args(argv)


def run(plan: Plan, jobs: Sequence[Job], workers: int) -> None:
    """Run the jobs with a progress display.

    Raises:
        UserError: fewer than one worker.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the trainings have saved their last step.
    """
    if workers < 1:
        raise UserError(f"--workers: expected 1 or more, got {workers}")
    progress = Progress(workers)
    try:
        run_jobs(jobs, ROOT / plan.folder / "logs", ROOT, workers, progress)
    finally:
        progress.close()


def finish(plan: Plan, jobs: Sequence[Job]) -> bool:
    """Write the failures, the tables and the page; whether one of these commands failed."""
    failed = failures(plan, jobs)
    for benchmark in sorted({name for system in plan.systems for name in system.benchmarks}):
        write_failures(ROOT / plan.results / benchmark / "failed.json", failed.get(benchmark, {}), plan)
    commands = [["scripts/results.py", "--results", str(plan.results), "--out", str(plan.folder / "tables.md")]]
    commands += [] if plan.quick else [["scripts/results.py"]]  # README.md and docs/results.md
    found = [page_exports(plan, system) for system in plan.systems]
    exports = [f"{title}={path}" for paths in found for title, path in paths.items() if is_export(ROOT / path)]
    if exports:
        page = ["scripts/compare.py", *exports, "--judge", *plan.judges(), "--out", str(plan.folder / "page")]
        commands.append([*page, "--results", str(plan.results)])
    broken = False
    for words in commands:
        print(f"$ python {shlex.join(words)}", flush=True)
        broken |= subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode != 0
    return broken


def written_files(plan: Plan) -> list[Path]:
    """The tables, the page and the results that are there."""
    paths = (plan.folder / "tables.md", plan.folder / "page" / "index.html", plan.results)
    return [path for path in paths if (ROOT / path).exists()]


def write_failures(path: Path, failed: dict[str, str], plan: Plan) -> None:
    """{method: reason} of the systems of this call; entries of other systems are kept."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept = {name: reason for name, reason in earlier.items() if name not in {system.name for system in plan.systems}}
    if kept | failed:
        atomic_text(path, json.dumps(kept | failed, indent=1) + "\n")
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
