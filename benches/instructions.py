"""User instructions of a hot check without a body, counted with callgrind: the same on a busy machine as on a quiet one.

    make bench-instructions                  fails when they are more than 3 % above benches/instructions.txt
    PROFILE=ci make bench-instructions       the same for another build profile
    UPDATE=1 make bench-instructions         writes what was counted into benches/instructions.txt

Tollgate runs twice under callgrind, and answers more checks the second time; the difference of the two totals, divided by how many
more, is what one check costs. Start, key parsing and first verification are in both.
"""

import json
import os
import re
import signal
import subprocess
import urllib.request

import gates
import measure
import servers
from measure import DIR, ROOT

BASELINE = ROOT / "benches/instructions.txt"
FEW, MANY = 1500, 5500
#: All of them are known after a small part of the first run.
TOKENS = 64
SLACK = 0.03
#: What a hot check with an API key may take, of one with a token.
MOST_OF_A_KEY = 1.1


#: A certificate of a client, to which tokens may be bound, valid until 2049. What is in a certificate is public.
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBoTCCAUmgAwIBAgIEBAC77jAKBggqhkjOPQQDAjASMRAwDgYDVQQDDAdjbGll
bnRzMB4XDTI2MTEzMDE1NTY0NloXDTQ5MTEyOTE1NTY0NlowADBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABBhqAZEf9ZY90R9LpxSZEPmHhYqCpMAu/0BBou63jVVF
sgWt9F4a9T7mjp8WpvVqBvLCP6UtDaLeCxAp7YmR0jKjgZ4wgZswDAYDVR0TAQH/
BAIwADAOBgNVHQ8BAf8EBAMCB4AwEwYDVR0lBAwwCgYIKwYBBQUHAwIwJgYDVR0R
AQH/BBwwGoIYYXBwMS5jbGllbnRzLmV4YW1wbGUuY29tMB0GA1UdDgQWBBS/7eKn
pVjIWr9Sb+/lFEJ6hwmfXzAfBgNVHSMEGDAWgBRtT0FxZ7IGp7bnz1EFp/Lkp8Xr
/zAKBggqhkjOPQQDAgNGADBDAiA6WtFNaNBOz07wPhGafU6dQ1X/TMrzeGYGU3qV
Ux0onwIfRD6OWN2AE8A337sLCrjQKHjWhVfTMHKw4RbpIXPkvQ==
-----END CERTIFICATE-----
"""
#: A policy that reads proofs. One is as old as the run is long.
DPOP = """dpop: { origins: ["https://api.example.com"], max_age: 5m, max_proofs: 100000 }
store: { memory: { single_replica: true } }
"""


#: A policy that bans the network of the client after these forged tokens, for longer than the run is.
FORGED = 16
BANS = f"automatic_bans: {{ failures: {FORGED}/1h, for: 1h, new_credentials: 1/1h, all_new_credentials: 1/1h }}\n"


def ban(server, load, tokens, ops):
    """Has the client's network banned, and uses up the one new credential that is verified then: every further one is refused unverified."""
    # Tokens that the measured checks do not send: those are forged ones that were refused before.
    others = iter(tokens.read_text().split()[TOKENS:])

    def forge(count):
        path = DIR / "forged.txt"
        path.write_text("".join(next(others) + "\n" for _ in range(count)))
        measure.run([*load, "--tokens", path, "--spoil", "distinct", "--expect", 401, "--requests", count])

    def reports(line):
        with urllib.request.urlopen(f"http://127.0.0.1:{ops}/metrics", timeout=5) as answer:
            return f"\n{line}\n" in answer.read().decode()

    def is_counted():
        # Those before the keys were read again may be signed with a new key.
        forge(1)
        return reports("tollgate_failing_network_failures 1")

    server.wait_for("the first failure that counts", is_counted)
    forge(FORGED - 1)
    server.wait_for("the ban", lambda: reports('tollgate_bans{kind="automatic_network"} 1'))
    forge(1)


def total(program, tool, tokens, text, count, more=(), prepare=None):
    """All instructions of one run that answers so many checks. `prepare` sends other checks before."""
    ops = servers.free_port()
    path = DIR / "counted.yaml"
    path.write_text(f'listen: {{ grpc: "unix:{DIR}/counted-{count}.sock", ops: "127.0.0.1:{ops}" }}\n' + text)
    command = [*measure.on_core(measure.SERVER_CORE), servers.BIN / "valgrind", "--tool=callgrind", f"--callgrind-out-file={DIR}/callgrind-{count}.out", program, "serve", "--config", path]
    with servers.Rig(DIR) as rig:
        null = rig.enter_context(open("/dev/null", "wb"))
        server = rig.start(f"counted-{count}", command, output=null)
        server.wait_for("readiness", lambda: servers.answers(f"http://127.0.0.1:{ops}/readyz"))
        load = [tool, "check", "--target", f"unix:{DIR}/counted-{count}.sock", "--in-flight", 16]
        if prepare:
            prepare(server, load, tokens, ops)
        measure.run([*load, "--tokens", tokens, "--distinct", TOKENS, *more, "--requests", count])
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        found = re.search(r"Collected : (\d+)", server.log.read_text(errors="replace"))
    if not found:
        raise measure.Failed(f"callgrind counted nothing:\n{server.tail()}")
    return int(found[1])


def baselines():
    """What each profile took when it was last written down."""
    lines = [line.split() for line in BASELINE.read_text().splitlines() if line and not line.startswith("#")]
    return {profile: int(count) for profile, count in lines}


def write(found):
    head = [line for line in BASELINE.read_text().splitlines() if line.startswith("#")]
    BASELINE.write_text("\n".join(head + [f"{profile} {count}" for profile, count in sorted(found.items())]) + "\n")


def hold(name, each, what):
    """Compares the instructions of `what` with the line `name` of the baseline."""
    known = baselines()
    print(f"{each} user instructions, {what} (profile {measure.PROFILE})")
    if os.environ.get("UPDATE"):
        write({**known, name: each})
        return
    before = known.get(name)
    if before is None:
        raise measure.Failed(f"benches/instructions.txt has no line `{name}`; UPDATE=1 writes it")
    change = each / before - 1
    print(f"{change:+.1%} against {before} in benches/instructions.txt")
    if change > SLACK:
        raise measure.Failed(f"{what} has become dearer; if that is meant, run this again with UPDATE=1")
    if change < -SLACK:
        print(f"{what} has become cheaper: hold it with UPDATE=1")


def api_keys(program, tokens):
    """A file of records for the keys of as many subjects as there are tokens, and a file of the keys."""
    records, keys = tokens.keys / "api-keys.json", tokens.keys / "api-keys.txt"
    records.unlink(missing_ok=True)
    scopes = ["--scope", "infer:text", "--scope", "model:qwen:inference"]
    made = []
    for number in range(TOKENS):
        command = [program, "keys", "create", "--file", records, "--subject", f"subject-{number}", "--tenant", "acme", *scopes, "--output", "json"]
        made.append(json.loads(subprocess.check_output(command))["key"])
    keys.write_text("\n".join(made) + "\n")
    return records, keys


def bound_tokens(tool, tokens):
    """Tokens that are bound to the key of a client, with a proof for each check; and tokens that are bound to a certificate."""
    mint = [tool, "tokens", "--keys", tokens.keys, "--algorithm", "RS256", "--count", TOKENS, "--issuer", measure.ISSUER]
    bound, proofs = tokens.keys / "bound.txt", tokens.keys / "proofs.txt"
    measure.run([*mint, "--to", bound, "--proofs-to", proofs, "--proofs", MANY], 600)
    to_certificate, certificate = tokens.keys / "bound-to-certificate.txt", tokens.keys / "client.pem"
    certificate.write_text(CERTIFICATE)
    measure.run([*mint, "--to", to_certificate, "--certificate", certificate], 600)
    return (bound, ["--proofs", proofs]), (to_certificate, ["--certificate", certificate])


def main():
    program, tool = measure.build()
    gates.clear()
    tokens = measure.Tokens(tool)
    file = tokens.file("RS256", 2000)
    text = gates.policy(tokens.jwks, body=False)
    each = round((total(program, tool, file, text, MANY) - total(program, tool, file, text, FEW)) / (MANY - FEW))
    records, keys = api_keys(program, tokens)
    with_keys = f'api_keys: {{ file: "{records}" }}\n' + text
    each_key = round((total(program, tool, keys, with_keys, MANY) - total(program, tool, keys, with_keys, FEW)) / (MANY - FEW))
    print(f"{each_key} user instructions a hot check with an API key: {each_key / each:.2f} of one with a token")
    if each_key > MOST_OF_A_KEY * each:
        raise measure.Failed(f"a check with an API key may take {MOST_OF_A_KEY} of one with a token")
    def of(tokens, text, more, prepare=None):
        def run(count):
            return total(program, tool, tokens, text, count, more, prepare)

        return round((run(MANY) - run(FEW)) / (MANY - FEW))

    refused = of(file, BANS + text, ["--spoil", "distinct", "--expect", 429], ban)
    print(f"{refused} user instructions a forged token from a banned network, another one each time: {refused / each:.2f} of a hot check")
    if refused > each:
        raise measure.Failed("a forged token from a banned network may take no more than a hot check")

    by_key, by_certificate = bound_tokens(tool, tokens)
    each_proof = of(by_key[0], DPOP + text, by_key[1])
    each_certificate = of(by_certificate[0], "client_certificates: {}\n" + text, by_certificate[1])
    for name, found in [("a token that is bound to a key, and its proof", each_proof), ("a token that is bound to a certificate", each_certificate)]:
        print(f"{found} user instructions a hot check with {name}: {found / each:.2f} of one with a token")
    command = "make bench-instructions"
    measure.save("instructions", command, {"each": each, "api_key": each_key, "proof": each_proof, "certificate": each_certificate, "refused": refused, "valgrind": measure.first_line([servers.BIN / "valgrind", "--version"])})
    hold(measure.PROFILE, each, "a check")


if __name__ == "__main__":
    measure.main(main)
