"""docs/data.md says what is so: its tables are those of the code, its examples work."""

import ast
import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT
from tiny import save_backbone

from lpft_utils.data.tasks import _own_info
from lpft_utils.ntk import dense_kernel
from lpft_utils.publishing.parameters import parse_literal
from lpft_utils.training.spec import RunSpec

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """Cells of the table whose first column has this title, without their backticks."""
    (rows,) = re.findall(rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows.splitlines()]


def test_every_field_of_a_run_is_there_with_its_default_and_an_example_that_is_another_value():
    fields = {field.name: field.default for field in dataclasses.fields(RunSpec)}
    assert {name: ast.literal_eval(default) for name, default, *_ in table("field")} == fields
    for name, _, example, *_ in table("field"):
        value = parse_literal(name, example)
        spec = RunSpec(**({"task": "synthetic"} if name == "label_noise" else {}) | {name: value})
        assert getattr(spec, name) == (tuple(value) if isinstance(value, list) else value) != fields[name]


def test_every_key_of_a_description_is_there_with_an_example_that_is_read():
    class Asked(dict):
        names: set[str] = set()

        def get(self, name, default=None):
            self.names.add(name)
            return super().get(name, default)

    given = {key: parse_literal(key, example) for key, _, example in table("key")}
    info = _own_info("x", Path("dataset.json"), Asked(given))
    assert set(given) == Asked.names
    assert (info.name, info.label_names, info.label_column) == ("tickets", ("billing", "bug", "question"), "kind")
    assert info.columns == ("subject", "body") and len(info.template) == 1
    for way in ("text_columns", "columns"):
        others = {k: v for k, v in given.items() if k not in {"text_columns", "columns", "template"} - {way}}
        assert _own_info("x", Path("dataset.json"), others).columns[-1] == "body"


def test_every_variable_of_the_environment_is_there():
    read = {
        name for path in (ROOT / "lpft_utils").rglob("*.py") for name in re.findall(r"LPFT_[A-Z]+", path.read_text())
    }
    assert {name for name, *_ in table("variable")} == read


def test_the_example_computes_the_kernel_of_an_own_table_and_model(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 15
    bodies = ["the cat sat", "a good film", "bad film this was", "the dog ran", "not very good", "under the mat"]
    pd.DataFrame({"body": bodies, "kind": ["a", "b", "c"] * 2}).to_csv(tmp_path / "tickets.csv", index=False)
    backbone = save_backbone("roberta", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace('"FacebookAI/roberta-base"', repr(str(backbone))), names)
    K, exact = names["K"], dense_kernel(names["model"].double(), names["inputs"])
    assert K.F.shape == (6, 3, 6, 3) and K.gram.shape == (6, 6)
    assert (K.F - exact).norm() <= 1e-4 * exact.norm() > 0
    assert torch.isfinite(K.F).all()


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_the_page_is_linked(name):
    assert "data.md)" in (ROOT / name).read_text(encoding="utf-8")
