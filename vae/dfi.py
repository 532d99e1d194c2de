"""The mode `dfi`: deep feature interpolation as published (Upchurch et al. 1611.05507), beside the VAE's edit.

No code and no decoder: the features of a fixed network, those of the run's own `loss.features`. Of the K nearest
training faces with and without the attribute the mean features are subtracted, w; the picture y is sought whose
features are phi(x) + alpha w.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from data.labels import label_names
from data.request import parse_request
from engine import Grid, UserError
from evaluation.session import add_faces
from vae.edit import faces_to_edit, paint
from vae.editor import MATCH, NEIGHBOURS, open_editor
from vae.model import FeatureNet, VGG19Features
from vae.session import Session

TV = 10.0  # weight of the total variation
STEPS = 500  # of L-BFGS, at most
Features = Callable[[Tensor], list[Tensor]]


def run_dfi(args: argparse.Namespace) -> None:
    """Input, the VAE's edit, DFI: one row each."""
    session = Session(args)
    request = parse_request(args.attr, session.meta["classes"], session.meta["attributes"])
    request.require("set", "flip", method="dfi")
    if len(request.moves) != 1:
        raise UserError("dfi: one request at a time, as --attr Smiling=1")
    net = feature_network(session)
    x, known, _, names = faces_to_edit(session, args)
    editor = open_editor(session, "transport", args.k, args.match, [])
    mu = session.encode(x)
    labels = editor.complete(mu, known)
    before = session.decode(mu)
    with_vae = paint(x, before, session.decode(editor.move(mu, request, labels)), "blend")
    wish = editor.wishes(request)[0]
    way = editor.way(wish, labels)
    target = editor.codes.labels[:, label_names(session.meta).index(wish.name)]
    edited = x.clone()
    for i in torch.nonzero(way).flatten().tolist():
        step = feature_step(session, net, x[i : i + 1], target, args.k)
        scale = 0.4 / step_square(step) if session.method.cfg.loss.features == "vgg19" else 1.0
        goal = [phi + float(way[i]) * args.alpha * scale * w for phi, w in zip(net(x[i : i + 1]), step, strict=True)]
        edited[i] = invert(net, x[i : i + 1], goal, args.tv, args.steps)[0]
    grid = Grid(torch.stack([x, with_vae, edited]), ["input", f"VAE: {request}", f"DFI: {request}"])
    session.write(grid, "dfi", attr=str(request), k=args.k, alpha=args.alpha, faces=names)


def feature_network(session: Session) -> Features:
    """The run's feature network with weights that carry gradients to pictures, on the CPU."""
    w, meta = session.method.cfg.loss, session.meta
    if w.features == "none":
        raise UserError("dfi: this run has no feature network; train one with loss.features=own loss.feature_steps=500")
    with torch.inference_mode(False):
        if w.features == "vgg19":
            return VGG19Features(w.vgg19_weights, tuple(w.vgg19_taps)).features
        net: nn.Module = FeatureNet(meta["channels"], meta["image_size"], len(label_names(meta)))
        net.load_state_dict({k: v.cpu().clone() for k, v in session.method.feature_net.state_dict().items()})
    return net.requires_grad_(False).eval().features


def feature_step(session: Session, net: Features, x: Tensor, target: Tensor, k: int) -> list[Tensor]:
    """w per tap, (1, C, h, w): mean features of the k nearest training faces with minus those without. Near means in
    the last tap. x (1, C, H, H); target (N,) in {0, 1, NaN}: the training faces' labels."""
    faces, last = session.split("train"), net(x)[-1]
    distance = torch.cat([(net(b["image"].cpu())[-1] - last).square().flatten(1).sum(1) for b in faces.once(256)])
    ends = []
    for side in (1.0, 0.0):
        rows = torch.nonzero((target == side) & (distance > 0)).flatten()  # never the face itself
        if not len(rows):
            raise UserError("dfi: no training face on one side")
        near = rows[distance[rows].topk(min(k, len(rows)), largest=False).indices]
        ends.append([maps.mean(0, keepdim=True) for maps in net(faces.take(near.numpy())["image"])])
    return [a - b for a, b in zip(*ends, strict=True)]


def step_square(step: list[Tensor]) -> float:
    """The mean square of a feature step over all taps: published alphas are in its units."""
    return sum(w.square().sum().item() for w in step) / sum(w.numel() for w in step)


def invert(features: Features, x: Tensor, goal: list[Tensor], tv: float = TV, steps: int = STEPS) -> Tensor:
    """The picture (1, C, H, H) in [-1, 1] that minimises sum |phi(y) - goal|^2 + tv TV(y), from y = x by L-BFGS.

    TV is the sum of squared differences of neighbouring pixels *of the change* y - x: noise is not invented, and the
    picture's own grain stays (the paper smooths y itself; README, deviations).
    """
    with torch.inference_mode(False), torch.enable_grad():
        start, goal = x.clone(), [g.clone() for g in goal]
        y = x.clone().requires_grad_()
        solver = torch.optim.LBFGS([y], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-9)

        def loss() -> Tensor:
            solver.zero_grad()
            far = sum((a - b).square().sum() for a, b in zip(features(y), goal, strict=True))
            change = y - start
            rough = change.diff(dim=2).square().sum() + change.diff(dim=3).square().sum()
            total = far + tv * rough
            total.backward()
            return total

        solver.step(loss)
        return y.detach().clamp(-1, 1)


def add_dfi(parser: argparse.ArgumentParser) -> None:
    """The options of `dfi`."""
    add_faces(parser, 6)
    parser.add_argument("--attr", nargs="+", required=True, help="one request, as Smiling=1")
    parser.add_argument("--k", type=int, default=NEIGHBOURS, help="neighbours on either side")
    parser.add_argument("--match", nargs="*", default=list(MATCH), help="of the VAE's edit")
    parser.add_argument("--alpha", type=float, default=1.0, help="length of the step in features")
    parser.add_argument("--tv", type=float, default=TV, help="weight of smoothness")
    parser.add_argument("--steps", type=int, default=STEPS, help="of L-BFGS, at most")
