"""Drawn faces in the files of the real data sets, to try readers and configs without a download.

    python scripts/make_synthetic.py --layout celeba --out datasets/celeba_drawn -n 2000
    python vae/train.py --config configs/vae/celeba64.yaml data.root=datasets/celeba_drawn

| layout | writes | like the real one in |
| --- | --- | --- |
| celeba | img_align_celeba/ (or --zip), five text files | 178 x 218 JPEG, mean eye places, CRLF, widths |
| fer2013 | fer2013.csv (--variant icml, traintest; --ferplus) | 48 x 48 grey, blanks, quotes, line ends |
| tfd | TFD_48x48.mat (--size 96) | keys, types, 1 .. 7, -1 for unlabelled, five folds, one all-black image |
| folders | {train,val,test}/<emotion>/id<person>_<index>.png | data.identity_regex='id(\\d+)' reads the persons |

Splits are by person, about 80 : 10 : 10. CelebA's seven attributes that drawn faces do not have are -1 throughout.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data import synthetic
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_dir

CHUNK = 512  # faces drawn at a time
SPLITS = ("train", "val", "test")
CELEBA_NAMES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
POINTS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
CRLF = "\r\n"
# How a drawn square is put into a set's picture so that the eyes stand where that set has them (px of that picture).
CELEBA_SIDE, CELEBA_LEFT, CELEBA_TOP, CELEBA_SIZE = 148, 15, 41, (178, 218)
FER_SIDE, FER_LEFT, FER_TOP, FER_SIZE = 64, 8, 11, 48
TFD_SIDE, TFD_LEFT, TFD_TOP, TFD_SIZE = 103, 27, 38, 48
TFD_UNLABELLED = 0.25  # share of rows without an expression
FERPLUS = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
FERPLUS_ORDER = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")


def faces(arguments: argparse.Namespace) -> list[tuple[int, dict[str, np.ndarray]]]:
    """(split, factors) for each chunk, train first; identities of the splits are disjoint."""
    n = arguments.n
    val = test = max(n // 10, 1)
    chunks = []
    for split, count in enumerate((n - val - test, val, test)):
        first = synthetic.SPLIT_OFFSET[SPLITS[split]] * arguments.per_identity
        for start in range(0, count, CHUNK):
            index = np.arange(first + start, first + min(start + CHUNK, count))
            chosen = synthetic.factors(
                arguments.seed,
                index,
                per_identity=arguments.per_identity,
                prior=arguments.prior,
                independent=arguments.independent,
                classes=arguments.classes,
            )
            chunks.append((split, chosen))
    return chunks


def labels_of(chunks: list[tuple[int, dict]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split, expression and identity (numbered from 0 in order of appearance) of all faces, (N,) each."""
    split = np.concatenate([np.full(len(f["expr"]), s) for s, f in chunks])
    label = np.concatenate([f["expr"] for _, f in chunks]).astype(int)
    person = np.concatenate([f["identity"] for _, f in chunks])
    _, first, back = np.unique(person, return_index=True, return_inverse=True)
    return split, label, np.argsort(np.argsort(first))[back]


# --- CelebA --------------------------------------------------------------------------------------------------------


def write_celeba(out: Path, arguments: argparse.Namespace) -> None:
    """178 x 218 JPEGs and list_attr, list_eval_partition, identity, list_landmarks_align, list_bbox."""
    chunks = faces(arguments)
    split, _, identity = labels_of(chunks)
    names = [f"{i + 1:06d}.jpg" for i in range(len(split))]
    attr, points = [], []
    for _, f in chunks:
        attr.append(synthetic.attributes(f))
        place = (synthetic.landmarks5(synthetic.landmarks(f)) + 1) / 2 * CELEBA_SIDE + (CELEBA_LEFT, CELEBA_TOP)
        points.append(np.rint(place - 0.5).astype(int).reshape(len(place), 10))
    known = np.concatenate(attr)
    signs = np.full((len(names), 40), -1)
    for column, name in enumerate(synthetic.ATTRIBUTES):
        signs[:, CELEBA_NAMES.index(name)] = np.where(known[:, column] > 0.5, 1, -1)
    _write_lines(out / "list_attr_celeba.txt", attr_lines(names, signs))
    _write_lines(out / "list_landmarks_align_celeba.txt", landmark_lines(names, np.concatenate(points)))
    _write_lines(out / "list_eval_partition.txt", [f"{n} {s}" for n, s in zip(names, split, strict=True)])
    _write_lines(out / "identity_CelebA.txt", [f"{n} {k + 1}" for n, k in zip(names, identity, strict=True)])
    boxes = [f"{n}   {95:3d} {71:3d} {226:3d} {313:3d}" for n in names]  # of the uncropped photo, which does not exist
    _write_lines(out / "list_bbox_celeba.txt", [str(len(names)), "image_id x_1 y_1 width height", *boxes])
    if arguments.zip:
        with zipfile.ZipFile(out / "img_align_celeba.zip", "w", zipfile.ZIP_STORED) as archive:
            for name, data in zip(names, celeba_jpegs(chunks), strict=True):
                archive.writestr(f"img_align_celeba/{name}", data)
        return
    (out / "img_align_celeba").mkdir()
    for name, data in zip(names, celeba_jpegs(chunks), strict=True):
        (out / "img_align_celeba" / name).write_bytes(data)


def attr_lines(names: Sequence[str], signs: np.ndarray) -> list[str]:
    """Count, the 40 names with a blank after the last, then rows: the first value as it is, the others three wide."""
    rows = [f"{n} {row[0]}" + "".join(f"{v:3d}" for v in row[1:]) for n, row in zip(names, signs.tolist(), strict=True)]
    return [str(len(names)), " ".join(CELEBA_NAMES) + " ", *rows]


def landmark_lines(names: Sequence[str], points: np.ndarray) -> list[str]:
    """Count, header, then rows: the first value as it is, the other nine five wide."""
    rows = [
        f"{n} {row[0]}" + "".join(f"{v:5d}" for v in row[1:]) for n, row in zip(names, points.tolist(), strict=True)
    ]
    return [str(len(names)), POINTS, *rows]


def celeba_jpegs(chunks: list[tuple[int, dict]]) -> Iterator[bytes]:
    """Each face drawn at 148 px and framed by its own edge, as JPEG bytes."""
    width, height = CELEBA_SIZE
    right, bottom = width - CELEBA_SIDE - CELEBA_LEFT, height - CELEBA_SIDE - CELEBA_TOP
    for _, f in chunks:
        for image in synthetic.render(f, CELEBA_SIDE).transpose(0, 2, 3, 1):
            framed = np.pad(image, ((CELEBA_TOP, bottom), (CELEBA_LEFT, right), (0, 0)), mode="edge")
            file = io.BytesIO()
            Image.fromarray(framed).save(file, "JPEG", quality=95)
            yield file.getvalue()


# --- FER2013 -------------------------------------------------------------------------------------------------------


def write_fer2013(out: Path, arguments: argparse.Namespace) -> None:
    """One of the csv variants; Training, PublicTest, PrivateTest in that order."""
    chunks = faces(arguments)
    split, label, _ = labels_of(chunks)
    usage = np.array(["Training", "PublicTest", "PrivateTest"])[split]
    window = slice(FER_TOP, FER_TOP + FER_SIZE), slice(FER_LEFT, FER_LEFT + FER_SIZE)
    pixels = [
        " ".join(map(str, image[window].ravel().tolist()))
        for _, f in chunks
        for image in synthetic.render(f, FER_SIDE, grayscale=True)[:, 0]
    ]
    rows = list(zip(label.tolist(), pixels, usage.tolist(), strict=True))
    if arguments.variant == "fer2013":
        _write_lines(out / "fer2013.csv", ["emotion,pixels,Usage", *(f"{e},{p},{u}" for e, p, u in rows)], "\n")
    elif arguments.variant == "icml":
        lines = ["emotion, Usage, pixels", *(f"{e},{u},{p}" for e, p, u in rows)]
        _write_lines(out / "icml_face_data.csv", lines, "\n")
    else:
        train = [f'{e},"{p}"' for e, p, u in rows if u == "Training"]
        _write_lines(out / "train.csv", ["emotion,pixels", *train])
        _write_lines(out / "test.csv", ["pixels", *(f'"{p}"' for _, p, u in rows if u != "Training")])
    if arguments.ferplus:
        _write_lines(out / "fer2013new.csv", ferplus_lines(label, usage), "\n")


def ferplus_lines(label: np.ndarray, usage: np.ndarray) -> list[str]:
    """Ten votes a row, eight for the expression and two for its neighbour in the table."""
    lines = [FERPLUS]
    for row, (k, name) in enumerate(zip(label.tolist(), usage.tolist(), strict=True)):
        votes = [0] * 10
        place = FERPLUS_ORDER.index(synthetic.CLASSES[k])
        votes[place] += 8
        votes[(place + 1) % 8] += 2
        lines.append(f"{name},fer{row:07d}.png," + ",".join(map(str, votes)))
    return lines


# --- TFD -----------------------------------------------------------------------------------------------------------


def write_tfd(out: Path, arguments: argparse.Namespace) -> None:
    """TFD_48x48.mat or TFD_96x96.mat: images, labs_ex, labs_id, folds."""
    from scipy.io import savemat

    zoom = arguments.size // TFD_SIZE
    chunks = faces(arguments)
    _, label, identity = labels_of(chunks)
    top, left, size = TFD_TOP * zoom, TFD_LEFT * zoom, TFD_SIZE * zoom
    images = np.concatenate([
        synthetic.render(f, TFD_SIDE * zoom, grayscale=True)[:, 0, top : top + size, left : left + size]
        for _, f in chunks
    ])  # fmt: skip
    rng = np.random.default_rng(arguments.seed)
    rank = rng.permutation(identity.max() + 1)[identity]  # of each face's person; the last come without labels
    labelled = round((1 - TFD_UNLABELLED) * (identity.max() + 1))
    unlabelled = rank >= labelled
    folds = np.zeros((len(label), 5), np.uint8)
    for k in range(5):  # test a fifth, another one each time; validation the tenth after it; by person
        tenth = (rank * 10 // labelled - 2 * k) % 10
        folds[:, k] = np.where(tenth < 2, 3, np.where(tenth == 2, 2, 1))
    folds[unlabelled] = 0
    images[np.flatnonzero(unlabelled)[:1]] = 0
    content = {
        "images": images,
        "labs_ex": np.where(unlabelled, -1, label + 1).astype(np.int16)[:, None],
        "labs_id": np.where(unlabelled, -1, 3 * identity + 1).astype(np.int16)[:, None],  # numbers with gaps
        "folds": folds,
    }
    savemat(out / f"TFD_{size}x{size}.mat", content, do_compression=True)


# --- folders -------------------------------------------------------------------------------------------------------


def write_folders(out: Path, arguments: argparse.Namespace) -> None:
    """{train,val,test}/<emotion>/id<person>_<index>.png in colour, --size px."""
    chunks = faces(arguments)
    split, label, identity = labels_of(chunks)
    row = 0
    for _, f in chunks:
        for image in synthetic.render(f, arguments.size).transpose(0, 2, 3, 1):
            folder = out / SPLITS[split[row]] / synthetic.CLASSES[label[row]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"id{identity[row]:04d}_{row:06d}.png")
            row += 1


WRITERS = {"celeba": write_celeba, "fer2013": write_fer2013, "tfd": write_tfd, "folders": write_folders}
SIZES = {"celeba": 178, "fer2013": 48, "tfd": 48, "folders": 64}


def _write_lines(path: Path, lines: Sequence[str], end: str = CRLF) -> None:
    path.write_bytes((end.join(lines) + end).encode())


def _check(arguments: argparse.Namespace) -> None:
    layout, size = arguments.layout, arguments.size
    if arguments.n < 20:
        raise UserError(f"-n {arguments.n}: at least 20 faces are needed for three splits")
    if arguments.per_identity < 1:
        raise UserError(f"--per-identity {arguments.per_identity}: expected 1 or more")
    allowed = {"tfd": (48, 96), "folders": range(32, 257)}.get(layout, (SIZES[layout],))
    if size not in allowed:
        shown = "32 to 256" if layout == "folders" else " or ".join(map(str, allowed))
        raise UserError(f"--size {size}: {layout} has {shown} px")
    if arguments.classes == 8 and layout in ("fer2013", "tfd"):
        raise UserError(f"--classes 8: {layout} has seven expressions; contempt is not among them")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise UserError(f"--out {arguments.out}: exists and is not empty; choose a new folder")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line in this module's docstring."""
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("--layout", choices=WRITERS, required=True, help="whose files to write")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("-n", type=int, default=1000, help="number of faces, 20 or more (1000)")
    parser.add_argument("--seed", type=int, default=0, help="other persons for another number (0)")
    parser.add_argument("--per-identity", type=int, default=10, help="faces of one person (10)")
    parser.add_argument("--prior", choices=("balanced", "celeba"), default="balanced", help="how often each expression")
    parser.add_argument("--independent", action="store_true", help="attributes independent of each other")
    parser.add_argument("--classes", type=int, choices=(7, 8), default=7, help="8 adds contempt (7)")
    parser.add_argument("--size", type=int, help="px; tfd 48 or 96, folders 32 to 256 (64)")
    parser.add_argument("--zip", action="store_true", help="celeba: img_align_celeba.zip instead of the folder")
    parser.add_argument(
        "--variant", choices=("fer2013", "icml", "traintest"), default="fer2013", help="fer2013: which csv"
    )
    parser.add_argument("--ferplus", action="store_true", help="fer2013: also fer2013new.csv with ten votes a face")
    arguments = parser.parse_args(argv)
    arguments.size = SIZES[arguments.layout] if arguments.size is None else arguments.size
    with exit_on_user_error():
        _check(arguments)
        with atomic_dir(arguments.out) as folder:
            WRITERS[arguments.layout](folder, arguments)
        print(f"{arguments.n} drawn faces in {arguments.layout} layout: {arguments.out}")


if __name__ == "__main__":
    main()
