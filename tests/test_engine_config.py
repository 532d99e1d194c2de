"""Config: precedence, types, error messages."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from toy import ToyConfig

from engine.config import describe, load_config, to_dict, to_yaml
from engine.errors import UserError


@dataclass
class Block:
    betas: tuple[float, float] = (0.9, 0.999)
    boxes: list[list[float]] | None = None
    crop: Literal["full"] | int | list[int] = "full"
    mode: Literal["a", "b"] = "a"
    sigma: float | None = None
    flag: bool = False
    name: str = ""
    names: list[str] = field(default_factory=list)


@dataclass
class Config:
    block: Block = field(default_factory=Block)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_precedence_default_yaml_command_line(tmp_path):
    path = write(tmp_path, "train:\n  seed: 3\n  lr: 1e-4\n")
    cfg = load_config(ToyConfig, path, ["train.seed=5"])
    assert (cfg.train.seed, cfg.train.lr, cfg.train.batch_size) == (5, 1e-4, 64)


def test_values_are_converted_to_the_declared_type(tmp_path):
    text = "block: {betas: [0, 0.9], boxes: [[0, 1e-1]], crop: 148, sigma: 1e-4, flag: yes, name: 007, names: [a, 1]}"
    block = load_config(Config, write(tmp_path, text)).block
    assert block.betas == (0.0, 0.9) and all(type(b) is float for b in block.betas)
    assert block.boxes == [[0.0, 0.1]] and block.crop == 148 and block.sigma == 1e-4
    assert block.flag is True and block.name == "007" and block.names == ["a", "1"]
    assert load_config(Config, None, ["block.crop=[1, 2, 3, 4]", "block.sigma=null"]).block.crop == [1, 2, 3, 4]


def test_config_yaml_reads_back_equal(tmp_path):
    cfg = load_config(Config, None, ["block.betas=[0, 0.5]", "block.name='null'", "block.names=['1', x]"])
    assert load_config(Config, write(tmp_path, to_yaml(cfg))) == cfg
    assert to_dict(cfg)["block"]["betas"] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train:\n  sede: 1\n", ["line 2", "train.sede", "did you mean train.seed"]),
        ("trian:\n  seed: 1\n", ["line 1", "trian"]),
        ("train:\n  seed: x\n", ["line 2", "train.seed", "expected int", "got x"]),
        ("train:\n  batch_size: 0\n", ["line 2", "train.batch_size", ">= 1", "got 0"]),
        ("train:\n  lr_decay: cosin\n", ["line 2", "cosine | linear | none", "did you mean cosine"]),
        ("train: 3\n", ["line 1", "train", "block"]),
        ("train:\n  seed: [1\n", ["not valid YAML"]),
        ("train:\n  seed: 1\n  seed: 2\n", ["line 3", "second time"]),
        ("train:\n  seed: 1.5\n", ["line 2", "expected int"]),
        ("train:\n  lr: true\n", ["line 2", "expected float"]),
    ],
)
def test_errors_name_file_line_and_key(tmp_path, text, parts):
    with pytest.raises(UserError) as error:
        load_config(ToyConfig, write(tmp_path, text))
    message = str(error.value)
    assert "\n" not in message
    for part in [*parts, "c.yaml"]:
        assert part in message, message


@pytest.mark.parametrize("override", ["train.seed", "seed=1", "train.seed=x", "train.lr_hold=2", "train.seed.x=1"])
def test_errors_of_the_command_line(override):
    with pytest.raises(UserError, match="command line"):
        load_config(ToyConfig, None, [override])


def test_a_missing_config_file():
    with pytest.raises(UserError, match="nowhere.yaml: cannot be read"):
        load_config(ToyConfig, "nowhere.yaml")


def test_help_lists_each_option_with_its_comment():
    text = describe(ToyConfig)
    assert "train.lr = 0.01" in text and "train.seed = 0" in text and "0 .. 2^31 - 1" in text
