"""Train: `python -m mix_core.train CONFIG|--recipe NAME [options] [--key value | key=value ...]`.

Order matters here: the configuration is read and checked first, the device is activated next, and only then
is paddle imported. `--help` does none of this.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mix_core.errors import ConfigError

USAGE = """\
usage: python -m mix_core.train CONFIG|--recipe NAME [--key value | --key=value | key=value ...]
       mix-core train ... is the same command

  CONFIG                a .json or .yaml file; `docs/migrating.md` lists the guides' keys
  --recipe NAME         a configuration that ships with mix-core: {recipes}
  --device D            auto, cpu, NAME or NAME:1 of a plugin (argument > MIX_DEVICE > configuration > auto)
  --simulate            run on a simulated device
  --max_steps N         stop after N optimizer steps
  --seed S              seed of weights, dropout and order
  --output_dir DIR      run folder
  --devices 0,1         one rank on each of these devices, by Paddle's launcher; each rank's words are in
                        OUTPUT_DIR/logs. Across hosts also --nnodes N --node_rank R --master HOST:PORT
  --max_restarts K      with --devices: go on from the last checkpoint up to K times when a rank dies
  --resume no|auto|STEP|PATH
  --overwrite_output_dir true
  --debug               show tracebacks
  --help                this text, and every key

Any key of the configuration is an option too, under its own name or another tool's; a true or false key alone
means true. Exit codes: 0 done, 1 device not usable, 2 bad input, 3 the run failed, 130 interrupted and saved.
"""

LAUNCH_OPTIONS = ("devices", "nnodes", "node_rank", "master", "max_restarts")
"""What starts several ranks; everything else is the same for one and for many."""

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
CONFIGURATIONS_OF_OTHERS = ("mm_model", "mm_tool")
"""Options that name a file which is none of ours."""
_PAIR = re.compile(r"^[A-Za-z_][\w.-]*=")


@dataclass
class Request:
    """What the arguments ask for."""

    config: Path | None = None
    recipe: str | None = None
    device: str | None = None
    keys: dict[str, str] = field(default_factory=dict)
    """Name to text, for `load_config`."""
    ranks: dict[str, str] = field(default_factory=dict)
    """Options of the launcher: name to text, for `parse_launch`."""
    help: bool = False


def parse_arguments(argv: Sequence[str]) -> Request:
    """Take the arguments apart.

    Raises:
        ConfigError: an option without its value, one given twice with different values, or a second CONFIG.
    """
    request = Request()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("--help", "-h"):
            request.help = True
        elif word == "--debug":
            continue  # `guarded` looks for it
        elif word.startswith("--") and len(word) > 2:
            name, joined, text = word[2:].partition("=")
            _put(request, name, text if joined else _value_of(name, rest))
        elif _PAIR.match(word) and not Path(word).exists():
            name, _, text = word.partition("=")
            _put(request, name, text)
        elif word.startswith("-") or request.config is not None:
            raise ConfigError(
                f'unexpected argument "{word}"; give one CONFIG, and keys as --key value or key=value'
            )
        else:
            request.config = Path(word)
    return request


def _value_of(name: str, rest: list[str]) -> str:
    """Take the option's value off the remaining arguments; a true or false key may do without."""
    from mix_core.config import is_switch, takes_anything
    from mix_core.config_types import FALSE_WORDS, TRUE_WORDS

    following = rest[0] if rest and not rest[0].startswith("--") else None
    if is_switch(name):
        return (
            rest.pop(0) if following is not None and following.lower() in TRUE_WORDS + FALSE_WORDS else "true"
        )
    stands_alone = following is None or following.endswith(CONFIG_SUFFIXES)
    if takes_anything(name) and stands_alone and name.replace("-", "_") not in CONFIGURATIONS_OF_OTHERS:
        return "true"
    if following is None:
        raise ConfigError(f"--{name} needs a value")
    return rest.pop(0)


def _put(request: Request, name: str, text: str) -> None:
    if name == "recipe":
        request.recipe = text
    elif name == "device":
        request.device = text
    elif name.replace("-", "_") == "mm_data":  # MindSpeed-MM's option for its data.json
        request.config = Path(text)
    else:
        among = request.ranks if name in LAUNCH_OPTIONS else request.keys
        if among.get(name, text) != text:
            raise ConfigError(f"--{name} is given as {among[name]} and as {text}; give it once")
        among[name] = text


def help_text() -> str:
    """Usage, and every key by subject with its default."""
    from mix_core.config import GROUPS
    from mix_core.config_types import default_text
    from mix_core.recipes import recipe_names

    lines = [USAGE.format(recipes=", ".join(recipe_names()))]
    for group in GROUPS:
        lines.append((group.__doc__ or "").strip().splitlines()[0])
        for name, key in group.model_fields.items():
            meaning = " ".join((key.description or "").split())
            lines.append(f"  {name} [{default_text(key)}]\n      {meaning}")
        lines.append("")
    return "\n".join(lines)


def run(argv: Sequence[str]) -> None:
    """Do what the arguments say. Raises MixError; a run stopped by a signal raises SystemExit(130)."""
    request = parse_arguments(argv)
    if request.help or not argv:
        print(help_text())
        return
    from mix_core.config import load_config

    if request.config is None and request.recipe is None and not request.keys:
        raise ConfigError("nothing to train: give a CONFIG, or --recipe NAME; --help lists everything")
    config = load_config(request.config, recipe=request.recipe, arguments=request.keys)
    command = ["python", "-m", "mix_core.train", *argv]
    if request.ranks:
        from mix_core.training.launch import launch, parse_launch

        launch(parse_launch(request.ranks), config, device_name=request.device, command=command)
        return
    from mix_core.training.run import train_rank

    train_rank(config, device_name=request.device, command=command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    from mix_core.cli.main import guarded

    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: run(arguments), arguments)


if __name__ == "__main__":
    sys.exit(main())
