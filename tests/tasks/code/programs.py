"""Programs that a sandbox has to bear, by what they try."""

ENDS = {
    "exits": ("import os\nos._exit(0)", "assert False", "error"),
    "raises SystemExit": ("raise SystemExit(0)", "assert False", "error"),
    "prints a verdict": ("print('passed'); raise SystemExit", "assert False", "error"),
    "replaces exec": ("import builtins\nbuiltins.exec = builtins.compile = lambda *a: None", "assert False", "wrong"),
    "replaces os.write": ("import os\nos.write = os._exit = os.read = lambda *a: b''", "assert False", "wrong"),
    "writes on all files": (
        "import os\nfor fd in range(300):\n  try: os.write(fd, b'P' * 64)\n  except OSError: pass\nos._exit(0)",
        "assert False",
        "error",
    ),
    "closes all files": ("import os\nos.closerange(0, 300)", "assert False", "error"),
    "swallows the test": ("f = lambda: True or \\", "f(1)", "error"),
    "forks": ("import os\nwhile True: os.fork()", "", "error"),
    "starts a program": ("import subprocess\nsubprocess.run(['true'])", "", "error"),
    "execs": ("import os\nos.execv('/bin/true', ['true'])", "", "error"),
    "signals its parent": ("import os\nos.kill(os.getppid(), 9)", "", "error"),
    "signals all": ("import os\nos.kill(-1, 9)", "", "error"),
    "connects": ("import socket\nsocket.create_connection(('127.0.0.1', 22))", "", "error"),
    "recurses": ("def f(): return f()\nf()", "", "error"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "", "error"),
    "reads standard input": ("input()", "", "error"),
    "needs too much memory": ("bytearray(1 << 40)", "", "limit"),
    "fills the disk": ("for i in range(9):\n  open(f'{i}', 'wb').write(b'x' * (30 << 20))", "", "error"),
    "is no Python": ("def f(:", "", "error"),
    "holds a null": ("x = '\0'", "", "error"),
    "holds a surrogate": ("x = '\ud800'", "", "error"),
    "raises what cannot be shown": ("class E(Exception):\n  def __str__(self): raise self\nraise E", "", "error"),
    "fails an assertion": ("x = 1", "assert x == 2", "wrong"),
    "takes too long": ("while True: pass", "", "timed_out"),
    "ignores the signal": ("import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile True: pass", "", "timed_out"),
}
PASSES = {
    "tests": ("def f(x): return x + 1", "assert f(1) == 2"),
    "leaves a thread": ("import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()", ""),
    "prints much": ("print('x' * (100 << 20))", ""),
    "writes a file": ("open('x', 'w').write('y')", "assert open('x').read() == 'y'"),
    "uses threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool: found = list(pool.map(abs, range(9)))",
        "assert found == list(range(9))",
    ),
    "uses asyncio": ("import asyncio\nasync def f(): return 3", "assert asyncio.run(f()) == 3"),
    "imports the future": ("from __future__ import annotations\ndef f(x: Nothing): pass", "f(1)"),
    "makes a data class": ("from dataclasses import dataclass\n@dataclass\nclass A: x: int = 1", "assert A().x == 1"),
}
