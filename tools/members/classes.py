"""The classification: tables of members with a class each, and the routes that use them. `check` holds it against the inventories."""

import collections
import pathlib
import re

import inventory
import plain_yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLASSES = ("plain", "capped", "scoped", "denied")
CAPS = ("max_tokens", "n", "best_of", "prompts", "images", "audio", "videos", "files")
MEDIA = ("image", "audio", "video", "file")
FLAGS = ("text", "skip", "refers", "inline", "hidden", "adapter", "unread")
ROW = {*CLASSES, "why", "cap", "most", "scope", "open", "of", "values", "media", "names", "source", *FLAGS}
NAMES = ("tool", "tool-type")
BODIES = ("POST", "PUT", "PATCH")
BASES = ("openai", "anthropic")
# Scopes that admit a whole body: it belongs to who may do that, so its members have no class.
WHOLE = ("admin:",)


def folder():
    """Where the presets are: they move with the core."""
    for base in ("crates/core", "core"):
        if (ROOT / base / "src" / "route" / "presets").is_dir():
            return ROOT / base / "src" / "route" / "presets"
    raise SystemExit("members: no folder with presets")


class Classification:
    """The file of one preset, or of one public API."""

    def __init__(self, name, errors):
        self.name, self.errors = name, errors
        self.path = folder() / "members" / f"{name}.yaml"
        self.tables, self.routes, self.headers, self.inventories = {}, [], {}, []
        try:
            document = plain_yaml.load(self.path)
        except plain_yaml.YamlError as error:
            errors.append(str(error))
            return
        except FileNotFoundError:
            errors.append(f"{self.path} is missing")
            return
        unknown = set(document) - {"name", "inventory", "tables", "routes", "headers"}
        if unknown or document.get("name") != name:
            self.error(f"unknown keys {sorted(unknown)}, or `name` is not `{name}`")
        self.inventories = document.get("inventory") or []
        self.routes = document.get("routes") or []
        for table, body in (document.get("tables") or {}).items():
            self.tables[table] = self.table(table, body or {})
        for row in document.get("headers") or []:
            kinds = [key for key in ("kept", "removed") if key in row]
            if len(kinds) != 1 or not row.get("why") or set(row) - {"kept", "removed", "why", "source"}:
                self.error(f"headers: a row needs one of `kept` and `removed`, and `why`: {row}")
                continue
            for header in row[kinds[0]]:
                if header in self.headers:
                    self.error(f"headers: `{header}` is listed twice")
                self.headers[header] = dict(row, **{"class": kinds[0]})

    def error(self, text):
        self.errors.append(f"{self.path.name}: {text}")

    def table(self, name, body):
        if set(body) - {"like", "unknown", "rows", "not"}:
            self.error(f"table `{name}`: unknown keys {sorted(set(body) - {'like', 'unknown', 'rows', 'not'})}")
        if body.get("unknown", "deny") not in ("deny", "pass"):
            self.error(f"table `{name}`: `unknown` is `deny` or `pass`")
        rows = {}
        for row in body.get("rows") or []:
            kinds = [key for key in CLASSES if key in row]
            where = f"table `{name}`, row {row.get(kinds[0]) if kinds else row}"
            if len(kinds) != 1 or set(row) - ROW or not row.get("why"):
                self.error(f"{where}: a row needs exactly one class and `why`; unknown keys: {sorted(set(row) - ROW)}")
                continue
            kind = kinds[0]
            self.row(where, kind, row)
            spec = {key: value for key, value in row.items() if key not in (*CLASSES, "why", "source")} | {"class": kind}
            for member in row[kind]:
                member = {True: "true", False: "false", None: "null"}.get(member, member) if not isinstance(member, str) else member
                if member in rows:
                    self.error(f"table `{name}`: `{member}` is listed twice")
                rows[member] = (spec, row["why"], row.get("source") == "documentation")
        return {"like": body.get("like") or [], "unknown": body.get("unknown", "deny"), "rows": rows, "not": body.get("not") or []}

    def row(self, where, kind, row):
        if kind == "capped" and not (("cap" in row) ^ ("most" in row)):
            self.error(f"{where}: `capped` needs `cap` or `most`")
        if "cap" in row and (row["cap"] not in CAPS or kind not in ("capped", "scoped")):
            self.error(f"{where}: `cap` is one of {', '.join(CAPS)}, on `capped` or `scoped`")
        if (kind == "scoped") != ("scope" in row):
            self.error(f"{where}: `scope` belongs to `scoped`")
        if "open" in row and kind != "denied":
            self.error(f"{where}: `open` belongs to `denied`")
        if "media" in row and row["media"] not in MEDIA:
            self.error(f"{where}: `media` is one of {', '.join(MEDIA)}")
        if "names" in row and row["names"] not in NAMES:
            self.error(f"{where}: `names` is one of {', '.join(NAMES)}")
        if row.get("source", "documentation") != "documentation":
            self.error(f"{where}: `source` is `documentation`, or left out where an inventory has the member")
        if any(row.get(flag, True) is not True for flag in FLAGS):
            self.error(f"{where}: {', '.join(FLAGS)} are `true` or left out")


class Tables:
    """All classifications, with the tables of one found from another (`openai/chat`)."""

    def __init__(self):
        self.errors = []
        names = sorted(path.stem for path in folder().glob("*.yaml"))
        self.files = {name: Classification(name, self.errors) for name in (*BASES, *names)}
        self.used = collections.defaultdict(set)
        self.resolved = {}

    def find(self, name, file):
        home, _, table = name.rpartition("/")
        home = home or file
        if home not in self.files or table not in self.files[home].tables:
            self.errors.append(f"{file}.yaml: there is no table `{name}`")
            return home, None
        return home, table

    def rows(self, name, file, stack=()):
        """Members of a table with those it starts from: `{member: (spec, home, table)}`."""
        home, table = self.find(name, file)
        key = (home, table)
        if table is None or key in self.resolved:
            return self.resolved.get(key, {})
        if key in stack:
            self.errors.append(f"{home}.yaml: table `{table}` is like itself")
            return {}
        body, result, differing = self.files[home].tables[table], {}, set()
        for base in body["like"]:
            for member, entry in self.rows(base, home, (*stack, key)).items():
                if member in result and result[member][0] != entry[0]:
                    differing.add(member)
                result[member] = entry
        for member in sorted(differing - set(body["rows"]) - set(body["not"])):
            self.errors.append(f"{home}.yaml: table `{table}`: `{member}` differs in the tables it is like; list it")
        for member in body["not"]:
            if result.pop(member, None) is None:
                self.errors.append(f"{home}.yaml: table `{table}`: `not: {member}`, which it would not have")
        for member, (spec, _, _) in body["rows"].items():
            spec = self.qualified(spec, home)
            if member in result and result[member][0] == spec and member not in differing:
                self.errors.append(f"{home}.yaml: table `{table}`: `{member}` says what the table it is like says")
            result[member] = (spec, home, table)
        self.resolved[key] = result
        return result

    def qualified(self, spec, home):
        spec = dict(spec)
        for key in ("of", "values"):
            if key in spec and "/" not in spec[key]:
                spec[key] = f"{home}/{spec[key]}"
        return spec


def check():
    """What is wrong, and how many members of each class each file has."""
    tables = Tables()
    errors = tables.errors
    counts = {}
    for name, file in tables.files.items():
        facts = [inventory.load(source) for source in file.inventories if inventory.path_of(source).is_file()]
        for source in file.inventories:
            if not inventory.path_of(source).is_file():
                file.error(f"there is no inventory `{source}`")
        counts[name] = check_routes(tables, name, file, facts)
        check_headers(name, file, facts)
    for file in tables.files.values():
        for table, body in file.tables.items():
            tables.rows(table, file.name)
            for member, (spec, _, documented) in body["rows"].items():
                for key in ("of", "values"):
                    if key in spec:
                        tables.find(spec[key], file.name)
                if not documented and member not in tables.used[(file.name, table)]:
                    file.error(f"table `{table}`: no inventory has `{member}`; remove it, or mark its row `source: documentation`")
    return errors, counts


def check_routes(tables, name, file, facts):
    counted = collections.Counter()
    classified = {}
    for row in file.routes:
        methods = tuple(row.get("methods") or BODIES)
        if set(row) - {"paths", "methods", "json", "form", "query", "prefix"} or not row.get("paths"):
            file.error(f"routes: a row has `paths` and some of `json`, `form`, `query`: {row}")
        for path in row.get("paths") or []:
            for method in methods:
                if (method, path) in classified:
                    file.error(f"routes: `{method} {path}` is listed twice")
                classified[(method, path)] = row
            for place in ("json", "form", "query"):
                if place in row:
                    tables.find(row[place], name)
    if name not in BASES:
        wanted, every = preset_routes(name)
        listed = {path for method, path in classified if method in BODIES}
        for path in sorted(wanted - listed):
            file.error(f"routes: the preset's `{path}` reads a body, and has no row")
        for path in sorted((listed - wanted) | {path for _, path in classified} - every):
            file.error(f"routes: the preset has no such route `{path}` that reads a body of clients")
    known = {(method, shape(listed)): row for (method, listed), row in classified.items()}
    for source in facts:
        for route, members in source.routes.items():
            methods, _, path = route.rpartition(" ")
            row = next((known[(m, shape(path))] for m in methods.split() if (m, shape(path)) in known), None)
            if path == "*" or row is None:
                continue
            for (place, member), (_, values) in sorted(members.items()):
                if place == "header" or member.split(".")[-1] == "*":
                    continue
                if place not in row:
                    file.error(f"{route}: it reads `{member}` ({place}), and its row has no `{place}`")
                    continue
                walk(tables, name, file, route, row[place], member, values)
    for row in file.routes:
        for place in ("json", "form", "query"):
            if place in row:
                count(tables, row[place], name, counted, set())
    return counted


def shape(path):
    """A path without the names of its variable parts, which presets choose themselves."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def count(tables, table, file, counted, done):
    home, found = tables.find(table, file)
    if found is None or (home, found) in done:
        return
    done.add((home, found))
    for member, (spec, _, _) in tables.rows(table, file).items():
        counted[(home, found, member, spec["class"])] += 1
        for key in ("of", "values"):
            if key in spec:
                count(tables, spec[key], file, counted, done)


def walk(tables, name, file, route, table, member, values):
    """Follows a path of an inventory through the tables, and notes each table's member as used."""
    at = table
    steps = [step for step in member.replace("[]", "").split(".")]
    if member.endswith("[]") and member.startswith("timestamp"):
        steps = [member]
    if steps and steps[0] == "":
        steps = steps[1:]
    for index, step in enumerate(steps):
        rows = tables.rows(at, name)
        if step not in rows:
            if not step:
                return
            where = ".".join(steps[: index + 1])
            file.error(f"{route}: `{where}` has no class (table `{at}`)")
            return
        spec, home, owner = rows[step]
        tables.used[(home, owner)].add(step)
        if spec.get("unread") and name not in BASES:
            file.error(f"{route}: it reads `{member}`, which `{home}/{owner}` marks `unread`; give it a row")
        last = index == len(steps) - 1
        if last and "values" in spec:
            allowed = tables.rows(spec["values"], home)
            for value in values:
                if value not in allowed:
                    file.error(f"{route}: the value `{value}` of `{member}` has no class (table `{spec['values']}`)")
                else:
                    tables.used[allowed[value][1:]].add(value)
        if spec["class"] == "denied" or "of" not in spec:
            return
        at = spec["of"]


def check_headers(name, file, facts):
    known = {member for source in facts for rows in source.routes.values() for place, member in rows if place == "header"}
    for header in sorted(known - set(file.headers)):
        file.error(f"headers: the server reads `{header}`, and it has no row")
    if name not in BASES:
        stripped = plain_yaml.load(folder() / f"{name}.yaml").get("strip_headers") or []
        for header in stripped:
            if file.headers.get(header, {}).get("class") != "removed":
                file.error(f"headers: the preset strips `{header}`, which is not `removed` here")
    for header, row in file.headers.items():
        if header not in known and row.get("source") != "documentation":
            file.error(f"headers: no inventory has `{header}`; remove it, or mark its row `source: documentation`")


def preset_routes(name):
    """Paths of a preset whose routes read a body of clients, and all paths that are no one's but clients'."""
    document = plain_yaml.load(folder() / f"{name}.yaml")
    bodies, every = set(), set()
    for route in document["routes"]:
        if any(scope.startswith(WHOLE) for scope in route.get("scopes") or []):
            continue
        every.update(route["paths"])
        if route["body"] not in ("none", "websocket") and not route.get("public") and set(BODIES) & set(route["methods"]):
            bodies.update(route["paths"])
    return bodies, every
