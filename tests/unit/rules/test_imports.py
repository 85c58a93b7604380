"""What an import may do: nothing but define names.

Two rules, each checked in a child process with a fresh interpreter.

1. Nothing but code of the network and what drives it (AFTER_ACTIVATION) imports paddle: paddle reads its
   environment when it is imported, so an early import would freeze settings that the device has yet to
   choose, and data workers would each carry it. A new module falls under this rule.
2. Importing any module of mix_core changes nothing around it: environment, working folder, files, standard
   output, threads, signal handlers, sys.path, warning filters, log handlers, random state, paddle's device.
   And no package that only tests or options need (torch, transformers, matplotlib, av...) gets loaded.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
import sys
import textwrap

import pytest

import mix_core

AFTER_ACTIVATION = re.compile(
    r"mix_core\.ops(\..*)?"
    r"|mix_core\.models\.common\.(adapters|cache|causal_lm|clip|decoder|embedding_noise|int8|layers|lora|random)"
    r"|mix_core\.models\.common\.(recompute|weights)"
    r"|mix_core\.models\.(?!common\.)\w+\.(model|vision|weights)"
    r"|mix_core\.models\.t5\.attention"
    r"|mix_core\.models\.parallel\.(across|head_loss|layers|loading|tensor)"
    r"|mix_core\.models\.diffusion\.(attention|layers|recompute|resnet)"
    r"|mix_core\.models\.(mmdit\.(blocks|modulation)|vae\.tiling)"
    r"|mix_core\.training\.(evaluate|held_out|lora|module_stats|optimizer|parallel|session|snapshot)"
    r"|mix_core\.training\.(assembly|gathering|groups|host_copy|in_backward|saving)"
    r"|mix_core\.training\.(sharded_optimizer|sharding|summing)"
    r"|mix_core\.training\.pipeline\.(engine|messages|stage)"
    r"|mix_core\.training\.pictures\.(adapter|average|class_pictures|folders|latents|model|objective)"
    r"|mix_core\.training\.pictures\.(operations|session)"
    r"|mix_core\.inference\.(generation|sampling)"
    r"|mix_core\.inference\.text_to_image\.(adapters|beginning|decoding|denoising)"
    r"|mix_core\.conformance\.formulas"
)
UNWANTED = (
    "torch",
    "transformers",
    "diffusers",
    "matplotlib",
    "sklearn",
    "scipy",
    "pandas",
    "av",
    "paddlenlp",
    "pyarrow",
)

IMPORT_ALL = """
    import importlib, json, sys
    found = {}
    for name in json.loads(sys.argv[1]):
        importlib.import_module(name)
        early = [p for p in json.loads(sys.argv[2]) if p in sys.modules]
        if early:
            found[name] = early
            break
    print(json.dumps(found))
"""

SIDE_EFFECTS = """
    import importlib, json, logging, os, pathlib, random, signal, sys, threading, warnings
    import numpy, paddle, pluggy, pydantic, typer, rich, tokenizers, safetensors, PIL.Image, jinja2, yaml
    import huggingface_hub

    def state():
        root = logging.getLogger()
        return {
            "environment": dict(os.environ),
            "working folder": os.getcwd(),
            "files": sorted(map(str, pathlib.Path.home().rglob("*"))),
            "threads": threading.active_count(),
            "sys.path": list(sys.path),
            "warning filters": len(warnings.filters),
            "signals": {s: repr(signal.getsignal(s)) for s in signal.valid_signals()},
            "log": [*map(repr, root.handlers), root.level],
            "random": hash(random.getstate()),
            "numpy random": numpy.random.get_state()[1].tolist(),
            "device": paddle.device.get_device(),
            "flags": paddle.get_flags(["FLAGS_use_stride_kernel"]),
            "paddle": [paddle.is_grad_enabled(), paddle.get_default_dtype()],
        }

    before = state()
    for name in json.loads(sys.argv[1]):
        importlib.import_module(name)
    after = state()
    unwanted = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print(json.dumps({"changed": [key for key in before if before[key] != after[key]], "unwanted": unwanted}))
"""


def modules() -> list[str]:
    found = ["mix_core", *(info.name for info in pkgutil.walk_packages(mix_core.__path__, "mix_core."))]
    return [name for name in found if not name.endswith("__main__")]


def child(program: str, tmp_path, *arguments: object) -> dict:
    command = [sys.executable, "-B", "-c", textwrap.dedent(program), *map(json.dumps, arguments)]
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, f"an import prints:\n{done.stdout}"
    return json.loads(done.stdout)


def test_only_code_of_the_network_imports_paddle(tmp_path):
    early = [name for name in modules() if not AFTER_ACTIVATION.fullmatch(name)]
    assert {"mix_core.device", "mix_core.training.run", "mix_core.models.qwen2_5_vl.processor"} <= set(early)
    assert child(IMPORT_ALL, tmp_path, early, ["paddle", *UNWANTED]) == {}


def test_importing_everything_changes_nothing_around_it(tmp_path):
    assert child(SIDE_EFFECTS, tmp_path, modules(), UNWANTED) == {"changed": [], "unwanted": []}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import os; os.environ['FLAGS_x'] = '1'", "environment"),
        ("import pathlib; pathlib.Path.home().joinpath('cache').mkdir()", "files"),
        ("import random; random.seed(0)", "random"),
    ],
)
def test_check_sees_a_side_effect(tmp_path, monkeypatch, line, what):
    (tmp_path / "noisy_module.py").write_text(line + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child(SIDE_EFFECTS, tmp_path, ["noisy_module"], UNWANTED)["changed"] == [what]


def test_check_sees_an_early_paddle(tmp_path, monkeypatch):
    (tmp_path / "eager_module.py").write_text("import paddle\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child(IMPORT_ALL, tmp_path, ["eager_module"], ["paddle"]) == {"eager_module": ["paddle"]}
