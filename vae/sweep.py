"""The mode `sweep`: one run per beta, the curve of distortion against rate, and the same eight faces from each."""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from engine import Grid, UserError, load
from engine.files import atomic_write
from vae.config import Config
from vae.report import distortion_and_rate
from vae.session import Session
from vae.train import BetaVAE

ROOT = Path(__file__).resolve().parent.parent


def run_sweep(args: argparse.Namespace) -> None:
    """Train (or resume) RUN/sweep/beta_<b> for every beta; sweep.png has the faces, sweep_curve.png the curve."""
    session = Session(args)
    betas = parse_betas(args.beta)
    x = session.split("test").fixed(8)["image"]
    rows, points = [x], []
    for beta in betas:
        folder = session.dir / "sweep" / f"beta_{beta:g}"
        train(session.dir, folder, beta, args.steps)
        session.method = load(folder, Config, BetaVAE, device=args.device)
        facts, _ = distortion_and_rate(session, "test")
        points.append({"beta": beta, **{k: facts[k] for k in ("psnr_db", "kl_nats", "nll_nats", "active", "beta_eff")}})
        print(points[-1])
        rows.append(session.reconstruct(x))
    captions = ["input", *(f"beta {p['beta']:g}\n{p['kl_nats']:.0f} nats, {p['psnr_db']:.1f} dB" for p in points)]
    path = session.write(Grid(torch.stack([row.cpu() for row in rows]), captions), "sweep", points=points)
    draw(points, path.with_name(f"{path.stem}_curve.png"))


def parse_betas(text: str) -> list[float]:
    """`0.25,1,4` -> numbers."""
    try:
        betas = [float(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--beta {text}: expected numbers, as 0.25,1,4,16") from None
    if min(betas) < 0:
        raise UserError(f"--beta {text}: expected numbers of at least 0")
    return betas


def train(run: Path, folder: Path, beta: float, steps: int) -> None:
    """The run's own config with another beta, in a process of its own; a finished run is left as it is."""
    command = [sys.executable, str(ROOT / "vae/train.py"), "--config", str(run / "config.yaml")]
    command += ["--run-dir", str(folder), f"loss.beta={beta:g}", *([f"train.total_steps={steps}"] if steps else [])]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"sweep: the run of beta {beta:g} failed; its log is {folder / 'train.log'}")


def draw(points: list[dict], path: Path) -> None:
    """PSNR against KL, a dot a beta."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([p["kl_nats"] for p in points], [p["psnr_db"] for p in points], "o-", color="0.3")
    for p in points:
        axes.annotate(f"beta {p['beta']:g}", (p["kl_nats"], p["psnr_db"]), (4, -10), textcoords="offset points")
    axes.set(xlabel="rate: KL, nats", ylabel="distortion: PSNR, dB")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
    print(f"wrote {path}")


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """The options of `sweep`."""
    parser.add_argument("--beta", default="0.25,1,4,16", help="betas, with commas")
    parser.add_argument("--steps", type=int, default=0, help="of each run; 0: as many as the run itself")
