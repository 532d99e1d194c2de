"""The classifiers: judges and guides, calibration, verification, and the command line."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from engine.errors import UserError
from evaluation import classifier, classifier_metrics, train_classifier
from evaluation.manifest import Row, write_export, write_manifest
from evaluation.network import erase, prepare
from evaluation.verification import verification

TINY = """
data: {dataset: synthetic, image_size: 32, num_train: 70, num_val: 40, num_test: 40}
model: {role: ROLE, heads: HEADS, kind: KIND, widths: [8, 16, 16]}
train: {total_steps: 4, batch_size: 16, device: cpu, validate_every: 2, sample_every: 4, save_every: 2, val_images: 32}
"""


def train(
    folder, role: str = "judge", heads: str = "[expression, attributes, landmarks]", kind: str = "residual", seed=0
):
    config = folder / f"{role}_{heads[1:5]}.yaml"
    config.write_text(TINY.replace("ROLE", role).replace("HEADS", heads).replace("KIND", kind))
    run = folder / config.stem
    train_classifier.main(["--config", str(config), "--run-dir", str(run), f"train.seed={seed}"])
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers")
    return SimpleNamespace(
        judge=train(folder),
        guide=train(folder, "guide", "[expression]", "plain", 1),
        person=train(folder, heads="[identity]"),
    )


def test_training_writes_test_metrics(runs):
    graded = json.loads((runs.judge / "test_metrics.json").read_text())
    assert set(graded["test"]) == {"expression", "attributes", "landmarks"}
    assert graded["test"]["expression"]["n"] == 40 == sum(map(sum, graded["test"]["expression"]["confusion"]))
    assert set(graded["temperature"]) == {"expression", "attributes"}
    assert "rate" in json.loads((runs.person / "test_metrics.json").read_text())["test"]["identity"]
    text = "\n".join(classifier_metrics.format_test_metrics(graded))
    assert "recall" in text and "NME" in text


def test_a_judge_refuses_losses_and_a_guide_refuses_measuring(runs):
    x = torch.rand(2, 3, 40, 40, requires_grad=True)
    judge, guide = classifier.load(runs.judge, device="cpu"), classifier.load(runs.guide, role="guide", device="cpu")
    with pytest.raises(UserError, match="is a judge"):
        judge(x)
    with pytest.raises(UserError, match="is a judge"):
        judge.maps(x)
    with pytest.raises(UserError, match="is a judge"):
        classifier.load(runs.judge, role="guide")
    with pytest.raises(UserError, match="is a guide"):
        classifier.load(runs.guide, role="judge")
    guide(x).sum().backward()
    assert x.grad.abs().sum() > 0 and guide(x[:, :1]).shape == (2, len(guide.names))
    assert [m.shape[-1] for m in guide.maps(x)] == [16, 8, 4]
    assert not any(p.requires_grad for p in guide.parameters())


def test_loaded_classifiers_accept_any_size_and_colour(runs):
    judge = classifier.load(runs.judge, device="cpu")
    x8 = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    whole, parts = judge.predict(x8), judge.predict(x8, batch_size=2)
    for key in ("logits", "features", "landmarks"):
        torch.testing.assert_close(whole[key], parts[key], atol=1e-4, rtol=1e-4)
    assert judge.logits(x8[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3)).shape == (9, len(judge.names))
    p = judge.probabilities(whole["logits"])
    torch.testing.assert_close(p[:, :7].sum(1), torch.ones(9))
    assert p.min() >= 0 and p.max() <= 1
    assert judge.temperature[0] == pytest.approx(
        json.loads((runs.judge / "test_metrics.json").read_text())["temperature"]["expression"]
    )
    with pytest.raises(AssertionError):
        judge.logits(x8.float())


def test_a_judge_refuses_images_made_with_its_weights(runs, tmp_path, capsys):
    from evaluation.run import main

    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    write_manifest(tmp_path, [Row("a.png", "sample")])
    digest = classifier.load(runs.judge, device="cpu").origin.sha256
    write_export(tmp_path, SimpleNamespace(run="r", step=1, sha256="x"), {}, "sample", {"features": digest})
    with pytest.raises(SystemExit) as left:
        main(["--fake", str(tmp_path), "--judge", str(runs.judge), "--out", str(tmp_path / "m.json")])
    assert left.value.code == 2 and "must not measure" in capsys.readouterr().err


def test_the_command_line_writes_metrics_and_predictions(runs, tmp_path, capsys):
    from data import DataConfig, build_faces
    from engine.grids import to_pil
    from evaluation.run import main

    faces = build_faces(DataConfig(image_size=32, num_train=70, num_val=40, num_test=40)).test.fixed(6)
    rows = []
    for i, x in enumerate(faces["image"]):
        for name in ("source", "edit"):
            to_pil(x if name == "source" else x.flip(-1)).save(tmp_path / f"{name}{i}.png")
        rows.append(Row(f"edit{i}.png", "edit", f"source{i}.png", f"synthetic:test:{i}", "sad", "happy"))
    write_manifest(tmp_path, rows)
    judges = [str(runs.judge), str(runs.person)]
    main(["--fake", str(tmp_path), "--judge", *judges, "--out", str(tmp_path / "metrics.json"), "--device", "cpu"])
    result = json.loads((tmp_path / "metrics.json").read_text())
    keys = {f["key"] for f in result["metrics"]}
    expected = {
        "target accuracy",
        "target gain",
        "identity similarity",
        "edit verification rate",
        "leakage",
        "edit sharpness",
        "edit Nyquist energy",
    }
    assert expected <= keys
    assert result["judges"][0]["test"]["expression"]["accuracy"] is not None
    assert (tmp_path / "predictions.csv").is_file() and "no edit" in capsys.readouterr().out


def test_invalid_heads_raise_user_errors():
    from evaluation.config import ClassifierConfig, ModelConfig

    with pytest.raises(UserError, match="identity only"):
        ModelConfig(heads=["identity", "expression"])
    meta = {
        "dataset": "fer2013",
        "channels": 1,
        "image_size": 48,
        "classes": ["a"],
        "attributes": [],
        "identities": 0,
        "landmarks": 0,
    }
    with pytest.raises(UserError, match="fer2013 has no labels for 'attributes'"):
        classifier.Classifier(ClassifierConfig(model=ModelConfig(heads=["attributes"])), meta)


def test_unknown_labels_do_not_change_the_loss(runs):
    judge = classifier.load(runs.judge, device="cpu")
    logits = torch.randn(4, 7)
    full = judge.expression_loss(logits[:2], {"label": torch.tensor([1, 2])}, 0)
    torch.testing.assert_close(judge.expression_loss(logits, {"label": torch.tensor([1, 2, -1, -1])}, 0), full)
    bits = torch.tensor([[1.0, torch.nan] + [0.0] * 31])
    assert judge.attributes_loss(torch.zeros(1, 33), {"attr": bits}, 0).isfinite()


def test_temperature_of_scaled_logits():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=g)
    label = torch.distributions.Categorical(logits=logits).sample()
    assert classifier_metrics.temperature(2.5 * logits, label) == pytest.approx(2.5, rel=0.06)
    bits = torch.bernoulli(logits.sigmoid(), generator=g)
    assert classifier_metrics.attribute_temperature(0.5 * logits, bits) == pytest.approx(0.5, rel=0.06)


def test_calibration_error_by_hand():
    p = torch.tensor([[0.9, 0.1]] * 10)
    assert classifier_metrics.calibration_error(p, torch.zeros(10, dtype=torch.long)) == pytest.approx(0.1, abs=1e-6)


def test_accuracy_on_votes():
    logits, votes = (
        torch.eye(3)[[0, 1, 2, 0]],
        torch.tensor([[0.9, 0.1, 0], [0, 0.8, 0.2], [0.6, 0.2, 0.2], [0.4, 0.4, 0.2]]),
    )
    metrics = classifier_metrics.expression_metrics(logits, torch.tensor([0, 1, 2, 1]), 1.0, votes)
    assert metrics["accuracy"] == 0.75 and metrics["accuracy_votes"] == pytest.approx(2 / 3) and metrics["n_votes"] == 3


def test_verification_of_separated_and_random_embeddings():
    g = torch.Generator().manual_seed(0)
    who = torch.arange(40).repeat_interleave(5)
    centres = torch.nn.functional.normalize(torch.randn(40, 32, generator=g), dim=1)
    clear = torch.nn.functional.normalize(centres[who] + 0.02 * torch.randn(200, 32, generator=g), dim=1)
    assert verification(clear, who)["rate"] == 1
    noise = torch.nn.functional.normalize(torch.randn(200, 32, generator=g), dim=1)
    assert verification(noise, who)["rate"] == pytest.approx(0.01, abs=0.02)
    assert verification(noise, torch.full((200,), -1))["pairs"] == 0


def test_prepare_keeps_gradients_and_averages_when_it_shrinks():
    x = torch.zeros(1, 1, 64, 64)
    x[..., ::2] = 1
    y = prepare(x, 16, 3)
    assert y.shape == (1, 3, 16, 16) and (y[..., 2:-2] - 0.5).abs().max() < 0.1
    grey = prepare(torch.ones(1, 3, 8, 8), 8, 1)
    torch.testing.assert_close(grey, torch.ones(1, 1, 8, 8))


def test_random_erasing_sets_rectangles_to_zero():
    torch.manual_seed(0)
    x = torch.ones(64, 1, 20, 20)
    y = erase(x, 1.0)
    share = (y == 0).float().mean((1, 2, 3))
    assert (share > 0).all() and (share < 0.25).all()
    assert torch.equal(erase(x, 0.0), x)


def test_mirror_makes_predictions_invariant_to_flips(runs):
    judge = classifier.load(runs.judge, device="cpu")
    judge.cfg.model.mirror = True
    x8 = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(judge.logits(x8), judge.logits(x8.flip(-1)), atol=1e-5, rtol=1e-4)
    person = classifier.load(runs.person, device="cpu")
    person.cfg.model.mirror = True
    torch.testing.assert_close(person.features(x8).norm(dim=1), torch.ones(3))


@pytest.mark.slow
def test_compare_writes_a_report_of_exports_and_baselines(runs, tmp_path, capsys):
    from data import DataConfig, build_faces
    from engine.grids import to_pil
    from scripts.compare import main

    cfg = DataConfig(image_size=32, num_train=70, num_val=40, num_test=40)
    faces = build_faces(cfg).test.fixed(8)
    for target in ("happy", "sad"):
        folder = tmp_path / "method" / target
        folder.mkdir(parents=True)
        rows = []
        for i, x in enumerate(faces["image"]):
            to_pil(x).save(folder / f"source{i}.png")
            to_pil(x.flip(-1)).save(folder / f"edit{i}.png")
            rows.append(Row(f"edit{i}.png", "edit", f"source{i}.png", f"synthetic:test:{i}", "angry", target))
        write_manifest(folder, rows)
    out = tmp_path / "report"
    (tmp_path / "results" / "toy").mkdir(parents=True)
    measured = {"method": "vae", "quick": "quick figures", "runs": [{"run": "a", "metrics": {"leakage": 0.123}}]}
    (tmp_path / "results" / "toy" / "vae.json").write_text(json.dumps(measured))
    main([f"My method={tmp_path / 'method'}", "--judge", str(runs.judge), "--out", str(out), "--device", "cpu",
          "--results", str(tmp_path / "results")])  # fmt: skip
    page = (out / "index.html").read_text()
    assert "class-mean difference" in page and "no edit" in page and page.count("data:image/png") >= 8
    assert {p.name for p in (out / "metrics").glob("*.json")} == {
        "My-method.json",
        "no-edit.json",
        "class-mean-difference.json",
    }
    text = (out / "report.md").read_text()
    assert "scripts/compare.py" in text and "> **quick figures**" in text and "| VAE | 0.123 | 1 |" in text
    places = [
        page.index(part) for part in ("quick figures", "<table class=faces>", "0.123", "Confusion", "Worst edits")
    ]
    assert places == sorted(places), "the picture comes first, then the results"
    assert "<td>My method</td>" in page and ("✓ " in page or "✗ " in page)
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--judge", str(runs.guide), "--out", str(out)])
    assert "is a guide" in capsys.readouterr().err
