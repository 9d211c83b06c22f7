"""The inference server's place for the end-to-end tests, with what FastAPI's servers read requests with: uvicorn and Starlette.

    .parts/bin/python tests/python_upstream.py

Prints `listening on http://127.0.0.1:PORT`, and then one JSON document a line for each request that arrives:

    {"method": "POST", "path": "/v1/x", "target": "/v1%2Fx", "headers": [["host", "api"], ...], "body": "base64",
     "json": ..., "form": ..., "query": ..., "header": ...}

`path` is what routes are matched with: uvicorn has decoded it. `json`, `form`, `query` and `header` are what a handler gets when it
asks that place for `model` (`x-model` of the headers), whatever the content type says; null for nothing, {"error": ...} where the
reader gives up. Answers 200, always.
"""

import base64
import json
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse
from starlette.routing import Route


async def read_json(request):
    # `request.json()` is this call: the last of repeated keys wins, and UTF-16 and a byte order mark are taken.
    value = json.loads(await request.body())
    return value.get("model") if isinstance(value, dict) else None


async def read_form(request):
    async with request.form() as form:
        value = form.get("model")
        return {"file": value.filename} if isinstance(value, UploadFile) else value


async def read_query(request):
    return request.query_params.get("model")


async def read_header(request):
    return request.headers.get("x-model")


async def attempt(read, request):
    try:
        return await read(request)
    except Exception as error:
        return {"error": repr(error)}


async def answer(request):
    body = await request.body()
    seen = {
        "method": request.method,
        "path": request.scope["path"],
        "target": request.scope["raw_path"].decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
        "body": base64.b64encode(body).decode(),
        "json": await attempt(read_json, request),
        "form": await attempt(read_form, request),
        "query": await attempt(read_query, request),
        "header": await attempt(read_header, request),
    }
    print(json.dumps(seen), flush=True)
    return JSONResponse({"ok": True})


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
app = Starlette(routes=[Route("/{path:path}", answer, methods=METHODS)])
listener = socket.create_server(("127.0.0.1", 0))
print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning", http="h11")).run(sockets=[listener])
