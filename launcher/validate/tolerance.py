"""The tolerance for log-probabilities: how far rounding may move them in a floating point type."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from launcher.core.types import Json

EPSILON = {"bf16": 2.0**-7, "fp16": 2.0**-10, "tf32": 2.0**-10, "fp32": 2.0**-23, "fp64": 2.0**-52}
"""The distance from 1 to the next larger number of each type (``torch.finfo(...).eps``). ``tf32`` is that in which
kernels for a GPU may multiply fp32."""
WIDER = {"bf16": "fp32", "fp16": "fp32", "fp32": "fp64"}
"""The type of the pass that each is compared with (`launcher.engines.runtime.upcast`)."""

SAFETY = 10.0
"""The tolerance in units of the measured rounding error (root mean square). The largest of some hundred differences of
two passes that round independently is 5 to 6 of these units (measured on the shipped model and on random ones)."""
TYPICAL_SAFETY = 3.0
"""The tolerance of the median difference, in median rounding errors; two passes differ by 0.5 to 2 of them."""
LEAST_NATS, LEAST_EPSILONS = 1e-4, 4.0
"""The least tolerance, in nats and in epsilons. A smaller difference changes no score."""
MOST_EPSILONS, AROUND_LAYERS = 24.0, 4
"""No tolerance is above this many epsilons times the square root of the number of layers and four more (embedding, last
norm, output layer, logits): rounding errors add up like steps in random directions. An engine whose own plain pass is
broken can so derive no tolerance that lets it pass."""
REROUTED = 0.1
"""The share of tokens that may exceed the tolerance in a model with experts. A router with close scores may choose
another expert, whose result differs by more than rounding. The bound of the median still holds."""
ASSUMED_EPSILONS = 32.0
"""The tolerance in epsilons where nothing can be measured."""
ASSUMED_DTYPE = "bf16"
"""The type of a server that reports none: the coarsest type of unquantised models."""


@dataclass(frozen=True)
class Tolerance:
    """How far two computations of one log-probability may be apart, in nats.

    ``value`` bounds the largest difference, or all but a share of `REROUTED` with ``experts``; ``typical`` bounds the
    median. ``source`` is ``given`` (by ``validate.tolerance``), ``measured`` or ``assumed``; ``why`` says it in words.
    ``rounding`` is the root mean square error of a plain pass in ``dtype`` against one in ``exact_dtype``, over
    ``tokens`` tokens; ``typical_rounding`` is the median error. ``value`` is never below ``least`` or above ``most``.
    """

    value: float
    typical: float
    dtype: str
    source: str
    why: str
    rounding: float | None = None
    typical_rounding: float | None = None
    tokens: int = 0
    exact_dtype: str | None = None
    layers: int | None = None
    experts: bool = False
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.2g} nats ({self.why})"

    @property
    def exceeds_rounding(self) -> bool:
        """Whether the error of a plain pass is larger than rounding explains."""
        found, most = self.typical_rounding, self.most
        return found is not None and most is not None and not found <= most

    def violation(self, differences: Sequence[float]) -> str | None:
        """Return how ``differences`` exceed the tolerance; None if they do not."""
        worst, median = self.worst(differences), statistics.median(differences)
        if not worst <= self.value:
            return f"by {worst:.2g}; the tolerance is {self}"
        if not median <= self.typical:
            return f"by {median:.2g} in the median; the tolerance is {self.typical:.2g} ({self.why})"
        return None

    def worst(self, differences: Sequence[float]) -> float:
        """Return the largest difference, except those of rerouted tokens."""
        return sorted(differences)[len(differences) - 1 - int(self.experts * REROUTED * len(differences))]

    def to_json(self) -> dict[str, Json]:
        return {key: value if _known(value) else None for key, value in asdict(self).items()}


def nats(value: float) -> str:
    """Return a difference for a certificate."""
    return f"{value:.1e}" if value else "0"


def given(value: float, dtype: str) -> Tolerance:
    return Tolerance(value, value, dtype or "unknown", "given", f"validate.tolerance={value:g}")


def assumed(dtype: str, why: str) -> Tolerance:
    """Return the tolerance of a server whose rounding cannot be measured, for the reason ``why``."""
    name = dtype if dtype in EPSILON else ASSUMED_DTYPE
    source = f"{name}, as the server reports" if dtype in EPSILON else f"{name}, assumed: the server reports no type"
    value = max(LEAST_NATS, ASSUMED_EPSILONS * EPSILON[name])
    return Tolerance(value, value, name, "assumed", f"{ASSUMED_EPSILONS:g} epsilons of {source}; {why}")


def measured(engine: EngineFacts, pairs: Iterable[tuple[float, float]]) -> Tolerance:
    """Derive a tolerance from pairs of log-probabilities of one token, by a plain pass and by an exact one.

    Neither comes from the batched, cached path that is then held to the tolerance.
    """
    errors = [abs(plain - exact) for plain, exact in pairs]
    errors = [error if math.isfinite(error) else math.inf for error in errors]
    rounding, median = math.hypot(*errors) / math.sqrt(len(errors)), statistics.median(errors)
    epsilon = EPSILON[engine.dtype]
    least = max(LEAST_NATS, LEAST_EPSILONS * epsilon)
    most = max(least, MOST_EPSILONS * epsilon * math.sqrt(engine.layers + AROUND_LAYERS))
    value = min(max(SAFETY * rounding, least), most)
    share = TYPICAL_SAFETY / SAFETY
    why = f"{SAFETY:g} times the rounding error of {engine.dtype}, {rounding:.2g} over {len(errors)} tokens"
    if value != SAFETY * rounding:
        why += f", held to {least:.2g} to {most:.2g}"
    return Tolerance(
        value=value,
        typical=min(max(TYPICAL_SAFETY * median, share * least), share * most),
        dtype=engine.dtype,
        source="measured",
        why=why,
        rounding=rounding,
        typical_rounding=median,
        tokens=len(errors),
        exact_dtype=WIDER[engine.dtype],
        layers=engine.layers,
        experts=engine.experts,
        least=least,
        most=most,
    )


@dataclass(frozen=True)
class EngineFacts:
    """Facts from a server's ``/engine``: the floating point type (empty if unknown), layers, experts."""

    dtype: str
    layers: int
    experts: bool

    @classmethod
    def of(cls, engine: Mapping[str, Json]) -> EngineFacts:
        dtype, layers = engine.get("precision") or engine.get("dtype"), engine.get("layers")
        known = dtype if isinstance(dtype, str) and dtype in EPSILON else ""
        return cls(known, layers if isinstance(layers, int) else 0, bool(engine.get("experts")))


def _known(value: Json) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
