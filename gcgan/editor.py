"""The editors of StarGAN and GC-GAN. The networks take the pixels of a face, so a code contains the image.

StarGAN: {x, c}; an edit changes the label c. GC-GAN: {x, points} with standardised landmarks; an edit gives the
landmarks of the same person with another expression.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.labels import requested_classes, requested_labels
from data.landmarks import GROUPS, detect, find_mediapipe, in_crop, read_landmarks
from data.request import Request
from editing import editor
from editing.subjects import Code, Subjects
from engine import UserError
from engine.config import read_system
from engine.grids import to_uint8
from gcgan.conditions import LabelBlock
from gcgan.config import CONFIGS
from gcgan.gc_gan import GCGAN
from gcgan.geometry import NUM_POINTS
from gcgan.paper import PaperGCGAN
from gcgan.stargan import StarGAN
from gcgan.train import METHODS


class Editor(editor.Editor):
    """The common part of all systems. The critic's class head predicts unknown labels.

    With two data sets in turn, faces are from the first set, and a request names labels of one set.
    """

    config_class, method_class = CONFIGS, METHODS
    training_only: tuple[str, ...] = ("generator.",)
    method: StarGAN
    unsupported = {
        "draw": "this family cannot generate faces, it only changes them; use `vae`, `flow` or `aae_cgan`",
        "mix": "this family has no code of a person, so it cannot interpolate between two faces; `slider` interpolates "
        "between expressions",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        blocks = self.method.labels.blocks
        self.classes = [name for block in blocks if not block.attributes for name in block.names]
        self.attributes = [name for block in blocks if block.attributes for name in block.names]
        if len(blocks) > 1:  # the labels that the networks know; the sets may have more
            self.meta = self.meta | {"classes": self.classes, "attributes": self.attributes}
        has_head = self.method.critic.head is not None
        self.label_source = (
            "read by the critic's class head; neutral if it is not sure"
            if has_head
            else "taken as neutral, or as absent"
        )

    @classmethod
    def of(cls, run_dir: str | Path) -> "type[Editor]":
        system = read_system(Path(run_dir) / "config.yaml", (), CONFIGS)
        return {"stargan": StarGANEditor, "gcgan": GCGANEditor, "gcgan_paper": PaperEditor}[system]

    def take(self, split: str, places: Sequence[int]) -> Subjects:
        faces = super().take(split, places)
        if len(self.method.labels.blocks) == 1:
            return faces
        # The labels of the other set are not known; columns that the networks do not know are dropped.
        unknown = self.from_images(faces.images, faces.names)
        key = "attr" if self.method.labels.blocks[0].attributes else "label"
        unknown.batch |= {name: faces.batch[name] for name in (key, "index")}
        return unknown

    def targets(self) -> list[Request]:
        if len(self.method.labels.blocks) == 1:
            return super().targets()
        return [self.parse(name if name in self.classes else f"{name}=flip") for name in self.method.labels.names]

    def complete_labels(self, batch: dict[str, Tensor], block: LabelBlock) -> Tensor:
        """Labels (N, K) of one data set in [0, 1]. The critic predicts unknown ones; without a class head, or if it
        is not sure, they are neutral, or absent."""
        y = self.method.labels.faces(batch, block)[1]
        y = (y + 1) / 2 if block.attributes else y
        unknown = batch["attr"].isnan() if block.attributes else (batch["label"] < 0)[:, None]
        return torch.where(unknown, self.method.read_confident(batch["image"], block), y) if unknown.any() else y

    def labels_from(self, faces: Subjects, y: Tensor, block: LabelBlock) -> Tensor:
        """Labels (N, L): the known ones, and unknown ones of a data set from y (N, K) in [0, 1]."""
        labels, names = self.labels(faces).clone(), self.label_names()
        if block.attributes:
            read = (y > 0.5).float()
        else:
            read = torch.nn.functional.one_hot(y.argmax(1), len(block.names)).float()
        columns = [names.index(name) for name in block.names]
        labels[:, columns] = torch.where(labels[:, columns].isnan(), read, labels[:, columns])
        return labels


class StarGANEditor(Editor):
    """Codes {x (N, C, H, H), c (N, cond_dim)}: c(s) = own + s (target - own).

    With two data sets, c is a condition of the first. An edit to a label of the second also changes the set.
    """

    def encode(self, batch: dict[str, Tensor]) -> Code:
        labels = self.method.labels
        return {"x": batch["image"], "c": labels.embed(self.complete_labels(batch, labels.blocks[0]), labels.blocks[0])}

    def decode(self, code: Code) -> Tensor:
        return self.method.edit(code["x"], code["c"])

    def block_of(self, request: Request) -> LabelBlock:
        """The data set whose labels a request names.

        Raises:
            UserError: it names labels of both data sets.
        """
        blocks = [block for block in self.method.labels.blocks if set(request.names) & set(block.names)]
        if len(blocks) > 1:
            raise UserError(f"{request}: names labels of both data sets; give labels of one of them")
        return blocks[0]

    def own_condition(self, faces: Subjects, block: LabelBlock) -> Tensor:
        """Conditions (N, cond_dim) of faces as they are, with the labels of one data set; on the CPU."""
        if block is self.method.labels.blocks[0]:
            return self.codes(faces)["c"]
        parts = [self.complete_labels(part, block).cpu() for part in self._batches(faces.batch, len(faces))]
        return self.method.labels.embed(torch.cat(parts), block)

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        block, labels = self.block_of(request), self.method.labels
        names = list(block.names)
        meta = {"classes": [] if block.attributes else names, "attributes": names if block.attributes else []}
        own = self.own_condition(faces, block)[:, block.columns]
        wanted = requested_labels(request, own, meta)
        return code | {"c": labels.embed(wanted, block)}

    def target_code_like(self, code: Code, faces: Subjects, reference: Subjects) -> Code:
        raise UserError(
            "--like: StarGAN cannot use another face; give a name, as --attr happy, or train `system: gcgan`"
        )

    def predict_labels(self, faces: Subjects) -> Tensor:
        labels, parts = self.labels(faces).clone(), []
        for block in self.method.labels.blocks:
            y = self.own_condition(faces, block)[:, block.columns]
            parts.append(self.labels_from(faces, y, block))
        for part in parts:
            labels = torch.where(labels.isnan(), part, labels)
        return labels


def landmarks_of(batch: dict[str, Tensor]) -> Tensor:
    """Landmarks (N, 68, 2) of a batch; NaN where the batch has none."""
    x = batch["image"]
    return batch.get("landmarks", torch.full((len(x), NUM_POINTS, 2), torch.nan, device=x.device))


@dataclass(frozen=True)
class LandmarkOptions:
    """The landmarks of the other face."""

    landmarks: str = ""  # the other face's 68 points: a file (.npy, .csv, .pts), or a folder of them; "" = find them


class LandmarkEditor(Editor):
    """The common part of both GC-GANs. E encodes the landmarks of another face."""

    options_class = LandmarkOptions
    method: GCGAN | PaperGCGAN

    def codes_of_classes(self, request: Request, z: Tensor) -> Tensor:
        """Codes (N, code_dim) of a request for faces with codes z: class codes, and the rest of z.

        Raises:
            UserError: the request names an attribute, or has no valid amount of a class.
        """
        request.require("set", "amount", method="GC-GAN")
        if request.attributes:
            raise UserError(f"{request.attributes[0]}: GC-GAN has expressions only; give a class, as happy")
        amounts = requested_classes(request, {"classes": self.classes, "attributes": []})  # (K,)
        return amounts.to(z) @ self.method.class_codes + (1 - amounts.sum()).to(z) * z

    def codes_of_reference(self, faces: Subjects, reference: Subjects) -> Tensor:
        """Codes (N, code_dim) of one reference face, or of one for each face."""
        if len(reference) not in (1, len(faces)):
            raise UserError(f"--like: expected one reference face, or one for each of {len(faces)} faces")
        return self.method.code(self.landmarks_of(reference).to(self.device)).expand(len(faces), -1)

    def landmarks_of(self, reference: Subjects) -> Tensor:
        """Points (N, 68, 2) of reference faces.

        Raises:
            UserError: no detector is installed, or a face has no landmarks.
        """
        points, known = self.find_landmarks(reference)
        if not known.all():
            raise UserError(
                f"--like {reference.names[int(known.float().argmin())]}: no landmarks were found in it; give them with "
                "--landmarks FILE"
            )
        return points

    def find_landmarks(self, faces: Subjects) -> tuple[Tensor, Tensor]:
        """Points (N, 68, 2) in [-1, 1], and known (N,): from the data, from --landmarks, or found by mediapipe.

        Raises:
            UserError: neither file nor detector, or a file without 68 points.
        """
        points = faces.batch.get("landmarks")
        if points is None:
            points = torch.full((len(faces), NUM_POINTS, 2), torch.nan)
        points, given = points.clone(), self.options.landmarks
        if given and not Path(given).is_dir() and len(faces) > 1:
            raise UserError(f"--landmarks {given}: expected a folder with one file for each of {len(faces)} photos")
        for i, photo in enumerate(faces.photos):
            if photo is not None and (file := self.landmarks_file(faces.names[i])) is not None:
                read = read_landmarks(file)
                if len(read) != NUM_POINTS:
                    raise UserError(f"{file}: expected {NUM_POINTS} points, found {len(read)}")
                at = in_crop(read, photo.matrix, self.meta["image_size"])
                points[i] = torch.from_numpy(at.astype(np.float32))
        missing = ~points.isfinite().all(2).all(1)
        if missing.any() and not given:
            found, _ = detect(to_uint8(faces.images[missing]), find_mediapipe())
            points[missing] = torch.from_numpy(found)
        return points, points.isfinite().all(2).all(1)

    def landmarks_file(self, name: str) -> Path | None:
        """The file of --landmarks for a photo; in a folder, the file with the name of the photo."""
        if not self.options.landmarks:
            return None
        given = Path(self.options.landmarks)
        if not given.is_dir():
            return given
        files = [given / f"{Path(name).stem}{suffix}" for suffix in (".npy", ".csv", ".pts")]
        return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True)
class GeometryOptions(LandmarkOptions):
    """The landmarks of the other face, and the region that moves."""

    landmarks: str = ""  # the other face's 68 points: a file (.npy, .csv, .pts), or a folder of them; "" = find them
    region: Literal["all", "jaw", "brows", "nose", "eyes", "mouth"] = "all"  # the part of the face that moves


class GCGANEditor(LandmarkEditor):
    """Codes {x (N, C, H, H), points (N, 68, 2), known (N, 1), z (N, code_dim)}.

    points: standardised landmarks g. G receives E(g + s (g' - g)) at strength s, where g' are the person's own points
    with the target's expression. known: 1 for landmarks that the data give. Other landmarks are predicted by the
    critic, which is not accurate enough to move them: then G receives the code from z to the target's z' instead,
    (1 - s) z + s z', normalised. A region needs points, so these are used in this case.
    """

    options_class = GeometryOptions
    method: GCGAN

    def encode(self, batch: dict[str, Tensor]) -> Code:
        x, critic = batch["image"], self.method.critic
        points = landmarks_of(batch)
        known = points.isfinite().all(2).all(1)
        if not known.all():
            found = critic.landmarks(critic.features(x))
            points = torch.where(known[:, None, None], points, found)
        g = self.method.standardise(points)
        use_points = known | (self.options.region != "all")
        return {"x": x, "points": g, "known": use_points.to(g)[:, None], "z": self.method.encoder(g)}

    def decode(self, code: Code) -> Tensor:
        z = torch.where(code["known"] > 0, self.method.encoder(code["points"]), normalize(code["z"], dim=1))
        return self.method.edit(code["x"], z)

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        return self.moved_to(code, normalize(self.codes_of_classes(request, code["z"].to(self.device)), dim=1))

    def target_code_like(self, code: Code, faces: Subjects, reference: Subjects) -> Code:
        return self.moved_to(code, self.codes_of_reference(faces, reference))

    def moved_to(self, code: Code, z: Tensor) -> Code:
        """The code with the expressions z (N, code_dim)."""
        return code | {"points": self.retargeted(z, code["points"].to(self.device)), "z": z.cpu()}

    def retargeted(self, z: Tensor, g: Tensor) -> Tensor:
        """The shapes g (N, 68, 2) of the persons with the expressions z (N, code_dim), on the CPU. Only the region of
        the options changes."""
        return self.keep_region(self.method.retarget(z, g), g).cpu()

    def keep_region(self, moved: Tensor, g: Tensor) -> Tensor:
        """`moved` (N, 68, 2) in the region of the options, g elsewhere."""
        if self.options.region == "all":
            return moved
        here = torch.zeros(NUM_POINTS, 1, dtype=torch.bool, device=g.device)
        here[list(GROUPS[self.options.region])] = True
        return torch.where(here, moved, g)

    def predict_labels(self, faces: Subjects) -> Tensor:
        z = self.codes(faces)["z"].to(self.device)
        return self.labels_from(faces, (z @ self.method.class_codes.T).softmax(1).cpu(), self.method.labels.blocks[0])


class PaperEditor(LandmarkEditor):
    """Codes {x (N, C, 64, 64), z (N, code_dim)}: z(s) = (1 - s) own + s target, for PaperGCGAN.

    A face without known landmarks gets the code of the class that the critic predicts.
    """

    method: PaperGCGAN

    def encode(self, batch: dict[str, Tensor]) -> Code:
        x, critic = batch["image"], self.method.critic
        points = landmarks_of(batch)
        known = points.isfinite().all(2).all(1)[:, None]
        own = self.method.code(points.nan_to_num())
        if not known.all():
            read = critic.logits(critic.features(x)).argmax(1)
            own = torch.where(known, own, self.method.class_codes[read])
        return {"x": x, "z": own}

    def decode(self, code: Code) -> Tensor:
        return self.method.edit(code["x"], code["z"])

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        return code | {"z": self.codes_of_classes(request, code["z"].to(self.device)).cpu()}

    def target_code_like(self, code: Code, faces: Subjects, reference: Subjects) -> Code:
        return code | {"z": self.codes_of_reference(faces, reference).cpu()}

    def predict_labels(self, faces: Subjects) -> Tensor:
        critic = self.method.critic
        logits = [critic.logits(critic.features(part["image"])) for part in self._batches(faces.batch, len(faces))]
        return self.labels_from(faces, torch.cat(logits).softmax(1).cpu(), self.method.labels.blocks[0])
