"""The AAE + CGAN `Editor`: a code is (z, y), and an edit replaces y."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aae_cgan.config import Config
from aae_cgan.train import AAECGAN
from data.emotions import canonical
from data.labels import conditions, requested_labels
from data.request import Request
from editing import editor
from editing.subjects import Code, Subjects


class Editor(editor.Editor):
    """Codes {z (N, Z), y (N, K)}; y is a class distribution, or attributes in [-1, 1]."""

    config_class, method_class = Config, AAECGAN
    training_only = ("encoder.", "generator.", "linear.", "d_latent.", "d_image.", "prior_noise")
    method: AAECGAN

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        names, has_attributes = self.method.names, self.method.attributes
        self.classes, self.attributes = ([], names) if has_attributes else (names, [])
        self.conditioned_on = names
        if self.method.guide is not None:
            self.label_source = "predicted by the guide"
        else:
            self.label_source = "taken as absent" if has_attributes else "taken as neutral"

    def encode(self, batch: dict[str, Tensor]) -> Code:
        return {"z": self.method.encode(batch["image"]), "y": self.complete(batch)}

    def decode(self, code: Code) -> Tensor:
        return self.method.decode(code["z"], code["y"])

    def complete(self, batch: dict[str, Tensor]) -> Tensor:
        """y (N, K) of a batch. The guide predicts unknown labels. Without a guide they are neutral, or absent."""
        y, known = conditions(batch, len(self.method.names), self.method.attributes)
        if known.all():
            return y
        x = batch["image"]
        if self.method.attributes:
            unknown = batch["attr"].isnan()
            guess = -torch.ones_like(y) if self.method.guide is None else 2 * self.method.guide(x).sigmoid() - 1
            return torch.where(unknown, guess, y)
        guess = self.one_hot("neutral").to(y) if self.method.guide is None else self.method.guide(x).softmax(1)
        return torch.where(known[:, None], y, guess)

    def one_hot(self, name: str) -> Tensor:
        """One-hot (K,) of an expression; uniform if the run has no such class."""
        found = [i for i, known in enumerate(self.classes) if canonical(known) == name]
        if not found:
            return torch.full((len(self.classes),), 1 / len(self.classes))
        return torch.eye(len(self.classes))[found[0]]

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        return code | {"y": self.target_labels(code["y"], request)}

    def target_labels(self, y: Tensor, request: Request) -> Tensor:
        """Target labels (N, K) of a request, for faces with labels y (N, K)."""
        meta = {"classes": self.classes, "attributes": self.attributes}
        if self.classes:
            return requested_labels(request, y, meta)
        named = torch.tensor([name in request for name in self.attributes])
        return torch.where(named, 2 * requested_labels(request, (y + 1) / 2, meta) - 1, y)

    def draw_codes(self, seeds: Sequence[int], labels: Tensor) -> Code:
        columns = [self.label_names().index(name) for name in self.method.names]
        size, rows = self.method.cfg.model.latent_dim, []
        z = torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in seeds])
        for seed, label in zip(seeds, labels[:, columns], strict=True):
            generator = torch.Generator().manual_seed(seed + 1)
            if self.attributes:
                bits = torch.randint(2, (len(columns),), generator=generator).float()
                rows.append(2 * torch.where(label.isnan(), bits, label) - 1)
            elif label.isnan().any():
                rows.append(torch.eye(len(columns))[int(torch.randint(len(columns), (1,), generator=generator))])
            else:
                rows.append(label)
        return {"z": z, "y": torch.stack(rows)}

    def predict_labels(self, faces: Subjects) -> Tensor:
        labels, y, names = self.labels(faces).clone(), self.codes(faces)["y"], self.label_names()
        if self.attributes:
            predicted = (y > 0).float()
        else:
            predicted = torch.nn.functional.one_hot(y.argmax(1), len(self.classes)).float()
        columns = [names.index(name) for name in self.method.names]
        labels[:, columns] = torch.where(labels[:, columns].isnan(), predicted, labels[:, columns])
        return labels

    def guides(self) -> dict[str, str]:
        guide = self.method.guide
        return {} if guide is None else {f"{self.method.cfg.loss.guide} guide": guide.sha256()}
