"""A server of a few lines: it lists the models named in its arguments, and ends when told to.

Usage: ``lister.py <port> [--after <seconds>] [--key <key>] <model> ...``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("models", nargs="*")
parser.add_argument("--after", type=float, default=0.0)
parser.add_argument("--key")
asked = parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/die":
            print("out of everything", flush=True)
            os._exit(3)
        if asked.key and self.headers["Authorization"] != f"Bearer {asked.key}":
            self.answer(401, {"error": {"message": "no such key"}})
        elif self.path == "/v1/models":
            self.answer(200, {"data": [{"id": name} for name in asked.models]})
        else:
            self.answer(404, {"error": {"message": "nothing here"}})

    def answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass  # what it says last is said on purpose


time.sleep(asked.after)
print("listening", flush=True)
ThreadingHTTPServer(("127.0.0.1", asked.port), Handler).serve_forever()
