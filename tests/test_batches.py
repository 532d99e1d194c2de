"""The order of batches is a pure function of seed and step; flips, pairs and scaling are exact."""

import itertools

import numpy as np
import pytest
import torch

from data import DataConfig, FaceSet, build_faces
from data.batches import Augment, ImageStore, Prefetcher, mirror_points, scaled
from data.samplers import BatchIndices, IndexSampler, PairSampler
from engine.errors import UserError
from tests import layouts


def face_set(n: int = 37, seed: int = 0, **options) -> FaceSet:
    """Noise with labels, persons and landmarks; row i of the pack is 100 + i's place."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n + 3, 3, 32, 32), np.uint8)
    label = rng.integers(0, 4, n + 3)
    labels = {
        "label": label,
        "identity": np.arange(n + 3) // 5,
        "landmarks": rng.uniform(-1, 1, (n + 3, 68, 2)).astype(np.float32),
    }
    cfg = DataConfig(**options)
    rows = np.arange(3, n + 3)
    pair_sampler = PairSampler(rows, label[rows], labels["identity"][rows], None) if cfg.pair else None
    if pair_sampler:
        rows = rows[pair_sampler.exists(rows)]
    return FaceSet(ImageStore(images, labels), rows, cfg, training=True, num_classes=4, pair_sampler=pair_sampler)


def indices(batches, count: int) -> list[int]:
    return [int(i) for batch in itertools.islice(batches, count) for i in batch["index"]]


def test_an_epoch_has_each_face_once():
    faces = face_set(37)
    seen = indices(faces.batches(8), 37)  # 8 epochs in batches that straddle their borders
    for epoch in range(8):
        assert sorted(seen[37 * epoch : 37 * epoch + 37]) == list(range(3, 40))
    assert seen[:37] != seen[37:74]


def test_a_batch_may_be_larger_than_the_set():
    seen = indices(face_set(5).batches(12), 5)
    assert sorted(seen) == sorted(list(range(3, 8)) * 12)


@pytest.mark.parametrize("step", [0, 1, 4, 5, 1000, 123_456_789])
def test_batches_from_a_later_first_step_are_the_same(step):
    faces = face_set(37, augment_shift=0.1)
    straight = faces.batches(8, seed=3, first_step=step)
    next(straight)
    resumed = face_set(37, augment_shift=0.1).batches(8, seed=3, first_step=step + 1)
    for a, b in itertools.islice(zip(straight, resumed, strict=False), 3):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_two_ranks_together_have_the_batches_of_one():
    """Rank 0's batch then rank 1's is the batch of one process: the faces, their flips and all."""
    faces = face_set(37)
    one = faces.batches(8, seed=1)
    ranks = [faces.batches(4, seed=1, rank=r, world_size=2) for r in (0, 1)]
    for _ in range(20):
        whole, parts = next(one), [next(stream) for stream in ranks]
        for key in whole:
            assert torch.equal(whole[key], torch.cat([part[key] for part in parts]))


def test_seeds_give_different_orders_without_the_global_generator():
    faces = face_set()
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert indices(faces.batches(8, seed=0), 4) != indices(faces.batches(8, seed=1), 4)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_balanced_batches_have_equal_class_counts():
    faces = face_set(60, balanced=True)
    labels = torch.cat([batch["label"] for batch in itertools.islice(faces.batches(8), 30)])
    assert torch.bincount(labels).tolist() == [60] * 4
    # Within a class each face comes once before any comes twice.
    seen = np.array(indices(faces.batches(8), 30))
    for k in range(4):
        rows = faces.rows[faces.labels["label"] == k]
        mine = [i for i in seen if i in set(rows.tolist())][: len(rows)]
        assert sorted(mine) == rows.tolist()


def test_flips():
    faces = face_set(40, flip="random")
    original = torch.from_numpy(faces.store.images.numpy())
    flipped = 0
    for batch in itertools.islice(faces.batches(8), 10):
        x8 = ((batch["image"] + 1) * 127.5).round().to(torch.uint8)
        for k, row in enumerate(batch["index"]):
            mirrored = torch.equal(x8[k], original[row].flip(-1))
            assert mirrored or torch.equal(x8[k], original[row])
            points = faces.store.labels["landmarks"][row]
            expected = mirror_points(points[None])[0] if mirrored else points
            assert torch.equal(batch["landmarks"][k], expected)
            flipped += mirrored
    assert 20 < flipped < 60


def test_flip_none_and_both():
    faces = face_set(20, flip="none")
    batch = next(faces.batches(20))
    assert torch.equal(batch["image"], scaled(faces.store.images[batch["index"]]))
    faces = face_set(20, flip="both")
    batch = next(faces.batches(40))
    assert sorted(batch["index"].tolist()) == sorted(list(range(3, 23)) * 2)
    first = {int(i): x for i, x in zip(batch["index"], batch["image"], strict=True)}
    again = [torch.equal(first[int(i)].flip(-1), x) for i, x in zip(batch["index"], batch["image"], strict=True)]
    assert sum(again) == 20 and len(faces) == 20


def test_scaling_to_floats_and_back_is_exact():
    x8 = torch.arange(256, dtype=torch.uint8)
    x = scaled(x8)
    assert torch.equal(x, x8.float() / 127.5 - 1)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8), x8)


def test_pairs_have_the_same_person_and_another_expression():
    faces = face_set(60, pair=True)
    pair_sampler = set()
    for batch in itertools.islice(faces.batches(8), 60):
        assert (batch["pair_label"] != batch["label"]).all()
        assert (batch["pair_identity"] == batch["identity"]).all()
        assert {"pair_image", "pair_landmarks", "pair_index"} <= batch.keys()
        pair_sampler |= {(int(a), int(b)) for a, b in zip(batch["index"], batch["pair_index"], strict=True)}
    # Every possible pair comes sooner or later.
    label, identity = faces.labels["label"], faces.labels["identity"]
    possible = {
        (int(faces.rows[i]), int(faces.rows[j]))
        for i, j in itertools.product(range(len(faces)), repeat=2)
        if identity[i] == identity[j] and label[i] != label[j]
    }
    assert pair_sampler <= possible and len(pair_sampler) > 0.9 * len(possible)


def test_pairs_have_the_same_take():
    label = np.array([0, 1, 0, 1, 2, 0])
    take = np.array([0, 0, 1, 1, 2, 2])
    rows = np.arange(10, 16)
    pair_sampler = PairSampler(rows, label, np.zeros(6, np.int64), take)
    for epoch in range(10):
        assert pair_sampler.of(rows, epoch, 0).tolist() == [11, 10, 13, 12, 15, 14]
    alone = PairSampler(rows, np.array([0, 0, 0, 1, -1, 2]), np.array([0, 0, 1, 1, 1, -1]), None)
    assert alone.exists(rows).tolist() == [False, False, True, True, False, False]


def test_pair_without_persons_or_expressions_is_an_error(tmp_path):
    layouts.write_fer(tmp_path, layouts.fer_faces())
    with pytest.raises(UserError, match="identity labels"):
        build_faces(DataConfig(dataset="fer2013", root=str(tmp_path), image_size=48, pair=True))
    layouts.write_folders(tmp_path / "f", ["happy", "sad"])
    cfg = DataConfig(dataset="folder", root=str(tmp_path / "f"), image_size=32, pair=True, identity_regex=r"(\d)\.png")
    faces = build_faces(cfg)
    batch = next(faces.train.batches(4))
    assert (batch["label"] + batch["pair_label"] == 1).all()


def test_augmentation():
    faces = face_set(40, augment_crop=0.3, augment_shift=0.1, augment_brightness=0.3, flip="none")
    plain = face_set(40, flip="none")
    a, b = next(faces.batches(8)), next(plain.batches(8))
    assert torch.equal(a["index"], b["index"]) and not torch.equal(a["image"], b["image"])
    assert a["image"].abs().max() <= 1
    assert torch.equal(faces.fixed(8)["image"], plain.fixed(8)["image"])
    # A bright dot and its landmark move together.
    x = torch.full((1, 1, 64, 64), -1.0)
    x[0, 0, 20, 40] = 1
    point = torch.tensor([[[40.5 / 32 - 1, 20.5 / 32 - 1]]])
    numbers = torch.tensor([[0.5, 0.1, -0.2, 1.0]])
    augment = Augment(0.5, 0.1, 0.0)
    moved, places = augment.images(x, numbers), augment.points(point, numbers)[0, 0]
    top = moved[0, 0].argmax()
    seen = torch.tensor([(top % 64 + 0.5) / 32 - 1, (top // 64 + 0.5) / 32 - 1])
    assert (seen - places).abs().max() < 2 / 32
    shift = Augment(0.0, 0.1, 0.0).numbers(BatchIndices(np.arange(999), np.zeros(999, bool), np.zeros(999, int)), 0)
    assert (shift[:, 0] == 1).all() and np.abs(shift[:, 1:3]).max() <= 0.2 and np.abs(shift[:, 1:3]).max() > 0.19


def test_fixed_batch_is_spread_over_classes_and_persons():
    faces = face_set(200)
    batch = faces.fixed(16)
    assert torch.bincount(batch["label"], minlength=4).tolist() == [4] * 4
    assert batch["index"].unique().numel() == 16
    assert int(batch["index"].max() - batch["index"].min()) > 120
    again = faces.fixed(16)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert torch.equal(batch["image"], scaled(faces.store.images[batch["index"]]))
    assert len(face_set(5).fixed(16)["image"]) == 16


def test_once_is_an_ordered_pass_without_flips():
    faces = face_set(37)
    passed = list(faces.once(16))
    assert [len(batch["image"]) for batch in passed] == [16, 16, 5]
    assert torch.cat([batch["index"] for batch in passed]).tolist() == faces.rows.tolist()
    assert torch.equal(torch.cat([batch["image"] for batch in passed]), scaled(faces.store.images[faces.rows]))
    assert torch.cat([batch["label"] for batch in passed]).tolist() == faces.labels["label"].tolist()


def test_a_late_first_step_takes_no_time():
    """Only the epochs that the step touches are shuffled."""
    order = IndexSampler([np.arange(1000)], seed=0)
    order.at(np.arange(10**12, 10**12 + 8))
    assert len(order._permutations) == 1
    order.at(np.arange(10**12, 10**12 + 9000))
    assert len(order._permutations) <= 3


def test_prefetched_batches_are_the_same():
    faces = face_set(37)
    stream = faces.batches(8)
    ahead = Prefetcher(faces.store.images, torch.device("cpu"), lambda step: stream.draw(step).rows)
    for step in [0, 1, 2, 3, 10, 11, 4]:
        assert torch.equal(ahead.take(step), faces.store.images[stream.draw(step).rows])


def test_keys_and_types():
    batch = next(face_set().batches(4))
    assert {key: value.dtype for key, value in batch.items()} == {
        "image": torch.float32, "label": torch.int64, "identity": torch.int64, "landmarks": torch.float32,
        "index": torch.int64,
    }  # fmt: skip


def test_two_sets_alternate(tmp_path):
    layouts.write_celeba(tmp_path / "celeba", n=24)
    layouts.write_folders(tmp_path / "folder", ["happy", "sad", "contempt"])
    roots = [str(tmp_path / name) for name in ("celeba", "folder")]
    wanted = {"classes": ["happy", "sad", "contempt"], "attributes": layouts.ATTRIBUTES[:5], "balanced": True}
    faces = build_faces(DataConfig(sets=["celeba", "folder"], roots=roots, image_size=32, **wanted))
    assert faces.meta["classes"] == ["happy", "sad", "contempt"] and len(faces.meta["attributes"]) == 5
    assert [part["dataset"] for part in faces.meta["sets"]] == ["celeba", "folder"]
    batches = list(itertools.islice(faces.train.batches(4), 6))
    assert [int(batch["source"][0]) for batch in batches] == [0, 1, 0, 1, 0, 1]
    assert "attr" in batches[0] and "label" not in batches[0] and "label" in batches[1] and "attr" not in batches[1]
    first = faces.train.sets[0]
    assert len({int(i) for batch in batches[::2] for i in batch["index"]}) == 12 <= len(first)
    resumed = next(faces.train.batches(4, first_step=3))
    assert torch.equal(resumed["image"], batches[3]["image"])
    assert faces.val.fixed(3, source=1)["source"].tolist() == [1, 1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [0.5, 0.0])
def test_the_gpu_gives_the_same_batches(resident):
    on_cpu, on_gpu = face_set(37, pair=True), face_set(37, pair=True, resident=resident)
    on_gpu.store.resident = resident
    ours, theirs = on_cpu.batches(8), on_gpu.batches(8, device="cuda")
    for _ in range(20):
        a, b = next(ours), next(theirs)
        assert all(b[key].is_cuda and torch.equal(a[key], b[key].cpu()) for key in a)
    assert on_gpu.fixed(8, "cuda")["image"].is_cuda
