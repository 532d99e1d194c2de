"""The mode `dfi`: deep feature interpolation, beside the VAE's edit.

Paper: "Deep Feature Interpolation for Image Content Changes", https://arxiv.org/abs/1611.05507

No code and no decoder. phi are features of a fixed network, the one of the run's `loss.features`. w is the mean feature
of the K nearest training faces with the attribute minus that of the K nearest without. The result is the image y with
features phi(y) = phi(x) + alpha w.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from data.request import Request
from editing.modes import add_faces, take_images
from editing.paint import paint
from editing.record import write_grid
from editing.subjects import Code, Subjects
from engine import Grid, UserError
from vae.editor import Editor
from vae.model import FeatureNet, VGG19Features

TV_WEIGHT = 10.0  # of the total variation
MAX_STEPS = 500  # of L-BFGS
SAME = 1e-6  # squared distance of features up to which a training face is the face itself
Features = Callable[[Tensor], list[Tensor]]


class DFIEditor(Editor):
    """DFI as an editor, for benchmarks: the code of a face is its image, {image (N, C, H, H)}."""

    def encode(self, batch: dict[str, Tensor]) -> Code:
        return {"image": batch["image"]}

    def decode(self, code: Code) -> Tensor:
        return code["image"]

    def target_code(self, code: Code, faces: Subjects, request: Request) -> Code:
        return code | {"image": change(self, code["image"], self.labels(faces), request)}


def run_dfi(editor: Editor, args: argparse.Namespace) -> None:
    """A grid with three rows: input, the VAE's edit, DFI."""
    take_images(args.attr, args.images)
    request = editor.parse(args.attr)
    faces = editor.subjects(args.images or editor.spread(args.split, args.n), args.eyes, args.source)
    x = faces.images
    edited = change(editor, x, editor.predict_labels(faces), request, args.alpha, args.tv, args.steps)
    with_vae = paint(x, editor.reconstruct(faces), editor.edit(faces, request)[0], "blend")
    grid = Grid(torch.stack([x, with_vae, edited]), ["input", f"VAE: {request}", f"DFI: {request}"])
    write_grid(editor, args, grid, "dfi", attr=str(request), alpha=args.alpha, faces=faces.names)


def change(
    editor: Editor,
    x: Tensor,
    labels: Tensor,
    request: Request,
    alpha: float = 1.0,
    tv: float = TV_WEIGHT,
    steps: int = MAX_STEPS,
) -> Tensor:
    """Faces x (N, C, H, H) edited to a request of one attribute; labels (N, L) say which faces have it already."""
    if len(request.require("set", "flip", method="dfi").moves) != 1:
        raise UserError("dfi: expected one attribute, as --attr Smiling=1")
    net, latent = feature_network(editor), editor.latent_editor("ols")
    edit = latent.edits(request)[0]
    strength = latent.strength(edit, labels)
    target = latent.codes.labels[:, editor.label_names().index(edit.name)]
    edited, rows = x.clone(), torch.nonzero(strength).flatten().tolist()
    distance = feature_distances(editor, net, x[rows])
    for i, far in zip(rows, distance, strict=True):
        step = feature_step(editor, net, far, target)
        scale = 0.4 / step_square(step) if editor.method.cfg.loss.features == "vgg19" else 1.0
        phi = net(x[i : i + 1])
        goal = [a + float(strength[i]) * alpha * scale * w for a, w in zip(phi, step, strict=True)]
        edited[i] = invert(net, x[i : i + 1], goal, tv, steps)[0]
    return edited


def feature_network(editor: Editor) -> Features:
    """The run's feature network, on the CPU."""
    w, meta = editor.method.cfg.loss, editor.meta
    if w.features == "none":
        raise UserError("dfi: this run has no feature network; train one with loss.features=own loss.feature_steps=500")
    if w.features == "vgg19":
        return VGG19Features(w.vgg19_weights, tuple(w.vgg19_taps)).features
    net: nn.Module = FeatureNet(meta["channels"], meta["image_size"], len(editor.label_names()))
    net.load_state_dict({k: v.cpu() for k, v in editor.method.feature_net.state_dict().items()})
    return net.requires_grad_(False).eval().features


def feature_distances(editor: Editor, net: Features, x: Tensor) -> Tensor:
    """Squared distances (N, M), in the last tap, of faces x (N, C, H, H) to the M training faces."""
    own, exact = net(x)[-1].flatten(1), "donot_use_mm_for_euclid_dist"  # a face itself must have the distance 0
    maps = (net(batch["image"].cpu())[-1].flatten(1) for batch in editor.split("train").once(256))
    return torch.cat([torch.cdist(own, each, compute_mode=exact) for each in maps], dim=1).square()


def feature_step(editor: Editor, net: Features, distance: Tensor, target: Tensor) -> list[Tensor]:
    """w per tap, (1, C, h, w): mean features of the K nearest training faces with the attribute, minus those without.

    distance (M,): of the face to the training faces. target (M,) in {0, 1, NaN}: labels of the training faces.
    """
    ends, k = [], editor.options.num_neighbors
    for side in (1.0, 0.0):
        rows = torch.nonzero((target == side) & (distance > SAME)).flatten()
        if not len(rows):
            raise UserError("dfi: no training face without, or none with the attribute; choose another --attr")
        near = rows[distance[rows].topk(min(k, len(rows)), largest=False).indices]
        ends.append([maps.mean(0, keepdim=True) for maps in net(editor.split("train").take(near.numpy())["image"])])
    return [a - b for a, b in zip(*ends, strict=True)]


def step_square(step: list[Tensor]) -> float:
    """Mean square of a feature step over all taps. The paper gives alpha in units of its inverse."""
    return sum(w.square().sum().item() for w in step) / sum(w.numel() for w in step)


@torch.enable_grad()
def invert(features: Features, x: Tensor, goal: list[Tensor], tv: float = TV_WEIGHT, steps: int = MAX_STEPS) -> Tensor:
    """The image y (1, C, H, H) in [-1, 1] that minimises sum |phi(y) - goal|^2 + tv TV(y - x), from y = x by L-BFGS.

    TV is the sum of squared differences of neighbouring pixels. Deviation: the paper smooths y, here the change y - x
    is smoothed, so the photo keeps its texture (README).
    """
    y = x.clone().requires_grad_()
    solver = torch.optim.LBFGS([y], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-9)

    def loss() -> Tensor:
        solver.zero_grad()
        feature_error = sum((a - b).square().sum() for a, b in zip(features(y), goal, strict=True))
        change = y - x
        total_variation = change.diff(dim=2).square().sum() + change.diff(dim=3).square().sum()
        total = feature_error + tv * total_variation
        total.backward()
        return total

    solver.step(loss)
    return y.detach().clamp(-1, 1)


def add_dfi(parser: argparse.ArgumentParser) -> None:
    """The options of `dfi`."""
    add_faces(parser, 6)
    parser.add_argument("--attr", nargs="+", required=True, help="one request, as Smiling=1")
    parser.add_argument("--alpha", type=float, default=1.0, help="step size in feature space")
    parser.add_argument("--tv", type=float, default=TV_WEIGHT, help="weight of the total variation")
    parser.add_argument("--steps", type=int, default=MAX_STEPS, help="L-BFGS iterations, at most")
