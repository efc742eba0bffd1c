"""Engines: where the runs of a sweep are done. Processes of this machine, or a Ray cluster of many.

An engine does `work(spec)` for one spec after another. Whatever becomes of it, every spec that was started comes back
from `wait` exactly once: with what `work` returned, or with the reason why it failed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from lpft_utils.common.errors import ParameterError
from lpft_utils.training.spec import RunSpec

Work = Callable[[RunSpec], Any]


class Answer(NamedTuple):
    """What became of a spec: `result` of the work, or `error`, the reason why there is none."""

    spec: RunSpec
    result: Any = None
    error: str = ""


class Local:
    """Processes of this machine, each of which does one run after another; one that dies is replaced."""

    def __init__(self, work: Work, jobs: int, cpus: int = 1) -> None:
        """Start nothing yet.

        Args:
            work: A function that can be pickled by name.
            jobs: Runs at the same time.
            cpus: Threads of each.
        """
        self.jobs, self._do = jobs, (work, cpus)
        self._processes, self._idle, self._under_way = {}, [], {}
        # One server that has imported the package: its children start in a moment, without the state of this process.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", "lpft_utils.runs.execute", "lpft_utils.training.fine_tuning"])

    def start(self, spec: RunSpec) -> None:
        """Begin with a spec; called while fewer than `jobs` are under way."""
        if not self._idle:
            ours, theirs = self._context.Pipe()
            self._processes[ours] = self._context.Process(target=_serve, args=(theirs, self._do), daemon=True)
            self._processes[ours].start()
            theirs.close()  # now a process that dies closes its end
            self._idle.append(ours)
        connection = self._idle.pop()
        self._under_way[connection] = spec
        with contextlib.suppress(OSError):  # it has died since its last run: `wait` says so
            connection.send(spec)

    def wait(self) -> Answer:
        """The next spec that is done, or that its process did not survive; called while one is under way."""
        connection: Any = wait(list(self._under_way))[0]
        spec = self._under_way.pop(connection)
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            process = self._processes.pop(connection)
            process.join()
            return Answer(
                spec, error=f"its process ended with exit code {process.exitcode} (-9: killed; out of memory?)"
            )
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """End every process, also those in the middle of a run."""
        for connection, process in self._processes.items():
            connection.close()
            if connection in self._under_way:
                process.terminate()
            process.join()


class Ray:
    """A Ray cluster: the one that `RAY_ADDRESS` names, or one on this machine.

    Ray starts a run again by itself where its node has died. Results come back to this process; the runs stay in the
    store of the node, which may be a folder that all nodes share.
    """

    def __init__(self, work: Work, jobs: int | None = None, cpus: int = 1, gpus: float = 0) -> None:
        """Connect to the cluster.

        Args:
            work: What to do.
            jobs: Runs at the same time; default: as many as the cluster has room for.
            cpus: CPU cores of a run.
            gpus: GPUs of a run.

        Raises:
            ParameterError: If ray is not installed, or no node is large enough.
        """
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ParameterError("The engine ray needs ray: pip install 'lpft-utils[ray]'.") from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        self._ray, self._under_way = ray, {}
        has = ray.cluster_resources()
        room = min(has.get(name, 0) // need for name, need in (("CPU", cpus), ("GPU", gpus)) if need)
        if room < 1:
            raise ParameterError(f"The cluster has no room for a run of {cpus:g} CPUs and {gpus:g} GPUs; it has {has}.")
        self.jobs = jobs or int(room)
        self._call, self._do = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(_answer), (work, int(cpus))

    def start(self, spec: RunSpec) -> None:
        """Begin with a spec."""
        self._under_way[self._call.remote(self._do, spec)] = spec

    def wait(self) -> Answer:
        """The next spec that is done, or that Ray has given up."""
        (done, *_), _ = self._ray.wait(list(self._under_way))
        spec = self._under_way.pop(done)
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            return Answer(spec, error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Cancel what is under way; the cluster stays."""
        for task in self._under_way:
            self._ray.cancel(task, force=True)


def local_jobs(cpus: int) -> int:
    """How many runs this machine does at a time: one for each `cpus` cores, or one where there is a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, (os.cpu_count() or 1) // cpus)


def _answer(do: tuple[Work, int], spec: RunSpec) -> Answer:
    from threadpoolctl import threadpool_limits

    work, cpus = do
    try:
        with threadpool_limits(cpus):
            return Answer(spec, work(spec))
    except Exception as error:  # whatever it is: the sweep goes on, and reports it at its end
        return Answer(spec, error=f"{type(error).__name__}: {error}")


def _serve(connection: Connection, do: tuple[Work, int]) -> None:
    """What a process of `Local` does until the other end is closed."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    torch.set_num_threads(do[1])
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_answer(do, connection.recv()))
