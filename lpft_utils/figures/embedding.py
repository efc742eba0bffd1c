"""t-SNE of features and head rows in one plane."""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE

from lpft_utils.common.validation import Array
from lpft_utils.models.heads import initial_head
from lpft_utils.runs.store import Run


def joint_embedding(stored: Run, n: int = 250) -> dict[str, Array]:
    """Pre-trained and tuned features and the head's rows before and after, embedded together.

    t-SNE keeps neighbours (van der Maaten & Hinton 2008); distances between far groups mean little.

    Args:
        stored: A run of FT or LP-FT.
        n: How many examples of the test set to show, the first ones.

    Returns:
        Positions "before" (n, 2) and "after" (n, 2) of the features, "rows_0" (C, 2) of the random head and "rows"
        (C, 2) of the trained one, and "labels" (n,).
    """
    phi_0, phi = (features[:n].numpy() for features in stored.features["test"])
    V = stored.V.numpy()
    V_0 = initial_head(*V.shape, seed=stored.spec.seed).numpy()
    points = np.concatenate([phi_0, phi, V_0, V])
    perplexity = min(30.0, (len(points) - 1) / 4)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    ends = np.cumsum([len(phi_0), len(phi), len(V_0)])
    before, after, rows_0, rows = np.split(plane, ends)
    labels = stored.predictions["test"][1][: len(phi)]
    return {"before": before, "after": after, "rows_0": rows_0, "rows": rows, "labels": labels}
