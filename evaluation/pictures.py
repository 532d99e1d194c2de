"""Image similarity (PSNR; SSIM, MS-SSIM and LPIPS by torchmetrics), sharpness and Nyquist energy, on 8-bit values."""

import torch
from torch import Tensor

from evaluation.eval_data import EvalData
from evaluation.metric import Metric
from losses import image_metrics

MAX_PSNR = 60.0  # dB; the PSNR of equal images is infinite, which would make the mean infinite
BATCH = 256  # images
NYQUIST_FROM = 0.375  # cycles per px; the Nyquist frequency is 0.5


def _batched(function: object, a: Tensor, b: Tensor) -> Tensor:
    if not len(a):
        return torch.empty(0, dtype=torch.float64)
    parts = zip(a.split(BATCH), b.split(BATCH), strict=True)
    return torch.cat([function(x.float(), y.float()).double().reshape(-1) for x, y in parts])


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """(N,) PSNR in dB, at most 60, of images (N, C, H, W) uint8."""
    return _batched(lambda x, y: image_metrics.psnr(x, y, 255.0), a, b).clamp_max(MAX_PSNR)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """(N,) SSIM of images (N, C, H, W) uint8: Gaussian window of 11 px, sigma 1.5, range 255."""
    from torchmetrics.functional.image import structural_similarity_index_measure as measure

    return _batched(lambda x, y: measure(x, y, data_range=255.0, reduction="none"), a, b)


def scales(size: int) -> int:
    """Number of scales of MS-SSIM: 5 above 160 px, else 3, and fewer if the window does not fit."""
    return max(b for b in range(1, (5 if size > 160 else 3) + 1) if b == 1 or size > 10 * 2 ** (b - 1))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """(N,) MS-SSIM of images (N, C, H, W) uint8, with the first `scales(size)` of the five scales."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    betas = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[: scales(min(a.shape[-2:]))]
    total = sum(betas)
    if len(betas) == 1:
        return ssim(a, b)
    betas = tuple(beta / total for beta in betas)
    # A negative contrast term has no real power, so it is set to 0.
    one = lambda x, y: measure(x, y, data_range=255.0, betas=betas, normalize="relu", reduction="none")  # noqa: E731
    return _batched(one, a, b)


def sharpness(x: Tensor) -> Tensor:
    """(N,) mean squared Laplacian of the channel mean of images (N, C, H, W) uint8."""
    return _batched(lambda x, _: image_metrics.sharpness(x), x, x)


def nyquist_energy(x: Tensor) -> Tensor:
    """(N,) energy near the Nyquist frequency of the channel mean of images (N, C, H, W).

    Mean squared modulus of the Fourier coefficients with a horizontal or vertical frequency of 0.375 cycles per px or
    more, after a Hann window (the borders of an image are no texture). Patterns of two px, as the chequers and stripes
    that a generator paints to please a classifier, raise it; sharpness mixes them with edges.
    """
    parts = [torch.empty(0, dtype=torch.float64)]
    for part in x.split(BATCH):
        grey = part.double().mean(1)
        grey = grey - grey.mean((1, 2), keepdim=True)
        height, width = grey.shape[-2:]
        window = torch.hann_window(height, False).double()[:, None] * torch.hann_window(width, False).double()
        power = torch.fft.fft2(grey * window).abs().square() / window.square().sum()
        vertical, horizontal = torch.fft.fftfreq(height).abs()[:, None], torch.fft.fftfreq(width).abs()
        parts.append(power[:, torch.maximum(vertical, horizontal) >= NYQUIST_FROM].mean(1))
    return torch.cat(parts)


def nyquist(eval_data: EvalData, kind: str) -> Metric:
    """Nyquist energy over that of the sources (or of real faces), and the same for each target."""
    e, rows = eval_data.export, eval_data.export.at_full_strength(kind)
    with_source = bool((e.source[rows] >= 0).all())
    energy = nyquist_energy(e.images)
    real = None if with_source else nyquist_energy(eval_data.real_pixels()).mean()

    def ratio(members: Tensor) -> float:
        reference = energy[e.source[members]].mean() if real is None else real
        return float(energy[e.file[members]].mean() / reference.clamp_min(1e-12))

    per = {target: ratio(members) for target, members in eval_data.conditions(kind).items() if target}
    name = f"{kind} Nyquist energy (from {NYQUIST_FROM} cycles per px, over that of "
    name += "the sources)" if with_source else "real faces)"
    detail = {"per_target": per, "worst": max(per.values(), default=ratio(rows))}
    return Metric(f"{kind} Nyquist energy", name, ratio(rows), "", len(rows), {"real": 1.0}, detail=detail)


def metrics(eval_data: EvalData) -> list[Metric]:
    """Reconstructions against their sources; sharpness and Nyquist energy over those of the sources, or real faces."""
    e, found = eval_data.export, []
    if eval_data.has("reconstruction"):
        rows = e.at_full_strength("reconstruction")
        rows = rows[e.source[rows] >= 0]
        a, b = e.images[e.file[rows]], e.images[e.source[rows]]
        size = f"{a.shape[-1]} px, 8 bit"
        measures = {"PSNR": (psnr, "dB"), "SSIM": (ssim, ""), f"MS-SSIM-{scales(a.shape[-1])}": (ms_ssim, "")}
        for key, (measure, unit) in measures.items() if len(rows) else ():
            other = _different_faces(a, measure)
            name = f"reconstruction {key}{f' in {unit}' if unit else ''} ({size}, to the source)"
            references = {"different faces": other}
            found.append(
                Metric(f"reconstruction {key}", name, float(measure(a, b).mean()), "high", len(rows), references)
            )
        found += lpips(a, b) if len(rows) else []
    for kind in eval_data.kinds():
        rows = e.at_full_strength(kind)
        source = eval_data.export.source[rows]
        against = e.images[source] if (source >= 0).all() else eval_data.real_pixels()
        value = float(sharpness(e.images[e.file[rows]]).mean() / sharpness(against).mean().clamp_min(1e-12))
        reference = "the sources" if (source >= 0).all() else "real faces"
        found.append(
            Metric(
                f"{kind} sharpness",
                f"{kind} sharpness (mean squared Laplacian over that of {reference})",
                value,
                "",
                len(rows),
                {"real": 1.0},
            )
        )
        found.append(nyquist(eval_data, kind))
    return found


def _different_faces(x: Tensor, measure: object) -> float:
    """The mean of the same measure between each image and another image of the batch."""
    n = min(len(x), 500)
    return float(measure(x[:n], x[:n].roll(1, 0)).mean()) if n > 1 else 1.0


def lpips(a: Tensor, b: Tensor) -> list[Metric]:
    """LPIPS (AlexNet), if the weights of AlexNet are in the cache of torch.hub; nothing is downloaded."""
    from pathlib import Path

    if not list((Path(torch.hub.get_dir()) / "checkpoints").glob("alexnet-owt-*.pth")):
        return []
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as measure

    three = lambda x: x.expand(-1, 3, -1, -1) / 127.5 - 1  # noqa: E731
    value = torch.stack(
        [
            measure(three(x.float()), three(y.float()), reduction="mean") * len(x)
            for x, y in zip(a.split(64), b.split(64), strict=True)
        ]
    ).sum() / len(a)
    return [
        Metric("reconstruction LPIPS", "reconstruction LPIPS (AlexNet, to the source)", float(value), "low", len(a))
    ]
