"""Drives the official MCP client for the end-to-end tests, and tells what a caller of it sees.

    .parts/bin/python tests/mcp_client.py < calls.json

Standard input, one document:

    {"url": "http://127.0.0.1:8080/mcp",
     "calls": [{"name": "allowed", "token": "...", "mode": "auto", "tool": "add", "arguments": {"a": 2, "b": 3}}]}

Each call is a session of its own: connect, list the tools, call one. `mode` is the client's: `auto` speaks the current protocol,
`legacy` the one with a handshake. Without `token` there is no Authorization header; `headers` are sent besides the client's own, or
in their place. Standard output, one document, by name:

    {"allowed": {"tools": ["add"], "result": "5",       what was answered, or
                 "error": "...",                         what the client raised
                 "statuses": [200, 200, 200],            of each HTTP request
                 "metadata": "https://...", "scope": "...",       what the client's own reader finds in a challenge
                 "discovery": ["https://..."]}}          where the client would look for the authorization server
"""

import asyncio
import json
import logging
import sys

import httpx2
from mcp import Client
from mcp.client.auth import utils
from mcp.client.streamable_http import streamable_http_client


async def make(call, url):
    told = {"statuses": []}

    async def before(request):
        for name, value in call.get("headers", {}).items():
            request.headers[name] = value

    async def after(response):
        told["statuses"].append(response.status_code)
        if response.status_code in (401, 403):
            told["metadata"] = utils.extract_resource_metadata_from_www_auth(response)
            told["scope"] = utils.extract_scope_from_www_auth(response)
            told["discovery"] = utils.build_protected_resource_metadata_discovery_urls(told["metadata"], url)

    headers = {"Authorization": f"Bearer {call['token']}"} if "token" in call else {}
    # Proxy settings of the surroundings are none of the test's business.
    hooks = {"request": [before], "response": [after]}
    async with httpx2.AsyncClient(headers=headers, event_hooks=hooks, timeout=30, trust_env=False) as http:
        try:
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode=call.get("mode", "auto")) as client:
                told["version"] = client.protocol_version
                told["tools"] = [tool.name for tool in (await client.list_tools()).tools]
                result = await client.call_tool(call["tool"], call["arguments"])
                told["result"] = result.content[0].text
        except Exception as error:
            told["error"] = f"{type(error).__name__}: {error}"
    return told


async def main():
    logging.disable()
    asked = json.load(sys.stdin)
    json.dump({call["name"]: await make(call, asked["url"]) for call in asked["calls"]}, sys.stdout, indent=1)


asyncio.run(main())
