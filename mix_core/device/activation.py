"""Activate one device for this process: choose it, put its settings in place, import paddle, start it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shlex
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy

from mix_core.device import choice as choosing
from mix_core.device import composition, custom_libraries, defaults, discovery, settings
from mix_core.device import simulate as simulation
from mix_core.device.discovery import describe
from mix_core.device.names import AUTO
from mix_core.device.preparation import prepare
from mix_core.device.profile import DeviceProfile
from mix_core.device.runtime import DeviceRuntime
from mix_core.device.values import Kernel, KernelRequest, NoKernel, Workload
from mix_core.errors import DeviceError, MixError

REEXEC_VARIABLE = "MIX_REEXECUTED"
"""The process that started itself again; exec keeps the number, and children have others."""
Kernels = Literal["auto", "reference"]

_PADDLE_WRITES = {"OMP_NUM_THREADS": ("1",), "CUSTOM_DEVICE_ROOT": ("", "paddle_custom_device")}
"""What `import paddle` puts into the environment where nothing was set; of a path the last part."""
_PADDLE_NOISE = ("WARNING: OMP_NUM_THREADS set to", "PLEASE USE OMP_NUM_THREADS WISELY")


@dataclass
class Activation:
    """The device in use by this process. There is at most one; see `active`."""

    name: str
    index: int
    place: str
    """The device as `paddle.set_device` took it."""
    profile: DeviceProfile
    settings: list[settings.SettingRow]
    workload: Workload
    origin: str
    distribution: str
    kernels: Kernels
    manager: pluggy.PluginManager = field(repr=False)
    host: choosing.Candidate | None = field(repr=False)
    """The host's plugin, whose kernels serve a simulated device; None on a real one."""
    _runtime: DeviceRuntime = field(repr=False)
    _served: dict[tuple[str, KernelRequest], Kernel | NoKernel] = field(default_factory=dict, repr=False)

    @property
    def runtime(self) -> DeviceRuntime:
        _refuse_in_child(self)
        return self._runtime

    def kernel(self, op: str, request: KernelRequest) -> Kernel | None:
        """Ask the plugins for a kernel; None means the reference. `ops` keeps the answer, so this is rare."""
        found = self.serving(op, request)
        return found if isinstance(found, Kernel) else None

    def serving(self, op: str, request: KernelRequest) -> Kernel | NoKernel:
        """The kernel for a request, or why the reference runs."""
        _refuse_in_child(self)
        asked_for = NoKernel("kernels=reference was asked for")
        found = asked_for if self.kernels == "reference" else self._ask(op, request)
        self._served[op, request] = found
        return found

    def _ask(self, op: str, request: KernelRequest) -> Kernel | NoKernel:
        try:
            found = self.manager.hook.mix_kernel(op=op, request=request, profile=self.profile)
        except MixError:
            raise
        except Exception as error:
            raise DeviceError(
                f"mix_kernel({op!r}) of device {self.name!r} failed: {describe(error)}"
            ) from error
        if found is None:
            found = NoKernel(f"the plugin of {self.name} has no kernel for this")
        if not isinstance(found, (Kernel, NoKernel)):
            raise DeviceError(
                f"mix_kernel({op!r}) of device {self.name!r} returned {found!r}, "
                "not a Kernel, a NoKernel or None"
            )
        return found if self.host is None else self._without_silicon(self.host, found, op, request)

    def _without_silicon(
        self, host: choosing.Candidate, found: Kernel | NoKernel, op: str, request: KernelRequest
    ) -> Kernel | NoKernel:
        """What serves the operator on a simulated device: what needs no chip, else the host's kernel."""
        if isinstance(found, Kernel) and not found.needs_silicon:
            return found
        if os.environ.get(simulation.KERNELS) == "reference":
            return NoKernel(f"{simulation.KERNELS}=reference was asked for")
        served = discovery.new_manager()
        served.register(host.plugin.module)
        kernel = served.hook.mix_kernel(op=op, request=request, profile=host.profile)
        of_chip = f"{found.name} needs the chip" if isinstance(found, Kernel) else found.reason
        if not isinstance(kernel, Kernel):
            why = "the host has no kernel for this" if kernel is None else kernel.reason
            return NoKernel(f"simulated: {of_chip}; {why}")
        return dataclasses.replace(kernel, reason=f"simulated: {of_chip}; {kernel.name} stands in")

    def to_json(self) -> dict[str, Any]:
        """What `run.json` records of the device."""
        used = [
            {
                "op": op,
                "dtype": request.dtype,
                "kernel": found.name if isinstance(found, Kernel) else "reference",
                "reason": found.reason,
            }
            for (op, request), found in self._served.items()
        ]
        return {
            "name": self.name,
            "index": self.index,
            "place": self.place,
            "vendor": self.profile.vendor,
            "distribution": self.distribution,
            "origin": self.origin,
            "simulated": self.host is not None,
            "kernels_choice": self.kernels,
            "kernels": used,
            "settings": settings.rows_to_json(self.settings),
        }


_current: Activation | None = None
_forked = False


def active() -> Activation | None:
    """The activation of this process, or None. Raises DeviceError in a child forked after activation."""
    if _current is not None:
        _refuse_in_child(_current)
    return _current


def activate(
    name: str | None = None,
    *,
    workload: Workload | None = None,
    simulate: bool | None = None,
    config_device: str | None = None,
    kernels: Kernels | None = None,
    allow_reexec: bool = False,
) -> Activation:
    """Make a device this process's device; imports paddle.

    `name` is `NAME`, `NAME:INDEX` or `auto`; None leaves the choice to MIX_DEVICE, then `config_device`,
    then auto.
    `allow_reexec` is for command line entry points only: the process may start itself again, once, to put
    process-stage settings in place. The same device again returns the current activation.

    Raises DeviceError when the device is unknown or unusable, when another one is active, and when paddle was
    imported before its settings were in place.
    """
    global _current
    workload = workload or Workload()
    simulated = simulation.wanted(workload) if simulate is None else simulate
    workload = dataclasses.replace(workload, simulate=simulated)
    if _current is not None:
        return _again(_current, name, config_device, kernels, simulate)
    user = settings.user_environment(_user_side())
    prepared = prepare(name, config_device, workload, user)
    choice, composed = prepared.choice, prepared.composed
    for line in (*choice.skipped, *composed.warnings):
        print(f"mix-core: {line}", file=sys.stderr)
    _apply_before_import(choice, composed.rows, allow_reexec)
    paddle = _import_paddle(choice.name)
    runtime = _start(paddle, choice, composed)
    _current = Activation(
        name=choice.name,
        index=choice.index,
        place=choice.place,
        profile=choice.candidate.profile,
        settings=composed.rows,
        workload=workload,
        origin=choice.origin,
        distribution=choice.candidate.plugin.entry.label,
        kernels=kernels or "auto",
        manager=composed.manager,
        host=prepared.host,
        _runtime=runtime,
    )
    os.register_at_fork(after_in_child=_mark_forked)
    if simulated:
        simulation.control()  # or the library has not been loaded, and the device is not what it says
    return _current


def ensure_active() -> Activation:
    """The current activation, or that of the default device when nothing was activated yet."""
    return active() or activate()


def _again(
    current: Activation,
    name: str | None,
    config_device: str | None,
    kernels: Kernels | None,
    simulate: bool | None,
) -> Activation:
    """A second call: nothing for the same device, an error for another."""
    _refuse_in_child(current)
    if simulate not in (None, current.workload.simulate):
        kind = "simulated" if current.workload.simulate else "real"
        raise DeviceError(
            f"simulate={simulate} was asked for, but {current.place} is active as a {kind} device; one "
            "process has one device: start another process"
        )
    if kernels not in (None, current.kernels):
        raise DeviceError(
            f"kernels={kernels!r} was asked for, but {current.place} is active with {current.kernels!r}"
        )
    if name is None and config_device is None:
        return current
    wanted, _ = choosing.requested(name, config_device, os.environ)
    if wanted.name in (current.name, AUTO) and wanted.index in (None, current.index):
        return current
    raise DeviceError(
        f"device {wanted} was asked for, but this process already uses {current.place}; "
        "one process has one device: start another process"
    )


def _mark_forked() -> None:
    global _forked
    _forked = True


def _refuse_in_child(current: Activation) -> None:
    if _forked:
        raise DeviceError(
            f"process {os.getpid()} was forked after {current.place} came into use and cannot use it; start "
            "processes with the 'spawn' method, or use the device only in the parent"
        )


def _user_side() -> dict[str, str]:
    """os.environ, less what `import paddle` wrote there itself."""
    environ = dict(os.environ)
    if "paddle" in sys.modules:
        initial = settings.initial_environment()
        for name, written in _PADDLE_WRITES.items():
            if name not in initial and os.path.basename(environ.get(name, "")) in written:
                environ.pop(name, None)
    return environ


def _apply_before_import(
    choice: choosing.Choice, rows: list[settings.SettingRow], allow_reexec: bool
) -> None:
    """Put process and import settings in place, starting the process again if that is needed and allowed."""
    initial = settings.initial_environment()
    late = [row for row in settings.not_held(rows, ("process",), initial) if row.in_process is None]
    if "paddle" in sys.modules:
        late = _required(late) + settings.not_held(rows, ("import",), _as_imported(rows))
        if late:
            raise DeviceError(_too_late(choice, rows, late, "paddle is already imported"))
        _run_in_process(rows, initial)
        return
    target = settings.exported(rows, os.environ)
    if late and allow_reexec and os.environ.get(REEXEC_VARIABLE) != str(os.getpid()):
        _reexecute(target)
    late = _required(late)
    if late:
        raise DeviceError(_too_late(choice, rows, late, "they are read when a process starts"))
    custom_libraries.refuse_if_broken(target)
    settings.apply(target, os.environ)
    _run_in_process(rows, initial)


def _required(rows: list[settings.SettingRow]) -> list[settings.SettingRow]:
    return [row for row in rows if row.required]


def _as_imported(rows: list[settings.SettingRow]) -> dict[str, str]:
    """What an imported paddle has seen: its own flags tell; for other variables os.environ does."""
    import paddle

    found = dict(os.environ)
    for row in rows:
        if row.stage != "import" or not row.name.startswith("FLAGS_") or row.value is None:
            continue
        try:
            actual = paddle.get_flags([row.name])[row.name]
        except ValueError:
            continue  # not one of core's flags; the device's own library reads the variable
        found[row.name] = row.value if settings.flag_holds(row.value, actual) else str(actual)
    return found


def _run_in_process(rows: list[settings.SettingRow], initial: dict[str, str]) -> None:
    for row in settings.not_held(rows, ("process",), initial):
        if row.in_process is not None:
            row.in_process()


def _too_late(
    choice: choosing.Choice, rows: list[settings.SettingRow], late: list[settings.SettingRow], why: str
) -> str:
    seen = _as_imported(late) if "paddle" in sys.modules else dict(os.environ)
    found = {"process": settings.initial_environment(), "import": seen}
    parts = [f"{r.name} is {found[r.stage].get(r.name, 'unset')}, wanted {r.value or 'unset'}" for r in late]
    words = sys.orig_argv
    simulate = " --simulate" if any(row.name == simulation.VARIABLE for row in rows) else ""
    command = "CMD..." if any("\n" in word for word in words) else shlex.join(words)  # one line, whatever ran
    return (
        f"device {choice.name}: {why}, and these settings are not in place: {'; '.join(parts)}. Activate "
        "before the first `import paddle`, or start with: "
        f"mix-core run --device {choice.name}{simulate} -- {command}"
    )


def _reexecute(target: dict[str, str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    environ = {**target, REEXEC_VARIABLE: str(os.getpid())}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)


def _import_paddle(name: str) -> Any:
    """Import paddle without its words about OMP_NUM_THREADS, set on purpose, and about a missing ccache."""
    noise = io.StringIO()
    before = dict(os.environ)
    try:
        with contextlib.redirect_stderr(noise), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No ccache found")
            import paddle
    except Exception as error:  # a library that does not load raises ValueError, OSError, RuntimeError...
        raise DeviceError(
            f"device {name!r}: paddle cannot be imported: {describe(error)}; "
            f"`mix-core doctor {name}` shows more"
        ) from error
    finally:
        for line in noise.getvalue().splitlines():
            if not line.startswith(_PADDLE_NOISE):
                print(line, file=sys.stderr)
    settings.note_writes(before, os.environ)
    return paddle


def _start(paddle: Any, choice: choosing.Choice, composed: composition.Composition) -> DeviceRuntime:
    """Set the device and the runtime settings, and ask the plugin for its runtime."""
    try:
        paddle.set_device(choice.place)
        for row in composed.rows:
            if row.stage == "runtime" and row.value is not None:
                _set_flag(paddle, row)
        runtime = composed.manager.hook.mix_runtime(index=choice.index)
    except MixError:
        raise
    except Exception as error:
        raise DeviceError(f"device {choice.place} does not start: {describe(error)}") from error
    if not isinstance(runtime, DeviceRuntime):
        raise DeviceError(f"mix_runtime of device {choice.name!r} returned {runtime!r}, not a DeviceRuntime")
    return runtime


def _set_flag(paddle: Any, row: settings.SettingRow) -> None:
    try:
        known = paddle.get_flags([row.name])[row.name]
    except ValueError:
        if row.source == defaults.SOURCE:  # meant for every Paddle, and this one has no such flag
            return
        raise
    paddle.set_flags({row.name: settings.flag_value(str(row.value), known)})
