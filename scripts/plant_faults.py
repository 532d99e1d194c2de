"""Mutation test: `python scripts/plant_faults.py [FAMILY ...] [--only NUMBER ...] [--jobs 1]`.

Plants each fault below, one at a time, into a temporary copy of the repository, and runs the tests of its family there
until one fails. Prints the table of docs/testing.md. The working tree is not changed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = (
    *("engine", "data", "losses", "latents", "evaluation", "editing", "vae", "flow", "aae_cgan", "gcgan", "a2f"),
    *("interface_gan", "configs", "scripts", "tests"),
)
MORE = {"losses": ["test_losses"], "data": ["test_editing", "test_batches"], "latents": ["test_latents"]}


@dataclass(frozen=True)
class Fault:
    """`right` in `file` is replaced by `wrong`; `kind` describes the fault."""

    kind: str
    file: str
    right: str
    wrong: str


FAULTS = {
    "vae": [
        Fault("the rate's sign dropped", "vae/train.py", "* feature + rate", "* feature - rate"),
        Fault("no gradient into the encoder", "vae/train.py", "self.decoder.logits(z)",
              "self.decoder.logits(z.detach())"),
        Fault("KL summed over the batch", "vae/train.py", "whole_batch(kl_standard_normal(mu, logvar).mean(0))",
              "whole_batch(kl_standard_normal(mu, logvar).sum(0))"),
        Fault("labels of the feature network shifted by one", "vae/train.py",
              'F.cross_entropy(class_logits, batch["label"].clamp_min(0)',
              'F.cross_entropy(class_logits, (batch["label"].clamp_min(0) + 1) % class_logits.shape[1]'),
        Fault("edits go the other way", "vae/latent_editor.py", "start = start + self.strength",
              "start = start - self.strength"),
        Fault("table of labels shifted by one", "data/labels.py", "label.clamp_min(0), len",
              "(label.clamp_min(0) + 1) % len(meta[\"classes\"]), len"),
        Fault("sampled codes instead of their means", "vae/train.py", "z = mu if w.objective == \"autoencoder\" else",
              "z = mu if w.objective != \"factor\" else"),
    ],
    "aae_cgan": [
        Fault("the generator's sign dropped", "aae_cgan/train.py", "return generator_loss(critic(*pair), gan)",
              "return -generator_loss(critic(*pair), gan)"),
        Fault("a wrong label that may be the right one", "losses/targets.py", "shift = torch.randint(1, k",
              "shift = torch.randint(0, k"),
        Fault("no gradient through the edit's code", "aae_cgan/train.py", "z_back = self.encoder(x_fake)",
              "z_back = self.encoder(x_fake.detach())"),
        Fault("the penalty's ends carry two labels", "aae_cgan/train.py",
              "gradient_penalty(lambda v: self.d_image(v, y_target), x_match",
              "gradient_penalty(lambda v: self.d_image(v, y_target), x_match.flip(0)"),
        Fault("the penalty's norm over one axis", "losses/adversarial.py", "raised(grad).flatten(1).square().sum(1)",
              "raised(grad).square().sum(1)"),
        Fault("prior and codes exchanged", "aae_cgan/train.py", "update_d_latent(torch.randn_like(z), z.detach())",
              "update_d_latent(z.detach(), torch.randn_like(z))"),
        Fault("the critic sees another label than the target", "losses/targets.py", "return Request(y[p], x[p]",
              "return Request(y[p], x"),
    ],
    "gcgan": [
        Fault("the cycle leads back to the target", "gcgan/stargan.py", "self.generator(x_fake, c), x,",
              "self.generator(x_fake, c.roll(1, 0)), x,"),
        Fault("R1 of the patches' sum", "gcgan/stargan.py", "critic(v, c).mean((1, 2)), x_seen",
              "critic(v, c).sum((1, 2)), x_seen"),
        Fault("the generator moves in the wrong turn", "gcgan/stargan.py", "turn = (done + 1) % w.n_critic == 0",
              "turn = done % w.n_critic == 0"),
        Fault("fakes are scored under the own label", "gcgan/stargan.py", "critic.score(h_fake, c_target)  #",
              "critic.score(h_fake, c)  #"),
        Fault("D(G) after the update is the one before", "gcgan/stargan.py", "after.sigmoid().mean()",
              "fake.sigmoid().mean()"),
        Fault("the mask inverted", "gcgan/model.py", "m * content + (1 - m) * x", "(1 - m) * content + m * x"),
        Fault("the norm ignores the condition", "gcgan/model.py", "(1 + scale) * self.norm(h) + shift",
              "self.norm(h)"),
        Fault("the flow's axes exchanged", "gcgan/model.py", "flow.permute(0, 2, 3, 1)",
              "flow.flip(1).permute(0, 2, 3, 1)"),
        Fault("faces of one person pulled together", "losses/contrastive.py", "(same_label & ~same_person & ~itself)",
              "(same_label & ~itself)"),
        Fault("faces aligned by all points", "gcgan/geometry.py", "points[:, INNER].mean(1, keepdim=True)",
              "points.mean(1, keepdim=True)"),
        Fault("the decoder gets the face that it must rebuild", "gcgan/gc_gan.py",
              "base = g_other if w", "base = g if w"),
        Fault("the driver's shape is kept", "gcgan/gc_gan.py", "return self.decoder(z_driver, g_source)",
              "return self.decoder(z_driver, torch.zeros_like(g_source))"),
        Fault("a wrong label that may be the right one", "losses/targets.py", "shift = torch.randint(1, k",
              "shift = torch.randint(0, k"),
        Fault("the class loss over both sets' labels", "gcgan/stargan.py",
              "self.critic.logits(h)[:, block.columns], c[:, block.columns]",
              "self.critic.logits(h), c[:, : self.labels.num]"),
        Fault("critic steps counted over both sets", "gcgan/stargan.py", "done = step // num_sets", "done = step"),
        Fault("the gradient penalty of the patches' mean", "gcgan/stargan.py",
              "gradient_penalty(lambda v: critic(v, c), x_seen",
              "gradient_penalty(lambda v: critic(v, c).mean((1, 2)), x_seen"),
        Fault("mirrored landmarks without the swap of sides", "data/batches.py", "return landmarks[:, swap] *",
              "return landmarks *"),
        Fault("the set's number left out of the condition", "gcgan/conditions.py",
              "c[:, self.num + block.source] = 1", "pass"),
        Fault("weights of eyes and mouth ignored", "gcgan/stargan.py", "error = error * face_weight(",
              "error * face_weight("),
        Fault("relative driving takes the driver's neutral face, too", "gcgan/motion.py",
              "moved = g + retarget(z, g) - retarget(z_neutral.expand(len(z), -1), g)", "moved = retarget(z, g)"),
        Fault("the truth of a transfer keeps the source's muscles", "gcgan/transfer.py",
              "synthetic.action_units(driver)", "synthetic.action_units(source)"),
        Fault("the authors' contrast with its sides exchanged", "gcgan/paper.py",
              "torch.where(same, d, (margin - d).clamp_min(0))", "torch.where(same, (margin - d).clamp_min(0), d)"),
        Fault("the authors' decoder leaves the landmark encoder alone", "gcgan/paper.py",
              "[*self.image_decoder.parameters(), *self.geometry.encoder.parameters()]",
              "self.image_decoder.parameters()"),
        Fault("a driver of the own class", "gcgan/gc_gan.py", "self.bank.of_class(label).to",
              'self.bank.of_class(rows["label"]).to'),
    ],
    "flow": [
        Fault("the prior's log-deviation with the wrong sign", "flow/model.py", "normal - log_s.expand_as",
              "normal + log_s.expand_as"),
        Fault("labels shifted by one", "flow/labels.py",
              "F.one_hot(raw.clamp_min(0), len(self)).float()\n            return",
              "F.one_hot((raw.clamp_min(0) + 1) % len(self), len(self)).float()\n            return"),
        Fault("the gradient through a coupling's first half lost", "flow/reversible.py", "grad_a + through_a",
              "grad_a"),
        Fault("channels left out of the dimensions", "flow/train.py", "bits_per_dim(code.log_prob, self.flow.dim,",
              "bits_per_dim(code.log_prob, self.flow.size**2,"),
        Fault("temperature applied twice", "flow/model.py", "return [e * t for e, t", "return [e * t * t for e, t"),
        Fault("an edit of the label goes the other way", "flow/editor.py", 'code["y"] + gain * (',
              'code["y"] - gain * ('),
        Fault("the average starts before the warm start", "flow/train.py", "        self.ema.reset(self.flow)  #",
              "        #"),
    ],
    "two_ranks": [
        Fault("gradients summed over ranks", "engine/ranks.py", "    flat /= world_size()", "    pass"),
        Fault("each rank keeps its own gradient", "engine/ranks.py", "    dist.all_reduce(flat)",
              "    flat *= world_size()"),
        Fault("sigma of one rank's images", "vae/train.py", "batch_log_sigma2(x, x_hat, weight, mean_over_ranks)",
              "batch_log_sigma2(x, x_hat, weight)"),
    ],
}  # fmt: skip


def plant(family: str, fault: Fault) -> tuple[str, float]:
    """Name of the first test that fails ("" if none fails), and the time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in PARTS:
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "families.py"):
            shutil.copy(ROOT / name, copy)
        path = copy / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.right) != 1:
            raise SystemExit(f"{fault.file}: '{fault.right}' occurs {text.count(fault.right)} times, expected once")
        path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
        first = MORE.get(fault.file.partition("/")[0], [])
        tests = [copy / f"tests/{name}.py" for name in first] + sorted(copy.glob(f"tests/test_{family}*.py"))
        start = time.perf_counter()
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *map(str, tests)]
        env = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        for marks in ("not slow", "slow"):
            done = subprocess.run([*command, "-m", marks], capture_output=True, text=True, cwd=copy, env=env)
            found = re.search(r"^(?:FAILED|ERROR) (?:tests/)?([^\s\[]+)", done.stdout, re.M)
            if found:
                return found.group(1), time.perf_counter() - start
        return "", time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Plant faults one at a time and report the test that finds each.")
    parser.add_argument("families", nargs="*", help=f"families: {', '.join(FAULTS)}; default: all")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of faults in a family, from 1")
    parser.add_argument("--jobs", type=int, default=1, help="number of faults at the same time")
    args = parser.parse_args()
    chosen = [
        (family, number, fault)
        for family in args.families or FAULTS
        for number, fault in enumerate(FAULTS[family], 1)
        if not args.only or number in args.only
    ]
    print("| family | fault | in | found by |\n| --- | --- | --- | --- |", flush=True)
    missed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        results = pool.map(lambda each: plant(each[0], each[2]), chosen)
        for (family, _, fault), (test, seconds) in zip(chosen, results, strict=True):
            missed += not test
            result = f"`{test}`, {seconds:.0f} s" if test else "**nothing**"
            print(f"| {family} | {fault.kind} | `{fault.file}` | {result} |", flush=True)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
