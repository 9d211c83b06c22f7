"""The members that inference servers read from a request, taken from their published packages, and their classes.

    python3 tools/members read [SERVER...]             writes tools/members/inventory/ from the packages of sources.py
    python3 tools/members diff SERVER VERSION          what that version reads and the inventory does not have
    python3 tools/members check                        holds the classification against the inventories
    python3 tools/members show FILE                    the classes of one preset, by table
    python3 tools/members judge PRESET PATH < BODY     each member of a JSON body that is not plain
    python3 tools/members judge-all < CASES            the classes in each of a JSON list of [PRESET, PATH, BODY], for the tests

Packages are downloaded with pip into .parts/members/ and parsed; nothing of them is imported or run.
"""

import collections
import json
import pathlib
import sys

import classes
import inventory
import verdict
from sources import DOCUMENTED, SERVERS

BODIES = pathlib.Path(__file__).resolve().parent / "bodies.json"


def main(arguments):
    command, *rest = arguments or ["help"]
    if command == "read":
        for name in rest or SERVERS:
            known(name)
            found = inventory.read(name)
            inventory.FOLDER.mkdir(exist_ok=True)
            inventory.path_of(name).write_text(found.text(name), encoding="utf-8")
            print(f"{name}: {found.source}, {len(found.routes)} routes, {sum(map(len, found.routes.values()))} members")
    elif command == "diff" and len(rest) == 2:
        known(rest[0])
        lines = inventory.difference(inventory.load(rest[0]), inventory.read(*rest))
        print("\n".join(lines) or f"{rest[0]} {rest[1]} reads the members of the inventory")
    elif command == "check" and not rest:
        errors, counts = classes.check()
        wrong, verdicts = verdict.bodies(classes.Tables(), BODIES)
        errors += wrong
        for error in errors:
            print(f"members: {error}", file=sys.stderr)
        for name, counted in counts.items():
            kinds = collections.Counter(kind for _, _, _, kind in counted)
            print(f"{name}: " + ", ".join(f"{kinds[kind]} {kind}" for kind in classes.CLASSES))
        print(f"{verdicts} verdicts on bodies.json")
        if errors:
            sys.exit(f"members: {len(errors)} errors")
    elif command == "show" and len(rest) == 1:
        tables = classes.Tables()
        for table in tables.files[rest[0]].tables:
            for member, (spec, home, _) in sorted(tables.rows(table, rest[0]).items()):
                print("\t".join([table, member, spec["class"], home]))
    elif command == "judge" and len(rest) == 2:
        for where, kind, detail in verdict.judge(classes.Tables(), *rest, json.load(sys.stdin)):
            print(f"{kind}\t{where}\t{detail}".rstrip())
    elif command == "judge-all" and not rest:
        tables = classes.Tables()
        cases = [verdict.judge(tables, *case) for case in json.load(sys.stdin)]
        # A model's name needs the right to the model, which is no scope of the member.
        print(json.dumps([sorted({kind for _, kind, detail in case if detail != "model"}) for case in cases]))
    else:
        sys.exit(__doc__)


def known(name):
    if name in DOCUMENTED:
        sys.exit(f"members: the inventory of `{name}` is written by hand: {inventory.path_of(name)}")
    if name not in SERVERS:
        sys.exit(f"members: there is no server `{name}`; there are {', '.join(SERVERS)}")


main(sys.argv[1:])
