"""Makes tests/goldens/commands.txt: every command, option and configuration key that users may rely on.

Run: python tests/goldens/make_commands.py
A line that changes or goes breaks someone's script; tests/unit/rules/test_commands.py shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

TARGET = Path(__file__).with_name("commands.txt")


def option_line(path: str, parameter: Any) -> str:
    """`mix-core explain DEVICE required`, `mix-core infer --image VALUE repeatable`."""
    if parameter.opts[0].startswith("-"):
        words = ["/".join([*parameter.opts, *parameter.secondary_opts])]
        words += [] if parameter.is_flag else ["VALUE"]
    else:
        words = [parameter.name.upper()]
    words += ["required"] * bool(parameter.required) + ["repeatable"] * bool(
        getattr(parameter, "multiple", False)
    )
    words += ["..."] * (parameter.nargs == -1)
    return " ".join([path, *words])


def command_lines(command: Any, path: str) -> Iterator[str]:
    yield path
    for parameter in command.params:
        yield option_line(path, parameter)
    for name, inner in getattr(command, "commands", {}).items():
        yield from command_lines(inner, f"{path} {name}")


def kind(annotation: Any) -> str:
    """The type as written, the same under every Python version; limits (Annotated) are left out."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(inner[0])
    if origin is Literal:
        return "|".join(map(repr, inner))
    if origin in (list, dict):
        return f"{origin.__name__}[{', '.join(map(kind, inner))}]"
    if inner:
        return " | ".join(map(kind, inner))
    return "None" if annotation is type(None) else annotation.__name__


def key_lines() -> Iterator[str]:
    """`key learning_rate: float = 5e-05`, then `alias bf16 -> dtype`."""
    from mix_core.config import RunConfig
    from mix_core.config_aliases import ALIASES

    for name, field in RunConfig.model_fields.items():
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        yield f"key {name}: {kind(field.annotation)} = {default}"
    for name, alias in ALIASES.items():
        yield f"alias {name} -> {alias.key}"


def command_text() -> str:
    import typer.main

    from mix_core.cli.main import build_app

    lines = [*command_lines(typer.main.get_command(build_app()), "mix-core"), *key_lines()]
    return "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    TARGET.write_text(command_text(), encoding="utf-8")
    print(f"{TARGET}: {len(TARGET.read_text(encoding='utf-8').splitlines())} lines")
