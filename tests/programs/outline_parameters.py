"""Parameters of every published size by part, built without memory, as JSON; the sizes may be named."""

from __future__ import annotations

import json
import sys

import paddle

from mix_core.models.registry import families


def main(wanted: list[str]) -> None:
    found = {}
    for family in families().values():
        for size in family.sizes:
            if wanted and size.name not in wanted:
                continue
            with paddle.LazyGuard():
                model = family.build(family.config_from_dict(size.config))
            counts: dict[str, int] = {}
            for name, parameter in model.named_parameters():
                top = family.published_name(name).rpartition(".")[0]
                counts[top] = counts.get(top, 0) + int(parameter.size)
            found[size.name] = counts
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
