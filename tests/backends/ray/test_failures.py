"""A process dies or hangs during an evaluation: it is replaced, no sample is lost, and no answer changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launcher.settings.model import Model, Parallelism
from launcher.tasks.generation import Generation
from tests.backends.ray.ray_faults import Scores, Victims, dies, hangs, lives_through, scores_of, starves
from tests.backends.ray.ray_service import Service, served

pytest.importorskip("ray")
pytest.importorskip("megatron.core")
# A start of Ray takes ten seconds, or minutes on a machine that is busy with other tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two replicas of two ranks."""
    from launcher.engines.megatron import Megatron

    folder, model = tmp_path_factory.mktemp("gangs"), Model("tiny", "package:launcher/assets/tiny")
    with served(folder, Megatron(), model, Parallelism(tensor=2)) as service:
        yield service


@pytest.fixture(scope="module")
def undisturbed(gangs: Service, task: Generation, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return scores_of(gangs, tmp_path_factory.mktemp("undisturbed") / "run", task, lambda: None)


def rank_dies(service: Service) -> Victims:
    return [(service.ranks()[0], dies)]


def rank_and_replica_hang(service: Service) -> Victims:
    return [(service.ranks()[0], hangs), (service.replicas()[1], hangs)]


def rank_gets_no_memory_and_replica_dies(service: Service) -> Victims:
    return [(service.ranks()[0], starves(service)), (service.replicas()[1], dies)]


def proxy_dies(service: Service) -> Victims:
    return [(service.named("haproxy"), dies)]


def proxy_hangs(service: Service) -> Victims:
    return [(service.named("haproxy"), hangs)]


@pytest.mark.parametrize(
    "choose",
    [rank_dies, rank_and_replica_hang, rank_gets_no_memory_and_replica_dies, proxy_dies, proxy_hangs],
)
def test_an_evaluation_loses_nothing(
    gangs: Service, undisturbed: Scores, task: Generation, tmp_path: Path, choose: Callable[[Service], Victims]
) -> None:
    driver, victims = gangs.driver(), choose(gangs)
    leaders = {psutil.Process(pid).ppid() for pid, _ in victims} & set(gangs.replicas())
    lives_through(gangs, victims, tmp_path / choose.__name__, task, undisturbed, *leaders)
    assert gangs.driver() == driver, "one part was lost, and all of Ray was replaced"
