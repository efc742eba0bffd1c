"""Archives like that of the rated snippets, made up for tests."""

import io
import tarfile
import zipfile

from lpft_utils.data.snippets import FILES

INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
FOLDER = "hutto_ICWSM_2014"

Rows = dict[str, list[tuple[str, str, list[int]]]]


def rows(n_movies: int = 24, n_others: int = 6) -> Rows:
    """Texts of every domain as (id, text, ratings), half of them negative; fifteen raters agree on the side."""
    made: Rows = {}
    for domain in FILES:
        n = n_movies if domain == "movies" else n_others
        made[domain] = [
            (f"{i}", f'{domain} "{i}" is so', [(-1) ** i * (1 + r % 3) for r in range(15)]) for i in range(n)
        ]
    return made


def files(given: Rows) -> dict[str, bytes]:
    """The eight files by name: CRLF, a byte-order mark in one of them, no line end after the last rating."""
    made = {}
    for domain, listed in given.items():
        means = [sum(ratings) / len(ratings) for *_, ratings in listed]
        texts = "".join(f"{i}\t{m}\t{text}\r\n" for (i, text, _), m in zip(listed, means, strict=True))
        ratings = "\r\n".join(f"{i}\t{m}\t0.5\t{r}" for (i, _, r), m in zip(listed, means, strict=True))
        mark = "\ufeff" if domain == "products" else ""
        made[f"{FILES[domain]}_GroundTruth.txt"] = texts.encode()
        made[f"{FILES[domain]}_anonDataRatings.txt"] = (mark + ratings).encode()
    return made


def archive(members: dict[str, bytes]) -> bytes:
    """A zip that holds a tar of these files."""
    inner, outer = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(f"{FOLDER}/{name}")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    with zipfile.ZipFile(outer, "w") as zipped:
        zipped.writestr(INNER, inner.getvalue())
        zipped.writestr("vaderSentiment-0.5/setup.py", "raise SystemExit('this must never run')")
    return outer.getvalue()
