"""The scheduler of the benchmark with small commands, and the jobs that the table of systems gives."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.jobs import Job, chain_minutes, left_minutes, run_jobs
from benchmarks.plan import Plan, failures, is_measured, last_checkpoint, page_exports, plan_jobs, share_done
from benchmarks.progress import remaining_minutes, status_line, summary
from benchmarks.systems import CLASSIFIERS, SYSTEMS, System
from benchmarks.tables import METHODS
from engine.checkpoint import name_of
from engine.files import sha256
from scripts import benchmark, benchmark_all

ROOT = Path(__file__).resolve().parent.parent


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def writes(path: Path, code: str = "") -> list[str]:
    return python(f"{code}\nopen({str(path)!r}, 'a').write('x')")


def states(jobs: list[Job]) -> list[str]:
    return [job.state for job in jobs]


def test_a_failure_stops_only_the_jobs_that_need_it(tmp_path: Path) -> None:
    jobs = [
        Job("bad", python("print('reason'); raise SystemExit(3)")),
        Job("after bad", writes(tmp_path / "never"), needs=("bad",)),
        Job("silent", python(""), outputs=(tmp_path / "nothing",)),
        Job("good", writes(tmp_path / "good"), outputs=(tmp_path / "good",)),
        Job("after good", writes(tmp_path / "last"), needs=("good",)),
    ]
    run_jobs(jobs, tmp_path / "logs", tmp_path)
    assert states(jobs) == ["failed", "left out", "failed", "done", "done"]
    assert (
        jobs[0].reason == "exit code 3, see logs/bad.log"
        and jobs[1].reason == "needs bad"
        and "did not write" in jobs[2].reason
    )
    assert "reason" in (tmp_path / "logs" / "bad.log").read_text() and not (tmp_path / "never").exists()
    assert "3 failed or left out" in summary(jobs) and "bad: failed: exit code 3" in summary(jobs)


def test_what_is_there_is_kept_and_follows_newer_inputs(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    def jobs() -> list[Job]:
        return [
            Job("a", writes(first), outputs=(first,)),
            Job("b", writes(second), needs=("a",), outputs=(second,), inputs=(first,)),
        ]

    assert states(run_jobs(jobs(), tmp_path, tmp_path)) == ["done", "done"]
    assert states(run_jobs(jobs(), tmp_path, tmp_path)) == ["kept", "kept"]
    os.utime(first, (time.time() + 9, time.time() + 9))
    assert states(run_jobs(jobs(), tmp_path, tmp_path)) == ["kept", "done"]
    first.unlink()  # what depends on a job that ran is made again, whatever its time
    os.utime(second, (time.time() + 99, time.time() + 99))
    assert states(run_jobs(jobs(), tmp_path, tmp_path)) == ["done", "done"]
    assert second.read_text() == "xxx"


@pytest.mark.parametrize("workers", [1, 2])
def test_at_most_so_many_run_at_a_time_each_on_one_thread(tmp_path: Path, workers: int) -> None:
    code = "import os, time; assert os.environ['OMP_NUM_THREADS'] == '1'; time.sleep(.3)"
    jobs, most = [Job(str(i), python(code)) for i in range(5)], []
    run_jobs(jobs, tmp_path, tmp_path, workers, lambda all: most.append(sum(job.state == "running" for job in all)))
    assert states(jobs) == ["done"] * 5 and max(most) == workers


def test_the_longest_chain_starts_first_and_names_must_be_known(tmp_path: Path) -> None:
    jobs = [Job("short", python(""), minutes=5), Job("a", python(""), minutes=1), Job("b", python(""), needs=("a",))]
    jobs[2].minutes, seen = 9, []
    run_jobs(jobs, tmp_path, tmp_path, 1, lambda all: seen.extend(j.name for j in all if j.state == "running"))
    assert list(dict.fromkeys(seen)) == ["a", "b", "short"]
    with pytest.raises(ValueError, match="every needed job"):
        run_jobs([Job("x", [], needs=("y",))], tmp_path, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_commands_in_order(tmp_path: Path, number: signal.Signals) -> None:
    saves = f"""
        import signal, sys, time
        def save(*_):
            open({str(tmp_path / "saved")!r}, "w").write("step"); sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        open({str(tmp_path / "started")!r}, "w").write("")
        time.sleep(60)
    """
    main = f"""
        import signal
        from pathlib import Path
        from benchmarks.jobs import Job, run_jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        folder = Path({str(tmp_path)!r})
        train = [{sys.executable!r}, "-c", (folder / "train.py").read_text()]
        jobs = [Job("train", train), Job("next", ["true"], needs=("train",))]
        try:
            run_jobs(jobs, folder, folder)
        except KeyboardInterrupt:
            print([job.state for job in jobs])
            raise SystemExit(130)
    """
    (tmp_path / "train.py").write_text(textwrap.dedent(saves))
    process = subprocess.Popen(
        python(main), cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    end = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.communicate(timeout=60)[0].strip() == "['waiting', 'waiting']" and process.returncode == 130
    assert (tmp_path / "saved").read_text() == "step"


def test_the_display_names_what_runs_and_how_long_it_takes() -> None:
    jobs = [
        Job("a", [], minutes=2, state="done", seconds=240),  # twice as slow as estimated
        Job("b", [], minutes=10, state="running", progress=lambda: 0.5),
        Job("c", [], minutes=4, needs=("b",)),
        Job("d", [], minutes=1, state="failed", reason="exit code 2"),
    ]
    assert left_minutes(jobs[1]) == 5 and chain_minutes(jobs[1], jobs) == 9
    assert remaining_minutes(jobs, workers=2) == 18
    assert status_line(jobs, 2) == "1 of 4 done, 1 failed | running: b 50 % | 1 left | about 18 min"


def measured(jobs: dict[str, Job], system: System) -> list[list[str]]:
    return [list(jobs[f"{name} {system.name}"].command) for name in system.benchmarks]


def test_every_system_is_trained_and_measured() -> None:
    jobs = {job.name: job for job in plan_jobs(Plan(seeds=(0, 1)), ROOT)}
    assert {name for system in SYSTEMS for name in system.benchmarks} <= set(benchmark.BENCHMARKS)
    assert all(system.name in METHODS for system in SYSTEMS)
    for training in [t for system in SYSTEMS for t in system.trainings] + list(CLASSIFIERS):
        assert (ROOT / "configs" / training.family / f"{training.config}.yaml").is_file()
    vae = jobs["drawn32 vae"]
    assert vae.command[-2:] == ["runs/vae/synthetic32", "runs/vae/synthetic32_seed1"]
    assert {"train vae/synthetic32", "train vae/synthetic32_seed1", "train evaluation/synthetic32"} <= set(vae.needs)
    assert "train.seed=1" in jobs["train vae/synthetic32_seed1"].command
    assert jobs["train a2f/synthetic32_face_seed1"].command[-1] == "upstream.run=runs/a2f/synthetic32_sharp_seed1"
    assert jobs["train a2f/synthetic32_face"].needs == ("train a2f/synthetic32_sharp",)
    assert "boundaries of interface_gan/synthetic32" in jobs["drawn32 interface_gan"].needs
    for system in SYSTEMS:
        assert page_exports(Plan(), system) == page_exports(Plan(), system, system.benchmarks[0])
        for path in page_exports(Plan(), system).values():
            assert any(path.is_relative_to(Path(words[words.index("--keep") + 1])) for words in measured(jobs, system))


def test_quick_commands_write_elsewhere_and_are_valid() -> None:
    from tests.test_commands import check_sample, check_train

    for job in plan_jobs(Plan(quick=True), ROOT):
        words = list(job.command[1:])
        assert "results" not in words and not any(word.startswith("runs/vae") for word in words)
        if words[0].endswith("train.py"):
            check_train(words[0].split("/")[0], words[1:])
        elif words[0].endswith("sample.py"):
            check_sample(words[0].split("/")[0], words[1:])
        elif words[0] == "scripts/benchmark.py":
            args = benchmark.arguments(words[1:])
            assert args.quick and args.out != benchmark.RESULTS and benchmark.chosen(args).n < 300


def test_a_run_is_complete_after_all_its_steps(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert last_checkpoint(tmp_path, 400) == folder / name_of(400)
    for step in (200, 600):
        (folder / name_of(step)).touch()
    assert last_checkpoint(tmp_path, 400) == folder / name_of(600), "a longer run is complete, too"
    share = share_done(tmp_path / "log.jsonl", 400)
    assert share() == 0
    (tmp_path / "log.jsonl").write_text('{"step": 50}\n{"step": 100}\n{"step": 1')
    assert share() == 0.25


def test_results_of_other_weights_are_measured_again(tmp_path: Path) -> None:
    hashes = {}
    for name in ("judge", "run", "other"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / name_of(5)).write_text(name)
        hashes[name] = sha256(tmp_path / name / "checkpoints" / name_of(5))
    judges = [{"run": "judge", "sha256": hashes["judge"]}]
    record = {"protocol": {"judges": judges}, "runs": [{"run": "run", "sha256": hashes["run"], "metrics": {"a": 1}}]}
    path = tmp_path / "vae.json"
    path.write_text(json.dumps(record))
    assert is_measured(path, tmp_path, [Path("run")], ["judge"])
    assert not is_measured(path, tmp_path, [Path("run"), Path("other")], ["judge"]), "another seed"
    assert not is_measured(path, tmp_path, [Path("run")], ["quick/judge"]), "another judge"
    exports = {"VAE": Path("exports")}
    assert not is_measured(path, tmp_path, [Path("run")], ["judge"], exports), "the page needs the images"
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "manifest.csv").touch()
    assert is_measured(path, tmp_path, [Path("run")], ["judge"], exports)
    (tmp_path / "run" / "checkpoints" / name_of(9)).write_text("trained on")
    assert not is_measured(path, tmp_path, [Path("run")], ["judge"])


def test_a_failed_training_is_the_reason_of_its_row() -> None:
    plan = Plan()
    jobs = plan_jobs(plan, ROOT)
    by_name = {job.name: job for job in jobs}
    by_name["train flow/synthetic32"].state, by_name["train flow/synthetic32"].reason = "failed", "exit code 2"
    by_name["drawn32 flow"].state = "left out"
    assert failures(plan, jobs) == {"drawn32": {"flow": "train flow/synthetic32: exit code 2"}}


def test_a_failed_system_is_written_down_until_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls: list[list[str]] = []
    run = lambda words, **_: calls.append(words[1:]) or subprocess.CompletedProcess(words, 0)  # noqa: E731
    monkeypatch.setattr(benchmark_all, "ROOT", tmp_path)
    monkeypatch.setattr(benchmark_all.subprocess, "run", run)
    path = tmp_path / "runs" / "benchmark_quick" / "results" / "drawn32" / "failed.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"vae": "an earlier failure of another system"}')
    for code in (3, 0):
        job = Job("drawn32 flow", python(f"raise SystemExit({code})"))
        monkeypatch.setattr(benchmark_all, "plan_jobs", lambda plan, root, job=job: [job])
        if code:
            with pytest.raises(SystemExit) as done:
                benchmark_all.main(["--quick", "--only", "flow"])
            assert done.value.code == 1 and "exit code 3" in json.loads(path.read_text())["flow"]
        else:
            benchmark_all.main(["--quick", "--only", "flow"])
        assert list(json.loads(path.read_text())) == (["vae", "flow"] if code else ["vae"])
        assert "quick figures" in capsys.readouterr().out
    assert all(words[:2] == ["scripts/results.py", "--results"] for words in calls), "the documents stay as they are"
    with pytest.raises(SystemExit) as done:
        benchmark_all.main(["--only", "flwo"])
    assert done.value.code == 2 and "expected one of vae" in capsys.readouterr().err
