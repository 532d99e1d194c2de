"""Metrics of images with known labels: the colour is the expression, and an oracle is the judge."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import UserError
from evaluation import distribution, run
from evaluation.counterfactual import masked_psnr
from evaluation.folder import read_folders
from evaluation.manifest import Row, read_manifest, write_export, write_manifest
from evaluation.metric import table
from evaluation.real import Real
from evaluation.run import evaluate

pytestmark = pytest.mark.slow  # whole runs

CLASSES = ["angry", "happy", "sad", "neutral"]
SIZE = 24


def face(label: int, bit: int, seed: int) -> np.ndarray:
    """(S, S, 3) uint8: red encodes the expression, green the attribute, blue and texture the identity."""
    g = np.random.default_rng(seed)
    x = np.zeros((SIZE, SIZE, 3))
    x[..., 0], x[..., 1], x[..., 2] = 30 + 60 * label, 60 + 120 * bit, g.integers(40, 215)
    x += np.kron(g.normal(0, 1, (6, 6, 3)), np.ones((4, 4, 1))) * [6, 6, 30]
    return x.clip(0, 255).astype(np.uint8)


class Oracle:
    """A judge that uses red and green; its features are pooled pixels."""

    heads, classes, attributes = ("expression", "attributes"), CLASSES, ["Smiling"]
    names, meta = [*CLASSES, "Smiling"], {"dataset": "toy", "image_size": SIZE, "channels": 3}
    origin = SimpleNamespace(run="runs/oracle", step=1, sha256="0racle")
    cfg = SimpleNamespace(data=None)

    def predict(self, images8, batch_size):
        parts = []
        for part in images8.float().split(batch_size):
            red, green = part[:, 0].mean((1, 2)), part[:, 1].mean((1, 2))
            levels = torch.tensor([30.0 + 60 * k for k in range(4)])
            logits = torch.cat([-((red[:, None] - levels) ** 2) / 300, (green[:, None] - 120) / 10], 1)
            features = torch.nn.functional.avg_pool2d(part, SIZE // 3).flatten(1) / 64
            parts.append({"logits": logits, "features": features})
        return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}

    def probabilities(self, logits):
        return torch.cat([logits[:, :4].softmax(1), logits[:, 4:].sigmoid()], 1)


def stack(arrays) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy())


@pytest.fixture
def real() -> Real:
    label, bit = torch.arange(200) % 4, torch.arange(200) // 4 % 2
    draw = lambda start: stack([face(int(label[i]), int(bit[i]), start + i) for i in range(200)])  # noqa: E731
    unknown, none = torch.full((200,), -1), torch.empty(200, 0, 2)
    return Real(
        "toy test", draw(5000), draw(9000), True, label, bit[:, None].float(), unknown, none, CLASSES, ["Smiling"]
    )


@pytest.fixture
def judge(monkeypatch, real):
    monkeypatch.setattr(run, "open_judges", lambda *args: [Oracle()])
    monkeypatch.setattr(run, "open_real", lambda *args: real)
    return lambda *folders, **options: evaluate(list(folders), [], None, **options)


def save(array: np.ndarray, folder, name: str) -> str:
    Image.fromarray(array).save(folder / name)
    return name


def write_edits(folder, n: int = 64, works: float = 1.0, shuffle: bool = False) -> list[Row]:
    """n sources, each edited to a target; a share `works` of the edits succeeds."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, g = [], np.random.default_rng(0)
    targets = [(i // 4 + i) % 4 for i in range(n)]
    claimed = g.permutation(targets) if shuffle else targets
    for i, (target, says) in enumerate(zip(targets, claimed, strict=True)):
        label, bit = i % 4, i // 2 % 2
        reached = target if i < works * n else label
        rows.append(
            Row(
                save(face(reached, bit, 100 + i), folder, f"edit_{i:03d}.png"), "edit",
                save(face(label, bit, 100 + i), folder, f"source_{i:03d}.png"), f"toy:test:{i}", CLASSES[label],
                CLASSES[says], save(face(target, bit, 100 + i), folder, f"truth_{i:03d}.png"),
            )
        )  # fmt: skip
    write_manifest(folder, rows)
    write_export(folder, SimpleNamespace(run="runs/toy", step=1, sha256="ab"), {"classes": CLASSES}, "edit")
    return rows


def by_key(result) -> dict:
    return {f.key: f for f in result["metrics"]}


def test_ground_truth_edits_have_target_accuracy_one_and_no_edit_zero(judge, tmp_path):
    write_edits(tmp_path / "a")
    result = judge(tmp_path / "a")
    found = by_key(result)
    accuracy = found["target accuracy"]
    assert accuracy.value == 1 and accuracy.n == 48, "a quarter shows its target already"
    assert accuracy.references == {"real": 1.0, "no edit": 0.0, "chance": 0.25}
    assert found["target gain"].value == pytest.approx(found["target gain"].references["ground truth"])
    assert found["target gain"].value > 0.9
    assert found["PSNR inside"].value == 60
    assert found["leakage"].value == pytest.approx(found["leakage"].references["ground truth"])
    assert "target accuracy" in table(result["metrics"])


def test_no_edit_scores_the_share_of_sources_of_the_target_class(judge, tmp_path):
    rows = write_edits(tmp_path / "a", works=0)
    write_manifest(tmp_path / "a", [replace(row, source_label="") for row in rows])
    accuracy = by_key(judge(tmp_path / "a"))["target accuracy"]
    share = sum(row.target == row.source_label for row in rows) / len(rows)
    assert accuracy.value == pytest.approx(share, abs=1e-9) == accuracy.references["no edit"]


def test_shuffled_targets_score_chance(judge, tmp_path):
    write_edits(tmp_path / "a", n=400, shuffle=True)
    assert by_key(judge(tmp_path / "a"))["target accuracy"].value == pytest.approx(0.25, abs=0.08)


def test_metrics_do_not_depend_on_the_order_of_rows(judge, tmp_path):
    rows = write_edits(tmp_path / "a", works=0.6)
    before = judge(tmp_path / "a")
    write_manifest(tmp_path / "a", [rows[i] for i in np.random.default_rng(1).permutation(len(rows))])
    after = judge(tmp_path / "a")
    assert [f.to_dict() for f in before["metrics"]] == [f.to_dict() for f in after["metrics"]]


def test_metrics_do_not_depend_on_the_batch_size(judge, tmp_path):
    write_edits(tmp_path / "a", works=0.6)
    small, large = judge(tmp_path / "a", batch_size=7), judge(tmp_path / "a", batch_size=256)
    for a, b in zip(small["metrics"], large["metrics"], strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-4), a.key


def test_a_subset_keeps_the_sources_of_edits(tmp_path):
    write_edits(tmp_path / "a")
    few = read_folders([tmp_path / "a"], max_images=20)
    assert len(few.rows) == 20 and (few.source >= 0).all() and (few.truth >= 0).all()


def write_samples(folder, pictures) -> None:
    folder.mkdir(parents=True)
    write_manifest(folder, [Row(save(x, folder, f"s{i:04d}.png"), "sample", seed=i) for i, x in enumerate(pictures)])


def test_copies_raise_the_collapse_alarm_and_lower_recall(judge, tmp_path):
    varied = [face(i % 4, i // 4 % 2, 20_000 + i) for i in range(200)]
    write_samples(tmp_path / "varied", varied)
    write_samples(tmp_path / "copies", varied[:3] + [varied[0]] * 100)
    good, bad = judge(tmp_path / "varied"), judge(tmp_path / "copies")
    assert not good["alarms"]
    assert any("collapse" in alarm for alarm in bad["alarms"])
    assert by_key(bad)["sample face-recall"].value < by_key(good)["sample face-recall"].value - 0.02


def test_training_images_raise_the_memorisation_alarm(judge, real, tmp_path):
    write_samples(tmp_path / "copied", list(real.train.permute(0, 2, 3, 1).numpy()))
    assert any("memorisation" in alarm for alarm in judge(tmp_path / "copied")["alarms"])


def test_attribute_target_accuracy_of_edits_and_samples(judge, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    rows = []
    for i in range(40):
        bit = i % 2
        source = save(face(0, bit, i), folder, f"source{i:02d}.png")
        # Every other edit works; every edit also turns the expression.
        edit = save(face(2, bit if i % 4 < 2 else 1 - bit, i), folder, f"edit{i:02d}.png")
        rows.append(Row(edit, "edit", source, f"toy:test:{i}", "angry", f"Smiling={1 - bit}"))
    write_manifest(folder, rows)
    assert by_key(judge(folder))["attribute target accuracy"].value == 0.5
    samples = tmp_path / "b"
    samples.mkdir()
    write_manifest(samples, [
        Row(save(face(0, int(i % 4 > 0) if i < 30 else int(i % 4 == 0), i), samples, f"{i:02d}.png"), "sample",
            target=f"Smiling={int(i % 4 > 0)}") for i in range(40)
    ])  # fmt: skip
    found = by_key(judge(samples))["attribute accuracy"]
    assert found.value == 0.75 and found.references["majority"] == 0.75 and found.references["real"] == 1


def test_gap_closed_is_relative_to_base_and_reconstructed_ground_truth(judge, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    rows = []
    for i in range(12):
        source, truth = face(0, 0, i).astype(float), face(1, 0, i).astype(float)
        blur = lambda x: (0.8 * x + 0.2 * x.mean((0, 1))).astype(np.uint8)  # noqa: E731
        names = {
            "source": source, "truth": truth, "recon": blur(source), "best": blur(truth),
            "half": (blur(source).astype(float) + blur(truth)) / 2,
        }  # fmt: skip
        files = {k: save(x.astype(np.uint8), folder, f"{k}{i:02d}.png") for k, x in names.items()}
        rows += [
            Row(files["recon"], "reconstruction", files["source"], f"toy:test:{i}", "angry"),
            Row(files["best"], "reconstruction", files["truth"]),
            Row(files["half"], "edit", files["source"], f"toy:test:{i}", "angry", "happy", files["truth"]),
        ]
    write_manifest(folder, rows)
    found = by_key(judge(folder))
    inside = found["PSNR inside"]
    way = inside.references["reconstructed ground truth"] - inside.references["base"]
    assert found["gap closed"].value == pytest.approx((inside.value - inside.references["base"]) / way)
    assert 0.1 < found["gap closed"].value < 0.6
    assert found["reconstruction accuracy"].value == 1


def test_series_of_strengths_and_metrics_at_full_strength(judge, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    rows = []
    for i in range(10):
        source = save(face(0, 0, i), folder, f"s{i}.png")
        for strength in (0.0, 0.5, 1.0):
            x = face(0, 0, i).astype(float) + strength * (face(1, 0, i).astype(float) - face(0, 0, i))
            edit = save(x.astype(np.uint8), folder, f"e{i}_{strength}.png")
            rows.append(Row(edit, "edit", source, f"toy:test:{i}", "angry", "happy", strength=strength))
            # Asked for what it shows: no room to rise, so it does not count.
            held = save(face(0, 0, i), folder, f"h{i}_{strength}.png")
            rows.append(Row(held, "edit", source, f"toy:test:{i}", "angry", "angry", strength=strength))
    write_manifest(folder, rows)
    result = judge(folder)
    found = by_key(result)
    assert found["target accuracy"].n == 10 and found["target accuracy"].value == 1
    assert found["strength Spearman"].value == pytest.approx(1) and found["strength Spearman"].n == 10
    assert [p["strength"] for p in result["tradeoff"]] == [0, 0.5, 1]
    assert result["tradeoff"][0]["target accuracy"] == 0 and result["tradeoff"][0][
        "identity similarity"
    ] == pytest.approx(1)


def test_damaged_exports_raise_user_errors(judge, tmp_path):
    rows = write_edits(tmp_path / "a", n=8)
    data = (tmp_path / "a" / rows[3].file).read_bytes()
    (tmp_path / "a" / rows[3].file).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="edit_003.png: cannot be decoded"):
        judge(tmp_path / "a")
    save(np.zeros((9, 9, 3), np.uint8), tmp_path / "a", rows[3].file)
    with pytest.raises(UserError, match="9 x 9 px"):
        judge(tmp_path / "a")
    lines = (tmp_path / "a" / "manifest.csv").read_text().replace(",target,", ",aim,")
    (tmp_path / "a" / "manifest.csv").write_text(lines)
    with pytest.raises(UserError, match="column 'target' is missing"):
        judge(tmp_path / "a")


def test_a_class_unknown_to_the_judge_raises_a_user_error(judge, tmp_path):
    rows = write_edits(tmp_path / "a", n=8)
    (tmp_path / "a" / "export.json").unlink()
    write_manifest(tmp_path / "a", [replace(row, target="contempt") for row in rows])
    with pytest.raises(UserError, match="'contempt'.*knows only"):
        judge(tmp_path / "a")


def test_fid_of_equal_sets_and_of_gaussians():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(500, 8, generator=g, dtype=torch.float64)
    assert abs(distribution.fid(a, a)) < 1e-3
    b = 2 * torch.randn(200_000, 3, generator=g, dtype=torch.float64) + torch.tensor([1.0, 0, 0])
    c = torch.randn(200_000, 3, generator=g, dtype=torch.float64)
    assert distribution.fid(b, c) == pytest.approx(1 + 3 * (2 - 1) ** 2, rel=0.02)


def test_kid_is_unbiased_and_its_standard_error_is_correct():
    g = torch.Generator().manual_seed(0)
    draws = [distribution.kid(*(torch.randn(60, 4, generator=g) for _ in range(2))) for _ in range(150)]
    values, errors = np.array([d[0] for d in draws]), np.array([d[1] for d in draws])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert errors.mean() == pytest.approx(values.std(), rel=0.35)
    shifted = distribution.kid(torch.randn(200, 4, generator=g) + 1, torch.randn(200, 4, generator=g))
    assert shifted[0] > 5 * shifted[1]


def test_precision_and_recall_of_missing_and_wrong_modes():
    g = torch.Generator().manual_seed(0)
    modes = torch.tensor([[0.0, 0], [20, 0]])
    real = torch.randn(200, 2, generator=g) + modes.repeat(100, 1)
    lost = torch.randn(200, 2, generator=g)
    p, r = distribution.precision_recall(lost, real)
    assert p > 0.9 and r < 0.6
    strange = torch.randn(200, 2, generator=g) + torch.tensor([[0.0, 0], [-30, 0]]).repeat(100, 1)
    assert distribution.precision_recall(strange, real)[0] < 0.6


def test_masked_psnr_by_hand():
    a, b = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    b[..., :2] = 51
    left = torch.zeros(1, 4, 4, dtype=torch.bool)
    left[..., :2] = True
    assert masked_psnr(a, b, left).item() == pytest.approx(10 * np.log10(25))
    assert masked_psnr(a, b, ~left).item() == 60


def test_predictions_hold_logits_of_edits_and_sources(judge, tmp_path):
    write_edits(tmp_path / "a", n=8)
    rows = list(csv.DictReader(run.predictions_csv(judge(tmp_path / "a")["eval_data"]).splitlines()))
    assert len(rows) == 16 and {row["kind"] for row in rows} == {"edit", "source"}
    edit = rows[5]
    assert max(CLASSES, key=lambda name: float(edit[name])) == edit["target"]


def test_baselines_of_an_export(judge, real, tmp_path):
    from evaluation.baselines import export_baseline

    write_edits(tmp_path / "a")
    same = judge(export_baseline([tmp_path / "a"], "no-edit", None, tmp_path / "no-edit"))
    assert by_key(same)["target accuracy"].value == 0 and by_key(same)["identity similarity"].value == pytest.approx(1)
    means = judge(export_baseline([tmp_path / "a"], "class-mean-difference", real, tmp_path / "means"))
    assert by_key(means)["target accuracy"].value == 1, "here an expression is a colour, so its mean is the answer"
    assert read_manifest(tmp_path / "means")


def test_the_report_embeds_its_images(judge, tmp_path):
    from evaluation.gallery import Entry
    from evaluation.page import write_report

    write_edits(tmp_path / "a")
    write_edits(tmp_path / "b", works=0.5)
    entries = [Entry(name, judge(tmp_path / name), f"judge {name}") for name in "ab"]
    path = write_report(tmp_path / "report", entries, ["python scripts/compare.py a b"])
    page, text = path.read_text(), path.with_name("report.md").read_text()
    assert page.count("data:image/png;base64,") >= 10 and "http" not in page
    assert "<b>1.000</b>" in page and "scripts/compare.py a b" in page
    assert "| target accuracy ↑ | **1.000** |" in text
    assert all((tmp_path / "report" / name).is_file() for name in ("figures/face_0.png", "figures/worst_b.png"))
    json.dumps([f.to_dict() for f in entries[0].result["metrics"]], allow_nan=False)


def test_make_manifest_for_foreign_results(tmp_path):
    from scripts.make_manifest import main

    out, sources = tmp_path / "out", tmp_path / "in"
    for folder in (out / "happy", sources / "sad"):
        folder.mkdir(parents=True)
    save(face(2, 0, 1), sources / "sad", "p1.png")
    save(face(1, 0, 1), out / "happy", "p1_2.png")
    main([str(out), "--sources", str(sources)])
    row = read_manifest(out)[0]
    expected = ("happy/p1_2.png", "sources/sad/p1.png", "sad", "happy")
    assert (row.file, row.source, row.source_label, row.target) == expected
    save(face(1, 0, 1), out / "happy", "q_2.png")
    with pytest.raises(SystemExit):
        main([str(out), "--sources", str(sources)])


def test_real_faces_come_from_a_run_or_a_folder(tmp_path):
    from data import DataConfig
    from evaluation.real import open_real

    text = "data: {dataset: synthetic, image_size: 32, num_train: 60, num_val: 20, num_test: 30, flip: both}\n"
    (tmp_path / "config.yaml").write_text(text)
    from_run = open_real(str(tmp_path), DataConfig(), max_images=20)
    assert len(from_run.images) == 20 and len(from_run.train) == 60 and from_run.has_train
    assert from_run.attr.shape == (20, 33) and len(from_run.classes) == 7 and from_run.landmarks.shape == (20, 68, 2)
    teaching = open_real(str(tmp_path), DataConfig(), max_images=0, split="train")
    assert torch.equal(teaching.images, teaching.train) and (teaching.label >= 0).all()
    write_samples(tmp_path / "folder", [face(i % 4, 0, i) for i in range(10)])
    from_folder = open_real(str(tmp_path / "folder"), DataConfig(), max_images=0)
    assert (len(from_folder.images), len(from_folder.train), from_folder.has_train) == (5, 5, False)
    with pytest.raises(UserError, match="expected a run directory"):
        open_real(str(tmp_path / "nothing"), DataConfig(), max_images=0)


def test_missing_inception_raises_a_user_error(tmp_path):
    from evaluation.features import Inception

    with pytest.raises(UserError, match="pip install|download them once"):
        Inception(tmp_path / "weights.pth")


def test_nme_of_requested_landmarks(judge, real, tmp_path, monkeypatch):
    points = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1

    class Finder(Oracle):
        heads = ("landmarks",)

        def predict(self, images8, batch_size):
            found = super().predict(images8, batch_size)
            return found | {"landmarks": points.expand(len(images8), -1, -1)}

    monkeypatch.setattr(run, "open_judges", lambda *args: [Finder()])
    folder = tmp_path / "a"
    folder.mkdir()
    np.save(folder / "right.npy", points.numpy())
    span = float((points[45] - points[36]).norm())
    np.save(folder / "off.npy", points.numpy() + [0.5 * span, 0])
    rows = [
        Row(save(face(0, 0, i), folder, f"{i}.png"), "sample", landmarks=name)
        for i, name in enumerate(["right.npy", "off.npy"])
    ]
    write_manifest(folder, rows)
    found = by_key(judge(folder))
    assert found["NME"].value == pytest.approx(0.25, abs=1e-4) and found["landmark failures"].value == 0.5
