"""Shared fixtures."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets: `LPFT_DATA`, else `shared/data` beside the repository; skips when absent."""
    for candidate in (os.environ.get("LPFT_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "rte" / "train.jsonl").is_file():
            return Path(candidate)
    pytest.skip("real data sets absent: set LPFT_DATA to a folder with rte/, cb/, cola/, … to run this test")
