"""Files of tasks, written for a test."""

import json

from lpft_utils.data.tasks import TASKS


def hub_rows(name, n, tag):
    """Rows with all columns that the Hub's version has, labels in turn."""
    texts = {
        "boolq": lambda i: {"question": f"is {tag} {i} so", "passage": f"Passage {tag} {i}."},
        "wic": lambda i: {
            "word": f"w{i}", "sentence1": f"One {tag} {i}.", "sentence2": f"Two {i}.",
            "start1": 0, "start2": 0, "end1": 1, "end2": 1,
        },
        "wsc": lambda i: {
            "text": f"Mark told Pete {tag} {i}.", "span1_index": 0, "span2_index": 2, "span1_text": "Mark",
            "span2_text": "he",
        },
        "mrpc": lambda i: {"sentence1": f"First {tag} {i}.", "sentence2": f"Second {i}."},
        "cola": lambda i: {"sentence": f"A sentence {tag} {i}."},
        "sst2": lambda i: {"sentence": f"a film {tag} {i}"},
        "pubmed": lambda i: {"text": f"Patients were {tag.upper()} {i}"},
    }  # fmt: skip
    pair = lambda i: {"premise": f"Premise {tag} {i}.", "hypothesis": f"Hypothesis {i}."}  # noqa: E731
    make = texts.get(name) or (pair if name in ("cb", "rte") else lambda i: {"text": f"Review {tag} {i}"})
    return [{**make(i), "idx": i, "label": i % len(TASKS[name].label_names)} for i in range(n)]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def own_data(folder, **changes):
    """A valid own data set of 20 + 6 rows."""
    description = {"name": folder.name, "label_names": ["no", "yes"], "columns": ["text", "label"], **changes}
    write_jsonl(folder / "train.jsonl", [{"text": f"train {i}", "label": i % 2} for i in range(20)])
    write_jsonl(folder / "test.jsonl", [{"text": f"test {i}", "label": i % 2} for i in range(6)])
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder
