"""A server that outlives a run: brought up once, taken down when another is needed, replaced when it died."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from launcher.backends.base import Backend
from launcher.backends.inline import Inline
from launcher.core.admission import Admission
from launcher.core.errors import ServerError, UserError
from launcher.core.types import Check, Endpoint
from launcher.distributed.allocation import Allocation, allocate
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.monitor.health import probe
from launcher.pipeline.servers import RunningServer, ServerPool
from launcher.settings.model import Model, Optimizations, Parallelism


@dataclass
class Counted(Backend):
    """The inline backend, with a list of what came up and went down."""

    events: list[str] = field(default_factory=list)

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        with Inline().serve(deployment, allocation) as endpoint:
            self.events.append(f"up {deployment.model.name}")
            yield endpoint
        self.events.append(f"down {deployment.model.name}")


@dataclass
class Broken(Backend):
    """A backend that never starts."""

    error: Exception
    tries: int = 0

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        self.tries += 1
        raise self.error
        yield


def deployment(folder: Path, name: str = "a") -> Deployment:
    folder.mkdir(exist_ok=True)
    return Deployment(Model(name), Echo(), Parallelism(), Optimizations(), folder)


def models(endpoint: Endpoint) -> int:
    with urlopen(f"{endpoint.url}/models", timeout=10) as answer:
        return int(answer.status)


def test_equal_fingerprints_share_a_server_and_another_one_takes_it_down(tmp_path: Path) -> None:
    backend, urls = Counted(), []
    with ServerPool() as deployments:
        for n, name in enumerate(["a", "a", "b"]):
            with deployments.serve(name, backend, deployment(tmp_path / str(n), name), allocate()) as server:
                assert models(server.endpoint) == 200
                urls.append(server.endpoint.url)
    assert backend.events == ["up a", "down a", "up b", "down b"]
    assert urls[0] == urls[1] != urls[2]


def test_every_run_folder_has_the_log_of_its_server(tmp_path: Path) -> None:
    with ServerPool() as deployments:
        for name in ("0", "1"):
            with deployments.serve("a", Counted(), deployment(tmp_path / name), allocate()) as server:
                models(server.endpoint)
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert "/v1/models" in (moved / "1/server.log").read_text()
    assert (moved / "0/server.log").read_text() == (moved / "1/server.log").read_text()


def test_a_log_of_an_earlier_session_is_kept(tmp_path: Path) -> None:
    backend = Counted()
    for order in (["0", "1"], ["1", "0"]):
        with ServerPool() as deployments:
            for name in order:
                with deployments.serve("a", backend, deployment(tmp_path / name), allocate()):
                    pass
    assert (tmp_path / "0/server.earlier.log").is_file()
    assert not (tmp_path / "1/server.log").is_symlink()
    assert (tmp_path / "0/server.log").resolve() == (tmp_path / "1/server.log").resolve()


def test_a_server_that_died_is_replaced(tmp_path: Path) -> None:
    backend = Counted()
    with ServerPool() as deployments:
        with deployments.serve("a", backend, deployment(tmp_path / "0"), allocate()) as server:
            dead = Endpoint("http://127.0.0.1:9/v1", "a", "inline", "echo")
            deployments._up = replace(server, endpoint=dead)
        with deployments.serve("a", backend, deployment(tmp_path / "1"), allocate()) as server:
            assert models(server.endpoint) == 200
    assert backend.events == ["up a", "down a", "up a", "down a"]


@pytest.mark.parametrize(
    ("error", "reason"), [(UserError("no such port"), "no such port"), (ValueError("oops"), "ValueError: oops")]
)
def test_what_did_not_start_is_not_tried_again(tmp_path: Path, error: Exception, reason: str) -> None:
    backend = Broken(error)
    with ServerPool() as deployments:
        with pytest.raises(type(error)), deployments.serve("a", backend, deployment(tmp_path / "0"), allocate()):
            pass
        with (
            pytest.raises(ServerError, match=reason),
            deployments.serve("a", backend, deployment(tmp_path / "1"), allocate()),
        ):
            pass
    assert backend.tries == 1


def test_a_certificate_is_copied_only_for_the_same_question(tmp_path: Path) -> None:
    server = RunningServer("a", Endpoint("http://127.0.0.1:9/v1", "a", "inline", "echo"), tmp_path)
    first, second = tmp_path / "0", tmp_path / "1"
    first.mkdir()
    second.mkdir()
    (first / "certificate.json").write_text("the certificate")
    (first / "certificate.xml").write_text("the same for CI")
    checks = (Check("answers", True, "fine"),)
    server.certificates.append(("chat", first, checks))
    assert server.copy_certificate("log-probabilities", second) is None
    assert not (second / "certificate.json").exists()
    assert server.copy_certificate("chat", second) == checks
    assert (second / "certificate.json").read_text() == "the certificate"
    assert (second / "certificate.xml").read_text() == "the same for CI"


def test_a_shared_server_stays_open_after_its_first_certificate(tmp_path: Path) -> None:
    def waiting(name: str) -> Deployment:
        return replace(deployment(tmp_path / name), admission=Admission())

    with ServerPool() as deployments:
        with deployments.serve("a", Counted(), waiting("first"), allocate()) as first:
            assert probe(first.endpoint)["live"]
            with pytest.raises(HTTPError, match="503"):
                models(first.endpoint)
            assert first.endpoint.validator_token is not None
            first.admit()
        with deployments.serve("a", Counted(), waiting("second"), allocate()) as second:
            assert models(second.endpoint) == 200
            assert second.endpoint.validator_token is None
