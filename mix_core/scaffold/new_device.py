"""Write the distribution of a new device plugin.

The templates lie in `template/`; `@name@` and its like are replaced in their text and in their names. Two of
them are plugin.py: one for a chip without a Paddle library, one for a custom device that is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from mix_core.device import discovery
from mix_core.device.names import AUTO
from mix_core.errors import BadInputError
from mix_core.scaffold.custom_device import CustomDevice

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_MARK = re.compile(r"@(\w+)@")
FILES = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "src/@package@/__init__.py": "__init__.py.in",
    "src/@package@/conformance.toml": "conformance.toml.in",
}
"""Path in the distribution to template; plugin.py is added by what the chip has."""
PLUGIN = "src/@package@/plugin.py"
TABLE = "src/@package@/operators.json"


def check_name(name: str) -> None:
    """Raise BadInputError where a device cannot be called so, or one of that name is installed."""
    if _NAME.fullmatch(name) is None or name == AUTO:
        raise BadInputError(
            f"device name {name!r} cannot be used: small letters, digits and single _ between them, a letter "
            f"first, and not {AUTO!r}; for example acme or acme_2"
        )
    for entry in discovery.find_entries(environ={}):
        if entry.name == name:
            raise BadInputError(
                f"device name {name!r} is taken: {entry.distribution} {entry.version} provides it; "
                "choose another name, or uninstall that"
            )


def write_device(name: str, parent: Path, custom: CustomDevice | None = None) -> list[Path]:
    """Write ./mix_device_NAME into `parent` and return its files.

    Raises:
        BadInputError: the name cannot be used or is taken, the folder exists or cannot be made.
    """
    check_name(name)
    package = f"mix_device_{name}"
    folder = parent / package
    if folder.exists():
        raise BadInputError(f"{folder} exists; remove it, choose another name or go to another folder")
    words = {
        "name": name,
        "package": package,
        "distribution": package.replace("_", "-"),
        "type": custom.type if custom else name,
        "library": custom.library.name if custom else "",
    }
    texts = {path: _template(file) for path, file in FILES.items()}
    texts[PLUGIN] = _template("plugin_of_library.py.in" if custom else "plugin.py.in")
    files = {fill(path, words): fill(text, words) for path, text in texts.items()}
    if custom is not None:
        files[fill(TABLE, words)] = _table(custom)
    written = []
    try:
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            written.append(target)
    except OSError as error:
        raise BadInputError(f"{folder} cannot be written: {error.strerror}; go to another folder") from None
    return written


def fill(text: str, words: Mapping[str, str]) -> str:
    """The text with each `@word@` replaced; an unknown word is a KeyError."""
    return _MARK.sub(lambda match: words[match[1]], text)


def _template(file: str) -> str:
    return (resources.files("mix_core.scaffold") / "template" / file).read_text(encoding="utf-8")


def _table(custom: CustomDevice) -> str:
    """operators.json: a kernel a line, so that a change of one is a change of one line."""
    rows = [f"  {json.dumps(kernel)}: {json.dumps(dtypes)}" for kernel, dtypes in custom.operators.items()]
    source = json.dumps(f"kernels that {custom.library.name} registered with Paddle {custom.paddle}")
    inner = "{\n" + ",\n".join(rows) + "\n }" if rows else "{}"
    return f'{{\n "source": {source},\n "operators": {inner}\n}}\n'
