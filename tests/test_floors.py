"""The layers of the packages: allowed imports, no shadowed modules, short functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
METHODS = ["vae", "interface_gan", "flow", "aae_cgan", "gcgan", "a2f"]
GROUND = {"engine", "losses", "latents"}
MAY_IMPORT = {
    "engine": set(),
    "losses": set(),
    "latents": set(),
    "data": set(),  # and engine.errors, engine.files
    "evaluation": {"engine", "data", "losses"},
    "editing": {"engine", "data", "losses", "latents", "evaluation"},
    **{method: {"engine", "data", "losses", "latents", "evaluation", "editing"} for method in METHODS},
}
OURS = set(MAY_IMPORT) | {"benchmarks", "scripts", "tests", "families"}  # no package imports families.py, benchmarks


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.append((node.lineno, node.module))
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_lower_packages(package):
    for path in modules(package):
        for line, name in imports(path):
            top = name.split(".")[0]
            if top not in OURS or top == package or top in MAY_IMPORT[package]:
                continue
            allowed = package == "data" and name in ("engine.errors", "engine.files")
            allowed |= path.name == "landmarks.py" and name == "engine.config"  # its command line reads a config
            assert allowed, f"{path.relative_to(ROOT)}:{line}: {package} may not import {name}"


def test_no_circular_imports():
    edges = {}
    for package in MAY_IMPORT:
        for path in modules(package):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text())
            edges[name] = {n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.module} | {
                a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names
            }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done or name not in edges:
            return
        for other in edges[name]:
            if not name.startswith(other + "."):  # a submodule may use what its package offers
                visit(other, (*path, name))
        done.add(name)

    for name in edges:
        visit(name, ())


def test_no_file_shadows_a_package_or_a_standard_module():
    taken = set(sys.stdlib_module_names) | OURS | {"torch", "numpy", "yaml", "PIL", "pytest"}
    for package in [*MAY_IMPORT, "scripts"]:
        for path in (ROOT / package).glob("*.py"):  # a script's folder comes first on sys.path
            assert path.stem not in taken - {"__init__"}, f"{path.relative_to(ROOT)} hides the module {path.stem}"


def test_no_path_edits_and_no_silent_except():
    for package in MAY_IMPORT:
        for path in modules(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ExceptHandler):
                    silent = all(isinstance(n, ast.Pass) for n in node.body)
                    broad = node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
                    assert not (silent or broad), f"{path.relative_to(ROOT)}:{node.lineno}: swallows an exception"
            assert "sys.path." not in path.read_text(), path


def test_base_packages_do_not_import_heavy_modules():
    code = "import sys, engine, data, losses, latents; print([m for m in %r if m in sys.modules])"
    heavy = ["torchvision", "sklearn", "matplotlib", "pandas", "scipy", "cv2", "tensorboard", "torchmetrics"]
    out = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"


def code_lines(path: Path) -> int:
    """Lines that are neither blank, nor a comment, nor part of a docstring."""
    text = path.read_text()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstrings |= set(range(body[0].lineno, body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in docstrings for n, line in lines)


def test_the_engine_stays_small():
    assert sum(code_lines(path) for path in modules("engine")) <= 1400  # docs/decisions/0003


def lines_of(path: Path, node: ast.FunctionDef) -> int:
    """Lines of a function without blank lines and comments."""
    lines = path.read_text().splitlines()[node.lineno - 1 : node.end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def test_functions_have_at_most_60_lines_and_step_at_most_40():
    for package in [*MAY_IMPORT, "benchmarks", "scripts"]:
        for path in modules(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    limit = 40 if node.name == "step" and path.name == "train.py" else 60
                    length = lines_of(path, node)
                    assert length <= limit, f"{path.relative_to(ROOT)}: {node.name} has {length} lines"
