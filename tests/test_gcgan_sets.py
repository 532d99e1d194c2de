"""Two data sets in turn: conditions, who moves when, which labels learn; the editor and the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from aae_toy import Noise, meta
from PIL import Image

import families
from data import synthetic
from engine import UserError, load_config
from gcgan import sample, train
from gcgan.conditions import Labels, target_condition
from gcgan.config import CONFIGS, GCGANConfig, StarGANConfig
from gcgan.stargan import StarGAN
from tests.test_gcgan_sample import celeba
from tests.test_gcgan_stargan import config, weights

ATTRIBUTES, CLASSES = ["A", "B", "C"], ["angry", "happy", "sad", "neutral"]
SETS = {"sets": [meta(classes=[], attributes=ATTRIBUTES), meta(classes=CLASSES)], "attributes": ATTRIBUTES}
JOINT = meta(classes=CLASSES) | SETS


def build(model: dict | None = None, loss: dict | None = None, **train_options) -> StarGAN:
    torch.manual_seed(0)
    return StarGAN(config(model, loss, **train_options), JOINT).train()


def batch(step: int, n: int = 8) -> dict[str, torch.Tensor]:
    """The batch of a step: set 0 has attributes, set 1 classes."""
    source = step % 2
    data = Noise().fixed(n) | {"source": torch.full((n,), source)}
    if source == 0:
        del data["label"]
        data["attr"] = torch.randint(2, (n, 3), generator=torch.Generator().manual_seed(step)).float()
    return data


def test_a_condition_holds_both_sets_and_the_number_of_the_set():
    labels = Labels(JOINT)
    first, second = labels.blocks
    assert (labels.num, labels.cond_dim) == (7, 9) and labels.names == ATTRIBUTES + CLASSES
    y = torch.tensor([[1.0, -1, 1]])
    assert labels.condition(y, first).tolist() == [[1, 0, 1, 0, 0, 0, 0, 1, 0]]
    c = labels.condition(torch.eye(4)[1:2], second)
    assert c.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0, 1]]
    assert target_condition(c, 3, second).tolist() == [[0, 0, 0, 0, 0, 0, 1, 0, 1]]
    assert target_condition(labels.condition(y, first), 0, first).tolist() == [[0, 0, 1, 0, 0, 0, 0, 1, 0]]


def test_five_attributes_and_eight_expressions_have_the_reference_code_s_sizes():
    labels = Labels(JOINT | {"sets": [meta(classes=[], attributes=list("abcde")), meta(classes=list("abcdefgh"))]})
    assert (labels.cond_dim, labels.num) == (15, 13)


def test_targets_and_wrong_labels_stay_in_the_set_of_the_batch():
    method, seen = build(label_mix=0.5), []
    method.generator.register_forward_hook(lambda net, given, out: seen.append(given[1].clone()))
    score = method.critic.score
    method.critic.score = lambda h, c: seen.append(c.detach().clone()) or score(h, c)
    for step, absent in ((0, slice(3, 7)), (1, slice(0, 3))):
        seen.clear()
        method.step(batch(step), step)
        assert len(seen) >= 6  # two passes of G; real, fake, wrong, penalty and the generator's
        for c in seen:
            assert not c[:, absent].any() and (c[:, 7 + step] == 1).all() and (c[:, 8 - step] == 0).all()


@pytest.mark.parametrize("source, absent", [(0, slice(3, 7)), (1, slice(0, 3))])
def test_logits_of_the_absent_set_get_no_gradient(source, absent):
    method = build({"critic": "class"}, {"lambda_mismatch": 0.0})
    x, y, _ = method.labels.faces(batch(source), method.labels.blocks[source])
    h = method.critic.features(x)
    c = method.labels.condition(y, method.labels.blocks[source])
    method.class_loss(h, c, method.labels.blocks[source]).backward()
    gradient = method.critic.head.weight.grad.flatten(1).abs().sum(1)
    assert (gradient[absent] == 0).all() and (gradient > 0).sum() == 7 - gradient[absent].numel()


def test_each_set_counts_its_own_critic_steps():
    """200 steps at n_critic 5: the generator moves 40 times, 20 times on each set."""
    method, moved = build(loss={"gan": "wgan", "n_critic": 5}), []
    method.update_critic = lambda *given, **options: {}  # its own work is not needed here
    method.move_generator = lambda terms, moves: moved.append(moves) or {}
    sources = []
    for step in range(200):
        before = len(moved)
        method.step(batch(step, 4), step)
        sources += [step % 2] * (len(moved) - before)
    assert len(moved) == 40 and sources.count(0) == sources.count(1) == 20
    assert moved == list(range(40))  # the average's memory grows by one each time


def test_a_step_of_either_set_moves_both_players():
    method = build()
    torch.nn.init.normal_(method.generator.out.weight, std=0.1)
    for step in range(2):
        before = weights(method)
        logs = method.step(batch(step), step)
        after = weights(method)
        for name in before:
            assert any(not torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True)), name
        assert torch.isfinite(logs["loss"])
    figures = method.eval().validate(batch(0))
    assert "critic_reads_target" not in figures and torch.isfinite(figures["cycle_psnr"])
    assert method.sample(batch(0))["edits"].columns == ["input", *ATTRIBUTES, *CLASSES]


def test_two_sets_of_one_kind_are_refused():
    with pytest.raises(UserError, match="both sets have expressions"):
        Labels(JOINT | {"sets": [meta(), meta()]})
    with pytest.raises(UserError, match="GC-GAN uses one data set"):
        load_config(GCGANConfig, None, ["data.sets=[celeba, folder]"])


def test_the_joint_recipe_has_the_paper_s_attributes_and_the_eight_expressions(repo):
    cfg = load_config(StarGANConfig, repo / "configs/gcgan/joint128.yaml")
    assert cfg.data.sets == ["celeba", "folder"] and len(cfg.data.classes) == 8 and "contempt" in cfg.data.classes
    assert {"Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young"} < set(cfg.data.attributes)
    assert CONFIGS["stargan"] is StarGANConfig


# From the command line.


def expressions(folder: Path) -> Path:
    """Drawn faces in folders of expressions."""
    f = synthetic.factors(3, np.arange(80))
    for i, face in enumerate(synthetic.render(f, 32).transpose(0, 2, 3, 1)):
        path = folder / synthetic.CLASSES[f["expr"][i]] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(path)
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """Twelve steps on faces with attributes and faces with expressions in turn."""
    folder = tmp_path_factory.mktemp("joint")
    roots = [celeba(folder / "celeba"), expressions(folder / "folder")]
    (folder / "joint.yaml").write_text(
        f"system: stargan\ndata: {{sets: [celeba, folder], roots: [{roots[0]}, {roots[1]}], image_size: 32, "
        "crop: full, attributes: [Smiling, Male]}\nmodel: {width: 4, blocks: 1, critic_width: 4}\n"
        "train: {total_steps: 12, batch_size: 8, log_every: 4, validate_every: 6, sample_every: 6, save_every: 6, "
        "val_images: 16, sample_size: 8}\n"
    )
    out = folder / "run"
    train.main(["--config", str(folder / "joint.yaml"), "--run-dir", str(out)])
    environment = json.loads((out / "environment.json").read_text())
    environment[-1]["family"] = "gcgan"  # the name of the folder of train.py, which a test does not run
    (out / "environment.json").write_text(json.dumps(environment))
    return out


@pytest.mark.slow
def test_a_joint_run_changes_labels_of_either_set(run_dir, tmp_path):
    editor = families.open_editor(run_dir)
    assert set(editor.attributes) == {"Smiling", "Male"} and len(editor.classes) == 7
    faces = editor.subjects(["test:0", "test:1"])
    own = editor.codes(faces)["c"]
    assert (own[:, -2:] == torch.tensor([1.0, 0.0])).all() and not own[:, 2:9].any()
    turned = editor.target(faces, editor.parse("Male=flip"))["c"]
    column = editor.method.labels.names.index("Male")
    assert torch.equal(turned[:, column], 1 - own[:, column])
    happy = editor.target(faces, editor.parse("happy"))["c"]
    assert (happy[:, -2:] == torch.tensor([0.0, 1.0])).all() and not happy[:, :2].any()
    assert (happy[:, editor.method.labels.names.index("happy")] == 1).all()
    assert not editor.predict_labels(faces).isnan().any()
    with pytest.raises(UserError, match="both data sets"):
        editor.edit(faces, editor.parse("happy, Male=1"))
    at = ["--run-dir", str(run_dir)]
    sample.main(["sheet", *at, "--n", "2", "--out", str(tmp_path / "sheet.png")])
    assert len(json.loads((tmp_path / "sheet.json").read_text())["targets"]) == 9
    sample.main(["export", *at, "--what", "edit", "--n", "2", "--out", str(tmp_path / "edits")])
    photo = editor.from_images(faces.images)
    assert torch.isfinite(editor.edit(photo, editor.parse("sad"))).all()
