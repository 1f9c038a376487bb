"""Fetch files by http(s): one function with limits for every download of the project."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import http.client
import importlib.machinery
import os
import re
import tempfile
import time
import urllib.error
import urllib.parse
from collections.abc import Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from utils.errors import printable
from utils.guarded_http import MAX_REDIRECTS, AddressRule, DownloadError, check_resolved, open_url, without_password
from utils.logs import LOGGER, TQDM_BAR_FORMAT

MAX_SECONDS = 6 * 3600.0
MAX_BYTES = 64 << 30
CHUNK = 1 << 20
RELEASED_SHA256 = {"yolov5n.pt": "4f180cf23ba0717ada0badd6c685026d73d48f184d00fc159c2641284b2ac0a3"}
RELEASED_WEIGHTS = frozenset(f"yolov5{size}{kind}.pt" for size in "nsmlx" for kind in ("", "6", "-seg", "-cls"))


def url2file(url: str | Path) -> str:
    """Return the file name at the end of a URL, without its query."""
    return Path(urllib.parse.unquote(restore_url(url)).split("?")[0]).name


def restore_url(url: str | Path) -> str:
    """Return a URL whose ``//`` a Path has turned into ``/``."""
    return re.sub(r"^(\w+):/(?!/)", r"\1://", str(url))


def fetch(  # noqa: PLR0913  (limits by name)
    url: str | Path,
    path: str | Path,
    *,
    sha256: str = "",
    min_bytes: float = 0,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
    progress: bool = True,
    named_by_user: bool = False,
) -> Path:
    """Download ``url`` to ``path``; the file appears there only when it is whole.

    Args:
        url: http or https address, with user name and password if need be; redirects are followed up to five times,
            never from https to http.
        path: target file, replaced if it exists; its folder is made.
        sha256: expected checksum as hex digits, '' to accept any content.
        min_bytes: smaller files are refused.
        max_bytes: larger files are refused.
        max_seconds: longest time for the whole transfer.
        progress: show a progress bar.
        named_by_user: the user typed this address, which then may lie in a private network where the environment
            variable YOLOV5_PRIVATE_ADDRESSES is 1; addresses out of files never may.

    Raises:
        DownloadError: no network, an address inside a private network, a limit, a wrong checksum.
    """
    url, path = restore_url(url), Path(path)
    shown = without_password(url)
    with _download_errors(shown):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_file(path) as (stream, temporary), open_url(url, AddressRule(named_by_user)) as response:
            checksum = _copy(response, stream, shown, max_bytes, time.monotonic() + max_seconds, progress)
            size = stream.tell()
            stream.flush()
            os.fsync(stream.fileno())
            if size <= min_bytes and min_bytes:
                raise DownloadError(f"{shown}: {size} bytes, expected more than {min_bytes:g}")
            if sha256 and checksum != sha256.lower():
                raise DownloadError(f"{shown}: its SHA-256 is {checksum}, expected {sha256}; the file was not kept")
            stream.close()  # Windows moves no open file
            os.replace(temporary, path)
    return path


def fetch_named(url: str | Path, folder: str | Path = ".", *, min_bytes: float = 0) -> str:
    """Download what the user named by its address into a folder, under the name it has there.

    A file of that name that is there already is never replaced; it is used when it holds the very same bytes.

    Args:
        url: as typed by the user; as in ``fetch``.
        folder: where to put it.
        min_bytes: as in ``fetch``.

    Returns:
        The file's path.

    Raises:
        DownloadError: as in ``fetch``; another file of that name is there; or a name that Python would import.
    """
    url = restore_url(url)
    shown, path = without_password(url), Path(folder) / _plain_name(url)
    if not path.exists():
        fetch(url, path, min_bytes=min_bytes, named_by_user=True)
        return str(path)
    with tempfile.TemporaryDirectory() as place:
        try:
            fetched = fetch(url, Path(place) / path.name, min_bytes=min_bytes, named_by_user=True)
        except DownloadError as error:
            raise DownloadError(f"{error}; a file {path} is here: give its name alone to use it") from None
        if not filecmp.cmp(fetched, path, shallow=False):
            raise DownloadError(
                f"{shown}: another file {path} is here already; give its name alone to use it, or move it away"
            )
    LOGGER.info("%s: %s is the same file, it is used", shown, path)
    return str(path)


def _plain_name(url: str) -> str:
    """Return the file name at the end of a URL, refusing what is no name or what Python would import."""
    name = url2file(url)
    importable = name.lower().endswith(tuple(importlib.machinery.all_suffixes()))
    if not name or name.startswith(".") or importable or not name.isprintable():
        raise DownloadError(f"{without_password(url)}: {name!r} is no name to save a file under")
    return name


def is_url(url: str | Path, check: bool = True) -> bool:
    """Return whether a text is a URL with scheme and host; ``check`` also asks the server for it."""
    parts = urllib.parse.urlparse(str(url))
    if not (parts.scheme and parts.netloc):
        return False
    return not check or url_getsize(url) >= 0


def url_getsize(url: str | Path = "") -> int:
    """Return the size in bytes that a server states for a file, 0 when it states none, -1 when it cannot be had."""
    try:
        with _download_errors(str(url)), open_url(restore_url(url), AddressRule(), method="HEAD") as response:
            return int(response.headers.get("Content-Length") or 0)
    except (DownloadError, ValueError):
        return -1


def gsutil_getsize(url: str = "") -> int:
    """Return 0: storage buckets are not reached from here (kept for code written for YOLOv5)."""
    LOGGER.warning("WARNING %s: storage buckets are not supported, only http(s) addresses", url)
    return 0


def curl_download(url: str, filename: str | Path, *, silent: bool = False) -> bool:
    """Download a file; return whether it worked (the reason is logged)."""
    try:
        fetch(url, filename, progress=not silent)
    except DownloadError as error:
        LOGGER.warning("WARNING %s", error)
        return False
    return True


def safe_download(
    file: str | Path, url: str, url2: str | None = None, min_bytes: float = 1e0, error_msg: str = ""
) -> None:
    """Download ``url``, or ``url2`` when that fails, to ``file``; partial files are removed.

    Raises:
        DownloadError: neither worked.
    """
    for address in filter(None, (url, url2)):
        try:
            fetch(address, file, min_bytes=min_bytes)
            return
        except DownloadError as error:
            problem = error
            if address == url and url2:
                LOGGER.warning("WARNING %s; trying %s", error, url2)
    raise DownloadError(f"{problem}{f' ({error_msg})' if error_msg else ''}")


def attempt_download(file: str | Path, repo: str = "ultralytics/yolov5", release: str = "v7.0") -> str:
    """Return the path of a weights file, fetched when it is missing and the user named an address or released weights.

    A name of a file that is neither present nor released is returned as it is: whoever opens it reports it missing.

    Args:
        file: path, http(s) address, or a name such as yolov5s.pt.
        repo: GitHub repository of the release.
        release: its tag.
    """
    text = str(file).strip()
    if not Path(text).exists():
        text = text.replace("'", "")  # quotes that a shell passed on
    path = Path(text)
    if path.exists():
        return text
    if text.startswith(("http:/", "https:/")):
        return fetch_named(text, min_bytes=1e5)
    if path.name in RELEASED_WEIGHTS:
        address = f"https://github.com/{repo}/releases/download/{release}/{path.name}"
        LOGGER.info("%s: not found, fetching it from %s", path, address)
        known = repo == "ultralytics/yolov5" and release == "v7.0"
        fetch(address, path, sha256=RELEASED_SHA256.get(path.name, "") if known else "", min_bytes=1e5)
    return text


def unzip_file(
    file: str | Path, path: str | Path | None = None, exclude: Iterable[str] = (".DS_Store", "__MACOSX")
) -> None:
    """Unpack a zip file into ``path``, by default its own folder; unsafe members are refused."""
    from utils.data.archives import unpack

    unpack(file, Path(file).parent if path is None else path, exclude)


def download(  # noqa: PLR0913  (inherited signature)
    url: str | Path | Iterable[str | Path],
    dir: str | Path = ".",
    unzip: bool = True,
    delete: bool = True,
    curl: bool = False,
    threads: int = 1,
    retry: int = 3,
) -> None:
    """Download one or several addresses to a folder, a few at a time, and unpack archives.

    Args:
        url: address or addresses; an existing local file is unpacked alone.
        dir: target folder.
        unzip: unpack .zip, .tar and .gz files there.
        delete: remove an archive after unpacking it.
        curl: accepted for code written for YOLOv5, changes nothing.
        threads: downloads at once.
        retry: further tries for each address.
    """
    urls = [url] if isinstance(url, (str, Path)) else list(url)

    def one(address: str | Path) -> None:
        _download_one(address, Path(dir), unzip, delete, retry, progress=threads <= 1)

    if threads > 1 and len(urls) > 1:
        with ThreadPool(threads) as pool:
            pool.map(one, urls)
    else:
        for address in urls:
            one(address)


def _download_one(url: str | Path, folder: Path, unzip: bool, delete: bool, retry: int, *, progress: bool) -> None:
    from utils.data.archives import unpack

    local = Path(url).is_file()
    path = Path(url) if local else folder / url2file(url)
    for attempt in range(0 if path.is_file() else retry + 1):
        try:
            fetch(url, path, progress=progress)
            break
        except DownloadError as error:
            if attempt == retry:
                raise
            LOGGER.warning("WARNING %s; trying again", error)
    if unzip and path.suffix in {".zip", ".tar", ".gz"}:
        LOGGER.info("unpacking %s", path)
        unpack(path, folder)
        if delete and not local:
            path.unlink()


def _validate_ssrf_url(url: str) -> None:
    """Refuse an address that is not http(s) or that leads into a private network.

    Raises:
        DownloadError: it is refused.
    """
    with _download_errors(url):
        check_resolved(url)


def _request_ssrf_url(url: str, max_redirects: int = MAX_REDIRECTS) -> http.client.HTTPResponse:
    """Open a public http(s) address; the address of each hop is checked on its connected socket."""
    with _download_errors(url):
        return open_url(url, AddressRule(), max_redirects=max_redirects)


@contextlib.contextmanager
def _download_errors(url: str) -> Iterator[None]:
    """Turn whatever a transfer can raise into one line that names the address."""
    url = printable(without_password(url))
    try:
        yield
    except DownloadError as error:
        text = printable(error)
        raise DownloadError(text if text.startswith(url) else f"{url}: {text}") from None
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url}: the server answers {error.code} {printable(error.reason)}") from None
    except urllib.error.URLError as error:
        raise DownloadError(f"{url}: cannot be fetched: {_reason(error.reason)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{url}: cannot be fetched: {_reason(error)}") from None


def _reason(error: object) -> str:
    return printable(" ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split()))


@contextlib.contextmanager
def _temporary_file(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """Open a file beside ``path`` that is gone afterwards unless it was moved."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream, temporary
            with contextlib.suppress(FileNotFoundError):
                os.chmod(path, 0o644)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _copy(response: Any, stream: IO[bytes], url: str, max_bytes: int, deadline: float, progress: bool) -> str:  # noqa: ANN401, PLR0913
    """Copy the body and return its SHA-256; enforces size, time and the promised length."""
    promised = response.length or 0  # None for answers in chunks or of unknown length
    if promised > max_bytes:
        raise DownloadError(f"{url}: {promised} bytes, at most {max_bytes} are fetched")
    checksum = hashlib.sha256()
    bar = tqdm(
        total=promised or None, unit="B", unit_scale=True, unit_divisor=1024,
        desc=url2file(url), bar_format=TQDM_BAR_FORMAT if promised else None, disable=not progress,
    )  # fmt: skip
    with bar:
        left = response.length
        # read1 returns what has arrived, so that a server that sends a byte now and then meets the time limit
        while left != 0 and (chunk := response.read1(CHUNK if left is None else min(CHUNK, left))):
            left = None if left is None else left - len(chunk)
            stream.write(chunk)
            checksum.update(chunk)
            bar.update(len(chunk))
            if stream.tell() > max_bytes:
                raise DownloadError(f"{url}: more than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise DownloadError(f"{url}: took longer than allowed")
    if left:
        raise DownloadError(f"{url}: cut off after {stream.tell()} of {promised} bytes")
    return checksum.hexdigest()
