"""Errors of the package: each message says what was expected, what came, and what to do."""


class LpftError(ValueError):
    """Base of every error that `lpft_utils` raises on purpose."""


class TaskError(LpftError):
    """A task or its data files cannot be used as they are."""


class TaskWarning(UserWarning):
    """Something about a task's data that its user should know, such as rows that were left out."""


class FetchError(LpftError):
    """A file that is fetched once at set-up is absent or damaged, or cannot be had."""


class ModelError(LpftError):
    """A backbone, tokenizer or classifier cannot be loaded or built."""


class RunError(LpftError):
    """A stored run is damaged or incomplete, or a run specification is invalid."""


class ParameterError(LpftError):
    """A parameter of a profile, chapter or command is unknown or has a bad value."""


class KernelError(LpftError):
    """A kernel, or what is to be computed from it, has a bad shape or bad values."""
