"""Serve folders of static files on this machine alone, compressed as a real host would do it."""

from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

HOST = "127.0.0.1"
DEFAULT_PORT = 8000
COMPRESSED = {".html", ".css", ".js", ".mjs", ".json", ".svg", ".txt", ".csv", ".map", ".xml"}


@lru_cache(maxsize=512)
def _gzipped(path: str, modified_ns: int) -> bytes:
    """Compressed content; `modified_ns` is part of the key so that a rebuilt file is read anew."""
    return gzip.compress(Path(path).read_bytes(), compresslevel=6, mtime=0)


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
        ".woff2": "font/woff2",
        ".csv": "text/csv",
    }
    server: SiteServer

    def translate_path(self, path: str) -> str:
        mount = self.server.mount_of(urlsplit(path).path)
        if mount is None:
            return os.path.join(os.devnull, "not-served")  # cannot exist: answers 404
        self.directory = str(self.server.folders[mount])
        return super().translate_path(path[len(mount) - 1 :])

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        bare = urlsplit(self.path).path
        if not bare.endswith("/") and bare + "/" in self.server.folders:
            self.send_response(HTTPStatus.MOVED_PERMANENTLY)
            self.send_header("Location", bare + "/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if (
            bare == "/favicon.ico"
            and not (self.server.folders.get("/", Path()) / bare[1:]).is_file()
        ):
            self.send_response(HTTPStatus.NO_CONTENT)  # browsers ask for it unbidden
            self.end_headers()
            return None
        file = Path(self.translate_path(self.path))
        if bare.endswith("/"):
            file = file / "index.html"
        wants_gzip = "gzip" in self.headers.get("Accept-Encoding", "")
        if not (wants_gzip and file.suffix in COMPRESSED and file.is_file()):
            return super().send_head()
        body = _gzipped(str(file), file.stat().st_mtime_ns)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{self.guess_type(str(file))}; charset=utf-8")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Vary", "Accept-Encoding")
        self.end_headers()
        return io.BytesIO(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The site's own 404.html where it has one, as static hosts do it."""
        mount = self.server.mount_of(urlsplit(self.path).path)
        page = self.server.folders[mount] / "404.html" if mount else None
        if code != HTTPStatus.NOT_FOUND or page is None or not page.is_file():
            return super().send_error(code, message, explain)
        body = page.read_bytes()
        if b"<base " not in body:  # built for no address in particular
            body = body.replace(b"<head>", f'<head><base href="{mount}">'.encode(), 1)
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return None

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: object) -> None:
        self.send_error(HTTPStatus.NOT_FOUND, "No index.html in this folder")

    def log_message(self, format: str, *args: object) -> None:
        pass


class SiteServer(ThreadingHTTPServer):
    """`folders` maps URL prefixes such as "/book/" to directories; the longest match wins."""

    daemon_threads = True

    def __init__(self, folders: Mapping[str, Path], port: int = 0):
        for prefix, folder in folders.items():
            if not (prefix.startswith("/") and prefix.endswith("/")):
                raise ValueError(f"URL prefix {prefix!r} must start and end with '/'.")
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"Cannot serve {folder}: there is no such folder.")
        self.folders = {prefix: Path(folder).resolve() for prefix, folder in folders.items()}
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise OSError(
                f"Cannot listen on {HOST}:{port} ({error.strerror}). "
                "Stop what uses that port, or choose another one with --port."
            ) from error

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}"

    def mount_of(self, path: str) -> str | None:
        matching = [prefix for prefix in self.folders if path.startswith(prefix)]
        return max(matching, key=len, default=None)


@contextmanager
def serving(folders: Mapping[str, Path], port: int = 0) -> Iterator[str]:
    """Serve in the background; yields the address, such as http://127.0.0.1:40321."""
    with SiteServer(folders, port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def serve_until_interrupted(server: SiteServer) -> None:
    """Serve in the foreground until Ctrl-C."""
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
