"""What a result was made with, and what two runs must share to be mixed."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from launcher.core.files import conf_folder
from launcher.distributed.allocation import allocate
from launcher.pipeline.config import Run
from launcher.pipeline.provenance import packages_of, provenance, resume_key


def composed(*overrides: str) -> tuple[Run, dict[str, Any]]:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", ["engine=echo", "model=none", *overrides])
    typed = OmegaConf.to_object(cfg)
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(typed, Run)
    assert isinstance(plain, dict)
    return typed, {str(k): v for k, v in plain.items()}


def answers(*overrides: str) -> dict[str, Any]:
    return resume_key(*composed(*overrides), checkpoint=None)


def test_versions_and_machine_are_recorded() -> None:
    facts = provenance({}, ["a=b"], allocate())
    assert facts["overrides"] == ["a=b"]
    assert {"launcher", "python", "hydra-core"} <= set(facts["versions"])
    assert facts["machine"]["cpus"] >= 1


def test_what_cannot_change_an_answer_does_not_count() -> None:
    assert answers() == answers(
        "evaluate.concurrency=3", "backend.port=0", "adapters=[retry,request_log]", "engine.max_queue=7"
    )


def test_what_can_change_an_answer_counts() -> None:
    for override in (
        "evaluate.temperature=0.7",
        "adapters=[retry,reasoning]",
        "tasks=[addition]",
        "optimizations.dtype=bf16",
        "optimizations.batch_invariant=true",
        "model.tool_call_parser=hermes",
    ):
        assert answers() != answers(override), override


def test_only_the_versions_of_packages_that_had_a_part_are_recorded() -> None:
    external = ("backend=external", "backend.url=http://127.0.0.1:1/v1", "engine=none", "tasks=[addition]")
    nothing = set(packages_of(composed(*external)[0]))
    assert not nothing & {"torch", "transformers", "megatron-core", "fastapi", "ray", "lm-eval", "submitit"}
    assert "aiohttp" in nothing
    assert {"torch", "megatron-core"} <= set(packages_of(composed("engine=megatron", "model=tiny")[0]))
    assert "megatron-core" not in packages_of(composed("engine=huggingface", "model=tiny")[0])
    assert {"ray", "fastapi"} <= set(packages_of(composed("backend=ray")[0]))
    assert "torch" in packages_of(composed("engine=auto", "model=tiny")[0]), "it may take any engine"
