"""What readers written in Python find in request bodies. Standard input: a list of {"content_type", "body"} with the body in
base64. Standard output: for each a list of what each reader takes for the model: null for none, {"error": ...} for a refusal.

JSON: `json.loads`, as FastAPI does it. Forms: Starlette's form parser (python-multipart), and the standard library's `email`.
"""

import asyncio
import base64
import email
import email.policy
import json
import logging
import sys

from starlette.datastructures import UploadFile
from starlette.requests import Request


def read_json(body):
    value = json.loads(body)
    return value.get("model") if isinstance(value, dict) else None


def read_starlette(content_type, body):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def read():
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}
        async with Request(scope, receive).form() as form:
            value = form.get("model")
            return {"file": value.filename} if isinstance(value, UploadFile) else value

    return asyncio.run(read())


def read_email(content_type, body):
    message = email.message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP
    )
    found = [
        part.get_payload(decode=True).decode()
        for part in message.walk()
        if part.get_param("name", header="content-disposition") == "model"
    ]
    return found[-1] if found else None


def attempt(read, *arguments):
    try:
        found = read(*arguments)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no answer to compare
        return found
    except Exception as error:
        return {"error": repr(error)}


def main():
    logging.disable()
    answers = []
    for case in json.load(sys.stdin):
        body, content_type = base64.b64decode(case["body"]), case["content_type"]
        if content_type == "application/json":
            answers.append([attempt(read_json, body)])
        else:
            answers.append([attempt(read, content_type, body) for read in (read_starlette, read_email)])
    json.dump(answers, sys.stdout)


main()
