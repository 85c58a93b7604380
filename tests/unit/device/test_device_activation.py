"""Activation in real processes: settings in place before paddle, one device a process, clear refusals."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from mix_core import device
from mix_core.errors import DeviceError

Cards = Callable[..., str]

SHOW = """
import json, os, sys
def show(**more):
    import paddle
    names = ("OMP_NUM_THREADS", "ACME_QUEUE", "ACME_HEAP", "CUSTOM_DEVICE_BLACK_LIST", "MIX_REEXECUTED")
    flags = paddle.get_flags(["FLAGS_use_stride_kernel", "FLAGS_check_nan_inf"])
    print(json.dumps({"pid": os.getpid(), **{n: os.environ.get(n) for n in names}, **flags, **more}))
"""


def result(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_layer_imports_no_paddle_and_no_plugin(start):
    code = """
import sys, mix_core.device, mix_core.plugin_api
unwanted = {"paddle", "numpy", "mix_core.device.cpu", "mix_core.device.cpu_topology"}
print(sorted(unwanted & set(sys.modules)))
"""
    done = start(["-c", code])
    assert done.stdout.strip() == "[]", done.stderr


def test_the_cpu_s_settings_are_in_place_before_paddle(start):
    code = SHOW + "import mix_core.device as d; a = d.activate('cpu'); show(rows=a.to_json()['settings'])"
    seen = result(start(["-c", code]))
    rows = {row["name"]: row for row in seen["rows"]}
    assert seen["OMP_NUM_THREADS"] == rows["OMP_NUM_THREADS"]["value"]
    assert seen["MIX_REEXECUTED"] is None, "the CPU needs no second start"


def test_paddle_s_remarks_about_threads_are_not_repeated(start):
    code = "import mix_core.device as d; d.activate('cpu'); print('done')"
    done = start(["-c", code], OMP_NUM_THREADS="2")
    assert (done.stdout.strip(), done.stderr) == ("done", "")


def test_a_user_s_variable_wins(start):
    code = SHOW + "import mix_core.device as d; a = d.activate('cpu'); show(rows=a.to_json()['settings'])"
    seen = result(start(["-c", code], OMP_NUM_THREADS="1"))
    row = next(row for row in seen["rows"] if row["name"] == "OMP_NUM_THREADS")
    assert seen["OMP_NUM_THREADS"] == "1"
    assert row["value"] == "1" and "user" in row["source"]


def test_a_third_party_s_device_runs_with_all_its_settings(start, acme_cards: Cards):
    code = SHOW + (
        "import mix_core.device as d; a = d.activate('acme:1', allow_reexec=True);"
        "k = a.kernel('swiglu', d.KernelRequest('float32'));"
        "show(name=a.name, index=a.index, kernel=k.name, none=a.kernel('rotary', d.KernelRequest('float32')),"
        "     properties=a.runtime.properties(), record=a.to_json(), argv=sys.argv)"
    )
    done = start(["-c", code, "--keep", "me"], plugins=["acme"], ACME_DEV=acme_cards(2))
    seen = result(done)
    assert (seen["name"], seen["index"], seen["properties"]) == ("acme", 1, {"name": "ACME 1"})
    assert (seen["ACME_QUEUE"], seen["ACME_HEAP"]) == ("4", "big")
    assert seen["MIX_REEXECUTED"] == str(seen["pid"])
    assert seen["CUSTOM_DEVICE_BLACK_LIST"] == "set_value,cumsum"
    assert (seen["FLAGS_use_stride_kernel"], seen["FLAGS_check_nan_inf"]) == (False, True)
    assert seen["kernel"] == "acme swiglu" and seen["none"] is None
    assert [k["kernel"] for k in seen["record"]["kernels"]] == ["acme swiglu", "reference"]
    assert seen["argv"] == ["-c", "--keep", "me"]


def test_without_leave_to_start_again_a_process_setting_is_an_error(start, acme_cards: Cards):
    code = "import mix_core.device as d; d.activate('acme')"
    done = start(["-c", code], plugins=["acme"], ACME_DEV=acme_cards(1))
    last = done.stderr.splitlines()[-1]
    assert done.returncode != 0 and "DeviceError" in last
    assert "ACME_HEAP is unset, wanted big" in last
    assert "mix-core run --device acme --" in last


def test_the_second_start_happens_once(start, acme_cards: Cards):
    """A process setting that does not survive the start must not loop."""
    code = (
        "import mix_core.device as d; from mix_core.device import settings; print('started', flush=True);"
        "settings.initial_environment = dict; d.activate('acme', allow_reexec=True)"
    )
    done = start(["-c", code], plugins=["acme"], ACME_DEV=acme_cards(1))
    assert done.stdout.split() == ["started", "started"]
    assert "ACME_HEAP is unset, wanted big" in done.stderr.splitlines()[-1]


def test_paddle_imported_too_early_is_refused_with_the_way_out(start):
    code = "import paddle, mix_core.device as d; d.activate('cpu')"
    done = start(["-c", code])
    last = done.stderr.splitlines()[-1]
    assert "paddle is already imported" in last
    assert "OMP_NUM_THREADS is unset" in last or "OMP_NUM_THREADS is 1, wanted" in last
    assert "mix-core run --device cpu --" in last


def test_paddle_imported_first_is_fine_when_the_settings_hold(start, acme_cards: Cards):
    code = SHOW + "import paddle, mix_core.device as d; d.activate('acme'); show()"
    environ = {
        "ACME_DEV": acme_cards(1),
        "ACME_HEAP": "big",
        "ACME_QUEUE": "4",
        "ACME_TOOLS": "/opt/acme/lib:/opt/acme/plugins",
        "CUSTOM_DEVICE_BLACK_LIST": "cumsum,set_value",
        "FLAGS_auto_growth_chunk_size_in_mb": "64",
        "FLAGS_use_stride_kernel": "0",
    }
    assert result(start(["-c", code], plugins=["acme"], **environ))["FLAGS_check_nan_inf"] is True


def test_a_flag_exported_after_the_import_is_seen_through(start, acme_cards: Cards):
    code = """
import os, paddle
os.environ.update(ACME_QUEUE="4", FLAGS_use_stride_kernel="0", FLAGS_auto_growth_chunk_size_in_mb="64")
os.environ.update(ACME_TOOLS="/opt/acme/lib:/opt/acme/plugins", CUSTOM_DEVICE_BLACK_LIST="set_value,cumsum")
import mix_core.device as d
d.activate("acme")
"""
    done = start(["-c", code], plugins=["acme"], ACME_DEV=acme_cards(1), ACME_HEAP="big")
    last = done.stderr.splitlines()[-1]
    assert "FLAGS_use_stride_kernel is True, wanted 0" in last and "ACME_QUEUE" not in last


def test_a_forked_child_may_not_use_the_device(start):
    code = """
import os, sys
import mix_core.device as d
a = d.activate("cpu")
pid = os.fork()
if pid == 0:
    refused = 0
    for use in (lambda: a.runtime.synchronize(), d.active, d.activate, lambda: a.kernel("rms_norm", None)):
        try:
            use()
        except d.activation.DeviceError as error:
            refused += "forked" in str(error) and "spawn" in str(error)
    os._exit(refused)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), d.active() is a)
"""
    done = start(["-c", code])
    assert done.stdout.split() == ["4", "True"], done.stderr


def test_a_spawned_child_activates_on_its_own(start, tmp_path):
    script = tmp_path / "spawns.py"
    script.write_text(
        """
import multiprocessing, os
import mix_core.device as d
def child(queue):
    assert d.active() is None
    queue.put((d.activate("cpu").name, os.environ["OMP_NUM_THREADS"]))
if __name__ == "__main__":
    wanted = d.activate("cpu")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    name, threads = queue.get(timeout=60)
    process.join()
    print(name, threads == os.environ["OMP_NUM_THREADS"], process.exitcode)
"""
    )
    assert start([str(script)]).stdout.split() == ["cpu", "True", "0"]


def test_the_host_is_not_simulated(start):
    code = "import mix_core.device as d; d.activate('cpu')"
    for arguments, variables in (
        (code.replace("'cpu'", "'cpu', simulate=True"), {}),
        (code, {"MIX_SIMULATE": "1"}),
        (code.replace("'cpu'", "simulate=True"), {}),
    ):
        done = start(["-c", arguments], **variables)
        assert "cannot be simulated: name the device to simulate" in done.stderr.splitlines()[-1]


def test_auto_says_what_it_skipped(start, acme_cards: Cards):
    code = "import mix_core.device as d; print(d.activate().name)"
    done = start(["-c", code], plugins=["acme"], ACME_DEV=acme_cards(0))
    assert done.stdout.strip() == "cpu"
    assert [line for line in done.stderr.splitlines() if line.startswith("mix-core: acme skipped: no ")]


def test_the_same_device_again_is_nothing_and_another_an_error():
    current = device.activate("cpu")
    assert device.activate("cpu") is device.activate("cpu:0") is device.activate("auto") is current
    assert device.activate() is device.ensure_active() is device.active() is current
    for other in ("cpu:1", "acme"):
        with pytest.raises(DeviceError, match=f"{other} was asked for, but this process already uses cpu"):
            device.activate(other)
    with pytest.raises(DeviceError, match="kernels='reference'"):
        device.activate("cpu", kernels="reference")


def test_reference_kernels_can_be_forced(start):
    code = (
        "import mix_core.device as d; a = d.activate('cpu', kernels='reference');"
        "print(a.kernel('rms_norm', d.KernelRequest('float32')), a.to_json()['kernels'][0]['kernel'])"
    )
    assert start(["-c", code]).stdout.split() == ["None", "reference"]


def test_what_paddle_writes_is_not_taken_for_the_user_s(start):
    code = """
import os
import mix_core.device as d
from mix_core.device import settings
before = dict(os.environ)
d.activate("cpu")
assert "CUSTOM_DEVICE_ROOT" in os.environ, "paddle writes it where it is missing"
print(settings.user_environment(os.environ) == before)
"""
    assert start(["-c", code]).stdout.strip() == "True"


def test_a_flag_that_paddle_lacks_is_let_go_from_core_alone(start):
    code = """
import mix_core.device as d
d.activate("cpu")
import paddle
from mix_core.device import activation, defaults, settings

def put(source):
    row = settings.SettingRow("FLAGS_none", "0", "reason", source, "environment", "runtime")
    activation._set_flag(paddle, row)

put(defaults.SOURCE)
try:
    put("plugin acme")
except ValueError as error:
    print("FLAGS_none" in str(error))
"""
    done = start(["-c", code])
    assert done.stdout.strip() == "True", done.stderr
