"""scripts/bench.py: every variant runs and has a row in the table."""

import re
import sys

import pytest

from flow.model import GlowFlow
from scripts import bench

pytestmark = pytest.mark.slow  # whole training steps


def test_every_variant_has_a_row(monkeypatch, capsys):
    monkeypatch.setattr(bench, "TURNS", 1)
    monkeypatch.setattr(bench.torch, "set_num_threads", lambda n: None)  # the setting would stay for other tests
    monkeypatch.setattr(GlowFlow, "compile", lambda flow: None)  # compiling takes a minute
    monkeypatch.setattr(sys, "argv", ["bench.py", "--device", "cpu"])
    bench.main()
    rows = re.findall(r"^\| (\w+): .* \| ([\d.]+) \| ([\d.]+) \|$", capsys.readouterr().out, re.MULTILINE)
    assert {name for name, _, _ in rows} == {"gan", "flow", "edit"} and len(rows) == 13
    assert all(float(ms) > 0 for _, ms, _ in rows)
    assert [ratio for _, _, ratio in rows].count("1.00") >= 3
