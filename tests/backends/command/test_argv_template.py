from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.command import argv_template
from launcher.core.errors import UserError
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.engines.none import Nothing
from launcher.settings.model import Model, Optimizations, Parallelism, ToolCallParser


def filled(command: str, model: Model | None = None, parallelism: Parallelism | None = None) -> list[str]:
    served = Deployment(model or Model(), Nothing(), parallelism or Parallelism(), Optimizations(), Path())
    there = Allocation(("here",), 0, 1, cpus=2, gpus=4)
    return argv_template.split(command, argv_template.values(served, there, "127.0.0.1", 8000))


def test_names_become_values_and_words_are_a_shells() -> None:
    found = filled("serve 'two words' --at={host}:{port} -tp {tensor} -g {gpus}", parallelism=Parallelism(tensor=2))
    assert found == ["serve", "two words", "--at=127.0.0.1:8000", "-tp", "2", "-g", "4"]


def test_a_value_with_spaces_stays_one_word(tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    assert filled("serve {checkpoint}", Model(path=str(folder))) == ["serve", str(folder)]


def test_a_local_checkpoint_holds_from_anywhere_and_a_hubs_name_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").mkdir()
    monkeypatch.chdir(tmp_path)
    assert filled("serve {checkpoint}", Model(path="local"))[1] == str(tmp_path / "local")
    assert filled("serve {checkpoint}", Model(path="someone/something"))[1] == "someone/something"


def test_json_among_the_arguments_stays() -> None:
    assert filled("""serve --config '{"level": 3, "sizes": [1, 2]}'""")[2] == '{"level": 3, "sizes": [1, 2]}'


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("serve {prot}", r"\{prot\} is unknown; expected one of host, port, model, checkpoint"),
        ("serve {checkpoint}", r"\{checkpoint\} has no value; set model.path"),
        ("serve {tokenizer}", r"\{tokenizer\} has no value; set model.tokenizer"),
        ("serve 'open", "No closing quotation"),
        ("  ", "empty"),
    ],
)
def test_what_is_no_command_is_one_line(command: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        filled(command)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("model", "parallelism", "said"),
    [
        (Model(path="x"), Parallelism(), r"model.path=x: \{checkpoint\} is not in backend.command"),
        (Model(context_length=99), Parallelism(), r"model.context_length=99: \{context_length\}"),
        (Model(), Parallelism(tensor=2), r"parallelism.tensor=2: \{tensor\}"),
        (Model(), Parallelism(pipeline=4), r"parallelism.pipeline=4: \{pipeline\}"),
        (
            Model(tool_call_parser=ToolCallParser.hermes),
            Parallelism(),
            r"parser=hermes: \{tool_call_parser\} is not in",
        ),
    ],
)
def test_what_is_set_must_reach_the_server(model: Model, parallelism: Parallelism, said: str) -> None:
    with pytest.raises(UserError, match=said):
        argv_template.check("serve --port {port}", model, parallelism)
    argv_template.check("{checkpoint} {context_length} {tensor} {pipeline} {tool_call_parser}", model, parallelism)


def test_a_parser_of_tool_calls_is_told_where_one_is_named() -> None:
    command = "serve --tool-call-parser {tool_call_parser}"
    assert filled(command, Model(tool_call_parser=ToolCallParser.hermes))[-1] == "hermes"
    with pytest.raises(UserError, match=r"\{tool_call_parser\} has no value; set model.tool_call_parser"):
        filled(command)
    argv_template.check("serve", Model(tool_call_parser=ToolCallParser.none), Parallelism())
