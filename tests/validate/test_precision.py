"""Sound engines get their certificate in every floating point type; broken ones in none."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from launcher.backends.base import Backend
from launcher.backends.command import Command
from launcher.backends.inline import Inline
from launcher.core.event_loop import run_async
from launcher.core.types import Check, Outcome, resolve
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment, Engine
from launcher.engines.huggingface import HuggingFace
from launcher.engines.megatron import Megatron
from launcher.engines.none import Nothing
from launcher.settings.model import Dtype, Model, Optimizations, Parallelism
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.validate import planted

SHIPPED = "package:launcher/assets/tiny"


def checked(
    engine: Engine,
    path: str,
    dtype: Dtype,
    folder: Path,
    needed: frozenset[Capability] = frozenset(Capability),
    backend: Backend | None = None,
) -> dict[str, Check]:
    """Serve a model, and validate it as a run does."""
    optimizations = Optimizations(dtype=dtype)
    deployment = Deployment(Model("m", path), engine, Parallelism(), optimizations, folder)
    with (backend or Inline()).serve(deployment, allocate()) as endpoint:
        checks = run_async(certificate.validate(endpoint, Validate(), needed, resolve(path)))
        certificate.write(checks, endpoint, folder)
    return {check.name: check for check in checks}


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a random model whose tokens are all nearly equally likely."""
    return str(planted.near_ties(tmp_path_factory.mktemp("near-ties")))


@pytest.mark.parametrize("dtype", [Dtype.bf16, Dtype.fp16])
def test_the_shipped_model_gets_its_certificate(tmp_path: Path, dtype: Dtype) -> None:
    checks = checked(Megatron(), SHIPPED, dtype, tmp_path)
    others = {check.name for check in checks.values() if check.ok is not True and check.family != "tool calls"}
    assert others == {"server facts", "key needed", "next token"}, checks
    assert checks["tools read"].outcome is Outcome.not_applicable
    written = json.loads((tmp_path / "certificate.json").read_text())
    told = written["tolerance"]
    assert (told["dtype"], told["exact_dtype"], told["source"]) == (dtype.value, "fp32", "measured")
    assert told["rounding"] > 0
    assert told["least"] <= told["value"] <= told["most"]
    assert dtype.value in checks["equal to forward pass"].detail
    seen = checks["equal to forward pass"].numbers["largest_difference"]
    assert 1e-4 < seen <= told["value"], "by what held for all types before, this was no sound engine"


@pytest.mark.slow
def test_a_server_of_ours_that_a_command_starts_is_waited_for_and_held_to_its_type(tmp_path: Path) -> None:
    """It answers the command's launcher once its own certificate is valid."""
    inner = f"{shlex.quote(sys.executable)} -m launcher mode=serve engine.max_sequences=8 optimizations.dtype=bf16"
    inner += f" backend.port={{port}} hydra.run.dir={tmp_path / 'inner'}"
    checks = checked(Nothing(), "", Dtype.auto, tmp_path, backend=Command(inner))
    assert certificate.failed(tuple(checks.values())) == []
    assert (checks["rounding"].numbers["dtype"], checks["rounding"].numbers["source"]) == ("bf16", "assumed")
    assert "bf16, as the server reports" in checks["rounding"].detail
    assert checks["equal to forward pass"].ok is None


@pytest.mark.parametrize("dtype", [Dtype.bf16, Dtype.fp16])
@pytest.mark.parametrize("engine", [Megatron(), HuggingFace()], ids=lambda engine: type(engine).__name__)
def test_a_model_that_is_nearly_undecided_gets_its_certificate(
    tmp_path: Path, undecided: str, engine: Engine, dtype: Dtype
) -> None:
    checks = checked(engine, undecided, dtype, tmp_path, frozenset(Capability) - {Capability.chat})
    assert certificate.failed(tuple(checks.values())) == []
    assert checks["rounding"].numbers["source"] == "measured"


@pytest.mark.parametrize(
    "plant",
    [planted.perturbed(0.25), planted.another_theta, planted.off_by_one_block],
    ids=["weight", "theta", "block"],
)
def test_an_error_of_the_cached_path_alone_is_found_in_bf16(tmp_path: Path, plant: planted.Plant) -> None:
    checks = checked(planted.engine(plant), SHIPPED, Dtype.bf16, tmp_path)
    assert checks["equal to forward pass"].ok is False
    assert checks["rounding"].numbers["source"] == "measured", "the error has no part in the tolerance"


def test_a_plain_pass_that_is_broken_itself_gets_no_tolerance_that_lets_it_pass(tmp_path: Path) -> None:
    checks = checked(planted.engine(planted.noisy), SHIPPED, Dtype.bf16, tmp_path)
    assert checks["rounding"].ok is False
    assert checks["equal to forward pass"].ok is False
