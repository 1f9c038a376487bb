"""What surrounds the program: packages, git, notebook, network. Looks only; never installs, never fetches."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from utils.errors import InputError
from utils.logs import LOGGER
from utils.paths import ROOT

GIT_SECONDS = 5


class GitRepo:
    """The git clone around a folder, read from its files without running git.

    Attributes:
        root: top folder of the clone, None outside one.
        gitdir: its .git folder.
    """

    def __init__(self, path: str | Path | None = None):
        start = Path(path or ROOT).resolve()
        self.root = next((folder for folder in (start, *start.parents) if (folder / ".git").exists()), None)
        self.gitdir = self._find_gitdir()

    @property
    def is_repo(self) -> bool:
        """Whether the folder lies in a clone."""
        return self.gitdir is not None

    @property
    def branch(self) -> str | None:
        """Name of the branch, None outside a clone or on no branch."""
        head = self._read("HEAD")
        return head.removeprefix("ref: refs/heads/") if head and head.startswith("ref: ") else None

    @property
    def commit(self) -> str | None:
        """Hash of the commit that is checked out."""
        head = self._read("HEAD")
        if not head or not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        packed = self._read("packed-refs") or ""
        found = re.search(rf"^([0-9a-f]+) {re.escape(name)}$", packed, re.MULTILINE)
        return self._read(name) or (found[1] if found else None)

    @property
    def origin(self) -> str | None:
        """Address of the remote named origin, without a password in it."""
        section = re.search(r'\[remote "origin"\]([^\[]*)', self._read("config") or "")
        found = re.search(r"^\s*url\s*=\s*(\S+)", section[1], re.MULTILINE) if section else None
        return re.sub(r"//[^/@]*@", "//", found[1]) if found else None

    def _find_gitdir(self) -> Path | None:
        if self.root is None:
            return None
        marker = self.root / ".git"
        if marker.is_dir():
            return marker
        text = marker.read_text(errors="replace")  # a worktree: the file names the folder
        return (self.root / text.removeprefix("gitdir:").strip()).resolve() if text.startswith("gitdir:") else None

    def _read(self, name: str) -> str | None:
        if self.gitdir is None:
            return None
        shared = self.gitdir / "commondir"
        folders = [self.gitdir]
        if shared.is_file():
            folders.append((self.gitdir / shared.read_text().strip()).resolve())
        for folder in folders:
            if (folder / name).is_file():
                return (folder / name).read_text(errors="replace").strip()
        return None


def check_git_info(path: str | Path = ".") -> dict[str, str | None]:
    """Return remote, branch and commit of the clone around ``path``; all None outside one."""
    repo = GitRepo(path)
    return {"remote": repo.origin, "branch": repo.branch, "commit": repo.commit}


def git_describe(path: str | Path = ROOT) -> str:
    """Return git's description of the clone, '' when there is none."""
    git = shutil.which("git")
    if not git or not (Path(path) / ".git").exists():
        return ""
    command = [git, "-C", str(path), "describe", "--tags", "--long", "--always"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def check_git_status(repo: str = "ultralytics/yolov5", branch: str = "master") -> None:
    """Log the clone's commit at debug level; the remote is not asked."""
    info = check_git_info(ROOT)
    LOGGER.debug("git: commit %s on %s", info["commit"], info["branch"])


def check_version(  # noqa: PLR0913  (inherited signature)
    current: str = "0.0.0",
    minimum: str = "0.0.0",
    name: str = "version ",
    pinned: bool = False,
    hard: bool = False,
    verbose: bool = False,
) -> bool:
    """Return whether ``current`` is at least ``minimum`` (equal with ``pinned``).

    Raises:
        InputError: it is not, and ``hard`` is set.
    """
    found, wanted = version_numbers(current), version_numbers(minimum)
    fits = found == wanted if pinned else found >= wanted
    message = f"{name}{current} is installed, {'exactly' if pinned else 'at least'} {minimum} is needed"
    if not fits and hard:
        raise InputError(message)
    if not fits and verbose:
        LOGGER.warning("WARNING %s", message)
    return fits


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version without trailing zeros: '2.6.0+cu124' gives (2, 6)."""
    leading = re.match(r"\d+(\.\d+)*", version.strip().removeprefix("v"))
    numbers = [int(part) for part in leading[0].split(".")] if leading else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def check_python(minimum: str = "3.10.0") -> bool:
    """Return whether this Python is new enough; raises InputError when it is not."""
    return check_version(platform.python_version(), minimum, "Python ", hard=True)


def check_requirements(
    requirements: str | Path | Iterable[str] = ROOT / "requirements.txt",
    exclude: Iterable[str] = (),
    install: bool = True,
    cmds: str = "",
    **_: object,
) -> bool:
    """Return whether packages are installed in the versions asked for; says which are not, and installs nothing.

    Args:
        requirements: requirements file, one requirement as text, or several.
        exclude: package names to pass over.
        install: accepted for code written for YOLOv5, changes nothing.
        cmds: likewise.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    lines = _requirement_lines(requirements)
    excluded = {name.lower() for name in exclude}
    missing = []
    for line in lines:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue  # pip's own options (-r, --extra-index-url)
        if wanted.name.lower() in excluded or (wanted.marker and not wanted.marker.evaluate()):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            found = ""
        if not found or not wanted.specifier.contains(found, prereleases=True):
            missing.append(line)
    if missing:
        quoted = " ".join(f'"{line}"' for line in missing)
        LOGGER.warning("WARNING missing or too old: %s; install with: pip install %s", ", ".join(missing), quoted)
    return not missing


def _requirement_lines(requirements: str | Path | Iterable[str]) -> list[str]:
    if isinstance(requirements, Path) or (isinstance(requirements, str) and requirements.endswith(".txt")):
        requirements = Path(requirements).read_text(encoding="utf-8").splitlines()
    elif isinstance(requirements, str):
        requirements = [requirements]
    plain = (re.sub(r"(^|\s)#.*", "", line).strip() for line in requirements)
    return [line for line in plain if line]


def check_font(font: str | Path = "Arial.ttf", progress: bool = False) -> None:
    """Do nothing: text on pictures uses fonts that are installed already, none is fetched."""


def check_online() -> bool:
    """Return whether the internet can be reached (two tries of a second each)."""
    for host in ("1.1.1.1", "8.8.8.8"):
        try:
            socket.create_connection((host, 53), timeout=1).close()
            return True
        except OSError:
            continue
    return False


def check_imshow(warn: bool = False) -> bool:
    """Return whether pictures can be shown in a window."""
    import cv2
    import numpy as np

    try:
        if is_docker() or is_jupyter() or (sys.platform.startswith("linux") and not _has_display()):
            raise OSError("this environment has no screen")
        cv2.imshow("test", np.zeros((1, 1, 3), np.uint8))
        cv2.waitKey(1)
        cv2.destroyAllWindows()
        cv2.waitKey(1)
    except (OSError, cv2.error) as error:
        if warn:
            LOGGER.warning("WARNING pictures cannot be shown: %s", " ".join(str(error).split()))
        return False
    return True


def imshow(path: str, im: object) -> None:
    """Show a BGR image in a window named ``path``."""
    import cv2

    cv2.imshow(path.encode("unicode_escape").decode(), im)


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def is_docker() -> bool:
    """Return whether this process runs in a Docker container."""
    return Path("/.dockerenv").exists()


def is_colab() -> bool:
    """Return whether this is a Google Colab notebook."""
    return "google.colab" in sys.modules


def is_kaggle() -> bool:
    """Return whether this is a Kaggle notebook."""
    return os.environ.get("PWD") == "/kaggle/working" and "kaggle.com" in os.environ.get("KAGGLE_URL_BASE", "")


def is_jupyter() -> bool:
    """Return whether this code runs in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ in {"ZMQInteractiveShell", "Shell"}


is_notebook = is_jupyter
