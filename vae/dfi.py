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

from editing.modes import add_faces, take_images
from editing.paint import paint
from editing.record import write_grid
from engine import Grid, UserError
from vae.editor import Editor
from vae.model import FeatureNet, VGG19Features

TV_WEIGHT = 10.0  # of the total variation
MAX_STEPS = 500  # of L-BFGS
Features = Callable[[Tensor], list[Tensor]]


def run_dfi(editor: Editor, args: argparse.Namespace) -> None:
    """A grid with three rows: input, the VAE's edit, DFI."""
    take_images(args.attr, args.images)
    request = editor.parse(args.attr).require("set", "flip", method="dfi")
    if len(request.moves) != 1:
        raise UserError("dfi: expected one attribute, as --attr Smiling=1")
    net, latent = feature_network(editor), editor.latent_editor("transport")
    faces = editor.subjects(args.images or editor.spread(args.split, args.n), args.eyes, args.source)
    x, k = faces.images, editor.options.num_neighbors
    with_vae = paint(x, editor.reconstruct(faces), editor.edit(faces, request)[0], "blend")
    labels = editor.predict_labels(faces)
    edit = latent.edits(request)[0]
    strength = latent.strength(edit, labels)
    target = latent.codes.labels[:, editor.label_names().index(edit.name)]
    edited = x.clone()
    for i in torch.nonzero(strength).flatten().tolist():
        step = feature_step(editor, net, x[i : i + 1], target, k)
        scale = 0.4 / step_square(step) if editor.method.cfg.loss.features == "vgg19" else 1.0
        goal = [
            phi + float(strength[i]) * args.alpha * scale * w for phi, w in zip(net(x[i : i + 1]), step, strict=True)
        ]
        edited[i] = invert(net, x[i : i + 1], goal, args.tv, args.steps)[0]
    grid = Grid(torch.stack([x, with_vae, edited]), ["input", f"VAE: {request}", f"DFI: {request}"])
    write_grid(editor, args, grid, "dfi", attr=str(request), alpha=args.alpha, faces=faces.names)


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


def feature_step(editor: Editor, net: Features, x: Tensor, target: Tensor, k: int) -> list[Tensor]:
    """w per tap, (1, C, h, w): mean features of the k nearest training faces with the attribute, minus those without.

    Distances are taken in the last tap. x (1, C, H, H). target (N,) in {0, 1, NaN}: labels of the training faces.
    """
    faces, last = editor.split("train"), net(x)[-1]
    distance = torch.cat([(net(b["image"].cpu())[-1] - last).square().flatten(1).sum(1) for b in faces.once(256)])
    ends = []
    for side in (1.0, 0.0):
        rows = torch.nonzero((target == side) & (distance > 0)).flatten()  # never the face itself
        if not len(rows):
            raise UserError("dfi: no training face without, or none with the attribute; choose another --attr")
        near = rows[distance[rows].topk(min(k, len(rows)), largest=False).indices]
        ends.append([maps.mean(0, keepdim=True) for maps in net(faces.take(near.numpy())["image"])])
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
