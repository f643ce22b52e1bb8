"""A real child process with the surface of vLLM's server that the launcher meets: log lines, port, health, models.

    python engine_process.py FOLDER --host H --port P

`FOLDER/starts.jsonl` has one line for each start, the last one for all that follow: `log` (lines), `exit` (code, after
the log), `health` (status), `deaf` (ignores SIGTERM), `child` (spawns one, its pid in `FOLDER/child`),
`temporary` (name of a temporary file that it leaves behind).
POST /exit/CODE ends it, POST /health/STATUS changes what /health says.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from serving.engine.orphans import die_with_starter

CHILD = "from serving.engine.orphans import die_with_starter; die_with_starter(); import time; time.sleep(60)"


class Handler(BaseHTTPRequestHandler):
    health = 200

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(Handler.health, b"")
        elif self.headers["authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}":
            self._answer(200, b'{"data": [{"id": "test"}]}')
        else:
            self._answer(401, b"")

    def do_POST(self) -> None:
        _, what, value = self.path.split("/")
        if what == "exit":
            os._exit(int(value))
        Handler.health = int(value)
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def main(folder: Path, host: str, port: int) -> None:
    die_with_starter()
    with (folder / "started").open("a") as started:
        started.write(f"{os.getpid()}\n")
    scripts = (folder / "starts.jsonl").read_text().splitlines()
    number = len((folder / "started").read_text().splitlines())
    script = json.loads(scripts[min(number, len(scripts)) - 1])
    if script.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if script.get("child"):
        (folder / "child").write_text(str(subprocess.Popen([sys.executable, "-c", CHILD]).pid))
    if "temporary" in script:
        (Path(tempfile.gettempdir()) / script["temporary"]).touch()
    for line in script.get("log", []):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    if "exit" in script:
        os._exit(script["exit"])
    Handler.health = script.get("health", 200)
    ThreadingHTTPServer((host, port), Handler).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[3], int(sys.argv[5]))
