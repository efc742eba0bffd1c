"""The tiny evidence of the tests of the ledger, made once."""

import pytest
import tiny_evidence


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with `reference/`, its runs in `store/` and their texts in `data/`, which must not be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_evidence.write_texts(folder / "data")
    tiny_evidence.write_settings(folder / "reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPFT_DATA", str(folder / "data"))
        tiny_evidence.do_runs(folder / "reference", folder / "store")
        tiny_evidence.do_kernels(folder / "reference", folder / "store")
    return folder
