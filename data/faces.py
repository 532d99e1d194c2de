"""Data sets for training, from a pack: rows and labels of train, val and test, and `meta`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.batches import Augment, Batch, Batches, ImageStore, collate, resolve
from data.config import DataConfig
from data.crop import BLACK, FLAT, REFUSED, UNREADABLE
from data.emotions import canonical, nearest
from data.pack import Pack, open_pack
from data.raw import TEST, TRAIN, VAL, digest, rank_zero_info
from data.samplers import BatchIndices, IndexSampler, PairSampler, mixed
from engine.errors import UserError

SPLITS = ("train", "val", "test")
HASHED_SHARE = 0.1  # share of the training images (or persons) that become val, or test, if a set has none


@dataclass
class Faces:
    """The three parts of a data set. `meta` holds plain values; runs and checkpoints store it."""

    train: "FaceSet | AlternatingDataset"
    val: "FaceSet | AlternatingDataset"
    test: "FaceSet | AlternatingDataset"
    meta: dict


class FaceSet:
    """One of train, val, test: some rows of a pack. `labels` are arrays with one row per image of this part."""

    def __init__(
        self, store: ImageStore, rows: np.ndarray, cfg: DataConfig, training: bool, num_classes: int = 0,
        pair_sampler: PairSampler | None = None,
    ) -> None:  # fmt: skip
        self.store, self.rows, self.cfg, self.training = store, np.asarray(rows, np.int64), cfg, training
        self.num_classes, self.pair_sampler = num_classes, pair_sampler
        self.labels = {key: value.numpy()[self.rows] for key, value in store.labels.items() if key != "sketch"}
        self.labels["index"] = self.rows
        augment = Augment(cfg.augment_crop, cfg.augment_shift, cfg.augment_brightness)
        self.augment = augment if training and augment else None

    def __len__(self) -> int:
        return len(self.rows)

    def batches(
        self, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1,
        device: str | torch.device = "cpu", first_step: int = 0, stride: int = 1,
    ) -> Batches:  # fmt: skip
        """Endless batches of `batch_size` images for this rank, from step `first_step` on.

        A training set is flipped, balanced and augmented as its config says. Other sets are only shuffled. Starting
        at a later step takes no time.
        """
        order = IndexSampler(self._class_indices(), seed, self.cfg.flip if self.training else "none")
        return Batches(
            self.store, order, batch_size, rank, world_size, device, first_step, self.pair_sampler, self.augment, stride
        )

    def fixed(self, n: int, device: str | torch.device = "cpu") -> Batch:
        """A batch of n images, the same on every call. See `spread_places`."""
        return self.take(self.spread_places(n), device)

    def spread_places(self, n: int) -> np.ndarray:
        """Indices (n,) spread evenly over the set, with expressions in turn. They repeat if n > len."""
        if not len(self):
            raise UserError("data: this part of the set is empty with these options; expected at least one image")
        label = self.labels.get("label", np.zeros(len(self), np.int64))
        groups = [np.flatnonzero(label == k) for k in np.unique(label)]
        counts = [len(range(j, n, len(groups))) for j in range(len(groups))]
        picks = np.empty(n, np.int64)
        for j, (group, count) in enumerate(zip(groups, counts, strict=True)):
            # An offset per expression, so that neighbors in a grid are not neighbors in the set (often one person).
            share = (np.arange(count) + (j + 0.5) / len(groups)) / max(count, 1)
            picks[j :: len(groups)] = group[(share * len(group)).astype(np.int64)]
        return picks

    def once(self, batch_size: int, device: str | torch.device = "cpu") -> Iterator[Batch]:
        """One pass in order, without flips. The last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            yield self.take(np.arange(start, min(start + batch_size, len(self))), device)

    def take(self, places: np.ndarray, device: str | torch.device = "cpu") -> Batch:
        """The images with these indices (N,), without flips."""
        device = resolve(device)
        rows = self.rows[np.asarray(places, np.int64)]
        draw = BatchIndices(rows, np.zeros(len(rows), bool), np.zeros(len(rows), np.int64))
        batch = self._plain(rows, draw, device)
        if self.pair_sampler is not None:
            batch |= self._plain(self.pair_sampler.of(rows, draw.epoch, 0), draw, device, "pair_")
        return batch

    def _plain(self, rows: np.ndarray, draw: BatchIndices, device: torch.device, prefix: str = "") -> Batch:
        images, labels = self.store.on(device)
        index = torch.from_numpy(rows)
        x8 = images.index_select(0, index.to(images.device)).to(device)
        return collate(x8, labels, draw, index.to(device), prefix)

    def _class_indices(self) -> list[np.ndarray]:
        if not (self.cfg.balanced and self.training):
            return [self.rows]
        return [self.rows[self.labels["label"] == k] for k in range(self.num_classes)]


class AlternatingDataset:
    """Two data sets in alternation: step s uses set s mod 2. `batch["source"]` (N,) is the number of the set."""

    def __init__(self, sets: tuple[FaceSet, FaceSet]) -> None:
        self.sets = sets

    def __len__(self) -> int:
        return sum(len(part) for part in self.sets)

    def batches(
        self, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1,
        device: str | torch.device = "cpu", first_step: int = 0,
    ) -> Iterator[Batch]:  # fmt: skip
        """Endless batches. Keys that only one set has are only in the batches of that set."""
        streams = [part.batches(batch_size, seed, rank, world_size, device, 0, stride=2) for part in self.sets]
        step = first_step
        while True:
            stream = streams[step % 2]
            stream.step = step
            yield _with_source(next(stream), step % 2)
            step += 1

    def fixed(self, n: int, device: str | torch.device = "cpu", source: int = 0) -> Batch:
        """n images of one of the two sets, as in `FaceSet.fixed`."""
        return _with_source(self.sets[source].fixed(n, device), source)

    def once(self, batch_size: int, device: str | torch.device = "cpu") -> Iterator[Batch]:
        """One pass over the first set, then one over the second."""
        for source, part in enumerate(self.sets):
            for batch in part.once(batch_size, device):
                yield _with_source(batch, source)


def _with_source(batch: Batch, source: int) -> Batch:
    return {**batch, "source": torch.full_like(batch["index"], source)}


def build_faces(cfg: DataConfig) -> Faces:
    """Open the pack for `cfg`, or make it, and choose its rows and labels.

    Raises:
        UserError: raw files are missing or invalid, or the data set does not have a class or attribute of `cfg`.
    """
    return _build_two(cfg) if cfg.sets else _build_one(cfg, open_pack(cfg))


def _build_one(cfg: DataConfig, pack: Pack) -> Faces:
    names, labels, wanted = _labels(cfg, pack)
    split, notes = _complete_split(cfg, pack)
    rows, more = _rows(cfg, pack, split, wanted)
    notes += more
    if cfg.sketch:
        rows, more = _with_sketches(cfg, pack, labels, rows)
        notes += more
    if cfg.landmarks == "found":  # before pairs are made, so that a partner has landmarks, too
        has_points = np.isfinite(labels["landmarks"][rows[TRAIN]]).all((1, 2))
        rows[TRAIN] = rows[TRAIN][has_points]
        notes.append(f"landmarks: found leaves out {(~has_points).sum()} training faces without landmarks")
    pair_samplers: Sequence[PairSampler | None] = (None, None, None)
    if cfg.pair:
        pair_samplers, rows, more = _pairs(labels, pack.labels.get("take"), rows)
        notes += more
    for note in notes:
        rank_zero_info(f"{cfg.dataset}: {note}")
    if not len(rows[TRAIN]):
        counts = ", ".join(f"{len(part)} {name}" for part, name in zip(rows, SPLITS, strict=True))
        raise UserError(
            f"{cfg.root_folder()}: no training image is left ({counts}); expected a training part with readable images "
            "of the classes in data.classes"
        )
    _check_balanced(cfg, names["classes"], labels, rows[TRAIN])
    store = ImageStore(pack.images, labels, cfg.resident)
    sets = [
        FaceSet(store, rows[part], cfg, part == TRAIN, len(names["classes"]), pair_samplers[part])
        for part in (TRAIN, VAL, TEST)
    ]
    return Faces(*sets, meta=_meta(cfg, pack, names, labels, sets))


def _build_two(cfg: DataConfig) -> Faces:
    parts = []
    for place, name in enumerate(cfg.sets):
        root = cfg.roots[place] if cfg.roots else ""
        own = replace(cfg, dataset=name, root=root, sets=[], roots=[])
        pack = open_pack(own)
        # data.classes does not apply to a set without expressions, nor data.attributes to one without attributes.
        own = replace(
            own,
            classes=own.classes if pack.meta["classes"] else [],
            attributes=own.attributes if pack.meta["attributes"] else [],
            balanced=own.balanced and bool(pack.meta["classes"]),
        )
        parts.append(_build_one(own, pack))
    first, second = parts[0].meta, parts[1].meta
    if first["channels"] != second["channels"]:
        raise UserError(
            f"data.sets: {cfg.sets[0]} has {first['channels']} channels and {cfg.sets[1]} {second['channels']}; "
            "set data.grayscale: true"
        )
    # The joint meta has the expressions and attributes of whichever set has them.
    meta = {key: second[key] if not first[key] else first[key] for key in first}
    meta |= {key: first[key] + second[key] for key in ("num_train", "num_val", "num_test")}
    meta |= {
        "dataset": "+".join(cfg.sets),
        "keys": [key for key in first["keys"] if key in second["keys"]] + ["source"],
        "fingerprint": digest([first["fingerprint"], second["fingerprint"]]),
        "sets": [first, second],
    }
    joint = [AlternatingDataset((getattr(parts[0], name), getattr(parts[1], name))) for name in SPLITS]
    return Faces(*joint, meta=meta)


def _labels(cfg: DataConfig, pack: Pack) -> tuple[dict, dict[str, np.ndarray], np.ndarray]:
    """Names, labels in the form of a batch (N rows), and (N,) bool: the row's class is in data.classes."""
    labels: dict[str, np.ndarray] = {}
    stored, known = _with_expression(cfg, pack)
    wanted = np.ones(len(stored["split"]), bool)
    classes = _choose(cfg, "classes", known)
    attributes = _choose(cfg, "attributes", pack.meta["attributes"])
    if "label" in stored:
        old = np.array([known.index(name) for name in classes], np.int64)
        new = np.full(len(known) + 1, -1, np.int64)  # index -1 is the last element: unknown stays unknown
        new[old] = np.arange(len(old))
        labels["label"] = new[stored["label"]]
        wanted = (labels["label"] >= 0) | (stored["label"] < 0)
        if cfg.labels != "hard" and "label_soft" in stored:
            soft = stored["label_soft"][:, old].astype(np.float32)
            total = soft.sum(axis=1, keepdims=True)
            one_hot = (labels["label"][:, None] == np.arange(len(old))).astype(np.float32)
            labels["label_soft"] = np.where(total > 0, soft / np.maximum(total, 1e-6), one_hot)
    if "attr" in stored:
        chosen = stored["attr"][:, [pack.meta["attributes"].index(name) for name in attributes]]
        labels["attr"] = np.where(chosen < 0, np.nan, chosen).astype(np.float32)
    for key in ("identity", "landmarks"):
        if key in stored:
            labels[key] = stored[key]
    if cfg.landmarks != "own":
        labels["landmarks"] = _landmarks_beside(pack)
    return {"classes": classes, "attributes": attributes}, labels, wanted


def _with_expression(cfg: DataConfig, pack: Pack) -> tuple[dict[str, np.ndarray], list[str]]:
    """The labels and class names of the pack. With `label_attribute`, the label is the value of that attribute."""
    name, known = cfg.label_attribute, pack.meta["attributes"]
    if not name:
        return pack.labels, pack.meta["classes"]
    if name not in known:
        raise UserError(f"data.label_attribute: {cfg.dataset} has no '{name}'; the nearest are {nearest(name, known)}")
    label = pack.labels["attr"][:, known.index(name)].astype(np.int64)
    classes = ["neutral", "happy"] if name == "Smiling" else [f"not_{name}", name]
    return {**pack.labels, "label": label}, classes


def _choose(cfg: DataConfig, key: str, known: list[str]) -> list[str]:
    """The names of `cfg.classes` or `cfg.attributes` as the data set spells them; all names if the list is empty."""
    chosen = []
    for text in getattr(cfg, key):
        name = text if text in known else text.partition("=")[2] or text  # "1=surprise" names the folder 1
        match = name if name in known else canonical(name) if key == "classes" else None
        if match not in known:
            if not known:
                raise UserError(f"data.{key}: {cfg.dataset} has no {key}; leave the list empty")
            raise UserError(f"data.{key}: {cfg.dataset} has no '{name}'; the nearest are {nearest(name, known)}")
        chosen.append(match)
    return list(dict.fromkeys(chosen)) or list(known)


def _landmarks_beside(pack: Pack) -> np.ndarray:
    path = pack.landmarks_file
    if not path.exists():
        raise UserError(
            f"{path}: this file does not exist. Run python -m data.landmarks --config FILE, or set data.landmarks: own."
        )
    with np.load(path) as stored:
        fingerprint, points = str(stored["fingerprint"]), stored["points"].astype(np.float32)
    if fingerprint != pack.meta["fingerprint"] or len(points) != pack.meta["count"]:
        raise UserError(f"{path}: belongs to another pack. Run python -m data.landmarks --config FILE again.")
    return points


def _complete_split(cfg: DataConfig, pack: Pack) -> tuple[np.ndarray, list[str]]:
    """The split of `cfg`, (N,). If val or test is missing, it is made from a part of the training images."""
    name = f"split_fold{cfg.fold}" if cfg.dataset == "tfd" else f"split_{cfg.split}"
    split, notes = pack.labels.get(name, pack.labels["split"]).copy(), []
    if not (split == TEST).any() and (split == VAL).any():
        split[split == VAL] = TEST
        notes.append("the data set has two parts only; its validation part is used as the test set")
    missing = [part for part in (TEST, VAL) if not (split == part).any() and not (part == VAL and cfg.merge_val)]
    # All images of a person go to one part, and so do copies of an image.
    identity, pixels = pack.labels.get("identity", np.full(len(split), -1)), mixed(2, pack.labels["pixels"])
    key = np.where(identity >= 0, mixed(1, identity), pixels)
    usable = (split == TRAIN) & (pack.labels["fault"] != UNREADABLE)
    if missing and len(np.unique(key[usable])) <= len(missing):
        if (identity[usable] >= 0).any():
            notes.append("there are too few persons to split by person, so the parts share persons")
        key = pixels
    for part in missing:
        # The keys with the smallest hashes. So the number of keys is exact, also for few persons.
        keys = np.unique(key[usable & (split == TRAIN)])
        chosen = keys[: int(np.ceil(HASHED_SHARE * len(keys)))] if len(keys) > 1 else keys[:0]
        split[(split == TRAIN) & np.isin(key, chosen)] = part
        notes.append(
            f"{SPLITS[part]} is missing; {HASHED_SHARE:.0%} of the training part, chosen by a hash, replace it"
        )
    return split, notes


def _rows(cfg: DataConfig, pack: Pack, split: np.ndarray, wanted: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
    """Rows of train, val and test. Bad images and copies are removed from train only, so val and test are complete."""
    fault, pixels, notes = pack.labels["fault"], pack.labels["pixels"], []
    usable = wanted & (fault != UNREADABLE)
    if cfg.merge_val:
        split = np.where(split == VAL, TRAIN, split)
    train = usable & (split == TRAIN)
    if cfg.drop_bad:
        bad = train & np.isin(fault, (BLACK, FLAT, REFUSED))
        train &= ~bad
        if bad.any():
            kinds = ((BLACK, "all black"), (FLAT, "flat"), (REFUSED, "refused by the set"))
            text = ", ".join(f"{(bad & (fault == k)).sum()} {name}" for k, name in kinds if (bad & (fault == k)).any())
            notes.append(f"drop_bad leaves out {bad.sum()} training images: {text}")
    if cfg.dedup:
        copies = train & np.isin(pixels, pixels[usable & (split != TRAIN)])
        train &= ~copies
        notes.append(f"dedup leaves out {copies.sum()} training images that are copies of val or test images")
    test = np.flatnonzero(usable & (split == TEST))
    val = test if cfg.merge_val else np.flatnonzero(usable & (split == VAL))
    limits = (cfg.num_train, cfg.num_val, cfg.num_test)
    parts = (np.flatnonzero(train), val, test)
    return [_limited(part, limit) for part, limit in zip(parts, limits, strict=True)], notes


def _limited(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` rows, evenly spaced; 0 = all."""
    if not limit or limit >= len(rows):
        return rows
    return rows[(np.arange(limit) * len(rows)) // limit]


def _pairs(
    labels: dict[str, np.ndarray], take: np.ndarray | None, rows: list[np.ndarray]
) -> tuple[list[PairSampler], list[np.ndarray], list[str]]:
    """A `PairSampler` for each part, the rows that have a partner, and notes."""
    missing = [key for key in ("label", "identity") if key not in labels]
    if missing:
        raise UserError(f"data.pair: expected a set with {' and '.join(missing)} labels; use pair: false")
    pair_samplers, kept, notes = [], [], []
    for part, part_rows in enumerate(rows):
        part_take = None if take is None else take[part_rows]
        sampler = PairSampler(part_rows, labels["label"][part_rows], labels["identity"][part_rows], part_take)
        has_partner = sampler.exists(part_rows)
        if not has_partner.all():
            notes.append(f"pair leaves out {(~has_partner).sum()} {SPLITS[part]} faces without another expression")
        pair_samplers.append(sampler)
        kept.append(part_rows[has_partner])
    if not len(kept[TRAIN]):
        raise UserError("data.pair: no person of the training set has two expressions; use pair: false")
    return pair_samplers, kept, notes


def _with_sketches(
    cfg: DataConfig, pack: Pack, labels: dict[str, np.ndarray], rows: list[np.ndarray]
) -> tuple[list[np.ndarray], list[str]]:
    """Add sketches to the labels. Returns the rows that have a sketch, and notes."""
    from data import READERS  # as in data.pack
    from data.sketches import open_sketches

    labels["sketch"], exists = open_sketches(cfg, pack, READERS[cfg.dataset](cfg))
    kept = [part[exists[part]] for part in rows]
    dropped = sum(map(len, rows)) - sum(map(len, kept))
    return kept, [f"sketch leaves out {dropped} faces without a sketch"] if dropped else []


def _check_balanced(cfg: DataConfig, classes: list[str], labels: dict[str, np.ndarray], train: np.ndarray) -> None:
    if not cfg.balanced:
        return
    if "label" not in labels:
        raise UserError(f"data.balanced: {cfg.dataset} has no expressions to balance; use balanced: false")
    counts = _counts(labels["label"][train], len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise UserError(
            f"data.balanced: no training image has the class {', '.join(empty)}; remove it from data.classes"
        )


def _counts(label: np.ndarray, num_classes: int) -> list[int]:
    return np.bincount(label[label >= 0], minlength=num_classes).tolist() if num_classes else []


def _meta(cfg: DataConfig, pack: Pack, names: dict, labels: dict, sets: list[FaceSet]) -> dict:
    """The facts that runs and checkpoints store, as plain values. data/README.md lists them."""
    stored = pack.meta
    eyes = [cfg.eyes[:2], cfg.eyes[2:]] if cfg.eyes else _mean_eyes(labels) or stored["eyes"]
    choice = [
        *(names["classes"], names["attributes"], cfg.merge_val, cfg.drop_bad, cfg.dedup, cfg.labels, cfg.landmarks),
        *(cfg.split, cfg.fold, cfg.pair, cfg.label_attribute, [len(part) for part in sets]),
    ]
    choice += ["sketch"] if cfg.sketch else []
    keys = ["image", *labels, "index"]
    if cfg.pair:
        keys += [f"pair_{key}" for key in keys]
    class_counts = {
        name: _counts(part.labels["label"], len(names["classes"])) if "label" in labels else []
        for name, part in zip(SPLITS, sets, strict=True)
    }
    return {
        "dataset": cfg.dataset,
        "channels": stored["channels"],
        "image_size": stored["image_size"],
        "crop": stored["crop"],
        "eyes": eyes,
        "classes": names["classes"],
        "attributes": names["attributes"],
        "identities": int(labels["identity"].max(initial=-1)) + 1 if "identity" in labels else 0,
        "landmarks": labels["landmarks"].shape[1] if "landmarks" in labels else 0,
        **{f"num_{name}": len(part) for name, part in zip(SPLITS, sets, strict=True)},
        "class_counts": class_counts,
        "keys": keys,
        "fingerprint": digest([stored["fingerprint"], choice]),
    }


def _mean_eyes(labels: dict[str, np.ndarray]) -> list[list[float]] | None:
    """Mean eye positions [[x, y], [x, y]] from landmarks, the eye at the left first; None without landmarks."""
    points = labels.get("landmarks")
    if points is None or np.isnan(points).all():
        return None
    eyes = (points[:, 0], points[:, 1]) if points.shape[1] == 5 else (points[:, 36:42], points[:, 42:48])
    return [[round(float(np.nanmean(eye[..., axis])), 4) for axis in (0, 1)] for eye in eyes]
