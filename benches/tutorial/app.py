"""What tutorials write: a FastAPI app that verifies JWTs with PyJWT. WHAT chooses how:

open        the app alone, nothing verified
middleware  the app with `@app.middleware("http")`
authz       no app, only the check, for Envoy's ext_authz over HTTP
"""

import json
import os

import jwt
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

WHAT = os.environ["WHAT"]
with open(os.environ["JWKS"], encoding="utf-8") as file:
    KEYS = {jwk["kid"]: jwt.PyJWK(jwk).key for jwk in json.load(file)["keys"] if jwk["alg"] == "RS256"}

app = FastAPI()


def claims_of(request: Request):
    """The claims of the bearer token, or None."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    try:
        key = KEYS[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(token, key, algorithms=["RS256"], audience="inference-api", issuer="https://auth.example.com")
    except (jwt.InvalidTokenError, KeyError):
        return None
    return claims if "infer:text" in claims.get("scope", "").split() else None


if WHAT == "middleware":

    @app.middleware("http")
    async def authenticate(request: Request, call_next):
        claims = claims_of(request)
        if claims is None:
            return JSONResponse({"detail": "Not authenticated"}, status_code=401)
        request.state.user = claims["sub"]
        return await call_next(request)


if WHAT == "authz":

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def check(request: Request):
        claims = claims_of(request)
        if claims is None:
            return JSONResponse({"detail": "Not authenticated"}, status_code=401)
        return JSONResponse({}, headers={"x-tollgate-subject": claims["sub"]})

else:

    @app.post("/v1/chat/completions")
    async def completions(request: Request):
        body = await request.json()
        return {"object": "chat.completion", "model": body.get("model"), "choices": []}
