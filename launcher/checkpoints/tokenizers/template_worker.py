"""Script that renders one chat template within limits, and reads requests from its standard input.

Python can stop neither a thread nor a long operation in C code. So the kernel enforces the bounds: a limit of CPU time,
which kills the process, and a limit of its address space. The script imports only the standard library and jinja2, so
that it starts fast.
The environment is Hugging Face's: https://huggingface.co/docs/transformers/chat_templating.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, ext, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

SIZE = struct.Struct("!Q")
"""Each message is its length in bytes and then JSON."""

SHOWN = 300
"""So many characters of an error are sent: a template may complain in megabytes."""

COPIES = 16
"""The address space that a request may take besides, as a multiple of its size: JSON, text, and parts of the result."""


class Generation(ext.Extension):
    """``{% generation %}`` marks what the model said; here its body is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def environment() -> Environment:
    """Return Hugging Face's environment for chat templates."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    made.globals |= {"dict": PlainDict(), "namespace": PlainNamespace}
    return made


class PlainDict:
    """What ``dict`` is in a template: a function that makes one, not Python's class."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class PlainNamespace(Namespace):
    """What ``namespace`` is in a template: no names with an underscore in front, which lead into Python."""

    def __init__(*args: Any, **values: Any) -> None:
        made = dict(*args[1:], **values)
        for name in made:
            _check_name(name)
        Namespace.__init__(args[0], made)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace keeps no name that begins with an underscore, got {name[:SHOWN]!r}")


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def shown(reason: str) -> str:
    """Return a template's words as one line of a message, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in reason[:SHOWN])


def read(stream: BinaryIO) -> Any:
    """Return the next message; None at the end of the stream."""
    head = stream.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    data = stream.read(SIZE.unpack(head)[0])
    return json.loads(data.decode("utf-8", "surrogatepass"))


def packed(message: Any) -> bytes:
    """Return a message as it is sent."""
    data = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return SIZE.pack(len(data)) + data


class Renderer:
    """One template: what it reads, and what it makes of a conversation."""

    def __init__(self, source: str, cpu_s: float, memory: int) -> None:
        self._cpu_s = cpu_s
        self._memory = memory
        self._base = _address_space()
        self._environment = environment()
        self._template: Template | None = None
        self._source = source

    def open(self) -> Mapping[str, Any]:
        """Compile the template; return the variables that it reads, and whether it walks through a content's parts."""

        def work() -> Mapping[str, Any]:
            tree = self._environment.parse(self._source)
            found = {"variables": sorted(meta.find_undeclared_variables(tree)), "parts": reads_parts(tree)}
            self._template = self._environment.from_string(self._source)
            return found

        return self._bounded(work, len(self._source))

    def render(self, variables: Mapping[str, Any], limit: int, size: int) -> Mapping[str, Any]:
        """Return ``{"text"}``, or ``{"bound"}`` or ``{"error"}`` with the reason; ``limit`` is in bytes."""
        template = self._template
        assert template is not None

        def work() -> Mapping[str, Any]:
            text = template.render(variables)
            if len(text) > limit or len(text.encode()) > limit:  # which a half of a surrogate pair refuses
                return {"bound": "size"}
            return {"text": text}

        return self._bounded(work, size)

    def _bounded(self, work: Callable[[], Mapping[str, Any]], size: int) -> Mapping[str, Any]:
        try:
            with _address_space_limit(self._base + self._memory + COPIES * size), _cpu_limit(self._cpu_s):
                return work()
        except MemoryError:
            return {"bound": "memory"}
        except TemplateSyntaxError as error:
            return {"error": shown(f"line {error.lineno}: {error.message}")}
        except TemplateError as error:
            return {"error": shown(error.message or type(error).__name__)}
        except Exception as error:  # a template may raise anything that Python can
            return {"error": shown(f"{type(error).__name__}: {error}")}


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """Let the kernel end this process when it computes longer; waiting for a busy machine does not count."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def _address_space_limit(size: int) -> Iterator[None]:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _address_space() -> int:
    """Return the bytes of address space that this process has now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def reads_parts(tree: nodes.Template) -> bool:
    """Return whether a template loops over a message's content, as vLLM's detection of the content format asks."""
    names = _assigned(tree, set())
    names |= _assigned(tree, names)
    return any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))


def _assigned(tree: nodes.Template, names: set[str]) -> set[str]:
    """Return the variables that are set to a message's content."""
    return {
        found.target.name
        for found in tree.find_all(nodes.Assign)
        if isinstance(found.target, nodes.Name) and _is_content(found.node, names)
    }


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    if isinstance(node, nodes.Filter):
        return _is_content(node.node, names)
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def main() -> None:
    """Answer requests until the input ends: first ``{template, cpu_s, memory}``, then ``{variables, limit, size}``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's; this process ends with its input
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, target = sys.stdin.buffer, sys.stdout.buffer
    first = read(source)
    if first is None:
        return
    renderer = Renderer(first["template"], first["cpu_s"], first["memory"])
    answer = renderer.open()
    while True:
        target.write(packed(answer))
        target.flush()
        request = read(source)
        if request is None:
            return
        answer = renderer.render(request["variables"], request["limit"], request["size"])


if __name__ == "__main__":
    main()
