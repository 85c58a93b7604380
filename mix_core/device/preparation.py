"""Choose a device and compose its settings, real or simulated: what activation, explain and run share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from mix_core.device import choice as choosing
from mix_core.device import composition, discovery, native, ranks, simulate, simulate_build
from mix_core.device.names import AUTO
from mix_core.device.profile import DeviceProfile
from mix_core.device.values import Workload
from mix_core.errors import BadInputError

HOST = "cpu"
"""The device whose settings lie beneath a simulated one, and whose kernels serve it."""


INSTALL = "install one as the README of the device's plugin says"


@dataclass(frozen=True)
class Prepared:
    """A device and its composed settings, before anything is applied."""

    choice: choosing.Choice
    composed: composition.Composition
    host: choosing.Candidate | None = None
    """The host's own plugin, where the device is simulated."""


def prepare(
    name: str | None,
    config_device: str | None,
    workload: Workload,
    user: Mapping[str, str],
    *,
    needs_device: bool = True,
    build: bool = True,
) -> Prepared:
    """Choose and compose. With `workload.simulate` the device need not be here, and the simulator is built
    where `build` says so.

    Raises DeviceError and BadInputError as choosing, composing and simulating do.
    """
    if not workload.simulate:
        choice = choosing.choose(name, config_device, user, needs_device=needs_device)
        if needs_device:
            refuse_other_paddle(choice.candidate.profile)
        choice = _for_rank(choice, choice.candidate.profile, user)
        return Prepared(choice, composition.compose(choice.candidate, workload, user))
    simulation = simulate.requested(user)
    wanted, origin = choosing.requested(name, config_device, user)
    if wanted.name in (AUTO, HOST):
        raise BadInputError(
            f"{wanted.name} (chosen by {origin}) cannot be simulated: name the device to simulate, for "
            "example with --device, or leave out --simulate"
        )
    choice = choosing.choose(name, config_device, user, needs_device=False)
    simulation = simulate.visible(simulation, choice.candidate.profile, user)
    choice = _for_rank(choice, simulate.simulated(choice.candidate.profile), user)
    if choice.index >= simulation.devices:
        raise BadInputError(
            f"device {choice.name}:{choice.index} does not exist: {simulation.devices} simulated; set "
            f"{simulate.DEVICES} for more"
        )
    if build:
        refuse_other_paddle(choice.candidate.profile)
        simulate.refuse_if_impossible(user)
    root = (simulate_build.library() if build else simulate_build.place()).parent
    host = choosing.load_candidate(choosing.find_entry(HOST, discovery.find_entries(environ=user)))
    profile = choice.candidate.profile
    support = composition.operator_support(choice.candidate)
    candidate = dataclasses.replace(choice.candidate, profile=simulate.simulated(profile))
    mine = {key: value for key, value in user.items() if key not in simulate.DERIVED}
    composed = composition.compose(
        candidate,
        workload,
        mine,
        beneath=host,
        above=simulate.layer(simulation, profile, support, str(root)),
    )
    return Prepared(dataclasses.replace(choice, candidate=candidate), composed, host)


def _for_rank(choice: choosing.Choice, profile: DeviceProfile, user: Mapping[str, str]) -> choosing.Choice:
    """The choice with the device that a launcher gave to this rank.

    Raises BadInputError where the user named an index beside it.
    """
    index = ranks.own_device(profile, user)
    if index is None:
        return choice
    if choice.index_given and choice.index != index:
        raise BadInputError(
            f"device {choice.name}:{choice.index} was asked for, and the launcher gives this rank "
            f"{choice.name}:{index}; name the device without its index"
        )
    return dataclasses.replace(choice, index=index)


def refuse_other_paddle(profile: DeviceProfile) -> None:
    """Raise BadInputError where no Paddle is installed, or not one that the device's plugin is meant for."""
    identity, wanted = native.paddle_identity(), profile.paddle_versions
    needs = f"{wanted.bounds} ({wanted.source})" if wanted else "any version"
    if identity is None:
        raise BadInputError(f"device {profile.name} needs Paddle, {needs}, and none is installed; {INSTALL}")
    version = identity.partition("+")[0]
    # a version of zeros is a build of the day, which says nothing of what it holds
    if wanted is not None and version.strip("0.") and not wanted.contains(version):
        raise BadInputError(f"device {profile.name} needs Paddle {needs}, found {version}; {INSTALL}")
