"""What the tables make of one body: the plain form of what Tollgate does with them, to look at a body or at a table."""

import json
import re

from classes import BASES

KEPT = re.compile(r"data:", re.IGNORECASE)
PATH_MAX = 4096
# Media keys and types that are searched for below members without a table, from the part tables of the public API.
SEARCHED = ("openai/part", "openai/response-part")
# Members of an object that describes a medium and has no table.
MEDIUM = ("url", "path", "file_url", "bytes", "data", "base64")


def judge(tables, name, path, body, place="json"):
    """`(where, class, detail)` of every member that is not plain."""
    file = tables.files[name]
    row = next((row for row in file.routes if path in row["paths"]), None)
    if row is None:
        return [(path, "denied", "the route has no row")]
    if place not in row:
        return [(place, "denied", f"the route reads no {place}")] if body else []
    found = []
    for item in body if isinstance(body, list) else [body]:
        members(tables, name, row[place], item, "", found)
    return found


def members(tables, name, table, value, where, found):
    rows = tables.rows(table, name)
    home, _, short = table.rpartition("/")
    unknown = tables.files[home or name].tables[short]["unknown"]
    for key, inner in value.items():
        at = f"{where}.{key}" if where else key
        entry = rows.get(key)
        if entry is None:
            if unknown == "deny":
                found.append((at, "denied", "no row"))
            continue
        spec = entry[0]
        if spec["class"] == "denied":
            if inner is not None:
                found.append((at, "denied", spec.get("open", "")))
            continue
        if empty(inner):
            continue
        if spec["class"] == "scoped":
            found.append((at, "scoped", spec["scope"]))
        elif spec["class"] == "capped":
            limit = spec.get("most")
            if limit is None:
                found.append((at, "capped", spec["cap"]))
            elif not isinstance(inner, bool) and not (isinstance(inner, int) and 0 <= inner <= limit):
                found.append((at, "denied", f"over {limit}"))
        below(tables, name, spec, inner, at, found)


def empty(value):
    """Whether a value says nothing: null, no text, or a list of such values."""
    return value is None or value == "" or (isinstance(value, list) and all(map(empty, value)))


def below(tables, name, spec, value, at, found):
    if isinstance(value, list):
        for item in value:
            below(tables, name, spec, item, at + "[]", found)
    elif isinstance(value, dict):
        if "of" in spec:
            members(tables, name, spec["of"], value, at, found)
        elif "media" in spec:
            medium(tables, name, value, at, found)
        elif not spec.get("skip"):
            search(tables, name, value, at, found)
    elif isinstance(value, bool) or value is None or isinstance(value, (int, float)):
        if "values" in spec and isinstance(value, bool):
            looked_up(tables, name, spec["values"], str(value).lower(), at, found)
    elif value:
        if "values" in spec:
            looked_up(tables, name, spec["values"], value, at, found)
        if ("media" in spec or spec.get("refers")) and not spec.get("inline") and foreign(value):
            found.append((at, "reference", value[:40]))


def looked_up(tables, name, table, value, at, found):
    entry = tables.rows(table, name).get(value)
    if entry is None:
        found.append((f"{at}={value}", "denied", "no row"))
    elif entry[0]["class"] == "denied":
        found.append((f"{at}={value}", "denied", entry[0].get("open", "")))
    elif entry[0]["class"] == "scoped":
        found.append((f"{at}={value}", "scoped", entry[0]["scope"]))


def search(tables, name, value, at, found):
    """Media below a member without a table: by their keys, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        for table in SEARCHED:
            spec = tables.rows(table, name).get(key, ({},))[0]
            if spec.get("class") == "scoped" and not empty(inner):
                found.append((f"{at}.{key}", "scoped", spec["scope"]))
                below(tables, name, spec, inner, f"{at}.{key}", found)
                break
        for item in inner if isinstance(inner, list) else [inner]:
            search(tables, name, item, f"{at}.{key}", found)


def medium(tables, name, value, at, found):
    """An object that describes a medium and has no table: what is under these keys may be a reference."""
    for key, inner in value.items():
        if key in MEDIUM:
            references(inner, f"{at}.{key}", found)
        else:
            search(tables, name, {key: inner}, at, found)


def references(value, at, found):
    if isinstance(value, str) and value and foreign(value):
        found.append((at, "reference", value[:40]))
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            references(inner, at, found)


def foreign(reference):
    return not KEPT.match(reference) and (len(reference) <= PATH_MAX or any(c in ":.\\" for c in reference[:PATH_MAX]))


def bodies(tables, path):
    """What is wrong with the verdicts on the bodies of a file, and how many verdicts there were."""
    document = json.loads(path.read_text(encoding="utf-8"))
    errors, count = [], 0
    for name, file in tables.files.items():
        for route, body in document["pass"].items():
            if name in BASES or not any(route in row["paths"] for row in file.routes):
                continue
            count += 1
            for where, kind, detail in judge(tables, name, route, body):
                if kind in ("denied", "reference"):
                    errors.append(f"{name} {route}: `{where}` of an ordinary client is refused ({kind} {detail})")
    for key, kinds in (("refused", ("denied", "reference")), ("scoped", ("scoped",)), ("capped", ("capped",))):
        for case in document[key]:
            count += 1
            found = judge(tables, case["preset"], case["path"], case["body"])
            detail = case.get("scope") or case.get("cap")
            if not any(where == case[key] and kind in kinds and detail in (None, is_) for where, kind, is_ in found):
                errors.append(f"{case['preset']} {case['path']}: `{case[key]}` is not {key}: {found}")
    return errors, count
