"""Every command in the documents is valid: its files, modes, options and config keys exist. Short commands run."""

import argparse
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from editing.cli import join_negative, sample_parser
from editing.modes import shared_modes
from engine import load_config
from engine.config import read_system
from families import editor_class

ROOT = Path(__file__).parent.parent
FAMILIES = {"vae": "Config", "flow": "Config", "aae_cgan": "Config", "interface_gan": "Config"}
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("configs/*/*.yaml")]
TO_COME = {"mydae"}  # CONTRIBUTING's example


def commands() -> list[tuple[str, str]]:
    """(document, command) of fenced blocks, of `inline code` and of the headers of configs."""
    found = []
    for path in DOCUMENTS:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        if path.suffix == ".yaml":
            header = "".join(line for line in text.splitlines(True) if line.startswith("#"))
            lines = [line.lstrip("# ").removeprefix("Command:").strip() for line in header.splitlines()]
        else:
            fenced = "\n".join(re.findall(r"^ *```(?:bash|sh)?\n(.*?)^ *```", text, re.M | re.S)).replace("\\\n", " ")
            inline = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))
            lines = [*fenced.splitlines(), *(" ".join(span.split()) for span in inline)]
        for line in lines:
            line = re.sub(r"\s{2,}# .*| # .*", "", line.strip())
            if re.match(r"(python|torchrun|make|bash) \S", line) and "…" not in line and "<" not in line:
                found.append((name, line.rstrip(" .,;:")))
    return sorted(set(found))


def config_of(package: str, script: str, path: Path | None) -> type:
    if script == "train_encoder.py":
        return importlib.import_module(f"{package}.config").EncoderConfig
    if package == "evaluation":
        return importlib.import_module("evaluation.config").ClassifierConfig
    module = importlib.import_module(f"{package}.config")
    if hasattr(module, "CONFIGS"):  # several systems: the file says which
        return module.CONFIGS[read_system(path, (), module.CONFIGS)]
    return getattr(module, FAMILIES[package])


def check_train(package: str, words: list[str], script: str = "train.py") -> None:
    """The config file exists, and it has every key that is overridden."""
    config = next((w for i, w in enumerate(words) if words[i - 1] == "--config"), None)
    assert config, "train.py needs --config"
    skip = {config, *(w for i, w in enumerate(words) if words[i - 1] == "--run-dir")}
    overrides = [w for w in words if not w.startswith("--") and w not in skip]
    known = config.isupper() or Path(config).name in ("C.yaml", "config.yaml")  # a placeholder
    path = None if known else ROOT / config
    load_config(config_of(package, script, path), path, overrides)


def check_sample(package: str, words: list[str]) -> None:
    """The mode exists and takes these options."""
    editor = editor_class(package)
    own = importlib.import_module(f"{package}.sample").MODES
    parser = sample_parser(editor, shared_modes(editor) | own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "exit", lambda self, status=0, message=None: pytest.fail(str(message)))
        parser.parse_args(join_negative(words))


def check_script(path: Path, words: list[str]) -> None:
    """The script exists and knows these options."""
    assert path.is_file(), f"{path} does not exist"
    source = path.read_text(encoding="utf-8")
    for word in words:
        option = word.partition("=")[0]
        assert not option.startswith("--") or f'"{option}"' in source, f"{path.name} has no {option}"


@pytest.mark.parametrize(("document", "command"), commands())
def test_commands_of_the_documents_are_valid(document: str, command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert all(word in targets for word in words[1:] if "=" not in word)
        return
    if words[0] == "bash":
        assert (ROOT / words[1]).is_file()
        return
    words = [w for w in words[1:] if not w.startswith("--nproc")]
    if words[:2] == ["-m", "pytest"]:
        assert all((ROOT / word).is_file() for word in words[2:] if not word.startswith("-"))
        return
    if words[0] == "-m":
        module, words = words[1], words[2:]
        path = ROOT / (module.replace(".", "/") + ".py")
    else:
        path, words = ROOT / words[0], words[1:]
    package = path.parent.name
    if package in TO_COME:
        return
    if words == ["--help"] or "MODE" in words:
        assert path.is_file()
    elif path.name in ("train.py", "train_classifier.py", "train_encoder.py"):
        check_train(package, words, path.name)
    elif path.name == "sample.py":
        check_sample(package, words)
    else:
        check_script(path, words)


def test_the_documents_contain_commands() -> None:
    found = commands()
    assert len(found) > 80
    assert {"README.md", "vae/README.md", "flow/README.md", "aae_cgan/README.md"} <= {name for name, _ in found}


def run(command: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run a script in this process, as `python scripts/…` does."""
    first, *rest = command.split()
    monkeypatch.setattr(sys, "argv", [first, *rest])
    monkeypatch.chdir(folder)
    runpy.run_path(str(ROOT / "scripts" / first), run_name="__main__")


@pytest.mark.parametrize("script", sorted({p.name for p in (ROOT / "scripts").glob("*.py")}))
def test_scripts_have_a_help_text(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as done:
        run(f"{script} --help", monkeypatch, tmp_path)
    assert done.value.code == 0 and "usage" in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_no_script_imports_another_one(script: Path) -> None:
    """`python scripts/NAME.py` has the folder scripts/ on its path, not the folder above it."""
    names = [line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith(("from ", "import "))]
    assert not [line for line in names if line.split()[1].partition(".")[0] == "scripts"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["contact_sheet.py --out sheets"])
def test_short_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(command, monkeypatch, tmp_path)
