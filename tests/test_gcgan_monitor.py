"""gcgan's health checks: bounds, and one warning after three failures."""

import pytest
import torch

from gcgan.monitor import failed_checks, health_metrics
from tests.test_gcgan_stargan import batch, build


def test_alarms_say_what_is_out_of_bounds():
    torch.manual_seed(0)
    x = torch.randn(4, 1, 16, 16)
    good = health_metrics(x, x, torch.tensor(0.2), torch.full((4, 1, 16, 16), 0.1))
    assert failed_checks(good) == {} and good["sharpness"] == pytest.approx(1)
    assert set(failed_checks(good | {"sensitivity": 0.009})) == {"sensitivity"}
    assert "closed" in failed_checks(good | {"mask": 0.004})["mask"]
    assert "open" in failed_checks(good | {"mask": 0.91})["mask"]
    assert set(failed_checks(health_metrics(x, 1.3 * x, torch.tensor(0.2), None))) == {"sharpness"}  # 1.69


def test_a_deaf_generator_is_reported_once_after_three_samplings(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr("gcgan.stargan.logger.warning", messages.append)
    method, said = build(), []  # skip starts as the photo: no label changes anything
    for step in range(10):
        method.image_steps = step
        method.eval().sample(batch())
        said.append(sum("the label is ignored" in message for message in messages))
    assert said == [0] * 6 + [1] * 4  # the first four of 40 steps are not checked
