"""Fetch files by http(s): one function with limits for every download of the project."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from utils.errors import InputError
from utils.logs import LOGGER, TQDM_BAR_FORMAT

RESOLVE_SECONDS = 1.5  # name look-ups that take longer count as "no network"
CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
MAX_SECONDS = 6 * 3600.0
MAX_BYTES = 64 << 30
MAX_REDIRECTS = 5
CHUNK = 1 << 20
USER_AGENT = "yolov5-balanced"
RELEASED_SHA256 = {"yolov5n.pt": "4f180cf23ba0717ada0badd6c685026d73d48f184d00fc159c2641284b2ac0a3"}
RELEASED_WEIGHTS = frozenset(f"yolov5{size}{kind}.pt" for size in "nsmlx" for kind in ("", "6", "-seg", "-cls"))


class DownloadError(InputError):
    """A file that could not be fetched; the message names its address and the reason."""


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
) -> Path:
    """Download ``url`` to ``path``; the file appears there only when it is whole.

    Args:
        url: http or https address; redirects are followed up to five times, never from https to http.
        path: target file, replaced if it exists; its folder is made.
        sha256: expected checksum as hex digits, '' to accept any content.
        min_bytes: smaller files are refused.
        max_bytes: larger files are refused.
        max_seconds: longest time for the whole transfer.
        progress: show a progress bar.

    Raises:
        DownloadError: no network, an address inside a private network, a limit, a wrong checksum.
    """
    url, path = restore_url(url), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _download_errors(url), _temporary_file(path) as (stream, temporary), _open(url) as response:
        checksum = _copy(response, stream, url, max_bytes, time.monotonic() + max_seconds, progress)
        size = stream.tell()
        stream.flush()
        os.fsync(stream.fileno())
        if size <= min_bytes and min_bytes:
            raise DownloadError(f"{url}: {size} bytes, expected more than {min_bytes:g}")
        if sha256 and checksum != sha256.lower():
            raise DownloadError(f"{url}: its SHA-256 is {checksum}, expected {sha256}; the file was not kept")
        stream.close()  # Windows moves no open file
        os.replace(temporary, path)
    return path


def is_url(url: str | Path, check: bool = True) -> bool:
    """Return whether a text is a URL with scheme and host; ``check`` also asks the server for it."""
    parts = urllib.parse.urlparse(str(url))
    if not (parts.scheme and parts.netloc):
        return False
    return not check or url_getsize(url) >= 0


def url_getsize(url: str | Path = "") -> int:
    """Return the size in bytes that a server states for a file, 0 when it states none, -1 when it cannot be had."""
    try:
        with _download_errors(str(url)), _open(restore_url(url), method="HEAD") as response:
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
    text = str(file).strip().replace("'", "")
    path = Path(text)
    if path.exists():
        return text
    if text.startswith(("http:/", "https:/")):
        name = url2file(text)
        if Path(name).is_file():
            LOGGER.info("%s: using the file %s that is already here", text, name)
        else:
            fetch(text, name, min_bytes=1e5)
        return name
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
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise DownloadError(f"{url}: allowed are http and https addresses")
    if not _is_proxied(parts.scheme, parts.hostname):
        with _download_errors(url):
            for found in _resolve(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)):
                _check_public(found[4][0], parts.hostname)


def _request_ssrf_url(url: str, max_redirects: int = MAX_REDIRECTS) -> http.client.HTTPResponse:
    """Open a public http(s) address; the address of each hop is checked on its connected socket."""
    with _download_errors(url):
        return _open(url, max_redirects=max_redirects)


def _open(url: str, method: str = "GET", max_redirects: int = MAX_REDIRECTS) -> http.client.HTTPResponse:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise DownloadError(f"{url}: allowed are http and https addresses")
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(max_redirects),
        _HTTP(),
        _HTTPS(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT}, method=method)
    return opener.open(request, timeout=STALL_SECONDS)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects to http(s), never from https down to http."""

    def __init__(self, limit: int):
        self.max_redirections = limit

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: ANN401, PLR0913
        """Return the next request; refuses other schemes (the names are those of the base class)."""
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in {"http", "https"} or (req.type == "https" and scheme == "http"):
            raise DownloadError(f"{req.full_url}: redirects to {newurl}, which is not followed")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and req.get_method() == "HEAD":
            request.method = "HEAD"
        return request


class _CheckedConnection(http.client.HTTPConnection):
    """A connection that refuses, once it stands, to talk to a private address; a configured proxy may have one."""

    def connect(self) -> None:
        """Connect, check the address that answered, then do what the base class does."""
        proxied = self._tunnel_host is not None or _is_proxy(self.host)
        self.sock = _connect(self.host, self.port, check=not proxied)
        self.sock.settimeout(STALL_SECONDS)
        if self._tunnel_host:
            self._tunnel()


class _CheckedTLSConnection(_CheckedConnection, http.client.HTTPSConnection):
    """The same with TLS."""

    def connect(self) -> None:
        """Connect, check, then wrap in TLS for the wanted host's certificate."""
        super().connect()
        host = self._tunnel_host or self.host
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=host)


class _HTTP(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open over a checked connection."""
        return self.do_open(_CheckedConnection, req)


class _HTTPS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open over a checked connection with TLS."""
        return self.do_open(_CheckedTLSConnection, req)


def _connect(host: str, port: int, *, check: bool) -> socket.socket:
    problem: OSError = OSError("no address")
    for family, kind, protocol, _, address in _resolve(host, port):
        connection = socket.socket(family, kind, protocol)
        try:
            if check:
                _check_public(address[0], host)
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(address)
            if check:
                _check_public(connection.getpeername()[0], host)
            return connection
        except OSError as error:
            connection.close()
            problem = error
        except DownloadError:
            connection.close()
            raise
    raise problem


def _resolve(host: str, port: int) -> list[tuple]:
    """Look a name up within RESOLVE_SECONDS (the system's own look-up knows no limit)."""
    result: list[Any] = []

    def look_up() -> None:
        try:
            result.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if not result:
        raise OSError(f"no network: {host} could not be looked up within {RESOLVE_SECONDS:g} s")
    if isinstance(result[0], OSError):
        raise OSError(f"no network, or no such host: {host}")
    return result[0]


def _check_public(address: str, host: str) -> None:
    """Refuse addresses of this machine, private networks, multicast and the like."""
    found = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    found = getattr(found, "ipv4_mapped", None) or found
    if not found.is_global or found.is_multicast:
        raise DownloadError(f"{host}: its address {found} lies in a private network, from where nothing is fetched")


def _is_proxied(scheme: str, host: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def _is_proxy(host: str) -> bool:
    proxies = urllib.request.getproxies().values()
    return host in {urllib.parse.urlsplit(p if "://" in p else f"//{p}").hostname for p in proxies}


@contextlib.contextmanager
def _download_errors(url: str) -> Iterator[None]:
    """Turn whatever a transfer can raise into one line that names the address."""
    try:
        yield
    except DownloadError as error:
        text = str(error)
        raise DownloadError(text if text.startswith(url) else f"{url}: {text}") from None
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}".split("\n")[0]) from None
    except urllib.error.URLError as error:
        raise DownloadError(f"{url}: cannot be fetched: {_reason(error.reason)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{url}: cannot be fetched: {_reason(error)}") from None


def _reason(error: object) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


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
    promised = int(response.headers.get("Content-Length") or 0)
    if promised > max_bytes:
        raise DownloadError(f"{url}: {promised} bytes, at most {max_bytes} are fetched")
    checksum = hashlib.sha256()
    bar = tqdm(
        total=promised or None, unit="B", unit_scale=True, unit_divisor=1024,
        desc=url2file(url), bar_format=TQDM_BAR_FORMAT if promised else None, disable=not progress,
    )  # fmt: skip
    with bar:
        while chunk := response.read(CHUNK):
            stream.write(chunk)
            checksum.update(chunk)
            bar.update(len(chunk))
            if stream.tell() > max_bytes:
                raise DownloadError(f"{url}: more than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise DownloadError(f"{url}: took longer than allowed")
    if promised and stream.tell() != promised:
        raise DownloadError(f"{url}: cut off after {stream.tell()} of {promised} bytes")
    return checksum.hexdigest()
