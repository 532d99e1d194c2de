"""scripts/bench.py: every variant runs; the record has every row; textbook loops and ours learn the same."""

import copy
import json
from pathlib import Path

import pytest
import torch

from benchmarks import performance, textbook
from scripts import bench, results


@pytest.mark.slow
def test_every_variant_has_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "TURNS", 1)
    monkeypatch.setattr(bench, "BATCH", 4)
    monkeypatch.setattr(bench, "compile_network", lambda network, device: None)  # takes half a minute
    monkeypatch.setattr(bench.torch, "set_num_threads", lambda n: None)  # the setting would stay for other tests
    bench.main(["--device", "cpu", "--out", str(tmp_path / "performance.json")])
    record = json.loads((tmp_path / "performance.json").read_text())
    assert list(record) == list(bench.GROUPS) and sum(len(group["rows"]) for group in record.values()) == 22
    for group in record.values():
        first = group["rows"][0]
        assert first["ratio"] == (1 if first["name"] == "textbook" else None)
        assert all(row["ms"] > 0 for row in group["rows"])
        assert {"machine", "threads", "torch", "date", "commit", "turns"} <= set(group)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert performance.table(tmp_path / "performance.json").splitlines()[: len(printed)] == printed


def test_the_record_keeps_other_groups(tmp_path: Path) -> None:
    path, where = tmp_path / "r.json", performance.facts("cpu", 3)
    performance.save(path, "a", [{"name": "x", "ms": 1.0, "ratio": 1.0}], where)
    performance.save(path, "b", [{"name": "y", "ms": 2.25, "ratio": None}], where | {"date": "2000-01-01"})
    performance.save(path, "a", [{"name": "x", "ms": 3.0, "ratio": 1.0}], where)
    text = performance.table(path)
    assert "| a | x | 3.0 | 1.00 |" in text and "| b | y | 2.2 | - |" in text and "1.0 |" not in text.split("|")[3]
    assert text.count("commit") == 2 and "2000-01-01" in text


def test_the_textbook_vae_learns_what_ours_learns() -> None:
    """The same loss: after three steps from equal weights and noise, the weights are equal up to rounding."""
    from vae.config import Config, LossConfig, ModelConfig

    cfg = Config(model=ModelConfig(arch="burgess", latent_dim=4))
    cfg.loss = LossConfig(beta=4.0, pixel="bernoulli", lambda_face=0.0, kl_warmup=0.0)
    ours = bench.method(bench.BetaVAE, cfg, "cpu", size=32)
    theirs, x = copy.deepcopy(ours), torch.rand(4, 3, 32, 32) * 2 - 1
    loop = textbook.vae(theirs.encoder, theirs.decoder, x, 4.0)
    for group in ours.optimizers["vae"].param_groups:
        group["lr"] = 5e-4
    for step in range(3):
        for turn in (lambda step=step: ours.step({"image": x}, step), loop):
            torch.manual_seed(step)
            turn()
    for a, b in zip(ours.encoder.parameters(), theirs.encoder.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_table_of_the_document_is_the_record() -> None:
    text = (results.ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert performance.table(results.ROOT / "results/performance.json") in text
