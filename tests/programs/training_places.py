"""Train as `mix_core.train` does and tell, after every step, which state is not on the device or has moved.

`python training_places.py CONFIG DEVICE [key=value ...]` prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mix_core.device as device
from mix_core.config import load_config
from mix_core.models.common.hub import resolve_model_folder
from mix_core.training.precision import Precision
from mix_core.training.rows import read_rows
from mix_core.training.run_folder import RunFolder


def main(path: str, name: str, *pairs: str) -> None:
    config = load_config(Path(path), arguments=dict(pair.split("=", 1) for pair in pairs))
    active = device.activate(
        name, workload=device.Workload(dtype=config.dtype, simulate=True), allow_reexec=True
    )
    from mix_core.training.session import Session

    class Watched(Session):
        """A session that looks at its state after each step."""

        def _one_step(self, *arguments: object) -> None:
            super()._one_step(*arguments)
            seen["steps"] += 1
            for group in self.optimizer.groups:
                kinds = {"parameter": group.parameters, "master": group.masters}
                kinds |= {"mean": group.means, "square": group.squares}
                for kind, tensors in kinds.items():
                    for owner, tensor in zip(group.names, tensors, strict=True):
                        note(f"{kind} of {owner}", tensor)

    seen: dict = {"steps": 0, "gradients": 0, "elsewhere": [], "moved": [], "states": 0}
    addresses: dict[str, int] = {}

    def note(what: str, tensor: object) -> None:
        if str(tensor.place) != f"Place({active.place})":
            seen["elsewhere"].append(f"{what}: {tensor.place}")
        if addresses.setdefault(what, tensor.data_ptr()) != tensor.data_ptr():
            seen["moved"].append(what)
        seen["states"] = len(addresses)

    def note_gradient(gradient: object) -> None:
        seen["gradients"] += 1
        if str(gradient.place) != f"Place({active.place})":
            seen["elsewhere"].append(f"a gradient: {gradient.place}")

    with RunFolder(config.output_dir) as folder:
        source = resolve_model_folder(config.model_name_or_path, config.revision)
        precision = Precision.of(config.dtype, config.fp16_opt_level, active)
        with Watched(config, folder, source, None, read_rows(config), active, precision, ["x"]) as session:
            for parameter in session.model.parameters():
                parameter.register_hook(note_gradient)
            session.run()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
