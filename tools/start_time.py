"""How soon Tollgate is ready, and how much memory it then has: in a root file system that deploy/image/rootfs made, as root.

    python3 tools/start_time.py ROOTFS [STARTS]

Each start is a new process with one key set in a file; ready is the first 200 of /readyz, asked every millisecond.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import time

import servers

ROOT = pathlib.Path(sys.argv[1]).resolve()
STARTS = int(sys.argv[2]) if len(sys.argv) > 2 else 21
CONFIG = """
listen: { grpc: "unix:/run/tollgate/authz.sock", ops: "127.0.0.1:%d" }
issuers:
  - { issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [ES256], jwks: { file: /etc/tollgate/jwks.json } }
routes: [{ preset: vllm }]
"""
# The public key of RFC 7515, appendix A.3.
KEY = {
    "kty": "EC",
    "crv": "P-256",
    "kid": "example",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}

port = servers.free_port()
(ROOT / "etc/tollgate/tollgate.yaml").write_text(CONFIG % port)
(ROOT / "etc/tollgate/jwks.json").write_text(json.dumps({"keys": [KEY]}))
command = ["chroot", "--userspec=65532:65532", ROOT, "/usr/local/bin/tollgate", "serve", "--config", "/etc/tollgate/tollgate.yaml"]

milliseconds, kilobytes = [], []
for _ in range(STARTS):
    began = time.monotonic()
    tollgate = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not servers.answers(f"http://127.0.0.1:{port}/readyz"):
            if tollgate.poll() is not None or time.monotonic() - began > 30:
                sys.exit(f"not ready: run `{' '.join(map(str, command))}` to see why")
            time.sleep(0.001)
        milliseconds.append((time.monotonic() - began) * 1000)
        status = pathlib.Path(f"/proc/{tollgate.pid}/status").read_text()
        kilobytes.append(int(status.split("VmRSS:")[1].split()[0]))
    finally:
        tollgate.kill()
        tollgate.wait()
print(f"ready after {statistics.median(milliseconds):.1f} ms (median of {STARTS}; {min(milliseconds):.1f} to {max(milliseconds):.1f})")
print(f"resident {statistics.median(kilobytes) / 1000:.1f} MB")
