"""Every fault of scripts/plant_faults.py fits the code: its text occurs once in its file."""

import pytest

from scripts.plant_faults import FAULTS, ROOT, Fault


@pytest.mark.parametrize("fault", [fault for family in FAULTS.values() for fault in family], ids=lambda f: f.kind)
def test_every_fault_can_be_planted(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.right) == 1
