"""Inventories: for each route of a server, the members that it reads. One file a server, one member a line."""

import collections
import pathlib

import cpp_source
import download
import fastapi_source
from python_source import Source, flatten
from sources import SERVERS

FOLDER = pathlib.Path(__file__).resolve().parent / "inventory"


class Inventory:
    """`routes`: {route: {(place, member): (type, values)}}; `source`: where the facts are from."""

    def __init__(self, source):
        self.source = source
        self.routes = collections.defaultdict(dict)

    def add(self, route, place, member, kind, values):
        known = self.routes[route].get((place, member))
        if known:
            kind = " | ".join(sorted(set(known[0].split(" | ")) | set(kind.split(" | "))))
            values = set(known[1]) | set(values)
        self.routes[route][(place, member)] = (kind, tuple(sorted(values)))

    def text(self, name):
        """The file. Routes with the same members share a section."""
        groups = collections.defaultdict(list)
        for route in sorted(self.routes):
            rows = []
            for (place, member), (kind, values) in sorted(self.routes[route].items()):
                rows.append("\t".join([place, member, kind, " ".join(values)]).rstrip())
            groups[tuple(rows)].append(route)
        lines = [f"# {name}: the members that it reads, by route. `tools/members read` writes this file where its"]
        lines += ["# source is a package. Columns: place, member, type, values (of strings with a fixed set).", f"source: {self.source}"]
        for rows, routes in sorted(groups.items(), key=lambda item: item[1]):
            lines += ["", "[" + "; ".join(routes) + "]", *rows]
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text, path):
        result, routes = None, []
        for number, line in enumerate(text.splitlines(), 1):
            if not line or line.startswith("#"):
                continue
            if line.startswith("source: "):
                result = cls(line.removeprefix("source: "))
            elif line.startswith("["):
                routes = [route.strip() for route in line.strip("[]").split(";")] if not line.startswith("[]") else routes
                for route in routes:
                    result.routes[route]  # A route without members is listed, too.
            else:
                cells = line.split("\t")
                if result is None or not routes or len(cells) not in (2, 3, 4) or cells[0] not in {"json", "form", "query", "header"}:
                    raise SystemExit(f"members: {path}:{number}: not a line of an inventory: {line!r}")
                kind = cells[2] if len(cells) > 2 else "any"
                for route in routes:
                    if (cells[0], cells[1]) in result.routes[route]:
                        raise SystemExit(f"members: {path}:{number}: `{cells[1]}` is listed twice for {route}")
                    result.add(route, cells[0], cells[1], kind, cells[3].split() if len(cells) > 3 else ())
        if result is None:
            raise SystemExit(f"members: {path}: no `source:` line")
        return result


def path_of(name):
    return FOLDER / f"{name}.tsv"


def load(name):
    path = path_of(name)
    if not path.is_file():
        raise SystemExit(f"members: {path} is missing")
    return Inventory.parse(path.read_text(encoding="utf-8"), path)


def read(name, version=None):
    """The inventory of a server from its packages; `version` in place of the pinned one."""
    server = SERVERS[name]
    packages = list(server.packages)
    if version:
        packages[0] = packages[0].partition("==")[0] + "==" + version
    folders = [download.package(requirement) for requirement in packages]
    result = Inventory("package " + packages[0].replace("==", " "))
    if name == "llama-cpp":
        cpp_source.read(folders[0], result)
        return result
    source = Source(folders)
    ignored = tuple(server.ignore)
    served = [m for m in fastapi_source.modules(source, server.roots) if not m.name.startswith(ignored or ("\0",))]
    for module in served:
        for methods, path, function in fastapi_source.routes(source, module):
            route = " ".join(methods) + " " + path
            result.routes[route]
            for place, member, kind, values in fastapi_source.read_route(source, module, path, function):
                result.add(route, place, member, kind, values)
    for route, bodies in server.bodies.items():
        for body in bodies:
            copy(source, result, route, body)
    for header in fastapi_source.headers(
        source, [m for m in fastapi_source.modules(source, server.headers) if not m.name.startswith(ignored or ("\0",))]
    ):
        result.add("*", "header", header, "str", ())
    for route, place, member in server.also:
        result.add(route, place, member, "str", ())
    return result


def copy(source, result, route, body):
    """Adds the members of a class (`[form] module:Class`) or of another route, both possibly `under` a member."""
    prefix, place = "", "json"
    if body.startswith("under "):
        _, prefix, body = body.split(" ", 2)
        result.add(route, "json", prefix.removesuffix("[]"), "list of object" if prefix.endswith("[]") else "object", ())
        prefix += "."
    if body.startswith("form "):
        place, body = "form", body.removeprefix("form ")
    if ":" not in body or body.startswith(("POST", "GET", "PUT")):
        for (where, member), (kind, values) in list(result.routes[body].items()):
            if where == "json":
                result.add(route, where, prefix + member, kind, values)
        return
    module, _, name = body.partition(":")
    hit = source.resolve(source.module(module), name) if source.module(module) else None
    if hit is None:
        raise SystemExit(f"members: {body} was not found; correct tools/members/sources.py")
    for member, (types, values) in flatten(source, *hit).items():
        result.add(route, place, prefix + member, " | ".join(sorted(types - {"null"}) or ["null"]), values)


def difference(old, new):
    """Lines that say what `new` reads and `old` did not, and the other way round."""
    lines = []
    for route in sorted(set(old.routes) | set(new.routes)):
        before, after = old.routes.get(route), new.routes.get(route)
        if before is None or after is None:
            lines.append(f"{'+' if before is None else '-'} route {route}")
        for place, member in sorted(set(before or ()) | set(after or ())):
            key = (place, member)
            if key not in (before or {}):
                lines.append(f"+ {route}: {place} {member} ({after[key][0]})")
            elif key not in (after or {}):
                lines.append(f"- {route}: {place} {member}")
            elif set(before[key][1]) != set(after[key][1]):
                added = sorted(set(after[key][1]) - set(before[key][1]))
                removed = sorted(set(before[key][1]) - set(after[key][1]))
                words = [f"+{value}" for value in added] + [f"-{value}" for value in removed]
                lines.append(f"~ {route}: {place} {member}: {' '.join(words)}")
    return lines
