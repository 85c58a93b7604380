"""What docs/cluster.md gives to copy: the script runs, the manifest is one, mix-core takes the commands."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mix_core.train import parse_arguments
from mix_core.training.launch import Launch, parse_launch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
EIGHT = tuple(range(8))


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def launch_of(words: list[str]) -> Launch:
    """What mix-core understands of a command line `mix-core train ...`."""
    assert words[:2] == ["mix-core", "train"]
    request = parse_arguments(words[2:])
    assert request.config is not None
    return parse_launch(request.ranks)


def test_the_commands_of_the_page_are_taken():
    first, second = (line.split("#")[0].split() for line in blocks("bash")[0].splitlines())
    assert launch_of(first) == Launch(EIGHT, 2, 0, "10.0.0.1:6070")
    assert launch_of(second) == Launch(EIGHT, 2, 1, "10.0.0.1:6070")


@pytest.mark.parametrize("node", [0, 1])
def test_the_slurm_script_starts_each_host(tmp_path, node):
    """With stand-ins in place of Slurm's programs and of mix-core."""
    (script,) = (block for block in blocks("bash") if block.startswith("#!/bin/bash"))
    (tmp_path / "train.sbatch").write_text(script)
    stand_ins = {
        "scontrol": '[ "$*" = "show hostnames node[3-4]" ] && printf "node3\\nnode4\\n"',
        "srun": 'exec "$@"',
        "mix-core": 'printf "%s\\n" mix-core "$@"',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_NODELIST": "node[3-4]", "SLURM_NNODES": "2", "SLURM_NODEID": str(node)}
    environ = os.environ | given | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", tmp_path / "train.sbatch"], env=environ, capture_output=True, text=True, check=True
    )
    wanted = Launch(EIGHT, 2, node, "node3:6070", max_restarts=2)
    assert launch_of(done.stdout.splitlines()) == wanted
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, re.MULTILINE))
    assert options["nodes"] == "2" and options["ntasks-per-node"] == "1"


KNOWN = {
    "Service": {
        "": {"apiVersion", "kind", "metadata", "spec"},
        "spec": {"clusterIP", "publishNotReadyAddresses", "selector"},
    },
    "Job": {
        "": {"apiVersion", "kind", "metadata", "spec"},
        "spec": {"completionMode", "completions", "parallelism", "backoffLimit", "template"},
        "spec.template": {"metadata", "spec"},
        "spec.template.spec": {
            *("restartPolicy", "subdomain", "terminationGracePeriodSeconds", "containers", "volumes"),
        },
    },
}
"""Fields of the Kubernetes API by place, those that the manifest has; a misspelt one is refused there."""
OF_A_CONTAINER = {"name", "image", "command", "env", "ports", "resources", "volumeMounts"}


def at(document: dict, path: str) -> dict:
    for part in path.split(".") if path else ():
        document = document[part]
    return document


def test_the_manifest_is_an_indexed_job_and_its_service():
    (text,) = blocks("yaml")
    service, job = yaml.safe_load_all(text)
    for document in (service, job):
        for path, names in KNOWN[document["kind"]].items():
            assert set(at(document, path)) == names, (document["kind"], path)
    assert (service["apiVersion"], job["apiVersion"]) == ("v1", "batch/v1")
    pod, spec = job["spec"]["template"]["spec"], job["spec"]
    # pods get an index and a name only so, and all of them have to run at once
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 2
    assert spec["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    # names of pods: a headless service of the pods' subdomain, which selects their label, ready or not
    assert service["metadata"]["name"] == pod["subdomain"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert service["spec"]["publishNotReadyAddresses"] is True
    (container,) = pod["containers"]
    assert set(container) == OF_A_CONTAINER
    assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert container["resources"]["limits"] == {"huawei.com/Ascend910": 8}


@pytest.mark.parametrize("index", [0, 1])
def test_the_manifest_s_command_is_taken(index):
    _, job = yaml.safe_load_all(blocks("yaml")[0])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert variable["valueFrom"]["fieldRef"]["fieldPath"].endswith("job-completion-index']")
    words = [word.replace(f"$({variable['name']})", str(index)) for word in container["command"]]
    name = job["metadata"]["name"]
    assert launch_of(words) == Launch(EIGHT, job["spec"]["completions"], index, f"{name}-0.{name}:6070", 2)
    assert container["ports"] == [{"containerPort": 6070}]
