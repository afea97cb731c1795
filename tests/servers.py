"""A small OpenAI-compatible server that fails as it is told, in a thread or as a stand-in for `vllm serve`.

As a program it takes vLLM's arguments, and has a child of its own, as vLLM has its engine.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# `generate` as a process of its own that ends on SIGTERM as on Ctrl-C; its arguments as JSON.
CLIENT = """
import json, signal, sys
from pathlib import Path
from micota_lf.backends import Launch
from micota_lf.inputs.problems import Prompts
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Generation
from micota_lf.stages.generate import generate

signal.signal(signal.SIGTERM, signal.default_int_handler)
model, prompts, output, sampling, launch = json.loads(sys.argv[1])
generate(ModelRef(model), Prompts(**prompts), Path(output), Generation(**sampling), Launch(**launch))
"""
STAND_IN = f"{sys.executable} {__file__}"
ANSWER = "Let me think. The answer is \\boxed{7}."


def client_argv(model, prompts, output, sampling, **launch):
    """The command of a process that generates; settings as dicts."""
    return [sys.executable, "-c", CLIENT, json.dumps([model, prompts, str(output), sampling, launch])]


class FaultyServer:
    """Serves `model`; `fault(prompt, nth)` says what goes wrong when a prompt comes for the nth time.

    None is nothing, a number that status, `drop` no answer at all, `hang` none before `released`; a string
    is sent as it is, a dict as JSON.
    """

    def __init__(self, model="m", fault=lambda prompt, nth: None, port=0, delay=0.0):
        self.model, self.fault, self.delay = model, fault, delay
        self.bodies, self.headers, self.asked = [], [], Counter()
        self.busy = self.most_busy = 0
        self.lock, self.released = threading.Lock(), threading.Event()
        self.start(port)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self, port):
        outer, self.connections = self, []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                outer.connections.append(self.connection)

            def log_message(self, *args):
                pass

            def do_GET(self):
                pages = {"/health": {}, "/version": {"version": "0.0"}}
                pages["/v1/models"] = {"data": [{"id": outer.model}]}
                outer.headers.append(dict(self.headers))
                self.answer(200 if self.path in pages else 404, json.dumps(pages.get(self.path)))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fault = outer.take(self.path, dict(self.headers), body)
                try:
                    if fault == "hang":
                        outer.released.wait()
                    elif fault == "drop":
                        self.close_connection = True
                    elif isinstance(fault, int):
                        words = f"fault {fault} {self.headers.get('Authorization')}"
                        self.answer(fault, json.dumps({"error": {"message": words}}))
                    elif fault is None:
                        self.answer(200, json.dumps(completion(self.path, ANSWER)))
                    else:
                        self.answer(200, fault if isinstance(fault, str) else json.dumps(fault))
                finally:
                    with outer.lock:
                        outer.busy -= 1

            def answer(self, status, text):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        class Server(ThreadingHTTPServer):
            request_queue_size, daemon_threads, block_on_close = 1024, True, False

            def handle_error(self, request, address):
                pass  # a client that has gone

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def take(self, path, headers, body):
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        with self.lock:
            self.asked[prompt] += 1
            self.bodies.append((path, body))
            self.headers.append(headers)
            self.busy += 1
            self.most_busy = max(self.busy, self.most_busy)
            nth = self.asked[prompt]
        time.sleep(self.delay)
        return self.fault(prompt, nth)

    def stop(self):
        """Die: no new connections, and the open ones are cut."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            try:
                connection.shutdown(2)
            except OSError:
                continue


def completion(path, text, reason="stop", **message):
    said = {"text": text} if "chat" not in path else {"message": {"content": text, **message}}
    usage = {"prompt_tokens": 5, "completion_tokens": len(text.split())}
    return {"choices": [{"index": 0, **said, "finish_reason": reason}], "usage": usage}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--port", type=int)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between two answers")
    parser.add_argument("--stubborn", action="store_true")
    parser.add_argument("--echo", action="store_true", help="answer with the prompt, and log it")
    args, _ = parser.parse_known_args()
    print("INFO Using FLASH_ATTN attention backend out of potential backends", flush=True)
    if args.max_model_len > 2000:
        print("ValueError: not enough memory for max_model_len", flush=True)
        print("\n".join(f"frame {n}" for n in range(30)), "\nsee above", flush=True)
        sys.exit(1)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if args.stubborn else ""
    engine = [sys.executable, "-c", f"import signal, time; {ignore}time.sleep(600)"]
    subprocess.Popen([*engine, f"engine-of-{args.model}"])
    turn = threading.Lock()

    def paced(prompt, nth):
        with turn:
            time.sleep(args.pace)
            if args.echo:
                print("asked", json.dumps(prompt), flush=True)
        return completion("chat", prompt) if args.echo else None

    FaultyServer(args.model, port=args.port, fault=paced)
    threading.Event().wait()
