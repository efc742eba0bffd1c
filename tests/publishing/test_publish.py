"""Running chapters and building pages, on a tiny book made for each test."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from small_book import make_book, quiet

from lpft_utils.common.errors import LpftError, ParameterError
from lpft_utils.publishing import chapters, made, publish, site
from lpft_utils.publishing.parameters import PROFILE_NAMES, check_names, parse_literal, parse_pairs


def outputs(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("rte", "rte"), ("3", 3), ("1e-4", 1e-4), ("-2.5E3", -2500.0), ("[0, 1]", [0, 1]), ("null", None), ("true", True),
     ("{a: 1}", {"a": 1}), ("'2024-01-02'", "2024-01-02"), ("[1e-4, 2]", [1e-4, 2]), ("", None),
     ("aps/super_glue", "aps/super_glue")],
)  # fmt: skip
def test_parameters_are_yaml_literals(text, value):
    parsed = parse_literal("x", text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["[1, 2", "!!python/object/apply:os.getcwd []", "{a: ]", "2024-01-02", "!!set {a, b}"])
def test_a_parameter_that_is_no_literal_is_refused(text):
    with pytest.raises(ParameterError, match="parameter seeds: expected a plain literal"):
        parse_literal("seeds", text)


def test_a_parameter_given_twice_is_refused():
    with pytest.raises(ParameterError, match="task is given twice"):
        parse_pairs([("task", "rte"), ("task", "cb")])


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ParameterError, match="did you mean 'laptop'"):
        check_names({"01": ["profile"]}, {"profile": "labtop"})


def test_profile_names_agree_with_the_profiles():
    profiles = pytest.importorskip("lpft_utils.runs.profiles")
    assert set(PROFILE_NAMES) == set(profiles.PROFILES)


def test_unknown_parameter_stops_before_anything_runs(tmp_path):
    root = make_book(tmp_path / "b", one=("open('ran', 'w')",))
    with pytest.raises(ParameterError, match="no chapter has a parameter 'seed': did you mean 'seeds'"):
        chapters.execute(root, {"seed": 1}, say=quiet)
    assert not (root / "book" / "ran").exists()
    assert not (root / "_build").exists()


# --- table of contents --------------------------------------------------------------------------------------------


def test_chapters_follow_the_table_of_contents_not_the_alphabet(tmp_path):
    root = make_book(tmp_path / "b", zeta=(), alpha=())
    assert [c.stem for c in chapters.chapters(root)] == ["zeta", "alpha"]
    assert [p.stem for p in chapters.pages(root)] == ["preface", "zeta", "alpha"]


def test_a_chapter_is_chosen_by_stem_prefix_or_path(tmp_path):
    root = make_book(tmp_path / "b", **{"01-a": (), "02-b": ()})
    for name in ("02-b", "02", "book/02-b.ipynb"):
        assert [c.stem for c in chapters.chapters(root, [name])] == ["02-b"]
    for name in ("03", "0", ""):
        with pytest.raises(ParameterError, match="Known: 01-a, 02-b"):
            chapters.chapters(root, [name])


def test_an_entry_without_a_file_is_named(tmp_path):
    root = make_book(tmp_path / "b", one=())
    (root / "book" / "one.ipynb").unlink()
    with pytest.raises(LpftError, match="book/one"):
        chapters.chapters(root)


# --- execution ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_book(tmp_path_factory) -> tuple[Path, list[str]]:
    """A book of two chapters run with a foreign kernel named python3 installed for the user."""
    folder = tmp_path_factory.mktemp("run")
    kernel = folder / "foreign" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python", "{connection_file}"], "display_name": "foreign", "language": "python"})
    )
    first = (
        "import os, sys, pathlib\nprint('exe', sys.executable)",
        "print('cwd', os.getcwd(), pathlib.Path.home() / 'x')",
    )
    root = make_book(folder / "b", one=first, two=("print('profile', profile, seeds)", "pathlib = 1"))
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(folder / "foreign"))
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
        patch.setattr(site.sys, "prefix", "/no/such/prefix")  # else the executable's path is scrubbed from the output
        chapters.execute(root, {"profile": "smoke", "seeds": [1, 2]}, say=said.append)
    return root, said


def test_the_kernel_is_the_running_interpreter(run_book):
    text = outputs(run_book[0] / "_build" / "executed" / "book" / "one.ipynb")
    (executable,) = re.findall(r"exe (\S+)", text)
    executable = executable.replace("~", str(Path.home()), 1) if executable.startswith("~") else executable
    assert executable.endswith(Path(sys.executable).name)
    assert "nowhere" not in executable


def test_parameters_reach_every_chapter_that_declares_them(run_book):
    assert "profile smoke [1, 2]" in outputs(run_book[0] / "_build" / "executed" / "book" / "two.ipynb")


def test_chapters_run_in_their_own_folder_and_show_no_path_of_the_machine(run_book):
    text = outputs(run_book[0] / "_build" / "executed" / "book" / "one.ipynb")
    assert "cwd ./book ~/x" in text
    whole = (run_book[0] / "_build" / "executed" / "book" / "one.ipynb").read_text(encoding="utf-8")
    assert str(run_book[0]) not in whole


def test_executed_copies_carry_no_papermill_metadata_and_hide_the_injected_cell(run_book):
    notebook = nbformat.read(run_book[0] / "_build" / "executed" / "book" / "two.ipynb", as_version=4)
    assert "papermill" not in notebook.metadata
    assert not any({"papermill", "execution"} & set(cell.metadata) for cell in notebook.cells)
    (injected,) = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert "remove-cell" in injected.metadata.tags


def test_progress_names_each_chapter_with_its_wall_time(run_book):
    assert [line.split(":")[0] for line in run_book[1]] == ["[1/2] one", "[1/2] one", "[2/2] two", "[2/2] two"]
    assert re.search(r"done in \d+\.\d s", run_book[1][1])


def test_source_notebooks_are_left_alone(run_book):
    assert not any(c.get("outputs") for c in nbformat.read(run_book[0] / "book" / "one.ipynb", as_version=4).cells)


def test_failing_cell_names_chapter_cell_and_error_and_keeps_the_old_copy(tmp_path):
    root = make_book(
        tmp_path / "b", good=("print(1)",), bad=("x = 1", "y = x + 1\nraise KeyError('no such key')", "z = 1")
    )
    old = root / "_build" / "executed" / "book" / "bad.ipynb"
    old.parent.mkdir(parents=True)
    old.write_text("an older copy", encoding="utf-8")
    with pytest.raises(chapters.PublishError) as caught:
        chapters.execute(root, {"profile": "smoke"}, say=quiet)
    message = str(caught.value)
    assert "book/bad.ipynb stopped at cell 4 of 5" in message
    assert "raise KeyError('no such key')" in message
    assert "KeyError: 'no such key'" in message
    assert "\x1b" not in message
    assert old.read_text(encoding="utf-8") == "an older copy"
    assert (root / "_build" / "failed" / "bad.ipynb").is_file()
    assert sorted(p.name for p in (root / "_build").iterdir()) == ["executed", "failed"]


def test_a_chapter_that_writes_to_stderr_fails_with_its_cell_and_the_text(tmp_path):
    root = make_book(tmp_path / "b", one=("print('fine')", "import warnings\nwarnings.warn('2 fits missed it')"))
    with pytest.raises(chapters.PublishError) as caught:
        chapters.execute(root, {"profile": "smoke"}, say=quiet)
    message = str(caught.value)
    assert "book/one.ipynb wrote to stderr" in message and "UserWarning: 2 fits missed it" in message
    assert "cell 4 of 4" in message and "cell 3" not in message  # as in the source, without the injected cell
    assert not (root / "_build" / "executed" / "book" / "one.ipynb").exists()
    assert (root / "_build" / "failed" / "one.ipynb").is_file()


def test_a_kernel_that_dies_is_reported_with_its_chapter(tmp_path):
    root = make_book(tmp_path / "b", one=("import os\nos._exit(9)",))
    with pytest.raises(chapters.PublishError, match="book/one.ipynb stopped"):
        chapters.execute(root, {}, say=quiet)
    assert not (root / "_build" / "executed" / "book" / "one.ipynb").exists()


MEET = """import os, pathlib, time
pathlib.Path({mine!r}).touch()
end = time.monotonic() + 60
while not pathlib.Path({other!r}).exists():
    assert time.monotonic() < end, "the other chapter does not run at the same time"
    time.sleep(0.05)
print("threads", os.environ["OMP_NUM_THREADS"])"""


def test_chapters_run_side_by_side_and_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(chapters.os, "cpu_count", lambda: 6)
    root = make_book(
        tmp_path / "b",
        one=(MEET.format(mine="one.here", other="two.here"),),
        two=(MEET.format(mine="two.here", other="one.here"),),
        three=("print('alone')",),
    )
    said: list[str] = []
    copies = chapters.execute(root, {"profile": "smoke"}, jobs=2, say=said.append)
    assert [copy.stem for copy in copies] == ["one", "two", "three"]
    assert ["threads 3" in outputs(copy) for copy in copies] == [True, True, False]
    assert said[:2] == ["[1/3] one: running", "[2/3] two: running"]
    assert "OMP_NUM_THREADS" not in os.environ


def test_after_a_failure_no_further_chapter_starts(tmp_path):
    root = make_book(tmp_path / "b", bad=("1 / 0",), slow=("import time; time.sleep(4)",), never=("print(1)",))
    said: list[str] = []
    with pytest.raises(chapters.PublishError, match="ZeroDivisionError"):
        chapters.execute(root, {"profile": "smoke"}, jobs=2, say=said.append)
    assert said[2:] == ["[1/3] bad: failed; waiting for slow"]
    assert sorted(p.stem for p in (root / "_build" / "executed" / "book").iterdir()) == ["slow"]


# --- site ---------------------------------------------------------------------------------------------------------


def copy_executed(root: Path, *names: str) -> None:
    for name in names:
        target = root / "_build" / "executed" / "book" / f"{name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / "book" / f"{name}.ipynb", target)


def test_a_broken_reference_fails_the_build_and_leaves_the_old_site(tmp_path):
    root = make_book(tmp_path / "b", one=())
    copy_executed(root, "one")
    (root / "_build" / "html").mkdir()
    (root / "_build" / "html" / "index.html").write_text("old", encoding="utf-8")
    (root / "book" / "preface.md").write_text("# Preface\n\n{ref}`nowhere`\n", encoding="utf-8")
    with pytest.raises(chapters.PublishError, match="(?s)preface.md.*nowhere"):
        publish.build_site(root, say=quiet)
    assert (root / "_build" / "html" / "index.html").read_text(encoding="utf-8") == "old"
    assert not list((root / "_build").glob(".*"))


def test_a_good_build_replaces_the_old_site_whole(tmp_path):
    root = make_book(tmp_path / "b", one=())
    copy_executed(root, "one")
    html = root / "_build" / "html"
    html.mkdir()
    (html / "stale.html").write_text("old", encoding="utf-8")
    assert publish.build_site(root, say=quiet) == html / "index.html"
    assert not (html / "stale.html").exists()
    assert (html / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert list((html / "_static" / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2").glob("*.woff"))
    assert not list(html.rglob("*.map"))
    texts = [f.read_text(encoding="utf-8") for f in html.rglob("*.html")]
    assert not any(str(tmp_path) in text for text in texts)
    assert not list((root / "_build").glob(".*"))


def test_a_chapter_alone_needs_the_others_executed_before(tmp_path):
    root = make_book(tmp_path / "b", one=("open('ran', 'w')",), two=())
    with pytest.raises(ParameterError, match="two has not run yet"):
        publish.publish(root, only=["one"], say=quiet)
    assert not (root / "book" / "ran").exists()


def test_scrubbing_replaces_whole_path_components_only():
    private = {"/home/me/book": ".", "/home/me": "~"}
    assert site.scrub("at /home/me/book/_runs and /home/me/data", private) == "at ./_runs and ~/data"
    assert site.scrub("/home/mercury /x/home/me /home/me.txt", private) == "/home/mercury /x/home/me /home/me.txt"
    assert site.scrub("/tmp/ipykernel_123/456.py:1: Warning", {}) == "<cell>:1: Warning"


def test_pages_are_mended_for_screen_readers():
    page = '<div role="doc-biblioentry"></div><th></th><th class="blank">&nbsp;</th><th>C</th>'
    assert site.mend_page(page) == '<div role="listitem"></div><td></td><td class="blank"></td><th>C</th>'


def test_pages_are_mended_for_names_and_weight():
    page = (
        '<script defer src="_static/scripts/fontawesome.js?digest=1"></script><script src="a.js"></script>'
        '<button class="btn search-button-field pst-js-only" title="Search" aria-label="Search">Search</button>'
        '<button class="btn search-button" aria-label="Search"></button><summary aria-label="Toggle">Show</summary>'
        "<table>\n  <tr>\n    <td>1 2</td>\n  </tr>\n</table>"
    )
    assert site.mend_page(page) == (
        '<script src="a.js"></script><button class="btn search-button-field pst-js-only" title="Search">Search</button>'
        '<button class="btn search-button" aria-label="Search"></button><summary>Show</summary>'
        "<table><tr><td>1 2</td></tr>\n</table>"
    )


def test_figures_lose_decimals_and_glyphs_and_used_icons_stay(tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "a.html").write_text('<i class="fa-solid fa-sun"></i>', encoding="utf-8")
    (tmp_path / "pydata-sphinx-theme.css").write_text(
        '.fa-sun:before{content:"1"}.fa-moon:before,.fa-night:before{content:"2"}a{b:c}', encoding="utf-8"
    )
    drawn = '<path d="M 0 1.23456 L 12.3 4" transform="scale(0.015625)"/><use x="1.98765" y="2"/>'
    (tmp_path / "_images" / "a.svg").write_text(drawn, encoding="utf-8")
    site.finish(tmp_path, {})
    assert (tmp_path / "pydata-sphinx-theme.css").read_text(encoding="utf-8") == '.fa-sun:before{content:"1"}a{b:c}'
    assert (tmp_path / "_images" / "a.svg").read_text(encoding="utf-8") == (
        '<path d="M 0 1.23 L 12.3 4" transform="scale(0.015625)"/><use x="1.98" y="2"/>'
    )


def test_the_copy_is_described_from_the_stamps_of_its_chapters(tmp_path):
    stamp = {"profile": "smoke", "device": "a|b", "this chapter": "3 s", "runs": ["lp-s0-abc"]}
    record = {"application/papermill.record/text/plain": repr(stamp)}
    output = nbformat.v4.new_output("display_data", record, metadata={"scrapbook": {"name": "stamp"}})
    stamped = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])
    nbformat.write(stamped, tmp_path / "one.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "two.ipynb")
    page = tmp_path / "made.md"
    page.write_text("# Made\n", encoding="utf-8")
    made.describe_copy(page, [tmp_path / "one.ipynb", tmp_path / "two.ipynb"])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Made\n") and "| profile | smoke |" in text and "| device | a\\|b |" in text
    assert "| {doc}`one` | 3 s | none |" in text and "{doc}`one`\n: `lp-s0-abc`" in text and "two" not in text
    assert re.search(r"^\| torch \| \d", text, re.MULTILINE) and "| sphinx | 7" in text.lower()


def test_a_book_without_that_page_is_left_alone(tmp_path):
    made.describe_copy(tmp_path / "made.md", [])
    assert not list(tmp_path.iterdir())
