"""The errors that mix-core raises on purpose, and the exit code each one ends a command with.

A message is one line: what was got, what was expected, what to do. Commands print it after ``error: ``
and show a traceback only under ``--debug``.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_NOT_USABLE = 1
EXIT_BAD_INPUT = 2
EXIT_RUN_FAILED = 3
EXIT_INTERRUPTED = 130


class MixError(Exception):
    """Base of all deliberate errors."""

    exit_code = EXIT_RUN_FAILED


class DeviceError(MixError):
    """A device, its plugin or its settings are not usable."""

    exit_code = EXIT_NOT_USABLE


class BadInputError(MixError):
    """Something the user gave cannot be used: a key, a file, an image, a folder."""

    exit_code = EXIT_BAD_INPUT


class ConfigError(BadInputError):
    """A run configuration or an argument is wrong."""


class DataError(BadInputError):
    """A data set, a sample, an image or a video is wrong."""


class WeightsError(BadInputError):
    """A weight file is truncated, or a weight is missing or has another shape."""


class CheckpointError(BadInputError):
    """A training checkpoint cannot be read or does not fit this run."""


class RunFailedError(MixError):
    """The run itself went wrong: a loss that is not finite, a full disk, a dead rank."""

    exit_code = EXIT_RUN_FAILED


class OtherRankError(RunFailedError):
    """This rank stops because another one of its run did."""
