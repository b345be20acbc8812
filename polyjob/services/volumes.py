"""The volumes that the administrator offers to jobs, and those that a job's config names."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from polyjob.errors import Problem
from polyjob.jobconfig.volumes import DATA_REFS, volume_list, volume_names
from polyjob.settings import Settings
from runners.capabilities import SupportLevel
from runners.registry import runner_facts
from runners.volumes import Volume


def usable_volumes(settings: Settings, runner: str) -> dict[str, Volume]:
    """Return the volumes that jobs of a runner can use, by their names."""
    facts = runner_facts(runner)
    support = facts.support.get(DATA_REFS)
    if support is not None and support.level is not SupportLevel.HONOURED:
        return {}
    return {volume.name: volume for volume in settings.volumes if volume.is_claim == facts.uses_claims}


def volumes_of(config: Mapping[str, Any], settings: Settings, runner: str) -> tuple[Volume, ...]:
    """Return the volumes of a job, without those that it cannot have."""
    names = volume_names(config)
    usable = usable_volumes(settings, runner) if names else {}
    return tuple(usable[name] for name in names if name in usable)


def list_volumes(settings: Settings) -> list[tuple[Volume, dict[str, str]]]:
    """Return each volume that jobs can use, with its path in jobs by their runner."""
    usable = {runner: usable_volumes(settings, runner) for runner in settings.runner_names}
    listed = [
        (volume, {runner: path_in_job(volume, runner) for runner in usable if volume.name in usable[runner]})
        for volume in settings.volumes
    ]
    return [(volume, paths) for volume, paths in listed if paths]


def path_in_job(volume: Volume, runner: str) -> str:
    """Return the path of a volume in the jobs of a runner."""
    return volume.source if runner_facts(runner).is_local else volume.mount_path


def problems(config: Mapping[str, Any], settings: Settings, runner: str, pointer: str) -> list[Problem]:
    """Return a problem for each volume of a config that its job cannot have."""
    path, names = volume_list(config)
    usable = usable_volumes(settings, runner) if names else {}
    return [
        Problem(f"{pointer}/{path.replace('.', '/')}/{index}", _problem_of(name, settings, runner))
        for index, name in enumerate(names)
        if name not in usable
    ]


def start_fault(config: Mapping[str, Any], settings: Settings, runner: str) -> str | None:
    """Return why a job cannot have a volume any more, for example because the setting was changed; None if it can."""
    names = volume_names(config)
    usable = usable_volumes(settings, runner) if names else {}
    missing = next((name for name in names if name not in usable), None)
    return None if missing is None else _problem_of(missing, settings, runner)


def _problem_of(name: str, settings: Settings, runner: str) -> str:
    usable = usable_volumes(settings, runner)
    if not usable:
        kind = "claim" if runner_facts(runner).uses_claims else "folder"
        advice = f"an administrator names a {kind} in `POLYJOB_VOLUMES`"
        return f"There is no volume `{name}`: this server has none for the {runner} runner; {advice}."
    return f"There is no volume `{name}` for the {runner} runner; it has: {', '.join(usable)}."


def missing_folders(settings: Settings) -> list[str]:
    """Return a sentence for each volume whose folder is missing on this machine. Looks at the folders.

    The Engine of the Docker runner may be on another machine, or polyjob itself in a container. So without the process
    runner, a folder that is missing here may not be needed.
    """
    is_needed_here = any(runner_facts(name).is_local for name in settings.runner_names)
    if not is_needed_here and "docker" not in settings.runner_names:
        return []
    where = "" if is_needed_here else " on this machine; jobs need it on the machine of the Docker Engine"
    return [
        f"The folder {volume.source} of the volume `{volume.name}` {fault}{where}."
        for volume in settings.volumes
        if not volume.is_claim and (fault := _fault_of(volume.source))
    ]


def _fault_of(folder: str) -> str | None:
    try:
        return None if stat.S_ISDIR(os.stat(folder).st_mode) else "is not a folder"
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
