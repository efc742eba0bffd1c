"""The built-in task `snippets`: sentences of four domains, each rated for sentiment by 15 to 99 people.

The data are those of Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text" (ICWSM 2014, doi:10.1609/icwsm.v8i1.14550), MIT licence. They lie in the source archive of `vaderSentiment` 0.5,
which `lpft fetch` gets once. It is read in memory: nothing is unpacked to the disk and none of its code is run.

A text's class is the sign of its mean rating, from -4 to 4; texts with a mean nearer to 0 than `LEAST_MEAN` have none
and are left out. Movie reviews are split into train, validation and test; the other domains are out of distribution.
"""

import csv
import hashlib
import io
import json
import tarfile
import zipfile
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from lpft_utils.common.errors import FetchError, TaskError
from lpft_utils.common.fetch import Archive
from lpft_utils.data.examples import Split, Task

ARCHIVE = Archive(
    "vadersentiment",
    "vaderSentiment-0.5.zip",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    "https://pypi.org/project/vaderSentiment/0.5/#files",
)
LABEL_NAMES = ("negative", "positive")
LEAST_MEAN = 0.5
N_TEST, N_VALIDATION = 2000, 1000  # of the movie reviews; the rest is for training
FILES = {
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
    "tweets": "tweets",
}
_INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"


def load() -> Task:
    """The task: train, validation and test of movie reviews, ood_products, ood_editorials and ood_tweets.

    No text occurs twice, apart from capitals and spacing, and every split is in the order of its texts' SHA-256: the
    result depends on the archive alone.

    Returns:
        The task, with an id for each text.

    Raises:
        TaskError: If the archive was not fetched or is damaged; says what to do.
    """
    return _task(_archive())


def read() -> pd.DataFrame:
    """Every text of the archive with its ratings, those that the task leaves out included.

    Returns:
        One row per text, indexed by its id ("movies/17"), in the archive's order, with the columns domain, text,
        ratings (an integer array from -4 to 4, one entry per rater), mean (of the ratings), repeated (whether an
        earlier row has this text, apart from capitals and spacing) and label (0 negative, 1 positive, -1 neither).

    Raises:
        TaskError: If the archive was not fetched or is damaged; says what to do.
    """
    return _rows(_archive()).copy()


def soft_labels(split: Split) -> np.ndarray:
    """Shares of a split's raters per class.

    A rating of 0 takes no side and counts half for each class, so that every rater counts once.

    Args:
        split: A split of this task, or a subset of one.

    Returns:
        Shape (N, 2), in the order of `LABEL_NAMES`; each row sums to one.

    Raises:
        TaskError: If the split is not one of this task, or the archive is absent.
    """
    ratings = _rows(_archive())["ratings"]
    if split.ids is None or not set(split.ids) <= set(ratings.index):
        raise TaskError("Ratings are known of the task 'snippets' alone, whose splits have ids such as 'movies/17'.")
    positive = np.array([(np.sign(ratings[i]) + 1).mean() / 2 for i in split.ids])
    return np.stack([1 - positive, positive], axis=1)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _archive() -> bytes:
    try:
        return ARCHIVE.read()
    except FetchError as error:
        raise TaskError(f"The task 'snippets' needs a file: {error} Without it: the task 'synthetic'.") from error


@lru_cache(maxsize=2)
def _task(archive: bytes) -> Task:
    rows = _rows(archive)
    distinct = rows.query("not repeated")
    kept = distinct.query("label >= 0").sort_values("text", key=lambda texts: texts.map(_digest))
    repeated, unclear = len(rows) - len(distinct), len(distinct) - len(kept)
    domains = {name: kept.query("domain == @name") for name in FILES}
    movies = domains.pop("movies")
    start = N_TEST + N_VALIDATION
    parts = {"train": movies[start:], "validation": movies[N_TEST:start], "test": movies[:N_TEST]}
    parts |= {f"ood_{name}": domain for name, domain in domains.items()}
    splits = {
        name: Split(tuple((text,) for text in part["text"]), np.asarray(part["label"]), tuple(part.index))
        for name, part in parts.items()
    }
    source = (
        f"rated snippets of Hutto & Gilbert (2014): movie reviews, with the other domains as shifted test sets; class: "
        f"sign of the mean rating; left out: {repeated} repeated texts, {unclear} with a mean rating within "
        f"{LEAST_MEAN} of 0"
    )
    return Task("snippets", LABEL_NAMES, splits, source)


@lru_cache(maxsize=2)
def _rows(archive: bytes) -> pd.DataFrame:
    inner = zipfile.ZipFile(io.BytesIO(archive)).read(_INNER)
    with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as tar:
        rows = pd.concat([_domain(tar, name) for name in FILES])
    key = rows["text"].map(lambda text: " ".join(text.casefold().split()))
    side = np.where(rows["mean"] > 0, 1, 0)
    return rows.assign(repeated=key.duplicated(), label=np.where(rows["mean"].abs() < LEAST_MEAN, -1, side))


def _domain(tar: tarfile.TarFile, domain: str) -> pd.DataFrame:
    """Texts and ratings of one domain, matched by id. Nothing is checked here: the archive's SHA-256 was."""
    text = _columns(tar, f"{FILES[domain]}_GroundTruth.txt", ["id", "mean", "text"])["text"]
    listed = _columns(tar, f"{FILES[domain]}_anonDataRatings.txt", ["id", "mean", "sd", "ratings"])["ratings"]
    ratings = listed.reindex(text.index).map(lambda cell: np.array(json.loads(cell)))
    # Not the mean of the texts' file: for 199 tweets it is another, as of other raters. No class differs by it.
    rows = pd.DataFrame({"domain": domain, "text": text, "ratings": ratings, "mean": ratings.map(np.mean)})
    return rows.set_axis(f"{domain}/" + rows.index)


def _columns(tar: tarfile.TarFile, name: str, columns: list[str]) -> pd.DataFrame:
    """A file of tab-separated rows without quotes or header, as texts by id."""
    file: Any = tar.extractfile(f"hutto_ICWSM_2014/{name}")
    return pd.read_csv(
        file, sep="\t", names=columns, index_col="id", dtype=str, quoting=csv.QUOTE_NONE, encoding="utf-8-sig",
        keep_default_na=False,
    )  # fmt: skip
