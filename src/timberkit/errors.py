"""Everything that timberkit raises on purpose, and the exit code each becomes.

::

    TimberkitError                    1
    ├── UsageError                    2  the call itself is wrong: flags, recipe, output in the way
    │   ├── RecipeError               2  a recipe field is invalid or contradicts another
    │   ├── OutputExistsError         2  something is already where the output should go
    │   ├── StageConflictError        2  an unfinished or live run of another recipe is there
    │   └── MissingExtraError         2  an optional dependency is not installed
    ├── InputError                    3  what was given cannot be used
    │   ├── SourceError               3  a model folder or hub id cannot be found or read
    │   ├── HubError                  3  the Hub refuses: login, rights, name, model card
    │   ├── CheckpointError           3  a checkpoint file is broken or hostile
    │   ├── PairMismatchError         3  base and instruct do not fit together
    │   ├── SpectrumError             3  a matrix without a defined spectrum (NaN, Inf, empty)
    │   └── ResourceError             3  not enough disk or memory, known before anything is written
    ├── VerificationError             1  a finished output fails a check
    └── InterruptedRunError           4  stopped before the end; the same command continues it

Every message reads: *which file or tensor: what was found, what was expected; the likely cause;
what to do next.* Programming errors stay ``ValueError`` and ``TypeError``.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_DONE = 0
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_BAD_INPUT = 3
EXIT_INTERRUPTED = 4


def quoted(value: object, longest: int = 160) -> str:
    """``repr`` for a message, of at most about ``longest`` characters, whatever a stranger wrote.

    >>> quoted("lam"), quoted("x" * 10**6, longest=9)
    ("'lam'", "'xxx…xxx'")
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return f"a {type(value).__name__} that is too long to write"
    return shortened(text, longest)


def shortened(text: str, longest: int = 160) -> str:
    """The text itself, or its two ends where it is longer.

    >>> shortened("abcdefghij", longest=5)
    'ab…ij'
    """
    ends = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:ends]}…{text[-ends:]}"


class TimberkitError(Exception):
    """Root of every error that timberkit raises on purpose."""

    exit_code: ClassVar[int] = EXIT_CHECK_FAILED


class UsageError(TimberkitError):
    """The call itself is wrong; nothing was read or written."""

    exit_code = EXIT_USAGE


class RecipeError(UsageError):
    """A recipe field is invalid or contradicts another."""


class OutputExistsError(UsageError):
    """Something is already where the output should go."""


class StageConflictError(UsageError):
    """An unfinished run of another recipe, or a run that is still alive, holds the output."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed.

    >>> str(MissingExtraError("transformers", extra="eval"))
    "transformers is not installed; it comes with an extra: pip install 'timberkit[eval]'"
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with an extra: pip install 'timberkit[{extra}]'"
        )


class InputError(TimberkitError):
    """What was given cannot be used; the sources are untouched."""

    exit_code = EXIT_BAD_INPUT


class SourceError(InputError):
    """A model folder or hub id cannot be found or read."""


class HubError(InputError):
    """The Hub refuses what was asked of it: login, rights, name, model card."""


class CheckpointError(InputError):
    """A checkpoint file is broken, unsupported or hostile."""


class PairMismatchError(InputError):
    """Base and Instruct do not fit together."""


class SpectrumError(InputError):
    """A matrix has no defined spectrum: NaN, Inf, empty."""


class ResourceError(InputError):
    """Not enough disk or memory, known before anything is written."""


class VerificationError(TimberkitError):
    """A finished output fails a check."""


class InterruptedRunError(TimberkitError):
    """A run stopped before its end; the same command continues it."""

    exit_code = EXIT_INTERRUPTED
