"""Conversion: independent implementations of the other layouts, random weights, equal densities."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import UserError
from flow import convert, sample
from flow.convert import from_openai, from_rosinality, read_npz, read_torch

C, SIZE, K, L, WIDTH = 3, 16, 2, 2, 6


def rosinality_weights(affine: bool, kinds: list[str], prefix: str = "") -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape, s=0.3: s * torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    w, channels = {}, C
    for i in range(L):
        n = 4 * channels
        for j in range(K):
            at = f"blocks.{i}.flows.{j}."
            w[at + "actnorm.loc"], w[at + "actnorm.scale"] = normal(1, n, 1, 1), 1 + normal(1, n, 1, 1)
            w[at + "actnorm.scale"][0, 1] *= -1
            w[at + "actnorm.initialized"] = torch.tensor(1)
            q, _ = torch.linalg.qr(normal(n, n))
            if kinds[i] == "plain":
                w[at + "invconv.weight"] = q[:, :, None, None] + normal(n, n, 1, 1, s=0.02)
            else:
                p, lower, upper = torch.linalg.lu(q)
                s = upper.diagonal()
                w |= {at + "invconv.w_p": p, at + "invconv.w_l": lower, at + "invconv.w_u": upper}
                w |= {at + "invconv.w_s": s.abs().log(), at + "invconv.s_sign": s.sign()}
            w[at + "coupling.net.0.weight"], w[at + "coupling.net.0.bias"] = normal(WIDTH, n // 2, 3, 3), normal(WIDTH)
            w[at + "coupling.net.2.weight"], w[at + "coupling.net.2.bias"] = normal(WIDTH, WIDTH, 1, 1), normal(WIDTH)
            out = n if affine else n // 2
            w[at + "coupling.net.4.conv.weight"] = normal(out, WIDTH, 3, 3, s=0.1)
            w[at + "coupling.net.4.conv.bias"], w[at + "coupling.net.4.scale"] = (
                normal(out),
                normal(1, out, 1, 1, s=0.1),
            )
        inside, out = (n // 2, n) if i < L - 1 else (n, 2 * n)
        w[f"blocks.{i}.prior.conv.weight"] = normal(out, inside, 3, 3, s=0.1)
        w[f"blocks.{i}.prior.conv.bias"], w[f"blocks.{i}.prior.scale"] = normal(out), normal(1, out, 1, 1, s=0.1)
        channels *= 2
    return {prefix + key: value for key, value in w.items()}


def ones_conv(x: Tensor, w: dict[str, Tensor], at: str) -> Tensor:
    out = F.conv2d(F.pad(x, [1, 1, 1, 1], value=1), w[at + "conv.weight"], w[at + "conv.bias"])
    return out * torch.exp(3 * w[at + "scale"])


def rosinality_forward(x: Tensor, w: dict[str, Tensor], affine: bool) -> tuple[Tensor, list[Tensor]]:
    """log p (N,) and the raw latents, finest first."""
    log_p, zs = x.new_zeros(len(x)), []
    for i in range(L):
        b, c, h, _ = x.shape
        x = x.view(b, c, h // 2, 2, h // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, h // 2)
        roc_auc = (h // 2) ** 2
        for j in range(K):
            at = f"blocks.{i}.flows.{j}."
            scale = w[at + "actnorm.scale"]
            x = scale * (x + w[at + "actnorm.loc"])
            log_p = log_p + roc_auc * scale.abs().log().sum()
            if at + "invconv.weight" in w:
                weight = w[at + "invconv.weight"]
            else:
                lower = w[at + "invconv.w_l"].tril(-1) + torch.eye(4 * c, dtype=x.dtype)
                upper = w[at + "invconv.w_u"].triu(1)
                upper = upper + torch.diag(w[at + "invconv.s_sign"] * w[at + "invconv.w_s"].exp())
                weight = (w[at + "invconv.w_p"] @ lower @ upper)[:, :, None, None]
            x = F.conv2d(x, weight)
            log_p = log_p + roc_auc * torch.linalg.slogdet(weight[:, :, 0, 0])[1]
            a, other = x.chunk(2, 1)
            net = at + "coupling.net."
            hidden = F.relu(F.conv2d(a, w[net + "0.weight"], w[net + "0.bias"], padding=1))
            out = ones_conv(F.relu(F.conv2d(hidden, w[net + "2.weight"], w[net + "2.bias"])), w, net + "4.")
            if affine:
                log_s, t = out.chunk(2, 1)
                s = torch.sigmoid(log_s + 2)
                other = (other + t) * s
                log_p = log_p + s.log().sum((1, 2, 3))
            else:
                other = other + out
            x = torch.cat([a, other], 1)
        x, z = x.chunk(2, 1) if i < L - 1 else (torch.zeros_like(x), x)
        mean, log_sd = ones_conv(x, w, f"blocks.{i}.prior.").chunk(2, 1)
        normal = -0.5 * math.log(2 * math.pi) - log_sd - 0.5 * (z - mean).square() / torch.exp(2 * log_sd)
        log_p = log_p + normal.sum((1, 2, 3))
        zs.append((z, mean, log_sd))
    return log_p, zs


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kinds", [["lu", "lu"], ["plain", "plain"], ["plain", "lu"]], ids=["lu", "plain", "mixed"])
def test_rosinality_checkpoint_keeps_its_density(affine: bool, kinds: list[str], tmp_path) -> None:
    w = rosinality_weights(affine, kinds, "module.")
    torch.save(w, tmp_path / "glow.pt")
    method = from_rosinality(read_torch(tmp_path / "glow.pt"), SIZE, 5, "glow.pt")
    x = torch.rand(3, C, SIZE, SIZE, dtype=torch.float64) - 0.5
    with torch.no_grad():
        log_p, zs = rosinality_forward(x, {k.removeprefix("module."): v for k, v in w.items()}, affine)
        code = method.ema.module.encode(x)
        assert (code.log_prob - log_p).abs().max() / log_p.abs().max() < 1e-10
        for eps, (z, mean, log_sd) in zip(code.eps, zs, strict=True):
            assert torch.allclose(eps, (z - mean) * torch.exp(-log_sd), atol=1e-9)
        assert torch.allclose(method.ema.module.decode(code.eps), x, atol=1e-9)


def openai_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = lambda *shape, s=0.3: s * rng.standard_normal(shape)  # noqa: E731
    w, channels = {}, C
    for i in range(L):
        n = 4 * channels
        for j in range(K):
            at = f"model/{i}/{j}/"
            w[at + "actnorm_center/b"], w[at + "actnorm_scale/logs"] = normal(1, 1, 1, n), normal(1, 1, 1, n, s=0.1)
            w[at + "invconv/W"] = np.linalg.qr(normal(n, n))[0]
            w[at + "f1/l_1/W"] = normal(3, 3, n // 2 + 1, WIDTH)
            w[at + "f1/l_2/W"] = normal(1, 1, WIDTH, WIDTH)
            for name in ("l_1", "l_2"):
                w[f"{at}f1/{name}/actnorm_center/b"] = normal(1, 1, 1, WIDTH)
                w[f"{at}f1/{name}/actnorm_scale/logs"] = normal(1, 1, 1, WIDTH, s=0.1)
            w[at + "f1/l_last/W"] = normal(3, 3, WIDTH + 1, n, s=0.1)
            w[at + "f1/l_last/b"], w[at + "f1/l_last/logs"] = normal(1, 1, 1, n), normal(1, n, s=0.1)
        at, inside, out = (f"model/pool{i}/conv/", n // 2, n) if i < L - 1 else ("model/prior/p/", 2 * n, 2 * n)
        w[at + "W"], w[at + "b"] = normal(3, 3, inside + 1, out, s=0.1), normal(1, 1, 1, out)
        w[at + "logs"] = normal(1, out, s=0.1)
        channels *= 2
    return w


def openai_forward(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """log p (N,); x (N, C, H, W), their own NHWC arithmetic written out in NCHW."""

    def conv(x: Tensor, weight: Tensor) -> Tensor:
        if weight.shape[0] == 3:
            ring = F.pad(torch.zeros_like(x[:, :1]), [1, 1, 1, 1], value=1)
            x = torch.cat([F.pad(x, [1, 1, 1, 1]), ring], 1)
        return F.conv2d(x, weight.permute(3, 2, 0, 1))

    def zeros(x: Tensor, at: str) -> Tensor:
        out = conv(x, w[at + "W"]) + w[at + "b"].view(1, -1, 1, 1)
        return out * torch.exp(3 * w[at + "logs"].view(1, -1, 1, 1))

    def actnorm(x: Tensor, at: str) -> tuple[Tensor, Tensor]:
        logs = 3 * w[at + "_scale/logs"].view(1, -1, 1, 1)
        return (x + w[at + "_center/b"].view(1, -1, 1, 1)) * logs.exp(), logs.sum()

    log_p = x.new_zeros(len(x))
    for i in range(L):
        x = F.pixel_unshuffle(x, 2)
        roc_auc = x.shape[-1] ** 2
        for j in range(K):
            at = f"{i}/{j}/"
            x, logs = actnorm(x, at + "actnorm")
            x = torch.einsum("nihw,io->nohw", x, w[at + "invconv/W"])
            log_p = log_p + roc_auc * (logs + torch.linalg.slogdet(w[at + "invconv/W"])[1])
            a, b = x.chunk(2, 1)
            h = F.relu(actnorm(conv(a, w[at + "f1/l_1/W"]), at + "f1/l_1/actnorm")[0])
            h = F.relu(actnorm(conv(h, w[at + "f1/l_2/W"]), at + "f1/l_2/actnorm")[0])
            h = zeros(h, at + "f1/l_last/")
            scale = torch.sigmoid(h[:, 1::2] + 2)
            x = torch.cat([a, (b + h[:, 0::2]) * scale], 1)
            log_p = log_p + scale.log().sum((1, 2, 3))
        if i < L - 1:
            x, z = x.chunk(2, 1)
            h = zeros(x, f"pool{i}/conv/")
            mean, logs = h[:, 0::2], h[:, 1::2]
        else:
            z = x
            mean, logs = zeros(torch.zeros(len(x), 2 * x.shape[1], *x.shape[2:], dtype=x.dtype), "prior/p/").chunk(2, 1)
        normal = -0.5 * (math.log(2 * math.pi) + 2 * logs + (z - mean).square() / torch.exp(2 * logs))
        log_p = log_p + normal.sum((1, 2, 3))
    return log_p


def test_openai_checkpoint_keeps_its_density(tmp_path) -> None:
    w = openai_weights()
    np.savez(tmp_path / "glow.npz", **w)
    method = from_openai(read_npz(tmp_path / "glow.npz"), SIZE, 5, "glow.npz")
    x = torch.rand(3, C, SIZE, SIZE, dtype=torch.float64) - 0.5
    with torch.no_grad():
        expected = openai_forward(x, {k.removeprefix("model/"): torch.from_numpy(v) for k, v in w.items()})
        assert torch.allclose(method.ema.module.encode(x).log_prob, expected, rtol=1e-10)


def test_converted_checkpoint_opens_as_a_run(tmp_path, capsys) -> None:
    torch.save(rosinality_weights(True, ["lu", "lu"]), tmp_path / "glow.pt")
    run = str(tmp_path / "run")
    options = ["--from", "rosinality", "--n-bits", "5", "--image-size", str(SIZE * 2), "--run-dir", run]
    convert.main([str(tmp_path / "glow.pt"), *options])
    assert "2 levels of 2 steps, width 6, affine, 3 channels" in capsys.readouterr().out
    sample.main(["draw", "--run-dir", run, "--n", "4", "--temperature", "0.3"])
    assert (tmp_path / "run" / "pictures" / "draw.png").is_file()
    with pytest.raises(SystemExit):
        convert.main([str(tmp_path / "glow.pt"), *options])
    assert "this run directory already exists" in capsys.readouterr().err


def test_wrong_checkpoint_files_are_user_errors(tmp_path) -> None:
    good = tmp_path / "glow.pt"
    torch.save(rosinality_weights(True, ["lu", "lu"]), good)
    (tmp_path / "short.pt").write_bytes(good.read_bytes()[:2000])
    with pytest.raises(UserError, match="expected an intact state dict"):
        read_torch(tmp_path / "short.pt")
    with pytest.raises(UserError, match="has no 'blocks.0.flows.0.coupling"):
        from_rosinality({"conv.weight": torch.zeros(1)}, SIZE, 5, "other.pt")
    (tmp_path / "short.npz").write_bytes(b"PK nonsense")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="one array without a name"):
        read_npz(tmp_path / "one.npy")
    with pytest.raises(UserError, match="expected an intact .npz"):
        read_npz(tmp_path / "short.npz")
