"""The mode `report`: distortion, rate, label prediction from codes, leakage, disentanglement."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import synthetic
from data.drawn_reader import DrawnFaces
from editing.record import output_path, write_record
from editing.subjects import SPLITS
from engine.files import atomic_write
from latents.roc_auc import roc_auc
from losses.gaussian import gaussian_nll, kl_standard_normal
from losses.quantise import to_bytes
from vae.attributes import AttributeVectors, Codes
from vae.editor import Editor
from vae.train import ACTIVE_KL
from vae.vectors import leakage

# Factors of drawn faces for the disentanglement scores; independent if data.independent is true.
FACTORS = ("shift_x", "shift_y", "scale", "roll", "yaw", "tone", "face_w", "male", "glasses", "expr")


def run_report(editor: Editor, args: argparse.Namespace) -> None:
    """Write report.json and report.png."""
    facts, kl = distortion_and_rate(editor, args.split)
    names = editor.label_names()
    codes = editor.training_codes(args.split)
    if names:
        vectors = editor.latent_editor("ols").vectors
        facts["attributes"] = label_auc(vectors, codes, names)
        facts["leakage"] = direction_leakage(vectors)
    facts["disentanglement"] = disentanglement(editor, args, codes)
    path = output_path(editor, args, "report")
    plot(kl, facts.get("attributes", {}), path)
    write_record(editor, args, path, split=args.split, **facts)
    scalars = {k: v for k, v in facts.items() if not isinstance(v, (dict, list))}
    print(json.dumps(scalars | {"disentanglement": facts["disentanglement"]}, indent=1))
    print(f"wrote {path}")


def distortion_and_rate(editor: Editor, split: str) -> tuple[dict, Tensor]:
    """Mean metrics of a split, and KL per latent (Z,) in nats. Images are rounded to 8 bits, codes are mu."""
    from evaluation.pictures import psnr, ssim

    method, rows = editor.method, []
    for batch in editor.split(split).once(256, editor.device):
        mu, logvar = method.ema_encoder(batch["image"])
        x_hat = method.ema_decoder(mu)
        nll = gaussian_nll(batch["image"], x_hat, method.log_sigma2)
        a, b = to_bytes(batch["image"]).cpu(), to_bytes(x_hat).cpu()
        rows.append([psnr(a, b), ssim(a, b), nll.cpu(), kl_standard_normal(mu, logvar).cpu()])
    level, similar, nll, kl = (torch.cat([torch.as_tensor(r[i]) for r in rows]) for i in range(4))
    per_latent = kl.mean(0)
    facts = {
        "faces": len(nll),
        "psnr_db": round(level.double().mean().item(), 3),
        "ssim": round(similar.double().mean().item(), 4),
        "nll_nats": round(nll.mean().item(), 1),
        "sigma": round(float(method.sigma()), 5),
        "kl_nats": round(per_latent.sum().item(), 2),
        "beta_eff": method.beta_eff(),
        "active": int((per_latent > ACTIVE_KL).sum()),
        "latents": len(per_latent),
        "kl_per_latent": [round(v, 3) for v in per_latent.tolist()],
    }
    return facts, per_latent


def label_auc(vectors: AttributeVectors, codes: Codes, names: list[str]) -> dict[str, dict[str, float]]:
    """Per label: AUC of its OLS direction, of its score, of the best single latent, and that latent's lead over the
    next one (the summand of TAD, Yeats et al. 2022)."""
    found = {}
    for a, name in enumerate(vectors.names):
        label = codes.labels[:, names.index(name)]
        single = torch.tensor([roc_auc(codes.mu[:, d], label) for d in range(codes.mu.shape[1])])
        best = (single - 0.5).abs().topk(2).values + 0.5
        values = {
            "auc_direction": roc_auc(codes.mu @ vectors.direction[a], label),
            "auc_score": roc_auc(codes.mu @ vectors.score[a], label),
            "auc_best_latent": best[0].item(),
            "lead": (best[0] - best[1]).item(),
        }
        found[name] = {key: round(value, 4) for key, value in values.items()}
    return found


def direction_leakage(vectors: AttributeVectors, least: float = 0.1) -> dict[str, dict[str, float]]:
    """Change of other scores by one step along each OLS direction, in class distances, if more than `least`."""
    leak, table = leakage(vectors), {}
    for a, name in enumerate(vectors.names):
        rows = {other: round(leak[a, b].item(), 2) for b, other in enumerate(vectors.names) if b != a}
        table[name] = dict(sorted(((k, v) for k, v in rows.items() if abs(v) > least), key=lambda kv: -abs(kv[1])))
    return table


def disentanglement(editor: Editor, args: argparse.Namespace, codes: Codes) -> dict[str, float] | str:
    """MIG, DCI-lin, SAP and FactorVAE's score if the factors are known and independent, else the reason."""
    cfg = editor.method.cfg.data
    if editor.meta["dataset"] != "synthetic":
        return "not measured: only drawn faces have known factors"
    if not cfg.independent:
        return "not measured: these factors are correlated; train with data.independent=true"
    from evaluation.disentanglement import all_scores, factor_vae_score

    drawn = DrawnFaces(editor.method.cfg.data).factors_of(codes.index.numpy())
    factors = np.stack([drawn[name] for name in FACTORS], 1)
    scores = all_scores(codes.mu.numpy(), factors)

    def draw_faces(factor: int, n: int, g: np.random.Generator) -> np.ndarray:
        rows = g.integers(len(factors), size=n)
        faces = {key: value[rows].copy() for key, value in drawn.items()}
        faces[FACTORS[factor]][:] = faces[FACTORS[factor]][0]
        return synthetic.render(faces, editor.meta["image_size"], editor.meta["channels"] == 1)

    def encode(faces: np.ndarray) -> np.ndarray:
        return editor.codes(editor.from_images(torch.from_numpy(faces).float() / 127.5 - 1))["z"].numpy()

    scores["FactorVAE"] = factor_vae_score(
        encode, draw_faces, len(FACTORS), codes.mu.std(0).numpy(), votes=args.votes, seed=args.seed
    )
    return {key: round(float(value), 4) for key, value in scores.items()}


def plot(kl: Tensor, attributes: dict[str, dict[str, float]], path: Path) -> None:
    """Plot KL per latent, and the AUC of each label by direction, score and best latent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 + 0.18 * len(attributes)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if attributes else 1, squeeze=False)[0]
    axes[0].bar(range(len(kl)), kl.sort(descending=True).values.tolist(), color="0.4")
    axes[0].axhline(ACTIVE_KL, color="tab:red", lw=0.8)
    axes[0].set(xlabel="latents, by KL", ylabel="KL, nats", title=f"{kl.sum():.0f} nats")
    if attributes:
        names = sorted(attributes, key=lambda name: attributes[name]["auc_score"])
        for key, mark in (("auc_best_latent", "|"), ("auc_direction", "o"), ("auc_score", "x")):
            axes[1].plot([attributes[name][key] for name in names], names, mark, label=key[4:].replace("_", " "))
        axes[1].axvline(0.5, color="0.8", lw=0.8)
        axes[1].tick_params(axis="y", labelsize=7)
        axes[1].set(xlabel="area under the ROC curve")
        axes[1].legend(fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)


def add_report(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="which faces")
    parser.add_argument("--votes", type=int, default=800, help="votes of FactorVAE's score, each from 64 drawn faces")
