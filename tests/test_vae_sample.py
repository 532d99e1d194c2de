"""Every mode of vae/sample.py on a run of a few steps."""

import json
from pathlib import Path

import pytest
import torch
from editor_contract import check

from families import open_editor
from vae import sample, train
from vae.attributes import Codes, contrast_with_reference, fit_vectors, load_vectors
from vae.editor import Editor, Options
from vae.vectors import leakage, vector_metrics

pytestmark = pytest.mark.slow  # whole runs

SMALL = [
    *("data.num_train=300", "data.num_val=40", "data.num_test=40", "model.width=8", "model.latent_dim=8"),
    *("train.total_steps=20", "train.batch_size=16", "train.val_images=32", "train.sample_size=4"),
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "run"
    config = Path(__file__).parent.parent / "configs/vae/demo.yaml"
    train.main(["--config", str(config), "--run-dir", str(folder), *SMALL])
    return folder


def call(run_dir: Path, mode: str, *options: str) -> None:
    sample.main([mode, "--run-dir", str(run_dir), "--device", "cpu", *options])


def facts(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def editor(run_dir: Path) -> Editor:
    found = open_editor(run_dir, device="cpu")
    assert isinstance(found, Editor)
    return found


def test_editor_contract(editor: Editor, photo: str) -> None:
    check(editor, "Smiling=flip", photo)
    check(editor, "happy", photo)


def test_draw_from_mixture(run_dir: Path, editor: Editor) -> None:
    other = open_editor(run_dir, Options(density="gmm"), device="cpu")
    one, two, again = other.draw([3]), other.draw([2, 3]), editor.draw([3])
    assert torch.equal(one.code["z"], two.code["z"][1:]) and not torch.equal(one.code["z"], again.code["z"])


@pytest.mark.parametrize(
    ("mode", "options", "files"),
    [
        ("draw", ["--n", "4", "--density", "gmm", "--attr", "Smiling=1"], ["draw.png", "draw.json"]),
        ("traverse", ["--dims", "3"], ["traverse.png", "traverse.webp"]),
        ("vectors", [], ["vectors_ols.png", "vectors_ols.json", "../vectors_ols.pt"]),
        ("vectors", ["--fit", "mean"], ["vectors_mean.png", "../vectors_mean.pt"]),
        ("vectors", ["--fit", "balanced", "--balance", "Male"], ["vectors_balanced.png", "../vectors_balanced.pt"]),
        ("report", [], ["report.png", "report.json"]),
        ("average", ["--attr", "Smiling", "Beard", "--given", "Male=1", "--equal-counts"], ["average.png"]),
        ("average", ["--attr", "all"], ["average.png", "average.json"]),
        (
            "edit",
            ["--attr", "happy", "Male=+0.5", "--kind", "ols", "test:1", "--keep", "Young"],
            ["edit.png", "edit.json"],
        ),
        ("edit", ["--attr", "happy=0", "--n", "2", "--kind", "knn", "--num-neighbors", "20"], ["edit.png"]),
        ("slider", ["--attr", "happy=0.5", "--n", "2", "--strength", "0:1:3", "--kind", "mean"], ["slider.webp"]),
        ("strip", ["--n", "2", "--attr", "happy", "--match", "Male"], ["strip.png"]),
    ],
)
def test_every_mode_writes_its_files(run_dir: Path, mode: str, options: list[str], files: list[str]) -> None:
    call(run_dir, mode, *options)
    for name in files:
        path = run_dir / "pictures" / name
        assert path.is_file(), name
        if path.suffix != ".pt":
            path.unlink()


def test_an_unknown_label_of_an_option_is_a_user_error(run_dir: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(run_dir, "edit", "test:1", "--attr", "Smiling=1", "--keep", "Yung")
    assert "'Yung' is unknown here" in capsys.readouterr().err


def test_vectors_of_other_weights_are_refused(run_dir: Path) -> None:
    call(run_dir, "vectors")
    path = run_dir / "vectors_ols.pt"
    state = torch.load(path, weights_only=True)
    assert set(load_vectors(path, state["provenance"]["sha256"]).names) >= {"Smiling", "happy"}
    with pytest.raises(Exception, match="fitted to other weights .*vae/sample.py vectors"):
        load_vectors(path, "0" * 64)


def test_the_average_of_one_face_is_its_reconstruction(editor: Editor) -> None:
    codes = editor.training_codes("train")
    rows = torch.arange(len(codes.mu))
    ends, counts = sample.mean_faces([rows == 4, rows == 9], codes.mu, False, torch.Generator())
    expected = editor.reconstruct(editor.take("train", [4, 9]))
    assert counts == [1, 1] and torch.allclose(editor.images({"z": ends}), expected, atol=1e-4)


def test_contrast_with_reference() -> None:
    one_hot = torch.tensor([[1.0, 0], [0, 1], [0, 0]])  # happy, sad, neutral
    found = contrast_with_reference(one_hot, torch.tensor([0.0, 0, 1]))
    assert found.nan_to_num(-1).tolist() == [[1, -1], [-1, 1], [0, 0]]


def test_vector_metrics_report_leakage_and_retention() -> None:
    smiling = torch.arange(4000) % 2
    male = torch.where(torch.arange(4000) % 10 < 6, smiling, torch.arange(4000) // 2 % 2)  # they go together
    labels = torch.stack([smiling, male], 1).float()
    mu = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    mu[:, :2] += 3 * labels
    codes = Codes(mu, labels, torch.arange(4000))
    meta = {"attributes": ["Smiling", "Male"], "classes": []}
    naive, fitted = (fit_vectors(codes, codes, meta, kind, {}) for kind in ("mean", "ols"))
    assert torch.allclose(leakage(naive).diagonal(), torch.ones(2), atol=1e-3)
    assert leakage(naive)[0, 1] > 0.4 and leakage(fitted)[0, 1] < leakage(naive)[0, 1] / 2
    facts = vector_metrics(fitted, {"Smiling": 0.95, "Male": 0.4})
    assert facts["Smiling"]["retained"] and not facts["Male"]["retained"]
    assert list(facts["Male"]["leakage"]) == ["Smiling"] and "retained" not in vector_metrics(fitted, {})["Male"]


def test_report_metrics(run_dir: Path, tmp_path: Path) -> None:
    call(run_dir, "report", "--out", str(tmp_path / "report.png"))
    report = facts(tmp_path / "report.png")
    assert report["faces"] == 40 and 5 < report["psnr_db"] < 40 and 0 < report["ssim"] < 1
    assert report["active"] <= report["latents"] == 8 and abs(sum(report["kl_per_latent"]) - report["kl_nats"]) < 0.02
    assert "independent=true" in report["disentanglement"]
    assert 0.5 <= report["attributes"]["Male"]["auc_best_latent"] <= 1


def test_report_scores_disentanglement(run_dir: Path, tmp_path: Path) -> None:
    config = Path(__file__).parent.parent / "configs/vae/demo.yaml"
    folder = tmp_path / "independent"
    train.main(["--config", str(config), "--run-dir", str(folder), *SMALL, "data.independent=true"])
    call(folder, "report", "--votes", "40", "--out", str(tmp_path / "report.png"))
    scores = facts(tmp_path / "report.png")["disentanglement"]
    assert set(scores) == {"MIG", "DCI-lin D", "DCI-lin C", "SAP", "FactorVAE"}
    assert all(0 <= value <= 1 for value in scores.values()) and scores["MIG"] < 0.3
