"""The tables of the documents equal the committed results; the benchmark measures a run from end to end."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_editing import Toy

from benchmarks import tables
from benchmarks.record import chain_of, run_facts
from data import DataConfig
from editing.benchmark import benchmark_faces, export_benchmark, export_sources
from engine.errors import UserError
from evaluation.manifest import read_manifest
from scripts import benchmark, results


@pytest.mark.parametrize("name", results.DOCUMENTS)
def test_tables_of_documents_equal_the_results(name: str) -> None:
    text = (results.ROOT / name).read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert results.fill(text) == text, "run `python scripts/results.py`"


@pytest.mark.parametrize(
    ("values", "digits", "text"),
    [([], 2, "-"), ([0.126], 2, "0.13"), ([0.1, 0.3, 0.26], 2, "0.26 (0.10 to 0.30)"), ([7.0, 8.0], 0, "8 (7 to 8)")],
)
def test_cell_has_median_and_range(values: list[float], digits: int, text: str) -> None:
    assert tables.cell(pd.Series(values, dtype=float), digits) == text


def write(folder: Path, method: str, runs: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{method}.json").write_text(json.dumps({"method": method, "runs": runs}))


def test_table_has_baselines_methods_and_unknown_methods(tmp_path: Path) -> None:
    write(tmp_path / "toy", "vae", [{"run": "a", "cpu_minutes": 3.4, "metrics": {"target accuracy": 0.5}}])
    write(tmp_path / "toy", "new", [{"run": "b", "metrics": {"target accuracy": None, "leakage": 0.1}}])
    write(tmp_path / "toy", "two", [{"row": f"two, {k}", "metrics": {"target accuracy": k}} for k in (0, 1)])
    write(tmp_path / "toy", "baselines", [{"run": "no-edit", "metrics": {"target accuracy": 0.0, "leakage": 0.0}}])
    expected = (
        "| | target accuracy ↑ | leakage ↓ | CPU-minutes | seeds |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| no edit | 0.00 | 0.000 | - |  |\n"
        "| VAE | 0.50 | - | 3 | 1 |\n"
        "| new | - | 0.100 | - | 1 |\n"
        "| two, 0 | 0.00 | - | - | 1 |\n"
        "| two, 1 | 1.00 | - | - | 1 |\n"
    )
    filled = results.fill("a\n<!-- table: toy -->\nold\n<!-- end -->\nb\n", tmp_path)
    assert filled == f"a\n<!-- table: toy -->\n{expected}<!-- end -->\nb\n"
    with pytest.raises(UserError, match="other: has no results"):
        tables.table(tmp_path / "other")


def test_a_failed_method_and_missing_targets_stand_in_the_row(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    old = [{"run": "a", "metrics": {"leakage": 0.1}}]
    write(folder, "flow", old)
    write(folder, "vae", [{"run": "b", "cannot": {"fear": "no boundary"}, "metrics": {"leakage": 0.2}}])
    write(folder, "gcgan", [{"run": "d", "cannot": {"fear": "no name"}, "metrics": {}}])
    write(folder, "a2f", [{"run": "c", "row": "a2f_noise", "metrics": {"leakage": 0.3}}])
    (folder / "failed.json").write_text(json.dumps({"flow": "train flow/synthetic32: exit code 2"}))
    text = tables.table(folder)
    assert "| Glow (failed: train flow/synthetic32: exit code 2) | - |  |" in text and "0.100" not in text
    assert "| GC-GAN (can do none of the targets) | - |" in text
    assert "| VAE (without fear) | 0.200 |" in text and "| A2F-noise | 0.300 |" in text


def test_quick_results_say_so(tmp_path: Path) -> None:
    write(tmp_path / "toy", "vae", [{"run": "b", "metrics": {"leakage": 0.2}}])
    results.main(["--results", str(tmp_path), "--out", str(tmp_path / "tables.md")])
    assert (tmp_path / "tables.md").read_text().startswith("## toy\n\n| |")
    record = {"method": "vae", "quick": "quick figures", "runs": [{"run": "b", "metrics": {"leakage": 0.2}}]}
    (tmp_path / "toy" / "vae.json").write_text(json.dumps(record))
    results.main(["--results", str(tmp_path), "--out", str(tmp_path / "tables.md")])
    assert (tmp_path / "tables.md").read_text().startswith("**quick figures**")


class Slow(Toy):
    """A toy that finds codes by optimisation, and cannot do two targets: one has no name, one has no boundary."""

    slow_encode = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.classes = [name for name in self.classes if name != "fear"]

    def target_code(self, code, faces, request):
        if "sad" in request.names:
            raise UserError("sad has no boundary")
        return super().target_code(code, faces, request)


def test_targets_that_a_run_cannot_do_are_left_out_and_named(tmp_path: Path) -> None:
    cfg = DataConfig(dataset="synthetic", image_size=32, num_train=30, num_val=20, num_test=20)
    faces, editor, targets = benchmark_faces(cfg, 6), Slow(tmp_path / "run"), ["happy", "fear", "sad", "surprise"]
    cannot = export_benchmark(editor, tmp_path / "out", faces, targets, max_truths=4)
    assert list(cannot) == ["fear", "sad"] and "no boundary" in cannot["sad"] and "fear" in cannot["fear"]
    rows = read_manifest(tmp_path / "out")
    assert {row.target for row in rows if row.kind == "edit"} == {"happy", "surprise"}
    reconstructed = [row.source for row in rows if row.kind == "reconstruction"]
    truths = [row.truth for row in rows if row.kind == "edit"]
    assert len(reconstructed) == 6 + 4 and len(set(reconstructed) & set(truths)) == 4, "two faces for each target"
    assert list(export_benchmark(editor, tmp_path / "none", faces, ["fear", "sad"])) == ["fear", "sad"]
    assert not (tmp_path / "none").exists()


def test_sources_of_a_flip_have_their_ground_truth(tmp_path: Path) -> None:
    cfg = DataConfig(dataset="synthetic", image_size=32, num_train=30, num_val=20, num_test=20)
    faces = benchmark_faces(cfg, 6)
    rows = read_manifest(export_sources(faces, ["Smiling=flip"], tmp_path / "sources"))
    smiling = faces.batch["attr"][:, faces.meta["attributes"].index("Smiling")]
    assert [row.target for row in rows] == [f"Smiling={1 - int(value)}" for value in smiling]
    assert all(row.truth for row in rows)


def test_facts_of_a_run_add_up_a_chain(tmp_path: Path) -> None:
    for name, before, seconds in (("rough", "", 60.0), ("sharp", "rough", 120.0), ("face", "sharp", 30.0)):
        run = tmp_path / name
        run.mkdir()
        (run / "config.yaml").write_text(f"upstream: {{run: {tmp_path / before}}}\n" if before else "system: rough\n")
        launches = [
            {"command": ["a"], "cpu_seconds": 1.0},
            {"command": ["train.py"], "seed": 2, "cpu_seconds": seconds},
        ]
        (run / "environment.json").write_text(json.dumps(launches))
    assert [path.name for path in chain_of(tmp_path / "face")] == ["face", "sharp", "rough"]
    facts = run_facts(tmp_path / "face")
    assert (facts["cpu_minutes"], facts["seed"], facts["train_command"]) == (3.5, 2, "python train.py")
    with pytest.raises(UserError, match="is not a run directory"):
        run_facts(tmp_path)


@pytest.fixture
def toy_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A benchmark on eight drawn faces: the editor is a toy, the judge a classifier of four steps."""
    from evaluation import attributes, counterfactual, expression, train_classifier

    data = "{dataset: synthetic, image_size: 32, num_train: 30, num_val: 20, num_test: 20, attributes: [Smiling, Male]}"
    options = "{total_steps: 4, batch_size: 16, device: cpu, val_images: 16}"
    text = f"data: {data}\nmodel: {{heads: [expression, attributes], widths: [8, 8]}}\ntrain: {options}\n"
    (tmp_path / "judge.yaml").write_text(text)
    train_classifier.main(["--config", str(tmp_path / "judge.yaml"), "--run-dir", str(tmp_path / "judge")])
    toy = benchmark.Benchmark(str(tmp_path / "judge.yaml"), 8, (str(tmp_path / "judge"),))
    monkeypatch.setitem(benchmark.BENCHMARKS, "drawn32", toy)
    monkeypatch.setattr("evaluation.run.PARTS", (expression, attributes, counterfactual))  # the others are slower
    monkeypatch.setattr(benchmark, "open_editor", lambda run: Toy(run))
    run = tmp_path / "run"
    run.mkdir()
    launch = {"command": ["toy.py"], "seed": 3, "cpu_seconds": 90.0}
    (run / "environment.json").write_text(json.dumps([launch]))
    return SimpleNamespace(run=str(run), out=tmp_path / "results")


@pytest.mark.slow
def test_benchmark_of_a_run_that_can_do_nothing(
    toy_benchmark: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "open_editor", lambda run: Slow(run))
    monkeypatch.setattr(benchmark, "class_targets", lambda faces: ["fear", "sad"])
    benchmark.main(["drawn32", "interface_gan", toy_benchmark.run, "--out", str(toy_benchmark.out)])
    record = json.loads((toy_benchmark.out / "drawn32" / "interface_gan.json").read_text())
    assert record["runs"][0]["metrics"] == {} and list(record["runs"][0]["cannot"]) == ["fear", "sad"]
    assert record["protocol"]["judges"][0]["sha256"]
    assert "InterFaceGAN (can do none of the targets)" in tables.table(toy_benchmark.out / "drawn32")


@pytest.mark.slow
def test_benchmark_of_a_toy_editor(toy_benchmark: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    out = ["--out", str(toy_benchmark.out)]
    benchmark.main(["drawn32", "baselines", *out])
    benchmark.main(["drawn32", "vae", toy_benchmark.run, *out])
    baselines, toy = (
        json.loads((toy_benchmark.out / "drawn32" / f"{name}.json").read_text()) for name in ("baselines", "vae")
    )
    assert [run["run"] for run in baselines["runs"]] == list(benchmark.KINDS)
    truth, metrics = baselines["runs"][2]["metrics"], toy["runs"][0]["metrics"]
    assert (
        truth["PSNR inside"] == 60 and metrics["PSNR inside"] < 60 and baselines["runs"][0]["metrics"]["leakage"] == 0
    )
    assert {"target accuracy", "gap closed", "leakage"} <= set(metrics)
    assert (toy["runs"][0]["seed"], toy["runs"][0]["cpu_minutes"], toy["protocol"]["faces"]) == (3, 1.5, 8)
    assert "| VAE | " in tables.table(toy_benchmark.out / "drawn32")
    for words, message in ((["vae"], "run directories"), (["vae", toy_benchmark.run, "--n", "4"], "--out")):
        with pytest.raises(SystemExit) as done:
            benchmark.main(["drawn32", *words])
        assert done.value.code == 2 and message in capsys.readouterr().err
