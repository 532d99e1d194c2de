"""Releases: one file per run that opens like the run, without the data set; ONNX exports."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from editor_contract import EYES, camera_photo
from untrained import SYSTEMS, untrained

from editing import release
from editing.cli import sample_main
from engine import UserError, find_checkpoint
from engine.checkpoint import read_checkpoint, save_checkpoint
from families import open_editor
from interface_gan import inversions
from interface_gan.project import Options as Steps
from scripts.export_onnx import check, export
from scripts.release import main as write_release
from scripts.release import measured_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # networks of every system; tracing one takes 20 CPU-s

TRACED_ALREADY = {"a2f_rough", "a2f_sharp"}  # the networks of a2f_cgan and of a2f_face, with one channel


@pytest.fixture(scope="module", params=list(SYSTEMS))
def run(request, tmp_path_factory) -> Path:
    return untrained(request.param, tmp_path_factory.mktemp(request.param) / "run")


@pytest.fixture(autouse=True)
def short_inversions(monkeypatch) -> None:
    monkeypatch.setattr(inversions, "DEFAULT", Steps(starts=1, steps_w=4, steps_plus=4))
    monkeypatch.setattr("interface_gan.editor.Editor.num_reference", 4)


def no_data(cfg) -> None:
    raise AssertionError("the data set was opened")


def test_a_release_opens_like_its_run_without_the_data(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    write_release([str(run), "--out", str(tmp_path), "--name", "small"])
    assert "PSNR" in capsys.readouterr().out and "sha256" in (tmp_path / "small.md").read_text()
    shutil.rmtree(tmp_path / "small")  # as in a fresh clone
    monkeypatch.setattr("editing.editor.build_faces", no_data)
    whole, small = open_editor(run, device="cpu"), open_editor(tmp_path / "small.safetensors", device="cpu")
    assert (tmp_path / "small.safetensors").stat().st_size < find_checkpoint(run).stat().st_size
    assert small.method.origin.sha256 == whole.method.origin.sha256 and small.meta == whole.meta
    names = [camera_photo(tmp_path / "me.png")] if "read" not in whole.unsupported else ["seed:3"]
    request = whole.targets()[0]
    a, b = (
        editor.edit(editor.subjects(names, EYES if "read" not in whole.unsupported else None), request)
        for editor in (whole, small)
    )
    limit = 0.05 if whole.run_dir.parent.name.startswith("interface_gan") else 0.01  # few steps of descent to its code
    assert (a - b).abs().mean() < limit, "the release edits otherwise than the run"
    again = open_editor(tmp_path / "small", device="cpu")
    assert type(again) is type(whole) and again.run_dir == tmp_path / "small"


def test_weights_that_only_training_needs_are_left_out(run: Path, tmp_path: Path) -> None:
    editor = open_editor(run, device="cpu")
    release.pack(run, tmp_path / "r.safetensors", editor.training_only, [])
    state = read_checkpoint(find_checkpoint(release.unpacked(tmp_path / "r")))["method"]
    whole = read_checkpoint(find_checkpoint(run))["method"]
    assert list(state) != [] and set(state) == set(whole)
    left_out = [k for k, v in state.items() if v.is_floating_point() and v.isnan().any()]
    assert left_out and all(name.startswith(editor.training_only) for name in left_out)


@pytest.mark.parametrize("run", sorted(set(SYSTEMS) - TRACED_ALREADY), indirect=True, scope="module")
def test_onnx_gives_the_images_of_torch(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    editor = open_editor(run, device="cpu")
    export(editor, tmp_path / "decoder.onnx")
    largest, share = check(editor, tmp_path / "decoder.onnx")
    assert largest <= 1e-4 or (run.parent.name.startswith("flow") and share < 1e-3)  # a flow rounds to 256 levels


# The file, with one system.


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    return untrained("vae", tmp_path_factory.mktemp("vae") / "run")


@pytest.mark.parametrize("bits", [4, 7, 8, 12, 16])
def test_tensors_come_back_as_they_were(bits: int) -> None:
    torch.manual_seed(0)
    codes = torch.randn(301, 33) * torch.linspace(0.01, 3, 33) + torch.linspace(-2, 2, 33)
    labels = (torch.rand(301, 5) > 0.5).float()
    labels[3, 2] = torch.nan
    tensors = {"codes": codes, "labels": labels, "rows": torch.arange(7, 20), "one": torch.tensor(True), "v": codes[0],
               "small": torch.tensor([[1e-9, 1e9], [2.0, 3.0]]), "n": torch.tensor([5, 2, 300])}  # fmt: skip
    for name, value in tensors.items():
        parts, entry = release._encoded(value, bits)
        back = release._decoded(name, json.loads(json.dumps(entry)), {name + k: v for k, v in parts.items()})
        assert back.dtype == value.dtype and back.shape == value.shape
        if name == "codes":
            error = (back - codes).std(0) / codes.std(0)
            assert error.max() < {4: 0.15, 7: 0.025, 8: 0.012, 12: 0.001, 16: 0.1}[bits], "columns differ in scale"
        elif name == "small" and bits < 16:
            assert torch.allclose(back[1], value[1], rtol=0.1) or entry["form"] != "exact"
        else:
            assert torch.equal(back.nan_to_num(9), value.nan_to_num(9)), name


def test_a_new_file_is_unpacked_again_and_pictures_stay(vae: Path, tmp_path: Path) -> None:
    release.pack(vae, tmp_path / "r.safetensors", (), [])
    folder = release.unpacked(tmp_path / "r")
    (folder / "pictures").mkdir()
    state = read_checkpoint(find_checkpoint(folder))
    first = find_checkpoint(folder).stat().st_mtime_ns
    assert release.unpacked(tmp_path / "r") == folder and find_checkpoint(folder).stat().st_mtime_ns == first
    release.pack(vae, tmp_path / "r.safetensors", ("encoder.",), [])
    release.unpacked(tmp_path / "r")
    assert read_checkpoint(find_checkpoint(folder))["method"]["encoder.maps.0.weight"].isnan().all()
    assert not state["method"]["encoder.maps.0.weight"].isnan().any() and (folder / "pictures").is_dir()


def test_a_release_needs_no_path_of_this_machine(vae: Path, tmp_path: Path) -> None:
    run = shutil.copytree(vae, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("root: ''", "root: /home/me/faces"))
    release.pack(run, tmp_path / "r.safetensors", (), [])
    assert b"/home/me" not in (tmp_path / "r.safetensors").read_bytes()


def test_errors_of_releases(vae: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raise --max-mb"):
        release.pack(vae, tmp_path / "r.safetensors", (), [], limit=1000)
    assert not (tmp_path / "r.safetensors").exists()
    with pytest.raises(UserError, match="no such release"):
        open_editor(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense" * 9)
    with pytest.raises(UserError, match="is damaged"):
        open_editor(tmp_path / "bad")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="expected format 1"):
        open_editor(tmp_path / "other")


def test_a_card_names_the_images_of_each_benchmark() -> None:
    assert measured_on({"samples": 2000, "attributes": []}) == "2,000 generated faces"
    assert measured_on({"persons": {"val": 8, "test": 9}}) == "9 test persons"
    assert measured_on({"faces": 300, "targets": ["happy", "sad"]}) == "300 test faces, 2 targets"


def test_sample_works_with_a_release(vae: Path, tmp_path: Path, monkeypatch) -> None:
    from vae.editor import Editor

    write_release([str(vae), "--out", str(tmp_path), "--name", "small"])
    monkeypatch.setattr("editing.editor.build_faces", no_data)
    for words in (
        ["strip", "seed:0"],
        ["draw", "--n", "4"],
        ["edit", camera_photo(tmp_path / "me.png"), "--attr", "happy"],
    ):
        more = ["--eyes", EYES] if words[0] == "edit" else []
        sample_main(
            Editor, {}, "", [*words, *more, "--run-dir", str(tmp_path / "small"), "--out", str(tmp_path / "out")]
        )
    assert {p.name for p in (tmp_path / "out").glob("*.png")} >= {"strip.png", "draw.png", "edit.png", "edit_me.png"}


def test_a_release_of_other_data_states_their_licence(vae: Path, tmp_path: Path) -> None:
    run = shutil.copytree(vae, tmp_path / "run", ignore=shutil.ignore_patterns("vectors_*", "codes_*"))
    path = find_checkpoint(run)
    state = read_checkpoint(path)
    meta = state["meta"] | {"dataset": "folder"}
    save_checkpoint(path, state | {"meta": meta})
    (run / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SystemExit) as done:
        write_release([str(run), "--out", str(tmp_path), "--name", "small"])
    assert done.value.code == 2 and not (tmp_path / "small.safetensors").exists()
    write_release([str(run), "--out", str(tmp_path), "--name", "small", "--credit", "My photos, CC BY 4.0."])
    assert "CC BY 4.0" in (tmp_path / "small.md").read_text()
    assert np.isfinite(json.loads((tmp_path / "small" / "typical_limit.json").read_text())["typical_limit"])
