"""Entry point of the `mix-core` command.

Each sub-command is a module with `register(app)`; it imports what is heavy inside its own function, so that
`mix-core devices` and `--help` never import paddle.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

import typer

from mix_core.errors import EXIT_INTERRUPTED, MixError

COMMANDS = (
    "devices",
    "explain",
    "doctor",
    "build",
    "run",
    "audit",
    "conformance",
    "verify",
    "new-device",
    "data",
    "train",
    "infer",
    "chat",
    "convert",
    "merge-lora",
    "plan",
    "checkpoint",
)


def build_app(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The application with the sub-commands of `names`; importing and building all of them takes 0.1 s."""
    app = typer.Typer(
        name="mix-core",
        help="Train and run multimodal models on any device with a plugin.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(lambda: None)  # a single sub-command keeps its name
    for name in names:
        importlib.import_module(f"mix_core.cli.{name.replace('-', '_')}").register(app)
    return app


def guarded(call: Callable[[], object], argv: list[str]) -> int:
    """Run `call`; turn a MixError into one line on stderr and its exit code."""
    debug = "--debug" in argv or os.environ.get("MIX_DEBUG") == "1"
    try:
        call()
    except MixError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (MemoryError, OSError, RuntimeError) as error:
        from mix_core.device.failures import as_failure

        failure = as_failure(error)
        if failure is None or debug:
            raise
        print(f"error: {failure}", file=sys.stderr)
        return failure.exit_code
    return 0


def main() -> None:
    argv = sys.argv[1:]
    end = argv.index("--") if "--" in argv else len(argv)
    own, foreign = argv[:end], argv[end:]  # what follows "--" belongs to the program of `mix-core run`
    passed = [a for a in own if a != "--debug"] + foreign
    named = passed[:1] if set(passed[:1]) & set(COMMANDS) else COMMANDS
    try:
        code = guarded(lambda: build_app(named)(args=passed), own)
    finally:
        # Ctrl-C pressed again ends what is ending at once, and without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


if __name__ == "__main__":
    main()
