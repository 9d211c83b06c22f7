"""A real model server: llama.cpp's HTTP server with a small model, OpenAI-compatible, on loopback.

    .parts/bin/python tools/llama_server.py [--port N] [--api-key KEY] [--name NAME] [--metrics]

Prints `listening on http://127.0.0.1:PORT` once the model is loaded, logs to standard error, ends on SIGTERM
or SIGINT. Answers as the model NAME, `smollm2` if none is given. `tools/parts python model` gets what it needs.
"""

import argparse
import pathlib
import signal

import xllamacpp

MODEL = pathlib.Path(__file__).resolve().parent.parent / ".parts/models/smollm2.gguf"

arguments = argparse.ArgumentParser(description="a real model server with a small model")
arguments.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
arguments.add_argument("--api-key", help="demand this bearer key, as an upstream with its own key does")
arguments.add_argument("--name", default="smollm2", help="the name of the model")
arguments.add_argument("--metrics", action="store_true", help="serve its counters of tokens at /metrics")
given = arguments.parse_args()
if not MODEL.exists():
    arguments.error("the model is missing: run `tools/parts model`")

# Before the server starts its threads, so that the signals reach sigwait below and nothing else.
stop = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, stop)

params = xllamacpp.CommonParams()
params.model.path = str(MODEL)
params.model_alias = {given.name}
params.hostnames = ["127.0.0.1"]
params.port = given.port
params.api_keys = [given.api_key] if given.api_key else []
params.n_ctx = 2048
params.n_parallel = 2
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
params.warmup = False
params.ui = False
params.endpoint_metrics = given.metrics

server = xllamacpp.Server(params)
print("listening on", server.listening_address, flush=True)
signal.sigwait(stop)
