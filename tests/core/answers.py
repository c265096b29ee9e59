"""Answers that HTTP/1.1 allows, or that clients put up with: the bytes, the body, and whether the connection stays."""

from __future__ import annotations

OK = b"HTTP/1.1 200 OK\r\n"
TWO = OK + b"Content-Length: 2\r\n\r\nab"
CHUNKED = OK + b"X-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n3\r\ncde\r\n0\r\nTrailer: t\r\n\r\n"

ANSWERS = {
    "length": (TWO, b"ab", True),
    "chunked": (CHUNKED, b"abcde", True),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "no content": (b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", True),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + TWO, b"ab", True),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", b"ab", False),
    "kept 1.0": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab", b"ab", True),
    "until close": (OK + b"\r\nabc", b"abc", False),
    "close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nab", b"ab", False),
    "LF alone": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab", b"ab", True),
    "folded": (OK + b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\nab", b"ab", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nab", b"ab", True),
    "unasked": (TWO + TWO, b"ab", False),
    "garbage after": (TWO + b"garbage", b"ab", False),
}
