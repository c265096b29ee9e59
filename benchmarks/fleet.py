"""Simulate 64 to 1,000 replicas behind one HAProxy: requests, failures, retries, and the first bottleneck.

Usage: ``.venv/bin/python benchmarks/fleet.py``. Nothing real runs: `benchmarks/scaling.py` and `benchmarks/backends.py`
measured the costs. A replica serves up to 16 requests at once, each at one token per step of 10 ms. A closed loop of
clients keeps twice as many requests open. Replicas die at random, and another one starts in their place. HAProxy
repeats the lost requests on other replicas, at most three times, as configured.

HAProxy's time and ``maxconn`` delay the simulated requests. For the driver and the clients the simulation only computes
the use, as a share of one core. Above 100 % one client process is not enough, or the driver is too slow.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count


@dataclass(frozen=True)
class Costs:
    """Measured CPU-ms per request of HAProxy and of a client, and of the driver per replica and second.

    ``maxconn`` is the number of requests that HAProxy accepts at a time.
    """

    haproxy_ms: float = 0.3
    driver_ms_per_replica: float = 2.0
    client_ms: float = 0.7
    haproxy_threads: int = 2
    maxconn: int = 8192


@dataclass(frozen=True)
class World:
    """The simulated fleet; ``death_s`` is the mean time between deaths of one replica."""

    replicas: int
    clients_per_replica: int = 32
    slots: int = 16
    step_s: float = 0.01
    tokens: int = 64
    death_s: float = 3600.0
    start_s: float = 20.0
    retries: int = 3
    seconds: float = 20.0


@dataclass
class Replica:
    """One batch and its queue. ``life`` numbers the replicas that had the same place in turn."""

    running: set[int] = field(default_factory=set)
    queue: deque[int] = field(default_factory=deque)
    life: int = 0
    alive: bool = True

    @property
    def load(self) -> int:
        return len(self.running) + len(self.queue)


class Simulation:
    """Processes events in order of time: a request arrives, is routed, ends; a replica dies or starts."""

    def __init__(self, world: World, costs: Costs, seed: int = 0) -> None:
        self.world, self.costs, self.rng = world, costs, random.Random(seed)
        self.now, self.order = 0.0, count()
        self.events: list[tuple[float, int, Callable[..., None], tuple[int, ...]]] = []
        self.replicas = [Replica() for _ in range(world.replicas)]
        self.least = [(0, n) for n in range(world.replicas)]
        self.threads = [0.0] * costs.haproxy_threads
        self.inside, self.outside = 0, deque[int]()
        self.began: dict[int, float] = {}
        self.tries: dict[int, int] = {}
        self.taken: list[float] = []
        self.failed = self.retried = 0
        self.numbers = count()

    def run(self) -> None:
        w = self.world
        for n in range(w.replicas):
            self.at(self.rng.expovariate(1 / w.death_s), self.die, n)
        for _ in range(w.replicas * w.clients_per_replica):
            self.at(self.rng.random() * w.step_s * w.tokens, self.arrive)
        while self.events and self.events[0][0] <= w.seconds:
            self.now, _, what, arguments = heapq.heappop(self.events)
            what(*arguments)

    def at(self, after: float, what: Callable[..., None], *arguments: int) -> None:
        heapq.heappush(self.events, (self.now + after, next(self.order), what, arguments))

    def arrive(self) -> None:
        """Send a client's next request; beyond ``maxconn`` it waits to be accepted."""
        number = next(self.numbers)
        self.began[number], self.tries[number] = self.now, 0
        if self.inside < self.costs.maxconn:
            self.accept(number)
        else:
            self.outside.append(number)

    def accept(self, number: int) -> None:
        self.inside += 1
        free = heapq.heappop(self.threads)
        done = max(free, self.now) + self.costs.haproxy_ms / 1e3
        heapq.heappush(self.threads, done)
        self.at(done - self.now, self.route, number)

    def route(self, number: int) -> None:
        """Give a request to the replica with the fewest; outdated entries of the heap are renewed."""
        while self.least:
            load, n = heapq.heappop(self.least)
            replica = self.replicas[n]
            if not replica.alive:
                continue
            if load < replica.load:
                heapq.heappush(self.least, (replica.load, n))
                continue
            replica.queue.append(number)
            heapq.heappush(self.least, (replica.load, n))
            self.fill(n)
            return
        self.at(0.05, self.route, number)

    def fill(self, n: int) -> None:
        replica, w = self.replicas[n], self.world
        while replica.queue and len(replica.running) < w.slots:
            number = replica.queue.popleft()
            replica.running.add(number)
            self.at(w.step_s * w.tokens, self.finish, n, replica.life, number)

    def finish(self, n: int, life: int, number: int) -> None:
        replica = self.replicas[n]
        if replica.life != life:
            return
        replica.running.discard(number)
        heapq.heappush(self.least, (replica.load, n))
        self.fill(n)
        self.taken.append(self.now - self.began[number])
        self.release(number)

    def release(self, number: int) -> None:
        """Free the slot of an answered or failed request; its client sends the next one."""
        del self.began[number], self.tries[number]
        self.inside -= 1
        if self.outside:
            self.accept(self.outside.popleft())
        self.arrive()

    def die(self, n: int) -> None:
        replica, w = self.replicas[n], self.world
        lost = [*replica.running, *replica.queue]
        self.replicas[n] = Replica(life=replica.life + 1, alive=False)
        self.at(w.start_s, self.start, n)
        for number in lost:
            self.tries[number] += 1
            if self.tries[number] > w.retries:
                self.failed += 1
                self.release(number)
            else:
                self.retried += 1
                self.route(number)

    def start(self, n: int) -> None:
        self.replicas[n].alive = True
        heapq.heappush(self.least, (0, n))
        self.at(self.rng.expovariate(1 / self.world.death_s), self.die, n)


def report(world: World, costs: Costs) -> None:
    simulation = Simulation(world, costs)
    simulation.run()
    per_s = len(simulation.taken) / world.seconds
    ideal = world.replicas * world.slots / (world.step_s * world.tokens)
    tail = statistics.quantiles(simulation.taken, n=100)
    cores = {
        "haproxy": per_s * costs.haproxy_ms / 1e3 / costs.haproxy_threads,
        "driver": world.replicas * costs.driver_ms_per_replica / 1e3,
        "client": per_s * costs.client_ms / 1e3,
    }
    use = " ".join(f"{part} {share:>5.0%}" for part, share in cores.items())
    print(
        f"{world.replicas:>5} replicas, a death in {world.death_s:>5.0f} s each: {per_s:>6.0f} requests/s, "
        f"{per_s / ideal:>4.0%} of ideal, p50 {tail[49]:.2f} s, p99 {tail[98]:.2f} s, "
        f"repeated {simulation.retried:>5}, failed {simulation.failed} | {use}",
        flush=True,
    )


def limits(costs: Costs, world: World) -> dict[str, float]:
    """Return the number of replicas at which each part is fully used."""
    each = world.slots / (world.step_s * world.tokens)
    return {
        "one client process": 1e3 / costs.client_ms / each,
        "the driver's core": 1e3 / costs.driver_ms_per_replica,
        "HAProxy's threads": costs.haproxy_threads * 1e3 / costs.haproxy_ms / each,
        "HAProxy's maxconn (full batches)": costs.maxconn / world.slots,
    }


if __name__ == "__main__":
    for replicas in (64, 128, 256, 512, 1000):
        for death_s in (86400.0, 600.0):
            report(World(replicas, death_s=death_s), Costs())
    for part, most in sorted(limits(Costs(), World(1)).items(), key=lambda item: item[1]):
        print(f"{part}: {most:.0f} replicas")
