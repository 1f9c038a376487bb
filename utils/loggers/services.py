"""Which online services a run reports to, and the reporting itself: a service that fails never harms the run."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.errors import InputErrors
from utils.loggers.service import Service, Start
from utils.logs import LOGGER
from utils.yaml_files import read_yaml, write_yaml

SERVICES = ("wandb", "clearml", "comet", "mlflow")
_OWNERS = {name: f"utils.loggers.{name}_log" for name in SERVICES}
VARIABLE = "YOLOV5_LOGGERS"
IDENTITIES = "services.yaml"  # in the run's folder: by what a resumed run is found again
GROUPS = {"train_batch": "Mosaics", "val_batch": "Validation", "labels": "Labels"}  # a picture's stem begins so


class Services:
    """All services of a run as one; what raises in one of them is said once, and that service is left out from then on.

    Args:
        members: those that take part.
        folder: the run's.
    """

    def __init__(self, members: Sequence[Service] = (), folder: str | Path = "."):
        self.members = list(members)
        self.folder = Path(folder)

    def __bool__(self) -> bool:
        return bool(self.members)

    def find(self, name: str) -> Service | None:
        """Return the service of that name, None where it takes no part."""
        return next((member for member in self.members if member.name == name), None)

    def tell(self, what: str, *facts: Any) -> list[Any]:
        """Call the method ``what`` of every service and return what they gave."""
        answers = []
        for member in list(self.members):
            try:
                answers.append(getattr(member, what)(*facts))
            except Exception as error:  # noqa: BLE001 (whatever a service raises must not end the run)
                self.members.remove(member)
                _warn(member.name, error)
        return answers

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Report the finite ones of an epoch's numbers."""
        if self.members:
            finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
            self.tell("scalars", finite, epoch)

    def pictures(self, files: Mapping[str, str | Path], epoch: int) -> None:
        """Report picture files by their titles, in groups; missing ones are left out."""
        groups: dict[str, dict[str, Path]] = {}
        for title, file in files.items() if self.members else ():
            if Path(file).is_file():
                groups.setdefault(group_of(title), {})[title] = Path(file)
        for group, members in groups.items():
            self.tell("pictures", group, members, epoch)

    def close(self, failed: bool = False) -> None:
        """End the run in every service; later calls do nothing."""
        self.tell("close", failed)
        self.members.clear()


def group_of(title: str) -> str:
    """Return the heading under which a picture is shown."""
    return next((group for start, group in GROUPS.items() if title.startswith(start)), "Results")


def open_services(start: Start, resumed: bool = False, include: Sequence[str] = SERVICES) -> Services:
    """Begin a run in every service that the user has configured or named in YOLOV5_LOGGERS.

    Args:
        start: what is told at the beginning.
        resumed: the run goes on, in the services as well where they can.
        include: no others.

    Raises:
        InputErrors: YOLOV5_LOGGERS names something else.
    """
    names = [name for name in wanted() if name in include]
    file = start.folder / IDENTITIES
    identities = read_yaml(file) if resumed and names and file.is_file() else {}
    services = Services([], start.folder)
    for name in names:
        service = _open(name, replace(start, identity=identities.get(name)))
        if service is not None:
            services.members.append(service)
    found = {member.name: member.identity for member in services.members if member.identity}
    if found:
        write_yaml(file, {**identities, **found})
    return services


def unknown_services() -> list[str]:
    """Return what YOLOV5_LOGGERS names that is no service, one line each."""
    names = [part.strip().lower() for part in os.environ.get(VARIABLE, "").split(",") if part.strip()]
    return [
        f"{VARIABLE}: {name!r} is unknown, allowed are none or some of {', '.join(SERVICES)}"
        for name in names if name not in {*SERVICES, "none"}
    ]  # fmt: skip


def wanted() -> list[str]:
    """Return the services that are to be used: those that YOLOV5_LOGGERS names, else those configured and installed.

    Raises:
        InputErrors: the variable names something else.
    """
    named = os.environ.get(VARIABLE)
    if named is None:
        return [name for name in SERVICES if adapter(name).is_configured() and is_installed(name)]
    names = [part.strip().lower() for part in named.split(",") if part.strip()]
    if unknown_services():
        raise InputErrors(unknown_services())
    chosen = [name for name in SERVICES if name in names and not adapter(name).is_off()]
    for name in chosen:
        if not is_installed(name):
            package = adapter(name).PACKAGE.replace("_", "-")
            LOGGER.warning("WARNING %s: %s is not installed (pip install %s)", VARIABLE, name, package)
    return [name for name in chosen if is_installed(name)]


def is_installed(name: str) -> bool:
    """Tell whether the package of a service is there, without importing it."""
    try:
        return importlib.util.find_spec(adapter(name).PACKAGE) is not None
    except (ImportError, ValueError):
        return False


def adapter(name: str) -> Any:
    """Return the module of a service."""
    return importlib.import_module(_OWNERS[name])


def _open(name: str, start: Start) -> Service | None:
    try:
        return adapter(name).open_service(start)
    except Exception as error:  # noqa: BLE001 (whatever a service raises must not end the run)
        _warn(name, error)
        return None


def _warn(name: str, error: Exception) -> None:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    LOGGER.warning("WARNING %s is left out from here on: %s", name, text)
