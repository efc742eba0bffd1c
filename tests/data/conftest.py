"""Fixtures of the tests of data."""

import pytest


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("LPFT_DATA", raising=False)
