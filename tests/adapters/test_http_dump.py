from __future__ import annotations

import pytest

from launcher.adapters.base import Downstream
from launcher.adapters.http_dump import HttpDump
from launcher.core.errors import AdapterError, TransportError, UserError
from launcher.core.types import Request, Response

REQUEST = Request("/v1/completions", {"prompt": "é"}, {"Authorization": "Bearer s3cret", "X-Team": "a"})
EXPECTED = """POST /v1/completions HTTP/1.1
Authorization: <redacted>
X-Team: a

{
  "prompt": "é"
}

HTTP/1.1 200 OK
X-Id: 1

{
  "choices": []
}
"""


async def test_a_request_and_its_answer_read_like_http(server, tmp_path):
    dump = HttpDump()
    async with dump.running(tmp_path, Downstream(None)):
        await dump(REQUEST, server(Response(200, {"choices": []}, {"X-Id": "1"})))
    file = tmp_path / "http" / "0001.txt"
    assert file.read_text() == EXPECTED
    assert file.stat().st_mode & 0o077 == 0, "its owner's only"


async def test_the_first_requests_of_all_sessions(server, tmp_path):
    for _ in range(2):
        dump, upstream = HttpDump(max_count=3), server(Response(404, "page"))
        async with dump.running(tmp_path, Downstream(None)):
            for _ in range(2):
                assert (await dump(REQUEST, upstream)).status == 404
        assert len(upstream.asked) == 2
    assert sorted(path.name for path in (tmp_path / "http").iterdir()) == ["0001.txt", "0002.txt", "0003.txt"]


async def test_an_error_and_a_stream(server, stream, tmp_path):
    dump = HttpDump()
    async with dump.running(tmp_path, Downstream(None)):
        with pytest.raises(TransportError):
            await dump(REQUEST, server(TransportError("gone")))
        found = await dump(REQUEST, server(Response(200, events=stream([{"n": 1}, {"n": 2}]))))
        assert [event async for event in found.events] == [{"n": 1}, {"n": 2}]
    assert (tmp_path / "http" / "0001.txt").read_text().endswith("TransportError: gone\n")
    assert (tmp_path / "http" / "0002.txt").read_text().endswith('data: {"n": 1}\n\ndata: {"n": 2}\n')


async def test_it_works_in_a_run_only(server):
    with pytest.raises(AdapterError, match="outside of a run"):
        await HttpDump()(REQUEST, server())


def test_the_folder_is_in_the_run_folder():
    with pytest.raises(UserError, match=r"adapters\.http_dump\.folder"):
        HttpDump(folder="../x")
