"""Open http(s) addresses without being led into a private network or kept waiting.

The address is checked on the socket that is connected, at every redirect, so that a name which resolves to one address
when asked for and to another when connected to (rebinding) gains nothing.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from utils.errors import InputError

RESOLVE_SECONDS = 1.5  # name look-ups that take longer count as "no network"
CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
ANSWER_SECONDS = 60.0  # from the first connection to the last redirect's headers
MAX_REDIRECTS = 5
USER_AGENT = "yolov5-balanced"
PRIVATE_VARIABLE = "YOLOV5_PRIVATE_ADDRESSES"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")
_PORTS = {"http": 80, "https": 443}


class DownloadError(InputError):
    """A file that could not be fetched; the message names its address and the reason."""


class AddressRule:
    """Which addresses one request, with its redirects, may connect to.

    Public ones, and with the environment variable YOLOV5_PRIVATE_ADDRESSES=1 those of private networks, but only for
    an address that the user typed: never where a public server redirects to, nor where a data file points to.

    Args:
        named_by_user: whether the user typed the address.
    """

    def __init__(self, named_by_user: bool = False):
        self.named_by_user = named_by_user
        self._first_host: str | None = None
        self._began_privately = False

    def check(self, address: str, host: str) -> None:
        """Refuse to talk to an IP address that ``host`` led to.

        Raises:
            DownloadError: it is refused.
        """
        try:
            check_public(address, host)
        except DownloadError as error:
            if not self._may_be_private(host):
                raise self._with_hint(error) from None

    def connected(self, address: str, host: str) -> None:
        """Check the address that answered, and remember where the request began."""
        self.check(address, host)
        if self._first_host is None:
            self._first_host = host
            with contextlib.suppress(DownloadError):
                check_public(address, host)
                return
            self._began_privately = True

    def redirected(self, host: str) -> None:
        """Remember where a request began that a proxy answered: addresses behind it are not known to be private."""
        if self._first_host is None:
            self._first_host = host

    def _may_be_private(self, host: str) -> bool:
        if not self.named_by_user or os.environ.get(PRIVATE_VARIABLE, "") not in {"1", "true", "True"}:
            return False
        return self._first_host is None or (self._began_privately and host == self._first_host)

    def _with_hint(self, error: DownloadError) -> DownloadError:
        if self.named_by_user and self._first_host is None:
            return DownloadError(f"{error}; {PRIVATE_VARIABLE}=1 in the environment allows addresses that you name")
        return error


def check_public(address: str, host: str) -> None:
    """Refuse addresses of this machine, private networks, multicast and the like.

    Raises:
        DownloadError: such an address, or an IPv6 one that stands for such an IPv4 one.
    """
    found = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    for meant in (found, *_meant_ipv4(found)):
        if not meant.is_global or meant.is_multicast:
            raise DownloadError(f"{host}: its address {found} lies in a private network, from where nothing is fetched")


def _meant_ipv4(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that gateways and tunnels may turn an IPv6 address into."""
    if not isinstance(found, ipaddress.IPv6Address):
        return []
    last = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    wrapped = [last] if found in _NAT64 or found in _IPV4_COMPATIBLE else []
    tunnels = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
    return [*wrapped, *(address for address in tunnels if address is not None)]


def check_url(url: str, rule: AddressRule) -> urllib.parse.SplitResult:
    """Return the parts of an http(s) address, refusing other schemes and numeric addresses of private networks.

    Raises:
        DownloadError: it is refused.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise DownloadError(f"{url}: allowed are http and https addresses")
    if _is_number(parts.hostname):
        rule.check(parts.hostname, parts.hostname)
    return parts


def _is_number(host: str) -> bool:
    """Tell whether a host is an IP address as it stands."""
    try:
        ipaddress.ip_address(host.split("%", maxsplit=1)[0])
    except ValueError:
        return False
    return True


def check_resolved(url: str) -> None:
    """Refuse an address that is not http(s) or whose name leads into a private network.

    Raises:
        DownloadError: it is refused.
        OSError: the name is not known.
    """
    parts = check_url(url, AddressRule())
    if not _is_proxied(parts.scheme, str(parts.hostname)):
        for found in _resolve(str(parts.hostname), parts.port or _PORTS[parts.scheme]):
            check_public(found[4][0], str(parts.hostname))


def without_password(url: str) -> str:
    """Return an address as messages may show it."""
    return urllib.parse.urlsplit(url)._replace(netloc=_netloc(url)).geturl() if "@" in url else url


def _netloc(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def open_url(
    url: str, rule: AddressRule, *, method: str = "GET", max_redirects: int = MAX_REDIRECTS
) -> http.client.HTTPResponse:
    """Open an http(s) address, whose user name and password go to its own host alone.

    Raises:
        DownloadError: the address or one that it redirects to is refused.
        OSError, http.client.HTTPException, ValueError: it cannot be opened.
    """
    parts = check_url(url, rule)
    request = urllib.request.Request(without_password(url), headers={"User-Agent": USER_AGENT}, method=method)
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    with _TimeLimit(ANSWER_SECONDS) as limit:
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(max_redirects, rule),
            _HTTP(rule, limit),
            _HTTPS(rule, limit),
        ):
            opener.add_handler(handler)
        with limit.named():
            return opener.open(request, timeout=STALL_SECONDS)


class _TimeLimit:
    """Ends the connections of a request that is not answered in time, however slowly bytes keep coming."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._sockets: list[socket.socket] = []
        self._passed = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _TimeLimit:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        """End this connection too when the time is over."""
        self._sockets.append(connection)
        if self._passed:
            self._end()

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Say of whatever breaks after the end, or seems whole then, that time was over."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError):
            if not self._passed:
                raise
        if self._passed:
            raise DownloadError(f"no answer within {self.seconds:g} s")

    def _end(self) -> None:
        self._passed = True
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects to http(s), never from https down to http."""

    def __init__(self, limit: int, rule: AddressRule):
        self.max_redirections = limit
        self.rule = rule

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: PLR0913
        """Return the next request; refuses other schemes (the names are those of the base class)."""
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in _PORTS or (req.type == "https" and scheme == "http"):
            raise DownloadError(f"{req.full_url}: redirects to {newurl}, which is not followed")
        self.rule.redirected(str(urllib.parse.urlsplit(req.full_url).hostname))
        check_url(newurl, self.rule)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and req.get_method() == "HEAD":
            request.method = "HEAD"
        return request


class _CheckedConnection(http.client.HTTPConnection):
    """A connection that refuses, once it stands, to talk to a private address; a configured proxy may have one."""

    def __init__(self, *args: Any, rule: AddressRule, limit: _TimeLimit, **options: Any):
        super().__init__(*args, **options)
        self.rule = rule
        self.limit = limit

    def connect(self) -> None:
        """Connect, check the address that answered, then do what the base class does."""
        proxied = self._tunnel_host is not None or _is_proxy(self.host, self.port)
        self.sock = _connect(self.host, self.port, None if proxied else self.rule)
        self.limit.watch(self.sock)
        self.sock.settimeout(STALL_SECONDS)
        if self._tunnel_host:
            self._tunnel()


class _CheckedTLSConnection(_CheckedConnection, http.client.HTTPSConnection):
    """The same with TLS."""

    def connect(self) -> None:
        """Connect, check, then wrap in TLS for the wanted host's certificate."""
        super().connect()
        host = self._tunnel_host or self.host
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=host, do_handshake_on_connect=False)
        self.limit.watch(self.sock)
        self.sock.do_handshake()


class _HTTP(urllib.request.HTTPHandler):
    def __init__(self, rule: AddressRule, limit: _TimeLimit):
        super().__init__()
        self.connection = functools.partial(_CheckedConnection, rule=rule, limit=limit)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open over a checked connection."""
        return self.do_open(self.connection, req)


class _HTTPS(urllib.request.HTTPSHandler):
    def __init__(self, rule: AddressRule, limit: _TimeLimit):
        super().__init__()
        self.connection = functools.partial(_CheckedTLSConnection, rule=rule, limit=limit)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open over a checked connection with TLS."""
        return self.do_open(self.connection, req)


def _connect(host: str, port: int, rule: AddressRule | None) -> socket.socket:
    problem: OSError = OSError("no address")
    for family, kind, protocol, _, address in _resolve(host, port):
        connection = socket.socket(family, kind, protocol)
        try:
            if rule is not None:
                rule.check(address[0], host)
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(address)
            if rule is not None:
                rule.connected(connection.getpeername()[0], host)
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
        except (OSError, UnicodeError) as error:
            result.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if not result:
        raise OSError(f"no network: {host} could not be looked up within {RESOLVE_SECONDS:g} s")
    if isinstance(result[0], Exception):
        raise OSError(f"no network, or no such host: {host}")
    return result[0]


def _is_proxied(scheme: str, host: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def _is_proxy(host: str, port: int) -> bool:
    proxies = [urllib.parse.urlsplit(p if "://" in p else f"//{p}") for p in urllib.request.getproxies().values()]
    return any(proxy.hostname == host and (proxy.port or _PORTS.get(proxy.scheme, 80)) == port for proxy in proxies)
