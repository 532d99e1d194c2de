"""The tables of the documents equal the committed results; the benchmark measures a run from end to end."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_editing import Toy

from engine.errors import UserError
from scripts import benchmark, results


@pytest.mark.parametrize("name", results.DOCUMENTS)
def test_tables_of_documents_equal_the_results(name: str) -> None:
    text = (results.ROOT / name).read_text(encoding="utf-8")
    assert "<!-- table: drawn32 -->\n" in text
    assert results.fill(text) == text, "run `python scripts/results.py`"


@pytest.mark.parametrize(
    ("values", "digits", "text"),
    [([], 2, "-"), ([0.126], 2, "0.13"), ([0.1, 0.3, 0.26], 2, "0.26 (0.10 to 0.30)"), ([7.0, 8.0], 0, "8 (7 to 8)")],
)
def test_cell_has_median_and_range(values: list[float], digits: int, text: str) -> None:
    assert results.cell(pd.Series(values, dtype=float), digits) == text


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
        results.table(tmp_path / "other")


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
    assert "| VAE | " in results.table(toy_benchmark.out / "drawn32")
    for words, message in ((["vae"], "run directories"), (["vae", toy_benchmark.run, "--n", "4"], "--out")):
        with pytest.raises(SystemExit) as done:
            benchmark.main(["drawn32", *words])
        assert done.value.code == 2 and message in capsys.readouterr().err
