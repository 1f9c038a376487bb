"""Bring a built-in data set into its place: archives by hand or from the network, then the conversion."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.data.archives import LEFT_OUT, unpack
from utils.data.converters.job import MARK, PARTIAL_SUFFIX, SPLITS, Job, Report, is_filled, mark_unfinished, unfinished
from utils.data.converters.stock import ARCHIVE_SUFFIXES, STOCK, Archive, StockSet
from utils.errors import InputError, MissingFileError, WorkError
from utils.logs import LOGGER

DOCS = "docs/datasets.md"
_GIGA = 10**9
_MOST_TIMES = 5  # an archive may be larger than it is said to be, at least 1 GB
_SPACE_FACTOR = 2.1  # an archive and what comes out of it


def prepare(  # noqa: PLR0913  (options by name)
    name: str,
    root: str | Path,
    names: Mapping[int, str],
    *,
    splits: Sequence[str] = SPLITS,
    fetch: bool = False,
    sha256: Mapping[str, str] | None = None,
) -> Report:
    """Convert a built-in data set at ``root``; what is there already is left alone.

    Archives that lie in ``root`` are unpacked there. Of several processes one converts, the others wait for it. A
    killed conversion leaves hidden folders and a mark; the next call clears up and goes on.

    Args:
        name: key of STOCK.
        root: folder of the data set; nothing is written outside.
        names: class id -> name; other classes are skipped and counted.
        splits: whose archives are looked for.
        fetch: download archives that are missing.
        sha256: file name -> checksum that an archive must have.

    Raises:
        MissingFileError: nothing to convert.
        InputError: no network, a damaged archive, a malformed annotation file, too little space on the disk.
        WorkError: the disk filled up or refused.
    """
    stock, root = STOCK[name], Path(root)
    try:
        if fetch:
            root.mkdir(parents=True, exist_ok=True)
        if not root.is_dir():
            needed = [archive for archive in stock.archives if _is_needed(archive, root, splits)]
            raise MissingFileError(f"{name}: {root} is no folder; {_what_to_fetch(stock, needed, root)}")
        with claim(root):
            job = Job(name, root, names)
            try:
                missing = _gather(job, stock, splits, fetch, sha256 or {})
                importlib.import_module(stock.module).convert(job)
                job.commit()
            finally:
                job.close()
                if fetch:
                    with contextlib.suppress(OSError):
                        root.rmdir()  # still empty when nothing could be fetched
    except MissingFileError:
        raise
    except OSError as error:
        place = error.filename or root
        raise WorkError(
            f"{name}: {place}: {error.strerror or error}; the conversion goes on when started again"
        ) from None
    if not (job.report.made or job.report.kept):
        raise MissingFileError(
            f"{name}: nothing to convert below {root}; {_what_to_fetch(stock, missing or stock.archives, root)}"
        )
    for line in job.report.lines():
        LOGGER.info("%s", line)
    return job.report


def needs_conversion(name: str, root: Path, splits: Sequence[str]) -> list[str]:
    """Return the splits whose images may be in place but whose conversion has not ended."""
    if unfinished(root):
        return list(splits)
    pending = STOCK[name].pending
    return [
        split
        for split in splits
        if any((root / source).exists() and not is_filled(root / labels) for labels, source in pending.get(split, ()))
    ]


def unpack_whole(archive: Path, root: Path, into: str = ".", strip: str = "") -> None:
    """Unpack an archive to a hidden folder of ``root``, then move what is in it to its place, file by file or faster.

    Args:
        archive: zip or tar file.
        root: folder that nothing leaves.
        into: folder below it.
        strip: top folder whose content goes to ``into``; ignored when the archive has none of that name.
    """
    job = Job(archive.name, root, {})
    try:
        unpack(archive, job.staging, (*LEFT_OUT, MARK))
        top = job.staging / strip
        _merge(top if strip and top.is_dir() else job.staging, root / into, job)
    finally:
        job.close()


def _merge(source: Path, target: Path, job: Job) -> None:
    """Move the content of a folder; folders that exist are merged, files replaced."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        job.check_inside(place)
        if entry.is_dir() and place.is_dir():
            _merge(entry, place, job)
        else:
            os.replace(entry, place)


def _gather(job: Job, stock: StockSet, splits: Sequence[str], fetch: bool, sha256: Mapping[str, str]) -> list[Archive]:
    """Unpack what is needed and fetch it before if allowed; return what is still missing."""
    for unknown in set(sha256) - {archive.key for archive in stock.archives}:
        allowed = ", ".join(archive.key for archive in stock.archives[:4])
        raise InputError(f"{job.name}: 'sha256' names {unknown!r}, which is none of its files ({allowed} ...)")
    needed = [archive for archive in stock.archives if _is_needed(archive, job.root, splits)]
    missing = [archive for archive in needed if _local_file(archive, job.root) is None]
    mark = unfinished(job.root)
    fetched = set(_listed(mark, "fetched"))
    if missing and fetch:
        _check_before_fetching(job, stock, missing)
    elif missing and mark.get("fetching"):
        raise MissingFileError(
            f"{job.root}: a download was not finished, {len(missing)} files are missing: start again with downloads "
            f"allowed, or delete {MARK} there to convert what is there"
        )
    for archive in needed:
        path = _local_file(archive, job.root)
        if path is None and fetch:
            path = _fetch(job, archive, sha256.get(archive.key, ""))
            fetched.add(archive.key)
        elif path is not None and archive.key in sha256:
            _check_sha256(path, sha256[archive.key])
        if path is not None and archive.stem:
            _unpack_marked(job, archive, path, fetched, fetch)
    return [] if fetch else missing


def _listed(mark: Mapping[str, object], key: str) -> list[str]:
    """Return a list of the mark, [] where it holds none."""
    found = mark.get(key)
    return [str(item) for item in found] if isinstance(found, list) else []


def _is_needed(archive: Archive, root: Path, splits: Sequence[str]) -> bool:
    """Whether a split needs an archive that has not been unpacked to its end."""
    mark = unfinished(root)
    if mark.get("unpacking") == archive.key:
        return True
    if archive.key in _listed(mark, "unpacked"):
        return False
    wanted = [places for split, places in archive.serves.items() if split in splits]
    return any(not any(is_filled(root / place) for place in places) for places in wanted)


def _local_file(archive: Archive, root: Path) -> Path | None:
    """Return an archive that lies in the folder it is unpacked to or, when its name is its own, in the data set's."""
    names = [archive.name, *(f"{archive.stem}{suffix}" for suffix in ARCHIVE_SUFFIXES if archive.stem)]
    folders = [root / archive.into, *([] if archive.shared else [root])]
    places = [folder / name for folder in folders for name in names]
    return next((place for place in places if place.is_file()), None)


def _unpack_marked(job: Job, archive: Archive, path: Path, fetched: set[str], fetching: bool) -> None:
    """Unpack one archive so that a killed run knows it has to be done again; one that was fetched is removed then."""
    LOGGER.info("%s: unpacking %s", job.name, path)
    unpacked = _listed(unfinished(job.root), "unpacked")
    facts = {"fetching": fetching, "fetched": sorted(fetched), "unpacked": unpacked}
    mark_unfinished(job.root, job.name, unpacking=archive.key, **facts)
    unpack_whole(path, job.root, archive.into, archive.strip)
    facts["unpacked"] = [*unpacked, archive.key]
    mark_unfinished(job.root, job.name, unpacking="", **facts)
    if archive.key in fetched:
        path.unlink()


def _fetch(job: Job, archive: Archive, sha256: str) -> Path:
    from utils.downloads import MAX_BYTES, DownloadError, fetch

    target = job.root / archive.into / archive.name  # patches of training and validation share names
    job.check_inside(target)
    most = min(MAX_BYTES, int(max(_MOST_TIMES * archive.gigabytes, 1) * _GIGA))
    try:
        return fetch(archive.url, target, sha256=sha256, max_bytes=most)
    except DownloadError as error:
        raise DownloadError(
            f"{error}; put {archive.name} into {target.parent} by hand, then start again ({DOCS})"
        ) from None


def _check_before_fetching(job: Job, stock: StockSet, missing: list[Archive]) -> None:
    """Say what is going to be fetched; refuse what only a person can fetch, and more than the disk takes."""
    by_hand = [archive for archive in missing if not archive.address]
    if by_hand:
        raise MissingFileError(f"{job.name}: {_what_to_fetch(stock, by_hand, job.root)}")
    size = sum(archive.gigabytes for archive in missing)
    free = shutil.disk_usage(job.root).free / _GIGA
    if free < size * _SPACE_FACTOR:
        raise InputError(
            f"{job.name}: about {size:.3g} GB to fetch need {size * _SPACE_FACTOR:.3g} GB with what is unpacked, "
            f"{job.root} has {free:.3g} GB free"
        )
    LOGGER.info("%s: fetching %d files, about %.3g GB, into %s", job.name, len(missing), size, job.root)


def _check_sha256(path: Path, expected: str) -> None:
    checksum = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            checksum.update(chunk)
    if checksum.hexdigest() != expected.lower():
        raise InputError(f"{path}: its SHA-256 is {checksum.hexdigest()}, 'sha256' expects {expected}")


def _what_to_fetch(stock: StockSet, archives: Sequence[Archive], root: Path) -> str:
    """Return one line that says which files belong where."""
    if not archives:
        return f"its sources come from {stock.page or 'its authors'} ({DOCS})"
    files = [f"{a.key} ({a.url})" if a.url else a.key for a in archives[:3]]
    more = f" and {len(archives) - 3} more" if len(archives) > 3 else ""
    return f"put {', '.join(files)}{more} from {stock.page} into {root} ({DOCS})"


@contextlib.contextmanager
def claim(root: Path, leftovers: str = ".*") -> Iterator[None]:
    """Hold the right to convert at ``root`` against other processes, where the system can lock a folder.

    Inside it, hidden folders of conversions that were killed are removed, those whose names begin as ``leftovers``.
    """
    try:
        import fcntl

        handle = os.open(root, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOGGER.info("%s: another process converts it, waiting", root)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # some network folders know no locks
            yield
            return
        _clear_up(root, leftovers)
        yield
    finally:
        os.close(handle)


def _clear_up(root: Path, leftovers: str) -> None:
    """Remove the hidden folders of conversions that were killed."""
    for leftover in root.glob(f"{leftovers}{PARTIAL_SUFFIX}"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)


__all__ = ["MARK", "claim", "needs_conversion", "prepare", "unfinished", "unpack_whole"]
