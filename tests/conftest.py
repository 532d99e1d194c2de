"""Fixtures that every test may use. Runs and packs of tests live in temporary folders, never in the user's cache."""

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
    """Packs that tests make, shared by the tests of one process."""
    folder = tmp_path_factory.mktemp("faces_cache")
    os.environ["FACES_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def run_logger() -> Iterator[None]:
    """The run's logger is one for the process: what a test hangs onto it comes off afterwards."""
    logger = logging.getLogger("faces")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def repo() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parent.parent
