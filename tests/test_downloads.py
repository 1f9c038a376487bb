"""Fetching and unpacking: limits, private networks, archives that would write elsewhere."""

import hashlib
import io
import json
import os
import socket
import stat
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from utils import downloads, guarded_http
from utils.data.archives import unpack
from utils.downloads import DownloadError, attempt_download, fetch
from utils.errors import InputError, MissingFileError

BODY = bytes(range(256)) * 800


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("?", maxsplit=1)[0].strip("/")
        if name.startswith("hop"):
            left = int(name[3:])
            self._head(302, Location=f"/hop{left - 1}" if left else "/file.bin")
        elif name in {"ftp", "private"}:
            self._head(302, Location={"ftp": "ftp://host/x", "private": "http://10.0.0.1/x"}[name])
        elif name == "cut":
            self._head(200, **{"Content-Length": str(len(BODY) + 9)})
            self.wfile.write(BODY)
        elif name == "endless":
            self._head(200)
            for _ in range(50):
                self.wfile.write(BODY)
        elif name.endswith((".bin", ".zip", ".pt")):
            self._head(200, **{"Content-Length": str(len(BODY))})
            if self.command == "GET":
                self.wfile.write(BODY)
        else:
            self._head(404)

    do_HEAD = do_GET

    def _head(self, status, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def _server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.handle_error = lambda *_: None  # clients that hang up are what is tested
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists this process's open files")
def test_the_file_is_closed_when_it_gets_its_name(server, tmp_path, monkeypatch):
    """Windows moves no open file."""
    replace = os.replace

    def checked(source, target):
        assert str(source) not in [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
        replace(source, target)

    monkeypatch.setattr(os, "replace", checked)
    assert fetch(f"{server}/file.bin", tmp_path / "a").read_bytes() == BODY


@pytest.fixture
def server(_server, monkeypatch):
    """Address of a local server, which counts as public here; no proxy."""
    refuse = guarded_http.check_public
    monkeypatch.setattr(guarded_http, "check_public", lambda a, h: None if a == "127.0.0.1" else refuse(a, h))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return _server


def test_fetch_writes_the_whole_file(server, tmp_path):
    path = fetch(f"{server}/file.bin?x=1", tmp_path / "new/file.bin", sha256=hashlib.sha256(BODY).hexdigest().upper())
    assert path.read_bytes() == BODY and stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["file.bin"]
    assert fetch(f"{server}/hop4", path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("missing", {}, "answers 404"),
        ("cut", {}, "cannot be fetched|cut off"),
        ("file.bin", {"sha256": "00"}, "SHA-256"),
        ("file.bin", {"max_bytes": 1000}, "at most 1000"),
        ("endless", {"max_bytes": len(BODY) * 3}, "more than"),
        ("file.bin", {"min_bytes": 1e6}, "expected more than"),
        ("endless", {"max_seconds": -1}, "longer than allowed"),
        ("hop9", {}, "fetched|redirect|answers 302"),
        ("ftp", {}, "not followed"),
        ("private", {}, "private network"),
    ],
)
def test_failures_leave_the_old_file_and_no_other(server, tmp_path, name, options, shown):
    path = tmp_path / "file.bin"
    path.write_text("old")
    with pytest.raises(DownloadError, match=shown) as caught:
        fetch(f"{server}/{name}", path, progress=False, **options)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.bin"]
    assert "\n" not in str(caught.value) and server in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[fe80::1]",
     "100.64.0.1", "localhost", "224.0.0.1"],
)  # fmt: skip
def test_private_addresses_are_refused_without_connecting(monkeypatch, tmp_path, address):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    monkeypatch.setattr(guarded_http.urllib.request, "getproxies", dict)
    for refuse in (
        lambda: fetch(f"http://{address}/x", tmp_path / "x"),
        lambda: downloads._validate_ssrf_url(f"http://{address}/x"),
    ):
        with pytest.raises(DownloadError, match="private network"):
            refuse()
    assert not list(tmp_path.iterdir())


def test_address_is_checked_on_the_connected_socket(_server, monkeypatch, tmp_path):
    """A name that looks public when asked for and private once connected (rebinding) is refused."""
    seen = []
    refuse = guarded_http.check_public
    monkeypatch.setattr(guarded_http.urllib.request, "getproxies", dict)
    monkeypatch.setattr(guarded_http, "check_public", lambda a, h: seen.append(a) or (len(seen) > 2 and refuse(a, h)))
    with pytest.raises(DownloadError, match="private network"):
        fetch(f"{_server}/file.bin", tmp_path / "x")
    assert seen == ["127.0.0.1"] * 3  # the address as written, as resolved, as connected


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http://"])
def test_other_schemes_are_refused(tmp_path, url):
    with pytest.raises(DownloadError, match="allowed are http and https"):
        fetch(url, tmp_path / "x")


def test_without_network_one_line_within_two_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(guarded_http.urllib.request, "getproxies", dict)
    for look_up in (lambda *_, **__: time.sleep(4), _no_name):
        monkeypatch.setattr(guarded_http.socket, "getaddrinfo", look_up)
        start = time.monotonic()
        with pytest.raises(InputError, match=r"yolov5s\.pt.*no network") as caught:
            attempt_download(tmp_path / "yolov5s.pt")
        assert time.monotonic() - start < 2 and "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())


def _no_name(*_, **__):
    raise socket.gaierror(-2, "Name or service not known")


def test_attempt_download(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.pt").write_text("x")
    assert attempt_download("'own.pt'") == "own.pt" and attempt_download("unknown.pt") == "unknown.pt"
    monkeypatch.setattr(downloads, "fetch", lambda url, path, **options: asked.append((url, str(path), options)))
    asked = []
    assert attempt_download("weights/yolov5n.pt") == "weights/yolov5n.pt"
    (url, path, options) = asked[0]
    assert url == "https://github.com/ultralytics/yolov5/releases/download/v7.0/yolov5n.pt" and path.endswith("n.pt")
    assert options["sha256"] == downloads.RELEASED_SHA256["yolov5n.pt"]
    assert attempt_download("https:/host/a/w.pt?key=1") == "w.pt"
    assert asked[1][:2] == ("https://host/a/w.pt?key=1", "w.pt") and asked[1][2]["named_by_user"]


def test_known_checksum_is_the_released_one(golden):
    assert golden("yolov5n_pt")[0]["sha256"] == downloads.RELEASED_SHA256["yolov5n.pt"]


def test_safe_download_falls_back(server, tmp_path):
    downloads.safe_download(tmp_path / "a", f"{server}/missing", f"{server}/file.bin")
    assert (tmp_path / "a").read_bytes() == BODY
    with pytest.raises(DownloadError, match="404.*ask us"):
        downloads.safe_download(tmp_path / "b", f"{server}/missing", error_msg="ask us")
    assert not (tmp_path / "b").exists()


def test_small_functions(server, tmp_path):
    assert downloads.is_url("https://a/b", check=False) and not downloads.is_url("a/b", check=False)
    assert downloads.is_url(f"{server}/file.bin") and not downloads.is_url(f"{server}/missing")
    assert downloads.url_getsize(f"{server}/file.bin") == len(BODY) and downloads.url_getsize(f"{server}/missing") == -1
    assert downloads.curl_download(f"{server}/file.bin", tmp_path / "a", silent=True)
    assert not downloads.curl_download(f"{server}/missing", tmp_path / "b", silent=True)
    with downloads._request_ssrf_url(f"{server}/file.bin") as response:
        assert response.read() == BODY
    assert downloads.gsutil_getsize("gs://x") == 0


def test_download_several(server, tmp_path):
    downloads.download([f"{server}/a.bin", f"{server}/b.bin"], tmp_path, threads=2)
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "b.bin"]
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as opened:
        opened.writestr("in/x.txt", "x")
        opened.writestr("__MACOSX/x.txt", "x")
    downloads.download(tmp_path / "c.zip", tmp_path / "out")
    assert (tmp_path / "out/in/x.txt").read_text() == "x" and not (tmp_path / "out/__MACOSX").exists()
    downloads.unzip_file(tmp_path / "c.zip")
    assert (tmp_path / "in/x.txt").exists()


# Private networks -----------------------------------------------------------------------------------------------------
@pytest.fixture
def hops(monkeypatch):
    """Start servers on this machine from tables of path -> (status, headers, body); 127.0.0.9 counts as public."""
    started = []
    refuse = guarded_http.check_public
    monkeypatch.setattr(guarded_http, "check_public", lambda a, h: None if a == "127.0.0.9" else refuse(a, h))
    monkeypatch.setattr(guarded_http.urllib.request, "getproxies", dict)

    def start(address, answers):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers.get("Authorization")))
                status, headers, body = answers[self.path]
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        asked = []
        server = ThreadingHTTPServer((address, 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"http://{address}:{server.server_port}", asked

    yield start
    for server in started:
        server.shutdown()


OK = (200, {}, BODY)


def test_private_sources_need_a_word_of_the_user(hops, tmp_path, monkeypatch):
    """A camera in one's own network: refused with the way out named, allowed with it, for addresses typed alone."""
    camera, asked = hops("127.0.0.2", {"/a.jpg": OK})
    with pytest.raises(DownloadError, match="private network.*YOLOV5_PRIVATE_ADDRESSES=1") as caught:
        fetch(f"{camera}/a.jpg", tmp_path / "a", named_by_user=True)
    assert "\n" not in str(caught.value) and not asked
    monkeypatch.setenv("YOLOV5_PRIVATE_ADDRESSES", "1")
    assert fetch(f"{camera}/a.jpg", tmp_path / "a", named_by_user=True).read_bytes() == BODY
    for refuse in (
        lambda: fetch(f"{camera}/a.jpg", tmp_path / "b"),  # out of a data YAML, for instance
        lambda: downloads._request_ssrf_url(f"{camera}/a.jpg"),
    ):
        with pytest.raises(DownloadError, match="private network"):
            refuse()
    assert len(asked) == 1


def test_no_redirect_leads_into_a_private_network(hops, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV5_PRIVATE_ADDRESSES", "1")
    inner, asked = hops("127.0.0.2", {"/secret.jpg": OK, "/here.jpg": (302, {"Location": "/secret.jpg"}, b"")})
    other, _ = hops("127.0.0.3", {"/x.jpg": (302, {"Location": f"{inner}/secret.jpg"}, b"")})
    public, _ = hops("127.0.0.9", {f"/{n}": (302, {"Location": f"{to}"}, b"") for n, to in {
        "1": f"{inner}/secret.jpg", "2": "http://localhost/x", "3": "http://[::ffff:127.0.0.2]/x", "4": "/5",
        "5": f"{inner}/secret.jpg", "6": "http://2130706434/x", "7": "file:///etc/passwd", "8": "http://169.254.169.254/",
    }.items()})  # fmt: skip
    for number in range(1, 9):
        with pytest.raises(DownloadError, match=r"private network|not allowed"):
            fetch(f"{public}/{number}", tmp_path / "x", named_by_user=True)
    with pytest.raises(DownloadError, match="private network"):
        fetch(f"{other}/x.jpg", tmp_path / "x", named_by_user=True)  # a private host sends to another one
    assert not asked and not list(tmp_path.iterdir())
    assert fetch(f"{inner}/here.jpg", tmp_path / "x", named_by_user=True).read_bytes() == BODY


def test_a_public_name_that_turns_private_between_hops(hops, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV5_PRIVATE_ADDRESSES", "1")
    inner, asked = hops("127.0.0.2", {"/x": OK})
    port = inner.rpartition(":")[2]
    public, _ = hops("127.0.0.9", {"/x": (302, {"Location": f"http://name.test:{port}/x"}, b"")})
    places = iter(["127.0.0.9", "127.0.0.2"])
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real(
        next(places) if host == "name.test" else host, *a, **k))  # fmt: skip
    with pytest.raises(DownloadError, match="private network"):
        fetch(f"http://name.test:{public.rpartition(':')[2]}/x", tmp_path / "x", named_by_user=True)
    assert not asked


def test_password_goes_to_its_own_host_alone_and_into_no_message(hops, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV5_PRIVATE_ADDRESSES", "1")
    second, asked = hops("127.0.0.9", {"/b": OK})
    first, asked_first = hops("127.0.0.2", {"/a": (302, {"Location": f"{second}/b"}, b""), "/no": (401, {}, b"")})
    address = first.replace("://", "://me:s%40cret@")
    fetch(f"{address}/a", tmp_path / "x", named_by_user=True)
    assert asked_first == [("/a", "Basic bWU6c0BjcmV0")] and asked == [("/b", None)]
    with pytest.raises(DownloadError, match="answers 401") as caught:
        fetch(f"{address}/no", tmp_path / "x", named_by_user=True)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "::127.0.0.1", "::ffff:10.0.0.1",
     "2001:0:4136:e378:8000:63bf:f5ff:fffe", "fc00::1", "ff02::1", "::"],
)  # fmt: skip
def test_ipv6_addresses_that_mean_private_ones(address):
    with pytest.raises(DownloadError, match="private network"):
        guarded_http.check_public(address, "name")
    guarded_http.check_public("2606:4700::1111", "name")


def test_a_proxy_answers_for_names_but_not_for_numbers(monkeypatch, tmp_path):
    monkeypatch.setattr(guarded_http.urllib.request, "getproxies", lambda: {"http": "http://127.0.0.2:3128"})
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    with pytest.raises(DownloadError, match="private network"):
        fetch("http://169.254.169.254/x", tmp_path / "x")
    assert guarded_http._is_proxy("127.0.0.2", 3128) and not guarded_http._is_proxy("127.0.0.2", 80)


@pytest.mark.parametrize("url", ["http://a..b/x", f"http://{'a' * 64}.test/x", "http://h:99999/x", "http://h\x7f/x",
                                 "http://a\nb/x", "http://[::1/x"])  # fmt: skip
def test_odd_addresses_end_in_one_line(tmp_path, url, monkeypatch):
    monkeypatch.setattr(guarded_http.urllib.request, "getproxies", dict)
    with pytest.raises(DownloadError) as caught:
        fetch(url, tmp_path / "x")
    assert str(caught.value).isprintable() and not list(tmp_path.iterdir())


class _Drip(BaseHTTPRequestHandler):
    """Sends a byte every few hundredths of a second, for ever: headers under /head, else the body."""

    def do_GET(self):
        try:
            if self.path == "/head":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            for _ in range(400):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_drips_bytes_meets_the_time_limit(server, tmp_path, monkeypatch, part):
    drip = ThreadingHTTPServer(("127.0.0.1", 0), _Drip)
    threading.Thread(target=drip.serve_forever, daemon=True).start()
    monkeypatch.setattr(guarded_http, "ANSWER_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"no answer within|longer than allowed"):
        fetch(f"http://127.0.0.1:{drip.server_port}/{part}", tmp_path / "x", max_seconds=0.5, progress=False)
    assert time.monotonic() - start < 3 and not list(tmp_path.iterdir())
    drip.shutdown()


def test_an_address_does_not_stand_for_a_local_file_of_its_name(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from utils.general import check_file

    for fetched in (check_file, attempt_download):
        (tmp_path / "own.bin").write_bytes(b"my own")
        with pytest.raises(DownloadError, match=r"another file own\.bin is here"):
            fetched(f"{server}/own.bin")
        assert (tmp_path / "own.bin").read_bytes() == b"my own"
        (tmp_path / "own.bin").write_bytes(BODY)
        assert fetched(f"{server}/own.bin") == "own.bin"  # the same bytes: the very file
        with pytest.raises(DownloadError, match=r"404.*own\.zap is here: give its name alone"):
            (tmp_path / "own.zap").write_bytes(b"x")
            fetched(f"{server}/own.zap")
    assert sorted(os.listdir(tmp_path)) == ["own.bin", "own.zap"]


@pytest.mark.parametrize("name", ["numpy.py", "torch.so", "site.pyc", ".bashrc", "%2e%2e", "a%0ab.jpg"])
def test_names_that_are_not_saved(server, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DownloadError, match="no name to save a file under") as caught:
        attempt_download(f"{server}/{name}?x=.pt")
    assert str(caught.value).isprintable() and not os.listdir(tmp_path)


# Archives -------------------------------------------------------------------------------------------------------------
def _zip(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            opened.writestr(info, content)
    return path


def _tar(path, *members):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as opened:
        for name, content, options in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in options.items():
                setattr(info, key, value)
            opened.addfile(info, io.BytesIO(content))
    return path


FILE = stat.S_IFREG | 0o644


def test_good_archives_are_unpacked(tmp_path):
    members = {"a/x.txt": b"1", "a/b/y..z": b"22"}
    for archive in (
        _zip(tmp_path / "a.zip", *((n, c, FILE) for n, c in members.items())),
        _tar(tmp_path / "a.tar", ("d", b"", {"type": tarfile.DIRTYPE}), *((n, c, {}) for n, c in members.items())),
        _tar(tmp_path / "a.tar.gz", *((n, c, {}) for n, c in members.items())),
    ):
        target = tmp_path / f"out-{archive.name}"
        written = unpack(archive, target)
        assert {str(p.relative_to(target)): p.read_bytes() for p in written} == members
    with pytest.raises(MissingFileError):
        unpack(tmp_path / "none.zip", tmp_path)
    (tmp_path / "junk.zip").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="not a zip or tar"):
        unpack(tmp_path / "junk.zip", tmp_path)


def test_a_link_in_the_target_is_no_way_out(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leave the target folder"):
        unpack(_zip(tmp_path / "a.zip", ("link/x", b"x", FILE)), tmp_path / "target")
    assert not (tmp_path / "x").exists()
