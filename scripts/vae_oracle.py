"""How much of the way to the right answer an edit goes: VAEs on drawn faces, whose answers are known.

    python scripts/vae_oracle.py --run-dir runs/vae/synthetic32 [--attr Smiling=flip] [--n 600] [--judge RUN]

For each way of moving (vae/editor.py; alpha 1 or to the side's mean, or the whole of a transport) and of painting
(decode, blend): PSNR to the re-rendered truth in the box of what changed, and

    gap closed = (edit - reconstruction of the source) / (reconstruction of the truth - reconstruction of the source).

The box is the mouth's landmarks (before and after) grown by 0.35 eye distances for mouth attributes, the eyes' for
eye attributes, else the whole picture. With a judge (evaluation/, trained apart): the share of faces it reads on the
requested side, the mean change of the other attributes' probabilities against the source's own base (and the truth's
own change, which is not nothing), and retention. With an embedder: the cosine to the source.
"""

import argparse
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import synthetic
from data.drawn_reader import DrawnFaces
from data.labels import label_names
from data.request import Request, parse_request
from engine.errors import exit_on_user_error
from engine.files import atomic_text
from evaluation.export import asked_factors, sides, true_answers
from evaluation.session import spread
from vae.edit import paint
from vae.editor import KINDS, MATCH, Editor, open_editor
from vae.session import Session

MOUTH = {"Smiling", "Mouth_Slightly_Open", "Big_Lips", "Wearing_Lipstick", "Mustache", "Goatee"} | {*synthetic.CLASSES}
EYES = {"Eyeglasses", "Narrow_Eyes", "Bushy_Eyebrows", "Arched_Eyebrows", "Bags_Under_Eyes"}
GROW = 0.35  # eye distances


def box_mask(points: list[np.ndarray], names: list[str], size: int) -> Tensor:
    """(N, 1, H, H) bool: where the change is looked for. points: landmarks (N, 68, 2) before and after."""
    rows = range(48, 68) if set(names) <= MOUTH else range(36, 48) if set(names) <= EYES else None
    count = len(points[0])
    if rows is None:
        return torch.ones(count, 1, size, size, dtype=torch.bool)
    both = np.concatenate([p[:, list(rows)] for p in points], 1)  # (N, P, 2)
    apart = np.linalg.norm(points[0][:, 36:42].mean(1) - points[0][:, 42:48].mean(1), axis=1)
    grow = GROW * apart[:, None]
    low, high = both.min(1) - grow, both.max(1) + grow  # (N, 2)
    centre = (np.arange(size) + 0.5) * 2 / size - 1
    inside = [(centre >= low[:, i, None]) & (centre <= high[:, i, None]) for i in (0, 1)]  # x, y: (N, H)
    return torch.from_numpy(inside[1][:, None, :, None] & inside[0][:, None, None, :])


def psnr_in(x: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Mean over faces of the PSNR within the mask, dB; both pictures rounded to 8 bits."""
    x, truth = (((v.clamp(-1, 1) + 1) * 127.5).round() for v in (x, truth))
    error = ((x - truth).square().mean(1, keepdim=True) * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
    return (10 * torch.log10(255**2 / error.clamp_min(0.25))).mean().item()


class Judge:
    """A classifier of evaluation/, asked for one attribute."""

    def __init__(self, run: Path, device: str) -> None:
        from evaluation.classifier import load

        self.net = load(run, device=device)

    def probabilities(self, x: Tensor) -> Tensor:
        """(N, names) of images in [-1, 1]."""
        return self.net.probabilities(self.net.logits(((x.clamp(-1, 1) + 1) * 127.5).round().byte()))

    def success(self, p: Tensor, request: Request, wanted: Tensor) -> float:
        """Share of faces read on the requested side of every move."""
        right = torch.ones(len(p), dtype=torch.bool)
        for i, wish in enumerate(request):
            column = p[:, self.net.names.index(wish.name)]
            if wish.is_class:
                right &= p[:, : len(self.net.classes)].argmax(1) == self.net.classes.index(wish.name)
            else:
                right &= (column > 0.5) == (wanted[:, i] > 0.5)
        return right.float().mean().item()

    def leakage(self, p: Tensor, base: Tensor, request: Request) -> float:
        """Mean |change| of the attributes that were not asked for."""
        others = [i for i, n in enumerate(self.net.names) if n in self.net.attributes and n not in request]
        return (p - base)[:, others].abs().mean().item()


class Persons:
    """An embedder of evaluation/: is it still the person of the source?"""

    def __init__(self, run: Path, device: str, source: Tensor) -> None:
        from evaluation.classifier import load

        self.net = load(run, device=device)
        self.source = self.embedded(source)

    def embedded(self, x: Tensor) -> Tensor:
        """(N, D) unit vectors of images in [-1, 1]."""
        found = self.net.features(((x.clamp(-1, 1) + 1) * 127.5).round().byte()).cpu()
        return torch.nn.functional.normalize(found, dim=1)

    def kept(self, x: Tensor) -> float:
        """Mean cosine to the sources."""
        return (self.embedded(x) * self.source).sum(1).mean().item()


def alpha_one(editor: Editor, mu: Tensor, request: Request, labels: Tensor) -> Tensor:
    """The same directions, one class distance far, whatever the score says: the public recipe."""
    z = mu.clone()
    labels = editor.complete(mu, labels)
    for wish in editor.wishes(request):
        sign = 2 * editor.shares(wish, labels) - 1
        z = z + sign[:, None] * editor.direction(mu, wish, request, labels)
    return z


def question(session: Session, request: Request, n: int, split: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Faces of a split (N, C, H, H), labels (N, L), right answers, and where to look (N, 1, H, H)."""
    meta, faces = session.meta, session.split(split)
    batch = faces.take(spread(n, len(faces)))
    labels, index, x = session.table(batch), batch["index"].numpy(), batch["image"]
    if request.classes:  # faces that show the expression already are no question
        asked = [label_names(meta).index(wish.name) for wish in request.classes]
        keep = (labels[:, asked] != 1).all(1)
        labels, index, x = labels[keep], index[keep.numpy()], x[keep]
    cfg = session.method.cfg.data
    truth = true_answers(cfg, meta, index, request, labels)
    factors = DrawnFaces(cfg).factors_of(index)
    after = asked_factors(factors, request, labels, meta)
    points = [synthetic.landmarks(f) for f in (factors, after)]
    return x, labels, truth, box_mask(points, request.names, meta["image_size"])


def measure(args: argparse.Namespace) -> dict:
    """All figures of one run and one request."""
    session = Session(Namespace(run_dir=args.run_dir, step=args.step, device=args.device, seed=0, out=None))
    meta = session.meta
    request = parse_request(args.attr, meta["classes"], meta["attributes"])
    x, labels, truth, mask = question(session, request, args.n, args.split)
    wanted = torch.stack([sides(wish, labels, meta) for wish in request], 1)
    mu = session.encode(x)
    before = session.decode(mu)
    base, top = psnr_in(before, truth, mask), psnr_in(session.reconstruct(truth), truth, mask)
    everywhere = torch.ones_like(mask)
    result = {
        "request": str(request),
        "split": args.split,
        "faces": len(x),
        "psnr_reconstruction": psnr_in(before, x, everywhere),
        "box": {"untouched": psnr_in(x, truth, mask), "source recon": base, "recon of truth": top},
        "moves": {},
    }
    judge = Judge(args.judge, args.device) if args.judge else None
    if judge:
        p_source, p_before = judge.probabilities(x), judge.probabilities(before)
        result["retention"] = retention(judge, p_source, p_before, labels, meta)
        result["judge_success_untouched"] = judge.success(p_source, request, wanted)
        painted = judge.probabilities(session.reconstruct(truth))
        result["judge_success_truth_reconstructed"] = judge.success(painted, request, wanted)
        result["judge_leakage_truth"] = judge.leakage(judge.probabilities(truth), p_source, request)
        result["judge_success_truth"] = judge.success(judge.probabilities(truth), request, wanted)
    persons = Persons(args.identity, args.device, x) if args.identity else None
    if persons:
        result["identity"] = {"truth": persons.kept(truth), "source recon": persons.kept(before)}
        result["identity"]["another's face"] = persons.kept(x.roll(len(x) // 2, 0))
    for kind in args.kinds:
        editor = open_editor(session, kind, args.k, args.match, [])
        for rule in ("whole",) if kind in ("transport", "probe") else ("alpha 1", "to side"):
            z = alpha_one(editor, mu, request, labels) if rule == "alpha 1" else editor.move(mu, request, labels)
            decoded = session.decode(z)
            for detail in ("decode", "blend"):
                edit = paint(x, before, decoded, detail)
                row = {"psnr_box": psnr_in(edit, truth, mask)}
                row["gap_closed"] = (row["psnr_box"] - base) / (top - base)
                if judge:
                    p = judge.probabilities(edit)
                    row["success"] = judge.success(p, request, wanted)
                    row["leakage"] = judge.leakage(p, p_source if detail == "blend" else p_before, request)
                if persons:
                    row["identity"] = persons.kept(edit)
                result["moves"][f"{kind}, {rule}, {detail}"] = row
    return result


def retention(judge: Judge, real: Tensor, recon: Tensor, labels: Tensor, meta: dict) -> dict[str, list[float]]:
    """The judge on real faces and on their reconstructions: [real, reconstruction] per attribute, the mean of its
    accuracies on both sides (14 of 100 drawn faces smile: plain accuracy would praise a blank); expressions: accuracy.
    """
    names, found = label_names(meta), {}
    for i, name in enumerate(judge.net.names):
        if name in judge.net.attributes and name in names:
            truth = labels[:, names.index(name)] == 1
            right = [(p[:, i] > 0.5) == truth for p in (real, recon)]
            found[name] = [(r[truth].float().mean().item() + r[~truth].float().mean().item()) / 2 for r in right]
    classes = judge.net.classes
    if classes and classes == meta["classes"]:
        truth = labels[:, [names.index(name) for name in classes]].argmax(1)
        found["expression"] = [(p[:, : len(classes)].argmax(1) == truth).float().mean().item() for p in (real, recon)]
    return found


def show(result: dict) -> None:
    """Print all figures."""
    box = "  ".join(f"{name} {value:.2f}" for name, value in result["box"].items())
    head = f"{result['request']}, {result['faces']} {result['split']} faces"
    print(f"{head}, PSNR {result['psnr_reconstruction']:.2f} dB; in the box: {box}")
    for name in (name for name in result if name.startswith("judge_")):
        print(f"{name.replace('_', ' ')}: {result[name]:.3f}")
    for name, value in result.get("identity", {}).items():
        print(f"identity, cosine of {name} to source: {value:.3f}")
    for name, row in result["moves"].items():
        print(f"  {name:<26}" + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    for name, (real, kept) in result.get("retention", {}).items():
        if name in ("Smiling", "Eyeglasses", "Mouth_Slightly_Open", "Male", "expression"):
            print(f"  retention {name}: {kept:.3f} of {real:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="a VAE trained on drawn faces")
    parser.add_argument("--step", type=int, help="of the checkpoint")
    parser.add_argument("--attr", nargs="+", default=["Smiling=flip"], help="what to change")
    parser.add_argument("--n", type=int, default=600, help="faces, spread over the split")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="val: to choose by; test: to report")
    parser.add_argument("--k", type=int, default=100, help="neighbours")
    parser.add_argument("--match", nargs="*", default=list(MATCH), help="attributes on which neighbours agree")
    parser.add_argument("--judge", type=Path, help="a run of evaluation.train_classifier")
    parser.add_argument("--identity", type=Path, help="a run of evaluation.train_classifier that knows persons")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="ways of moving")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    with exit_on_user_error(), torch.inference_mode():
        result = measure(args)
    show(result)
    if args.out:
        atomic_text(args.out, json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
