"""Finds what a FastAPI server reads: routes, their bodies, forms, query parameters, headers, and members taken from raw JSON."""

import ast
import pathlib
import re

from python_source import describe, dotted, flatten, literal_string, read_type, alias_of

METHODS = {"get", "post", "put", "delete", "patch"}
HEADER = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
CHARSETS = {"utf-8", "latin-1"}
FRAMEWORK = {"Request", "Response", "WebSocket", "BackgroundTasks", "HTTPConnection"}


def routes(source, module):
    """Yields `(methods, path, function node)` of every route that a module registers."""
    functions = {n.name: n for n in ast.walk(module.tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
    for node in functions.values():
        for decorator in node.decorator_list:
            yield from registered(source, module, decorator, node)
    for call in ast.walk(module.tree):
        if not isinstance(call, ast.Call):
            continue
        # app.post("/path")(handler)
        if isinstance(call.func, ast.Call) and call.args:
            name = (dotted(call.args[0]) or "").rsplit(".", 1)[-1]
            if name in functions:
                yield from registered(source, module, call.func, functions[name])
        # app.add_api_route("/path", handler, methods=["POST"])
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_api_route" and len(call.args) >= 2:
            path = literal_string(source, module, call.args[0])
            name = (dotted(call.args[1]) or "").rsplit(".", 1)[-1]
            listed = next((k.value for k in call.keywords if k.arg == "methods"), None)
            methods = [e.value for e in listed.elts] if isinstance(listed, ast.List) else ["GET"]
            if path and name in functions:
                yield methods, path, functions[name]
        # {"chat": lambda app: app.post("/path")}, with a method of the same name
    for mapping in ast.walk(module.tree):
        if not isinstance(mapping, ast.Dict):
            continue
        for key, value in zip(mapping.keys, mapping.values):
            if isinstance(key, ast.Constant) and key.value in functions and isinstance(value, ast.Lambda):
                yield from registered(source, module, value.body, functions[key.value])


def registered(source, module, call, function):
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
        return
    verb = call.func.attr
    path = literal_string(source, module, call.args[0])
    if path is None or not path.startswith("/"):
        return
    if verb in METHODS:
        yield [verb.upper()], path, function
    elif verb == "api_route":
        listed = next((k.value for k in call.keywords if k.arg == "methods"), None)
        yield ([e.value for e in listed.elts] if isinstance(listed, ast.List) else ["GET"]), path, function


def read_route(source, module, path, function):
    """Yields `(place, member, type, values)` of what a handler declares, and what it takes from the raw request."""
    defaults = dict(zip([a.arg for a in function.args.args][::-1], function.args.defaults[::-1]))
    defaults |= {a.arg: d for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults) if d is not None}
    for argument in function.args.args + function.args.kwonlyargs:
        if argument.arg in {"self", "cls"} or re.search(r"\{" + argument.arg + r"[:}]", path):
            continue
        text = ast.unparse(argument.annotation) if argument.annotation else ""
        default = defaults.get(argument.arg)
        default_text = ast.unparse(default) if default is not None else ""
        if any(text.split("[")[0].rsplit(".", 1)[-1] == f for f in FRAMEWORK) or "Depends(" in text + default_text:
            continue
        kind = read_type(source, module, argument.annotation)
        form = "Form(" in text + default_text or "File(" in default_text or "UploadFile" in text
        header = "Header(" in text + default_text
        if kind.classes and not header and "UploadFile" not in text:
            for lists, where, node in kind.classes:
                if (getattr(node, "name", "") or "") in FRAMEWORK:
                    continue
                if lists:
                    yield "json", "[]", "list of object", set()
                for member, (types, values) in flatten(source, where, node).items():
                    yield ("form" if form else "json"), "[]." * lists + member, " | ".join(sorted(types)), values
        else:
            place = "form" if form else "header" if header else "json" if "Body(" in text + default_text else "query"
            name = (alias_of(source, module, default, argument.annotation) or [argument.arg])[0]
            if header:
                name = name.replace("_", "-").lower()
            if place == "query" and (not kind.scalars or kind.scalars & {"object", "any", "list of any"}):
                place = "json"
            yield place, name, describe(kind), kind.values
    yield from raw_reads(source, module, function)


def raw_reads(source, module, function):
    """What a function takes from `await request.json()`, `request.headers` and `request.query_params`."""
    bodies = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = node.value.value if isinstance(node.value, ast.Await) else node.value
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "json":
                bodies.add(node.targets[0].id)
    for node in ast.walk(function):
        key = owner = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in {"get", "pop", "getlist"}:
                owner, key = dotted(node.func.value), node.args[0]
        elif isinstance(node, ast.Subscript):
            owner, key = dotted(node.value), node.slice
        if owner is None:
            continue
        name = literal_string(source, module, key)
        if name is None:
            continue
        if owner in bodies:
            yield "json", name, "any", set()
        elif owner.endswith("query_params"):
            yield "query", name, "str", set()


def headers(source, names):
    """Headers that any of the modules below `names` reads from a request: `{header: module}`."""
    found = {}
    for module in names:
        for node in ast.walk(module.tree):
            key = owner = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"get", "getlist"}:
                owner, key = dotted(node.func.value), node.args[0] if node.args else None
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                owner, key = dotted(node.value), node.slice
            elif isinstance(node, ast.Call) and (dotted(node.func) or "").endswith("Header"):
                alias = alias_of(source, module, node)
                for name in alias:
                    found.setdefault(name.lower(), module.name)
                continue
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant):
                # X_HEADER = "x-thing": a name that is used where a table of headers is read.
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                label = dotted(target) or ""
                if "HEADER" in label.upper() and isinstance(node.value.value, str) and " " not in node.value.value:
                    found.setdefault(node.value.value.lower(), module.name)
                continue
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and "HEADER" in node.targets[0].id.upper():
                for constant in ast.walk(node.value):
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        if "-" in constant.value and " " not in constant.value:
                            found.setdefault(constant.value.lower(), module.name)
                continue
            if owner and owner.lower().rsplit(".", 1)[-1].endswith("headers") and "response" not in owner:
                name = literal_string(source, module, key)
                if name and " " not in name:
                    found.setdefault(name.lower(), module.name)
    return {name: module for name, module in found.items() if HEADER.fullmatch(name) and name not in CHARSETS}


def modules(source, roots):
    """Every module below the dotted names `roots`."""
    for name in roots:
        for base in source.roots:
            folder = base / pathlib.Path(*name.split("."))
            files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
            for file in files:
                if not file.is_file():
                    continue
                parts = list(file.relative_to(base).with_suffix("").parts)
                if parts[-1] == "__init__":
                    parts.pop()
                module = source.module(".".join(parts))
                if module:
                    yield module
