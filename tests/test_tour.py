"""The notebook docs/tour.ipynb, cell by cell."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "docs/tour.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cells[0] = cells[0].replace('"runs/vae/tour"', repr(str(tmp_path / "run"))).replace("=300", "=5")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    names: dict = {}
    for source in cells:
        exec(compile(source, "docs/tour.ipynb", "exec"), names)
    assert names["images"].shape[:2] == (3, 3)
    assert len(names["faces"]) == 3
