"""Where numbers come from: device, software versions and date."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch


def environment() -> dict[str, str]:
    """Device, software versions and date, as text: where numbers come from."""
    packages = ("torch", "transformers", "peft", "datasets", "numpy", "scikit-learn", "lpft-utils")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": device,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }
