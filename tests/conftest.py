"""Fixtures for all tests. Runs and packs of tests are in temporary folders, not in the user's cache."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # parallel test processes share the cores; bits depend on threads

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def faces_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs that tests make, shared by all tests of a run, also of parallel processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "faces_cache"
    folder.mkdir(exist_ok=True)
    os.environ["FACES_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def run_logger() -> Iterator[None]:
    """Restore the logger of runs, which is global, after each test."""
    logger = logging.getLogger("faces")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A photo with a drawn face; `editor_contract.EYES` are its eyes."""
    from editor_contract import camera_photo  # it imports `editing`, which few tests need

    return camera_photo(tmp_path_factory.mktemp("photo") / "me.png")


@pytest.fixture
def repo() -> Path:
    """The root folder of the repository."""
    return Path(__file__).resolve().parent.parent
