"""A stand-in for `vllm serve`: answers /health, has a child, and misbehaves on command.

Its flags: --port, --not-ready (never healthy), --die-with FILE (prints it and exits with 1),
--ignore-term, --room N (dies at the start if --max-num-seqs is more, or with --when-asked at its
first page below /v1). Its pages: /hang (no page answers any more), /health, /die (as
--die-with), /pids (its own, its child's).
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host")
    parser.add_argument("--not-ready", action="store_true")
    parser.add_argument("--die-with", type=Path)
    parser.add_argument("--die-at-start", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--room", type=int)
    parser.add_argument("--when-asked", action="store_true")
    parser.add_argument("--max-num-seqs", type=int, default=0)
    options, _ = parser.parse_known_args()

    print("(APIServer pid=1) INFO 11-21 06:51:24 [x.py:1] Starting to load model x...", flush=True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.ignore_term else signal.SIG_DFL)

    full = options.room is not None and options.max_num_seqs > options.room

    def die() -> None:
        print(options.die_with.read_text(encoding="utf-8"), file=sys.stderr, flush=True)
        os._exit(1)

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/hang":
                signal.pause()
            if self.path == "/die" or (self.path.startswith("/v1") and options.when_asked and full):
                die()
            pids = [os.getpid(), child.pid]
            answer = {"pids": pids, "key": os.environ.get("VLLM_API_KEY"), "argv": sys.argv}
            self.send_response(503 if options.not_ready else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    if options.die_at_start or (full and not options.when_asked):
        die()
    server = http.server.HTTPServer(("127.0.0.1", options.port), Pages)
    print(f"Starting vLLM server on http://127.0.0.1:{options.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
