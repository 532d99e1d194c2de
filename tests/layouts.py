"""Small data sets of noise in the exact file formats of the real ones, for tests of the readers."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
ATTRIBUTES = _NAMES.split()
LANDMARKS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
USAGES = ("Training", "PublicTest", "PrivateTest")
FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FERPLUS_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def pictures(n: int, height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(n, height, width, channels) uint8: coarse noise, so that a JPEG keeps it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, height // 8 + 1, width // 8 + 1, channels), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]


def encoded(array: np.ndarray, kind: str = "JPEG", **options) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, kind, **options)
    return buffer.getvalue()


def write_celeba(root: Path, n: int = 12, archive: bool = False, seed: int = 0) -> dict:
    """CelebA's files (CRLF, trailing blank, padded columns). Three images a person; 2/3 train, 1/6 val, 1/6 test."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    files = [encoded(x, quality=95) for x in pictures(n, 218, 178, seed=seed)]
    if archive:
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as out:
            for name, data in zip(names, files, strict=True):
                out.writestr(f"img_align_celeba/{name}", data)
    else:
        (root / "img_align_celeba").mkdir(exist_ok=True)
        for name, data in zip(names, files, strict=True):
            (root / "img_align_celeba" / name).write_bytes(data)
    attr = rng.integers(0, 2, (n, 40)) * 2 - 1
    identity = np.arange(n) // 3 + 100
    landmarks = np.array([69, 111, 108, 111, 88, 135, 73, 152, 105, 152]) + rng.integers(-2, 3, (n, 10))
    split = np.select([np.arange(n) < n * 2 // 3, np.arange(n) < n * 5 // 6], [0, 1], 2)
    rows = [f"{m} {v[0]}" + "".join(f"{x:3d}" for x in v[1:]) for m, v in zip(names, attr, strict=True)]
    lines(root / "list_attr_celeba.txt", [str(n), " ".join(ATTRIBUTES) + " ", *rows])
    rows = [f"{m} {v[0]}" + "".join(f"{x:5d}" for x in v[1:]) for m, v in zip(names, landmarks, strict=True)]
    lines(root / "list_landmarks_align_celeba.txt", [str(n), LANDMARKS, *rows])
    rows = [f"{m}    95  71 226 313" for m in names]
    lines(root / "list_bbox_celeba.txt", [str(n), "image_id x_1 y_1 width height", *rows])
    lines(root / "list_eval_partition.txt", [f"{m} {s}" for m, s in zip(names, split, strict=True)])
    lines(root / "identity_CelebA.txt", [f"{m} {i}" for m, i in zip(names, identity, strict=True)])
    return {"names": names, "attr": attr, "identity": identity, "landmarks": landmarks, "split": split}


def lines(path: Path, rows: list[str], end: str = "\r\n") -> None:
    """Write rows, each with its line's end."""
    path.write_bytes("".join(row + end for row in rows).encode())


def fer_faces(per_usage: tuple[int, int, int] = (21, 7, 7), seed: int = 0) -> dict:
    """Faces, labels and usages as fer2013.csv orders them."""
    n = sum(per_usage)
    usage = np.repeat(USAGES, per_usage)
    return {"images": pictures(n, 48, 48, 1, seed)[..., 0], "label": np.arange(n) % 7, "usage": usage}


def write_fer(root: Path, faces: dict, layout: str = "fer2013") -> Path:
    """fer2013 | icml | traintest | folders (a) | counted (b) | validation (c) | numeric (d) | ferplus."""
    root.mkdir(parents=True, exist_ok=True)
    rows = list(zip(faces["images"], faces["label"].tolist(), faces["usage"].tolist(), strict=True))
    pixels = lambda x: " ".join(map(str, x.ravel().tolist()))  # noqa: E731
    if layout == "fer2013":
        lines(root / "fer2013.csv", ["emotion,pixels,Usage", *(f"{k},{pixels(x)},{u}" for x, k, u in rows)], "\n")
    elif layout == "icml":
        header = "emotion, Usage, pixels"
        lines(root / "icml_face_data.csv", [header, *(f"{k},{u},{pixels(x)}" for x, k, u in rows)], "\n")
    elif layout == "traintest":
        train = [f'{k},"{pixels(x)}"' for x, k, u in rows if u == "Training"]
        test = [f'"{pixels(x)}"' for x, k, u in rows if u != "Training"]
        lines(root / "train.csv", ["emotion,pixels", *train])
        lines(root / "test.csv", ["pixels", *test])
    elif layout == "ferplus":
        votes = np.eye(10, dtype=int)[[4, 5, 6, 1, 3, 2, 0]][faces["label"]] * 8
        votes[:, 8] += 2
        body = [f"{u},fer{i:07d}.png," + ",".join(map(str, v)) for i, ((_, _, u), v) in enumerate(zip(rows, votes))]
        lines(root / "fer2013new.csv", [FERPLUS_HEADER, *body], "\n")
    else:
        _write_fer_folders(root, rows, layout)
    return root


def _write_fer_folders(root: Path, rows: list, layout: str) -> None:
    words = {"counted": ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral")}
    counts: dict = {}
    for i, (image, label, usage) in enumerate(rows):
        part = "train" if usage == "Training" else "test"
        name = f"{usage}_{i * 7}"
        if layout == "validation":
            part = "images/" + {"train": "train", "test": "validation"}[part]
            name = str(i)
        if layout == "counted":
            counts[part, label] = counts.get((part, label), -1) + 1
            name = f"im{counts[part, label]}"
        folder = root / part / (str(label) if layout == "numeric" else words.get(layout, FER_CLASSES)[label])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png")


def write_tfd(path: Path, n: int = 20, side: int = 48, **changed: np.ndarray) -> dict:
    """A TFD .mat file: every fourth face unlabelled, one picture all black; `changed` overrides variables."""
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    label = np.where(np.arange(n) % 4 == 3, -1, np.arange(n) % 7 + 1)
    folds = np.stack([np.where(label < 0, 0, (np.arange(n) + k) % 3 + 1) for k in range(5)], axis=1)
    images = pictures(n, side, side, 1)[..., 0].copy()
    images[3] = 0
    identity = np.where(np.arange(n) % 5 == 4, -1, np.arange(n) // 4 * 10 + 7)
    data = {
        "images": images,
        "labs_ex": label[:, None].astype(np.int16),
        "labs_id": identity[:, None].astype(np.int16),
        "folds": folds.astype(np.uint8),
    } | changed
    savemat(path, {key: value for key, value in data.items() if value is not None}, do_compression=True)
    return data | {"label": label, "identity": identity}


def write_folders(root: Path, groups: list[str], per_group: int = 4, size: int = 40) -> None:
    """root/<group>/<k>.png; a group may hold a slash (train/happy)."""
    for g, group in enumerate(groups):
        (root / group).mkdir(parents=True, exist_ok=True)
        for k, x in enumerate(pictures(per_group, size, size, 3, seed=g)):
            Image.fromarray(x).save(root / group / f"{k}.png")
