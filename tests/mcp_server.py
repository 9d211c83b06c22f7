"""A real MCP server for the end-to-end tests: the official SDK, over streamable HTTP, with two tools.

    .parts/bin/python tests/mcp_server.py

Prints `listening on http://127.0.0.1:PORT`, and then, one JSON document a line, each request that arrives,
{"http": "POST", "mcp-name": ..., "mcp-method": ..., "authorization": ..., "x-tollgate-subject": ...}, and each tool that runs,
{"ran": "add", "with": [2, 3]}. Speaks every version of the protocol that the SDK does: the current one, which wants headers that
repeat what the body says, and the older ones, which ignore them.
"""

import json
import socket

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

HEADERS = ["mcp-name", "mcp-method", "mcp-protocol-version", "authorization", "x-tollgate-subject"]

server = MCPServer("tools")


def tell(**what):
    print(json.dumps(what), flush=True)


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    tell(ran="add", **{"with": [a, b]})
    return a + b


@server.tool()
def remove_all(path: str) -> str:
    """Removes everything."""
    tell(ran="remove_all", **{"with": [path]})
    return f"removed {path}"


# Clients come through a proxy, under the proxy's name.
app = server.streamable_http_app(transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False))


async def telling(scope, receive, send):
    if scope["type"] == "http":
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        tell(http=scope["method"], **{name: headers.get(name) for name in HEADERS})
    await app(scope, receive, send)


listener = socket.create_server(("127.0.0.1", 0))
print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(telling, log_level="warning")).run(sockets=[listener])
