"""Shared fixtures."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from xdist.remote import Producer
from xdist.scheduler.loadfile import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core of its own; two threads in each of them would only wait for each other. Set before torch is
    # imported, and inherited by every process that a test starts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class ByFile(LoadFileScheduling):
    """A file's tests stay on one worker, and those of a page of the site.

    Not `--dist loadgroup`: xdist 3.8 writes a group into a node's `_nodeid`, which pytest 9.2 no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        page = re.match(r"tests/site/.*\[(.+?\.html)", nodeid)
        return page[1] if page else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the chapters, which take longest, and last the pages of the site that is made of them."""
    items.sort(key=lambda item: item.nodeid.startswith("tests/site/") - item.nodeid.startswith("tests/notebooks/"))


@pytest.fixture(scope="module")
def quick_generator():
    """The task `synthetic` is small in this module: `pytestmark = pytest.mark.usefixtures("quick_generator")`."""
    from processes import generate_little

    from lpft_utils.data import synthetic

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "generate", generate_little(synthetic.generate))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets: `LPFT_DATA`, else `shared/data` beside the repository; skips when absent."""
    for candidate in (os.environ.get("LPFT_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "rte" / "train.jsonl").is_file():
            return Path(candidate)
    pytest.skip("real data sets absent: set LPFT_DATA to a folder with rte/, cb/, cola/, … to run this test")


@dataclass(frozen=True)
class BuiltBook:
    """The book as the smoke profile builds it: once, by the worker that needs it first."""

    build: Path
    runs: Path

    @property
    def html(self) -> Path:
        return self.build / "html"


@pytest.fixture(scope="session")
def executed_book(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> BuiltBook:
    """Every chapter run by papermill in profile smoke, into a temporary build folder and run store."""
    from lpft_utils.common.errors import FetchError
    from lpft_utils.data.snippets import ARCHIVE
    from lpft_utils.publishing import chapters

    try:
        ARCHIVE.read()
    except FetchError as error:
        pytest.skip(f"the chapters' default task is absent: {error}")

    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "book"  # the parent is the same for all workers
    book = BuiltBook(folder / "_build", folder / "runs")
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        if not (folder / "executed").exists():
            patch.setenv("LPFT_RUNS", str(book.runs))
            chapters.execute(ROOT, {"profile": "smoke"}, build=book.build)
            (folder / "executed").touch()
    return book


@pytest.fixture(scope="session")
def built_book(executed_book: BuiltBook) -> BuiltBook:
    """The site made of `executed_book`."""
    from lpft_utils.publishing import publish

    with FileLock(f"{executed_book.build}.lock"):
        if not executed_book.html.exists():
            publish.build_site(ROOT, executed_book.build)
    return executed_book
