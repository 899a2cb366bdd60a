"""The small static server behind `llmr book serve`, `llmr demo` and the browser tests."""

from __future__ import annotations

import gzip
import http.client
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llmr_ref.site_server import SiteServer, serving


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("not served")
    book = tmp_path / "book"
    (book / "part").mkdir(parents=True)
    (book / "index.html").write_text("<h1>first page</h1>" * 50)
    (book / "widget.mjs").write_text("export default 1")
    (book / "part" / "page.html").write_text("é")
    (book / "picture.png").write_bytes(b"\x89PNG")
    return book


@pytest.fixture
def ask(site: Path):
    with serving({"/book/": site}) as url:

        def ask(path: str, **headers: str):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            connection.close()
            return response, body

        yield ask


def test_serves_a_folder_below_its_prefix(ask):
    response, body = ask("/book/part/page.html")
    assert response.status == 200 and body.decode() == "é"
    assert ask("/book/")[1].startswith(b"<h1>first page")
    assert ask("/book/?q=a#b")[0].status == 200
    assert ask("/")[0].status == 404
    assert ask("/part/page.html")[0].status == 404


def test_the_prefix_without_its_slash_leads_to_the_folder(ask):
    response, _ = ask("/book")
    assert response.status == 301 and response.headers["Location"] == "/book/"


def test_text_is_compressed_for_whoever_understands_it(ask, site):
    response, body = ask("/book/", **{"Accept-Encoding": "gzip, br"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert gzip.decompress(body) == (site / "index.html").read_bytes()
    assert len(body) < (site / "index.html").stat().st_size / 5
    assert ask("/book/")[0].headers["Content-Encoding"] is None
    picture, body = ask("/book/picture.png", **{"Accept-Encoding": "gzip"})
    assert picture.headers["Content-Encoding"] is None and body == b"\x89PNG"


def test_a_changed_file_is_read_anew(ask, site):
    ask("/book/part/page.html", **{"Accept-Encoding": "gzip"})
    (site / "part" / "page.html").write_text("changed")
    _, body = ask("/book/part/page.html", **{"Accept-Encoding": "gzip"})
    assert gzip.decompress(body) == b"changed"


def test_modules_are_sent_as_javascript(ask):
    response, _ = ask("/book/widget.mjs")
    assert response.headers["Content-Type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/book/../secret.txt", "/book/%2e%2e/secret.txt", "/secret.txt"])
def test_nothing_outside_the_folder_is_served(ask, path):
    response, body = ask(path)
    assert response.status == 404 and b"not served" not in body


def test_a_folder_without_a_first_page_is_not_listed(ask):
    response, body = ask("/book/part/")
    assert response.status == 404 and b"page.html" not in body


def test_the_longest_prefix_wins(site, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "index.html").write_text("home")
    server = SiteServer({"/": tmp_path / "home", "/book/": site})
    server.server_close()
    assert server.mount_of("/book/x.html") == "/book/"
    assert server.mount_of("/bookshelf") == "/"


def test_it_listens_on_this_machine_alone(site):
    with SiteServer({"/": site}) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_taken_port_is_named(site):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}.*choose another one with --port"):
            SiteServer({"/": site}, port)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SiteServer({"/": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match="'book' must start and end with '/'"):
        SiteServer({"book": tmp_path})
