"""The tasks that are known by name: the 13 of the paper and the two built-in ones.

Columns, templates and label orders follow Tomihari & Sato (NeurIPS 2024, arXiv 2405.16747) and its reference code
`tom4649/lp-ft_ntk`.
"""

import string
from dataclasses import dataclass

from lpft_utils.common.errors import TaskError


@dataclass(frozen=True)
class TaskInfo:
    """What is known about a task before its data are read.

    Attributes:
        name: Short name for `load_task`.
        label_names: Class names; their order is the label integer.
        template: One or two format strings over the columns, such as `("{premise}", "{hypothesis}")`.
        rule: `"cut"`: train is cut 9:1 in order into train and validation, the public validation set is the test set;
            `"published"`: train, validation and test as published; `"test"`: published as a test set only.
        hub: Data set on the Hugging Face Hub and its configuration; empty where there is none that fits.
        hub_note: How the Hub's version differs from the published one.
        folders: Folder names under the data folder, in order of preference; the first is the task's name.
        ood: Tasks whose test sets are attached by default.
        lower: Whether the text is lower-cased.
        label_column: Column of the label.
        metric: What the paper measures success by: "accuracy" or "MCC", Matthews correlation.
    """

    name: str
    label_names: tuple[str, ...]
    template: tuple[str, ...]
    rule: str = "cut"
    hub: tuple[str, ...] = ()
    hub_note: str = ""
    folders: tuple[str, ...] = ()
    ood: tuple[str, ...] = ()
    lower: bool = False
    label_column: str = "label"
    metric: str = "accuracy"

    @property
    def columns(self) -> tuple[str, ...]:
        """Text columns used by the template, without repeats."""
        return template_columns(self.template)


def template_columns(template: tuple[str, ...]) -> tuple[str, ...]:
    """Return the column names in the format strings.

    Args:
        template: Format strings such as `"{premise}"`.

    Returns:
        Column names in the order of their first use.

    Raises:
        TaskError: If a string does not parse or holds anything but plain column names.
    """
    columns: dict[str, None] = {}
    for segment in template:
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(segment) if name is not None]
        except ValueError as error:
            raise TaskError(f"Template {segment!r} does not parse: {error}. Write columns as {{column}}.") from error
        if not fields or any(not name or set(name) & set(".[]!") for name in fields):
            raise TaskError(f"Template {segment!r} must name at least one column, each plainly, as {{column}}.")
        columns.update(dict.fromkeys(fields))
    return tuple(columns)


_BOOLEAN = ("False", "True")
_SENTIMENT = ("negative", "positive", "neutral")  # the order of the BOSS suite
_NLI = ("{premise}", "{hypothesis}")
_SAME_WORD = "{sentence1} {sentence2} Does {word} have the same meaning in both sentences?"


def _glue(name: str, label_names: tuple[str, ...], *template: str, hub: str = "nyu-mll/glue", **more: str) -> TaskInfo:
    return TaskInfo(name, label_names, template, hub=(hub, name), **more)  # pyright: ignore[reportArgumentType]


def _superglue(name: str, label_names: tuple[str, ...], *template: str) -> TaskInfo:
    return _glue(name, label_names, *template, hub="aps/super_glue")


_PAPER = (
    _superglue("cb", ("entailment", "contradiction", "neutral"), *_NLI),
    _superglue("rte", ("entailment", "not_entailment"), *_NLI),
    _superglue("boolq", _BOOLEAN, "{question}", "{passage}"),
    _superglue("wic", _BOOLEAN, _SAME_WORD),
    _superglue("wsc", _BOOLEAN, "{span2_text}: {text}", "{span1_text}"),
    _glue("cola", ("unacceptable", "acceptable"), "{sentence}", metric="MCC"),
    _glue("mrpc", ("not_equivalent", "equivalent"), "{sentence1}", "{sentence2}"),
    _glue("sst2", ("negative", "positive"), "{sentence}"),
    TaskInfo("amazon", _SENTIMENT, ("{text}",), ood=("dynasent", "semeval", "sst5")),
    TaskInfo("dynasent", _SENTIMENT, ("{text}",), rule="test"),
    TaskInfo("semeval", _SENTIMENT, ("{text}",), rule="test", folders=("semeval", "semeval_3way")),
    TaskInfo("sst5", _SENTIMENT, ("{text}",), rule="test", folders=("sst5", "sst5_3way")),
    TaskInfo(
        "pubmed",
        ("BACKGROUND", "CONCLUSIONS", "METHODS", "OBJECTIVE", "RESULTS"),  # alphabetical in the reference code
        ("{text}",),
        rule="published",
        hub=("armanc/pubmed-rct20k",),
        hub_note="the version cleaned by Jin & Szolovits (2018), a few per cent smaller than the published files",
        folders=("pubmed", "pubmed20k", "PubMed_20k_RCT_numbers_replaced_with_at_sign"),
        lower=True,
    ),
)

_BUILT_IN = (
    TaskInfo("snippets", ("negative", "positive"), ("{text}",), rule="published"),
    TaskInfo("synthetic", _SENTIMENT, ("{text}",), rule="published"),
)

TASKS: dict[str, TaskInfo] = {info.name: info for info in (*_BUILT_IN, *_PAPER)}
PAPER_TASKS: tuple[str, ...] = tuple(info.name for info in _PAPER)
