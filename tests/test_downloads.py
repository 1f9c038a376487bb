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

from utils import downloads
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
    refuse = downloads._check_public
    monkeypatch.setattr(downloads, "_check_public", lambda a, h: None if a == "127.0.0.1" else refuse(a, h))
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
    monkeypatch.setattr(downloads.urllib.request, "getproxies", dict)
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
    refuse = downloads._check_public
    monkeypatch.setattr(downloads.urllib.request, "getproxies", dict)
    monkeypatch.setattr(downloads, "_check_public", lambda a, h: seen.append(a) or (len(seen) > 1 and refuse(a, h)))
    with pytest.raises(DownloadError, match="private network"):
        fetch(f"{_server}/file.bin", tmp_path / "x")
    assert seen == ["127.0.0.1"] * 2


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http://"])
def test_other_schemes_are_refused(tmp_path, url):
    with pytest.raises(DownloadError, match="allowed are http and https"):
        fetch(url, tmp_path / "x")


def test_without_network_one_line_within_two_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads.urllib.request, "getproxies", dict)
    for look_up in (lambda *_, **__: time.sleep(4), _no_name):
        monkeypatch.setattr(downloads.socket, "getaddrinfo", look_up)
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
    assert attempt_download("https:/host/a/w.pt?key=1") == "w.pt" and asked[1][:2] == (
        "https:/host/a/w.pt?key=1",
        "w.pt",
    )


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
SYMLINK, HARDLINK = {"type": tarfile.SYMTYPE, "linkname": "/etc"}, {"type": tarfile.LNKTYPE, "linkname": "../x"}
BAD = {
    "zip climbs": lambda p: _zip(p / "a.zip", ("good.txt", b"x", FILE), ("../../x", b"x", FILE)),
    "zip climbs inside": lambda p: _zip(p / "a.zip", ("a/../../x", b"x", FILE)),
    "zip backslash": lambda p: _zip(p / "a.zip", ("..\\x", b"x", FILE)),
    "zip absolute": lambda p: _zip(p / "a.zip", ("/tmp/x", b"x", FILE)),
    "zip drive": lambda p: _zip(p / "a.zip", ("C:/x", b"x", FILE)),
    "zip link": lambda p: _zip(p / "a.zip", ("l", b"/etc", stat.S_IFLNK | 0o777)),
    "zip bomb": lambda p: _zip(p / "a.zip", ("big", bytes(5 << 20), FILE)),
    "tar climbs": lambda p: _tar(p / "a.tar", ("good.txt", b"x", {}), ("../x", b"x", {})),
    "tar absolute": lambda p: _tar(p / "a.tar", ("/tmp/x", b"x", {})),
    "tar link": lambda p: _tar(p / "a.tar", ("l", b"", SYMLINK), ("l/x", b"x", {})),
    "tar hard link": lambda p: _tar(p / "a.tar", ("l", b"", HARDLINK)),
    "tar device": lambda p: _tar(p / "a.tar", ("d", b"", {"type": tarfile.CHRTYPE})),
    "tar bomb": lambda p: _tar(p / "a.tar.gz", ("big", bytes(5 << 20), {})),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_archives_write_nothing(tmp_path, name):
    (tmp_path / "in/side").mkdir(parents=True)
    archive = BAD[name](tmp_path)
    with pytest.raises(InputError, match=r"leave the target folder|link or device|expands to more") as caught:
        unpack(archive, tmp_path / "in/side")
    assert str(archive) in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == sorted([archive, tmp_path / "in", tmp_path / "in/side"])


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
