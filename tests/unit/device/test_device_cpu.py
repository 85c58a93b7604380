"""The CPU plugin: threads by affinity and quota, MKL's path by flags, malloc, runtime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mix_core import device
from mix_core.device import cpu, cpu_topology
from mix_core.device.cpu_topology import Processor, available_cores
from mix_core.device.values import Workload
from mix_core.errors import DeviceError

AVX512 = frozenset({"avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"})


def machine(root: Path, siblings: list[str], cgroup: str = "", **files: str) -> Path:
    """A file tree like /proc and /sys of a machine with these hyper-thread siblings by processor."""
    for number, text in enumerate(siblings):
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = (
            root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cfs", "cpu.cfs")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


HYPER = ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"]


def test_hyper_threads_of_a_core_count_once(tmp_path: Path):
    root = machine(tmp_path, HYPER)
    assert available_cores(root, frozenset(range(8)))[0] == 4
    assert available_cores(root, frozenset({0, 4, 1}))[0] == 2
    assert available_cores(root, frozenset({5}))[0] == 1


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/\n", {"cpu_max": "250000 100000"}, 2),
        ("0::/\n", {"cpu_max": "max 100000"}, 4),
        ("0::/\n", {"cpu_max": "50000 100000"}, 1),
        ("0::/pod/box\n", {"pod__cpu_max": "300000 100000", "pod__box__cpu_max": "max 100000"}, 3),
        ("0::/pod/box\n", {"pod__cpu_max": "300000 100000", "pod__box__cpu_max": "200000 100000"}, 2),
        ("3:cpu,cpuacct:/box\n", {"cpu__box__cfs_quota_us": "100000", "cpu__box__cfs_period_us": "50000"}, 2),
        ("3:cpu,cpuacct:/\n", {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, 4),
        ("3:memory:/box\n", {"cpu__box__cfs_quota_us": "100000", "cpu__box__cfs_period_us": "100000"}, 4),
    ],
)
def test_a_cgroup_quota_caps_the_cores(tmp_path: Path, cgroup: str, files: dict[str, str], cores: int):
    root = machine(tmp_path, HYPER, cgroup, **files)
    count, reason = available_cores(root, frozenset(range(8)))
    assert count == cores
    assert ("quota" in reason) == (cores < 4)


def test_the_affinity_of_this_process_counts(start):
    first = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{first}}});"
        "from mix_core.device.cpu_topology import available_cores; print(available_cores()[0])"
    )
    assert start(["-c", code]).stdout.strip() == "1"


def test_processes_share_the_cores():
    cores, _ = available_cores()
    alone, shared = (cpu.mix_environment(Workload(world_size=n))["OMP_NUM_THREADS"] for n in (1, 2 * cores))
    assert (alone.value, shared.value) == (str(cores), "1")
    assert f"shared by {2 * cores} processes" in shared.reason


@pytest.mark.parametrize(
    ("vendor", "flags", "value"),
    [
        ("GenuineIntel", AVX512, None),
        ("AuthenticAMD", AVX512, "7"),
        ("HygonGenuine", AVX512 - {"avx512f"}, "5"),
        ("AuthenticAMD", frozenset({"avx2"}), None),
        ("", frozenset({"asimd", "sve"}), None),
    ],
)
def test_mkl_s_path_follows_vendor_and_flags(vendor: str, flags: frozenset[str], value: str | None):
    decision = cpu.mkl_path(Processor(vendor, "", flags))
    assert (decision.value if decision else None) == value


def test_processor_files_of_other_architectures_are_read(tmp_path: Path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nFeatures\t: fp asimd sve\nCPU part\t: 0xd40\n\nprocessor\t: 1\n")
    assert cpu_topology.read_processor(path) == Processor("", "", frozenset({"fp", "asimd", "sve"}))
    assert cpu_topology.read_processor(tmp_path / "none").flags == frozenset()


def test_a_forced_mkl_path_is_checked_against_float64(start):
    code = (
        "import sys, mix_core.device as d; from mix_core.device import cpu;"
        "cpu.MKL_TOLERANCE = float(sys.argv[1]); print(d.activate('cpu').place)"
    )
    assert start(["-c", code, "1e-5"], MKL_DEBUG_CPU_TYPE="5").stdout.strip() == "cpu"
    wrong = start(["-c", code, "1e-12"], MKL_DEBUG_CPU_TYPE="5").stderr.splitlines()[-1]
    assert "a float32 product is wrong by" in wrong and "MKL_DEBUG_CPU_TYPE=5" in wrong
    chosen, done = cpu.mkl_path(cpu_topology.read_processor()), start(["-c", code, "1e-12"])
    if chosen is None:
        assert done.stdout.strip() == "cpu", "unchecked where nothing is forced"
    else:  # another vendor's processor: what we choose for it is checked too
        assert f"MKL_DEBUG_CPU_TYPE={chosen.value}" in done.stderr.splitlines()[-1]


FAULTS = """
import resource
{activate}
import paddle
a, b = paddle.ones([512, 2048]), paddle.ones([512, 2048])
for _ in range({before}): a + b
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): a + b
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
"""


@pytest.mark.skipif(not cpu.malloc_decisions(), reason="the C library is not glibc")
def test_outputs_reuse_memory_in_process_and_in_started_programs(start):
    """4 MiB a result are 1024 fresh pages each time, unless malloc keeps them.

    glibc passes over freed blocks until their neighbours are taken: in 200 runs one to eight results lay in
    fresh pages before the first that did not, and none after it. The heap has no such beginning.
    """

    def faults(activate: str, results_before: int, **variables: str) -> int:
        code = FAULTS.format(activate=activate, before=results_before)
        return int(start(["-c", code], **variables).stdout)

    activate = "import mix_core.device as d; d.activate('cpu')"
    variables = {name: str(decision.value) for name, decision in cpu.malloc_decisions().items()}
    assert faults("", 30) > 500
    assert faults(activate, 30) < 50
    assert faults("", 30, **variables) < 50
    assert faults(f"{activate}; from mix_core.device import native_build; native_build.load()", 1) < 50


HELD = """
import os
import mix_core.device as device
device.activate("cpu", allow_reexec={allowed})
with open("/proc/self/environ", "rb") as started:
    print("GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in started.read().decode().split("\\0"))
print(os.environ["GLIBC_TUNABLES"])
"""


@pytest.mark.skipif("GLIBC_TUNABLES" not in cpu.malloc_decisions(), reason="no pages of 2 MiB to be had")
def test_large_pages_are_had_where_a_command_starts_and_done_without_elsewhere(start):
    held = {allowed: start(["-c", HELD.format(allowed=allowed)]).stdout.split() for allowed in (True, False)}
    assert held == {True: ["True", "glibc.malloc.hugetlb=1"], False: ["False", "glibc.malloc.hugetlb=1"]}
    own = start(["-c", HELD.format(allowed=True)], GLIBC_TUNABLES="glibc.malloc.hugetlb=0").stdout.split()
    assert own == ["False", "glibc.malloc.hugetlb=0"]


def test_float32_and_float64_are_what_computes():
    profile = device.activate("cpu").profile
    assert [profile.supports_dtype(d) for d in ("float32", "float64", "bfloat16", "float16")] == [
        True,
        True,
        False,
        False,
    ]
    import paddle

    half = paddle.ones([2, 2], dtype="bfloat16")
    with pytest.raises(RuntimeError):
        paddle.matmul(half, half)


def test_memory_is_that_of_the_process_and_the_peak_can_start_again():
    runtime = device.activate("cpu").runtime
    ballast = np.ones(64 << 20, dtype=np.uint8)
    high = runtime.memory_stats()
    assert high["peak"] >= high["allocated"] > ballast.nbytes
    del ballast
    runtime.empty_cache()
    runtime.reset_peak_memory()
    low = runtime.memory_stats()
    assert low["peak"] < high["peak"] - (32 << 20)


def test_random_state_comes_back_and_is_plain_arrays():
    runtime = device.activate("cpu").runtime
    import paddle

    paddle.seed(11)
    paddle.rand([3])
    state = runtime.get_random_state()
    assert {name: (array.dtype.name, array.ndim) for name, array in state.items()} == {
        "header": ("int64", 1),
        "engine": ("uint8", 1),
    }
    first = paddle.rand([5]).numpy()
    runtime.set_random_state(state)
    assert np.array_equal(paddle.rand([5]).numpy(), first)


def test_there_is_one_cpu(start):
    done = start(["-c", "import mix_core.device as d; d.activate('cpu:1')"])
    assert "BadInputError: device cpu:1 does not exist" in done.stderr
    with pytest.raises(DeviceError, match="the host is one device"):
        cpu.mix_runtime(1)
