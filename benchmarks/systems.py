"""The systems that the benchmark compares: recipe, commands after the training, and the row that shows them."""

from dataclasses import dataclass
from pathlib import Path

GUIDE = "synthetic32_guide"  # the classifier that scores codes for InterFaceGAN
JUDGES = ("synthetic32", "synthetic32_identity")


@dataclass(frozen=True)
class Training:
    """One training run: `python <family>/train.py --config configs/<family>/<config>.yaml`."""

    family: str
    config: str
    minutes: float  # CPU time of the recipe, one thread; only the estimate of the remaining time uses it
    quick: tuple[str, ...] = ()  # overrides of a quick benchmark
    upstream: str = ""  # config of the training that comes before it in a chain (`upstream.run`)

    def run_dir(self, runs: Path, seed: int) -> Path:
        """<runs>/<family>/<config>, with _seed<N> for another seed than 0."""
        return runs / self.family / (self.config + (f"_seed{seed}" if seed else ""))

    def command(self, runs: Path, seed: int, quick: bool) -> list[str]:
        """The command without `python`; paths are relative to the repository."""
        words = [f"{self.family}/train.py", "--config", f"configs/{self.family}/{self.config}.yaml"]
        if self.family == "evaluation":
            words = ["-m", "evaluation.train_classifier", *words[1:]]
        words += ["--run-dir", str(self.run_dir(runs, seed))]
        words += [f"train.seed={seed}"] if seed else []
        if self.upstream:
            words.append(f"upstream.run={Training(self.family, self.upstream, 0).run_dir(runs, seed)}")
        return words + list(self.quick if quick else ())


@dataclass(frozen=True)
class System:
    """A method as a row of the tables. The last training gives the run that edits."""

    name: str  # name of the file in results/<benchmark>/
    title: str  # of the row
    trainings: tuple[Training, ...]
    benchmarks: tuple[str, ...] = ("drawn32",)
    boundary: bool = False  # InterFaceGAN: codes are scored by the guide, and boundaries fitted, after the training
    measure_minutes: float = 1.5  # CPU time of one measurement

    def run_dir(self, runs: Path, seed: int = 0) -> Path:
        """The run directory that edits."""
        return self.trainings[-1].run_dir(runs, seed)


QUICK_DATA = {"num_train": 2000, "num_val": 200, "num_test": 300}  # drawn faces of a quick benchmark


def _few(steps: int, *more: str, **data: int) -> tuple[str, ...]:
    """Overrides of a quick training: few steps on few faces, one validation at the end."""
    every = (f"train.{key}_every={steps}" for key in ("validate", "sample", "save"))
    return (f"train.total_steps={steps}", *every, *(f"data.{key}={n}" for key, n in (QUICK_DATA | data).items()), *more)


CLASSIFIERS = (  # a judge of 2,000 faces would know too little, so the quick ones see more
    Training("evaluation", JUDGES[0], 2.5, _few(600, num_train=6000)),
    Training("evaluation", JUDGES[1], 1.7, _few(300, num_train=6000)),
    Training("evaluation", GUIDE, 2.5, _few(300, num_train=6000)),
)
SYSTEMS = (
    System("vae", "VAE", (Training("vae", "synthetic32", 23, _few(1000)),), ("drawn32", "drawn32_smiling")),
    System(
        "interface_gan",
        "InterFaceGAN",
        (Training("interface_gan", "synthetic32", 16, _few(120)),),
        ("drawn32", "drawn32_smiling"),
        boundary=True,
        measure_minutes=19,
    ),
    System("flow", "Glow", (Training("flow", "synthetic32", 20, _few(150)),)),
    System("aae_cgan", "AAE + CGAN", (Training("aae_cgan", "synthetic32", 22, _few(200)),)),
    System("stargan", "StarGAN", (Training("gcgan", "synthetic32", 22, _few(150)),)),
    System("gcgan", "GC-GAN", (Training("gcgan", "synthetic32_gcgan", 18, _few(250, "loss.geometry_steps=100")),)),
    System("cgan", "CGAN", (Training("a2f", "synthetic32_cgan", 14, _few(120)),), ("drawn32_attributes",)),
    System(
        "a2f",
        "A2F",
        (
            Training("a2f", "synthetic32_rough", 6, _few(120)),
            Training("a2f", "synthetic32_sharp", 5, _few(80), upstream="synthetic32_rough"),
            Training("a2f", "synthetic32_face", 12, _few(80), upstream="synthetic32_sharp"),
        ),
        ("drawn32_attributes",),
    ),
)
ENTRIES = {  # systems of drawn32_attributes: {row: what its faces are made from}
    "cgan": {"cgan": "noise"},
    "a2f": {"a2f_noise": "noise", "a2f_sketch": "sketch"},
}
