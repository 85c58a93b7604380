"""Which process of a job this one is, as Paddle's launcher says in its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mix_core.device.profile import DeviceProfile
from mix_core.errors import BadInputError

RANK, RANKS = "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"


@dataclass(frozen=True)
class Job:
    """A process among those of its job; without a launcher it is the only one."""

    rank: int = 0
    ranks: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes what the job leaves."""
        return self.rank == 0


def job_of(environ: Mapping[str, str]) -> Job:
    """Read the launcher's variables. Raises BadInputError where they contradict each other."""
    written = environ.get(RANK, "0"), environ.get(RANKS, "1")
    if not all(text.isdigit() for text in written) or not int(written[0]) < int(written[1]):
        raise BadInputError(
            f"{RANK}={written[0]} and {RANKS}={written[1]} are no rank of a job; a launcher sets both, else "
            "unset them"
        )
    return Job(int(written[0]), int(written[1]))


def own_device(profile: DeviceProfile, environ: Mapping[str, str]) -> int | None:
    """The index of the device that the launcher gave to this rank; None where there is no launcher.

    Raises BadInputError for a variable that is no index.
    """
    if job_of(environ).ranks == 1:
        return None
    variable = profile.launcher_variable
    given = environ.get(variable, "") if variable is not None else ""
    if given and not given.isdigit():
        raise BadInputError(f"{variable}={given} is no index of a device; the launcher gives each rank one")
    return int(given) if given else None
