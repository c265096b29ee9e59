"""A request says what its caller gave, or is refused; no header can become two."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.http_request import FRAMING, Origin, head, target

URL = "http://127.0.0.1:8000/v1/completions"


@pytest.mark.parametrize(
    ("url", "origin", "host", "path"),
    [
        ("http://h", Origin("http", "h", 80), b"h", b"/"),
        ("HTTP://H:80/a", Origin("http", "h", 80), b"h", b"/a"),
        ("http://h:0/a", Origin("http", "h", 0), b"h:0", b"/a"),
        ("https://h:8443/a?b=c d#e", Origin("https", "h", 8443), b"h:8443", b"/a?b=c%20d"),
        ("https://h?q", Origin("https", "h", 443), b"h", b"/?q"),
        ("http://[::1]:81/é%2F", Origin("http", "::1", 81), b"[::1]:81", b"/%C3%A9%2F"),
        ("http://[fe80::1%25eth0]/", Origin("http", "fe80::1%eth0", 80), b"[fe80::1]", b"/"),
        ("http://bücher.example/", Origin("http", "xn--bcher-kva.example", 80), b"xn--bcher-kva.example", b"/"),
    ],
)
def test_a_url_says_where_and_what(url, origin, host, path) -> None:
    found = target(url)
    assert (found.origin, found.host, found.path, found.authorization) == (origin, host, path, None)


def test_a_password_of_the_url_becomes_a_header_unless_there_is_a_key() -> None:
    url = "http://us%40er:s3cret@h/a"
    assert b"Authorization: Basic dXNAZXI6czNjcmV0\r\n" in head("GET", target(url), [], 0)
    with pytest.raises(ValueError, match="only one"):
        head("GET", target(url), [(b"authorization", b"Bearer k")], 0)


@pytest.mark.parametrize(
    "url", ["ftp://h/", "h/a", "http://", "http:///a", "http://h:99999/", "http://h:x/", "http://[::1/", "http://a b/"]
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the messages are those of the standard library
        target(url)


class Read:
    """What a server reads."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.whole = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        assert not self.whole
        self.whole = True


NAMES = st.binary(min_size=1, max_size=8) | st.sampled_from([b"Host", b"X-A", b"content-LENGTH", b"Transfer-Encoding"])
VALUES = st.binary(max_size=12) | st.text("ab \t\r\n\0:é").map(str.encode)
LENIENT = {b"connection", b"upgrade"}


@given(st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_a_server_reads_the_headers_that_were_given(headers) -> None:
    try:
        text = head("POST", target(URL), headers, 2)
    except ValueError:
        return
    assert text.count(b"\r\n\r\n") == 1
    lines = text.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    kept = [(name, value) for name, value in headers if name.lower() not in FRAMING]
    own = [] if any(name.lower() == b"host" for name, _ in kept) else [b"Host: 127.0.0.1:8000"]
    assert lines == own + [name + b": " + value for name, value in kept] + [b"Content-Length: 2"]


@given(
    st.lists(st.tuples(st.sampled_from([b"X-A", b"accept", b"Host"]), st.text("ab:;= /é").map(str.encode)), max_size=4)
)
def test_what_is_sent_is_http(headers) -> None:
    read = Read(head("POST", target(URL), headers, 2) + b"{}")
    assert (read.whole, read.method, read.url) == (True, b"POST", b"/v1/completions")
    assert [(n, v.strip(b" \t")) for n, v in read.headers if n.lower() not in (b"host", b"content-length")] == [
        (n, v.strip(b" \t")) for n, v in headers if n != b"Host"
    ]


@pytest.mark.parametrize("header", [(b"a b", b""), (b"", b"x"), (b"a:", b"x"), (b"a", b"x\r\ny: z"), (b"a", b"\0")])
def test_a_header_that_is_none_is_refused(header) -> None:
    with pytest.raises(ValueError, match="header"):
        head("GET", target(URL), [header], 0)


@pytest.mark.parametrize("method", ["", "GET /", "CONNECT", "G\r\n", "É"])
def test_a_method_that_is_none_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="method"):
        head(method, target(URL), [], 0)
