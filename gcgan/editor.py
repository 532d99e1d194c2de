"""How StarGAN and GC-GAN change a face. Both take pixels in, so a code holds the picture itself.

StarGAN: {x, c}, and an edit is another label c. GC-GAN: {x, points}, standardised landmarks, and an edit is the same
person's landmarks with another expression.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data.emotions import canonical
from data.labels import requested_classes, requested_labels
from data.landmarks import GROUPS, detect, find_mediapipe, in_crop, read_landmarks
from data.request import Request
from editing import editor
from editing.subjects import Code, Subjects
from engine import UserError
from engine.config import read_system
from engine.grids import to_uint8
from gcgan.config import CONFIGS
from gcgan.gc_gan import GCGAN
from gcgan.geometry import NUM_POINTS
from gcgan.stargan import StarGAN
from gcgan.train import METHODS


class Editor(editor.Editor):
    """What both systems share: labels that are not known are read by the critic's class head."""

    config_class, method_class = CONFIGS, METHODS
    training_only: tuple[str, ...] = ("generator.",)
    method: StarGAN
    unsupported = {
        "draw": "this family draws no faces, it changes given ones; `vae`, `flow` and `aae_cgan` draw some",
        "mix": "this family codes no person, so there is no way between two faces; `slider` shows one between "
        "expressions",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names, by_attributes = self.method.names, self.method.attributes
        self.classes, self.attributes = ([], names) if by_attributes else (names, [])
        has_head = self.method.critic.head is not None
        self.label_source = "read by the critic's class head" if has_head else "taken as neutral, or as absent"

    @classmethod
    def of(cls, run_dir: str | Path) -> "type[Editor]":
        system = read_system(Path(run_dir) / "config.yaml", (), CONFIGS)
        return {"stargan": StarGANEditor, "gcgan": GCGANEditor}[system]

    def complete_labels(self, batch: dict[str, Tensor]) -> Tensor:
        """c (N, K) of a batch, in [0, 1]. Unknown labels are read by the critic; without a class head they are neutral,
        or absent."""
        y, _ = self.method.faces(batch)[1:]
        c = self.method.condition(y)
        unknown = batch["attr"].isnan() if self.method.attributes else (batch["label"] < 0)[:, None]
        if not unknown.any():
            return c
        return torch.where(unknown, self.guessed_labels(batch["image"]), c)

    def guessed_labels(self, x: Tensor) -> Tensor:
        """c (N, K) of pictures x (N, C, H, H) whose labels are not known."""
        critic, k = self.method.critic, len(self.method.names)
        if critic.head is not None:
            logits = critic.logits(critic.features(x))
            if self.method.attributes:
                return (logits > 0).float()
            return torch.nn.functional.one_hot(logits.argmax(1), k).float()
        if self.method.attributes:
            return x.new_zeros(len(x), k)
        neutral = [i for i, name in enumerate(self.classes) if canonical(name) == "neutral"]
        row = torch.eye(k)[neutral[0]] if neutral else torch.full((k,), 1 / k)
        return row.to(x).expand(len(x), -1)

    def labels_from(self, faces: Subjects, c: Tensor) -> Tensor:
        """Labels (N, L): the known ones, and the others from conditions c (N, K)."""
        labels, names = self.labels(faces).clone(), self.label_names()
        if self.attributes:
            read = (c > 0.5).float()
        else:
            read = torch.nn.functional.one_hot(c.argmax(1), len(self.classes)).float()
        columns = [names.index(name) for name in self.method.names]
        labels[:, columns] = torch.where(labels[:, columns].isnan(), read, labels[:, columns])
        return labels


class StarGANEditor(Editor):
    """Codes {x (N, C, H, H), c (N, K)}: c(s) = (1 - s) own + s target."""

    def encode(self, batch: dict[str, Tensor]) -> Code:
        return {"x": batch["image"], "c": self.complete_labels(batch)}

    def decode(self, code: Code) -> Tensor:
        return self.method.edit(code["x"], code["c"])

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        meta = {"classes": self.classes, "attributes": self.attributes}
        return code | {"c": requested_labels(request, code["c"], meta)}

    def target_code_like(self, code: Code, faces: Subjects, reference: Subjects) -> Code:
        raise UserError(
            "--like: StarGAN knows names of expressions, not another face's; ask by name, as --attr happy, or train "
            "`system: gcgan`"
        )

    def predict_labels(self, faces: Subjects) -> Tensor:
        return self.labels_from(faces, self.codes(faces)["c"])


@dataclass(frozen=True)
class GeometryOptions:
    """Whose landmarks, and which of them move."""

    region: Literal["all", "jaw", "brows", "nose", "eyes", "mouth"] = "all"  # the part of the face that moves
    landmarks: str = ""  # file (.npy, .csv, .pts) with the 68 points of the --like photo; "" = look for them


class GCGANEditor(Editor):
    """Codes {x (N, C, H, H), points (N, 68, 2)}: standardised landmarks, from which G receives the code E(points).

    Strength s moves the points to g + s (g' - g), where g' are the person's own points with the target's expression.
    Landmarks that are not known are read by the critic.
    """

    options_class = GeometryOptions
    method: GCGAN

    def encode(self, batch: dict[str, Tensor]) -> Code:
        x, critic = batch["image"], self.method.critic
        points = batch.get("landmarks")
        if points is None:
            points = torch.full((len(x), NUM_POINTS, 2), torch.nan, device=x.device)
        known = points.isfinite().all(2).all(1)
        if not known.all():
            found = critic.landmarks(critic.features(x))
            points = torch.where(known[:, None, None], points, found)
        return {"x": x, "points": self.method.standardise(points)}

    def decode(self, code: Code) -> Tensor:
        return self.method.edit(code["x"], self.method.encoder(code["points"]))

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        request.require("set", "amount", method="GC-GAN")
        if request.attributes:
            raise UserError(f"{request.attributes[0]}: GC-GAN knows expressions, no attributes; ask for a class")
        amounts = requested_classes(request, {"classes": self.classes, "attributes": []})  # (K,)
        g = code["points"].to(self.device)
        z = self.method.encoder(g)
        wanted = amounts.to(z) @ self.method.class_codes + (1 - amounts.sum()).to(z) * z
        return code | {"points": self.retargeted(torch.nn.functional.normalize(wanted, dim=1), g)}

    def target_code_like(self, code: Code, faces: Subjects, reference: Subjects) -> Code:
        if len(reference) not in (1, len(faces)):
            raise UserError(f"--like: expected one reference face, or one for each of {len(faces)} faces")
        points = self.landmarks_of(reference).to(self.device)
        z = self.method.code(points).expand(len(faces), -1)
        return code | {"points": self.retargeted(z, code["points"].to(self.device))}

    def retargeted(self, z: Tensor, g: Tensor) -> Tensor:
        """The persons' own shapes g (N, 68, 2) with the expressions z (N, code_dim), on the CPU; other regions than
        the one asked for stay."""
        moved = self.method.retarget(z, g)
        if self.options.region != "all":
            here = torch.zeros(NUM_POINTS, 1, dtype=torch.bool, device=g.device)
            here[list(GROUPS[self.options.region])] = True
            moved = torch.where(here, moved, g)
        return moved.cpu()

    def landmarks_of(self, reference: Subjects) -> Tensor:
        """Points (N, 68, 2) of reference faces: of the data, of --landmarks FILE, or found by mediapipe.

        Raises:
            UserError: no detector is installed, or it finds no face.
        """
        points = reference.batch.get("landmarks")
        if points is not None and points.isfinite().all():
            return points
        size = self.meta["image_size"]
        if self.options.landmarks:
            read, photo = read_landmarks(self.options.landmarks), reference.photos[0]
            if len(reference) != 1 or photo is None or len(read) != NUM_POINTS:
                raise UserError(f"--landmarks {self.options.landmarks}: expected the {NUM_POINTS} points of one photo")
            return torch.from_numpy(in_crop(read, photo.matrix, size).astype(np.float32))[None]
        found, known = detect(to_uint8(reference.images), find_mediapipe())
        if not known.all():
            raise UserError(
                f"--like {reference.names[int(np.argmin(known))]}: no landmarks were found in it; give them with "
                "--landmarks FILE"
            )
        return torch.from_numpy(found)

    def predict_labels(self, faces: Subjects) -> Tensor:
        z = self.method.encoder(self.codes(faces)["points"].to(self.device))
        return self.labels_from(faces, (z @ self.method.class_codes.T).softmax(1).cpu())
