"""Reads Python source with `ast`: classes, type aliases, functions and imports. Nothing is imported or run."""

import ast
import functools
import pathlib

SCALARS = {"str", "int", "float", "bool", "bytes", "None"}
LISTS = {"list", "List", "Sequence", "Iterable", "tuple", "Tuple", "set", "Set", "SequenceNotStr"}
UNIONS = {"Union", "Optional"}
WRAPPERS = {"Required", "NotRequired", "ClassVar", "Final", "ReadOnly", "SkipValidation", "Unpack"}
OBJECTS = {"dict", "Dict", "Mapping", "MutableMapping", "JsonDict"}
DATA_BASES = {"BaseModel", "TypedDict", "Struct", "NamedTuple", "object"}


class Module:
    """One file: its top-level names, and the imports that name things of other files."""

    def __init__(self, name, path):
        self.name = name
        self.is_package = path.name == "__init__.py"
        self.tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        self.names = {}
        self.imports = {}
        self.stars = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                source = self.absolute(node)
                for alias in node.names:
                    if alias.name == "*":
                        self.stars.append(source)
                    else:
                        self.imports.setdefault(alias.asname or alias.name, (source, alias.name))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self.imports.setdefault(alias.asname or alias.name, (alias.name, None))
        self.collect(self.tree.body)

    def collect(self, body):
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                self.names[node.name] = node
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.names[target.id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.names[node.target.id] = node.value
            elif isinstance(node, ast.TypeAlias) if hasattr(ast, "TypeAlias") else False:
                self.names[node.name.id] = node.value
            elif isinstance(node, ast.If):
                self.collect(node.orelse)
                self.collect(node.body)
            elif isinstance(node, ast.Try):
                for handler in node.handlers:
                    self.collect(handler.body)
                self.collect(node.body)

    def absolute(self, node):
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        keep = len(parts) - node.level + (1 if self.is_package else 0)
        return ".".join(parts[:keep] + ([node.module] if node.module else []))


class Source:
    """Unpacked packages, looked up by module name."""

    def __init__(self, roots):
        self.roots = [pathlib.Path(root) for root in roots]

    @functools.lru_cache(maxsize=None)
    def module(self, name):
        relative = pathlib.Path(*name.split("."))
        for root in self.roots:
            for path in (root / relative / "__init__.py", (root / relative).with_suffix(".py")):
                if path.is_file():
                    try:
                        return Module(name, path)
                    except SyntaxError:
                        return None
        return None

    def resolve(self, module, name, seen=frozenset()):
        """The module and node that `name` means in `module`, or `None`."""
        key = (module.name, name)
        if key in seen:
            return None
        seen = seen | {key}
        if "." in name:
            head, rest = name.split(".", 1)
            if head in module.imports:
                source, symbol = module.imports[head]
                target = source if symbol is None else f"{source}.{symbol}"
                found = self.module(target)
                return self.resolve(found, rest, seen) if found else None
            return None
        if name in module.names:
            return module, module.names[name]
        if name in module.imports:
            source, symbol = module.imports[name]
            found = self.module(source)
            if found and symbol:
                hit = self.resolve(found, symbol, seen)
                if hit:
                    return hit
            return None
        for star in module.stars:
            found = self.module(star)
            hit = self.resolve(found, name, seen) if found else None
            if hit:
                return hit
        return None


def dotted(node):
    """`a.b.c` of an attribute chain or a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else None
    return None


def literal_string(source, module, node):
    """The string that an expression is, where it is one: a constant, a named constant, `os.environ.get(_, default)`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    name = dotted(node) if node is not None else None
    if name:
        hit = source.resolve(module, name)
        if hit and isinstance(hit[1], ast.Constant) and isinstance(hit[1].value, str):
            return hit[1].value
    if isinstance(node, ast.Call) and dotted(node.func) in {"os.environ.get", "os.getenv"} and len(node.args) == 2:
        return literal_string(source, module, node.args[1])
    return None


class Type:
    """What a value may be: names of scalars, classes, each possibly in a list."""

    def __init__(self):
        self.scalars = set()
        self.values = set()
        self.classes = []  # (lists, module, node)

    def add(self, other, lists=0):
        self.scalars |= {f"list of {s}" if lists and not s.startswith("list") else s for s in other.scalars}
        self.values |= other.values
        for depth, module, node in other.classes:
            entry = (depth + lists, module, node)
            if not any(entry[0] == d and entry[2] is n for d, _, n in self.classes):
                self.classes.append(entry)


def read_type(source, module, node, depth=0, seen=frozenset()):
    """The `Type` of an annotation."""
    result = Type()
    if node is None or depth > 24:
        result.scalars.add("any")
        return result

    def more(inner, lists=0, where=module, marks=seen):
        result.add(read_type(source, where, inner, depth + 1, marks), lists)

    if isinstance(node, ast.Constant):
        if node.value is None:
            result.scalars.add("null")
        elif isinstance(node.value, str):
            try:
                more(ast.parse(node.value, mode="eval").body)
            except SyntaxError:
                result.scalars.add("any")
        return result
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        more(node.left)
        more(node.right)
        return result
    if isinstance(node, ast.Subscript):
        name = (dotted(node.value) or "").rsplit(".", 1)[-1]
        args = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name in UNIONS:
            for arg in args:
                more(arg)
            if name == "Optional":
                result.scalars.add("null")
        elif name == "Annotated":
            more(args[0])
        elif name in WRAPPERS:
            more(args[0])
        elif name == "Literal":
            for arg in args:
                if isinstance(arg, ast.Constant):
                    result.scalars.add("str" if isinstance(arg.value, str) else type(arg.value).__name__.lower())
                    if isinstance(arg.value, str):
                        result.values.add(arg.value)
        elif name in LISTS:
            for arg in args:
                if not (isinstance(arg, ast.Constant) and arg.value is Ellipsis):
                    more(arg, 1)
        elif name in OBJECTS:
            result.scalars.add("object")
        elif name in {"Json"}:
            result.scalars.add("str")
        else:
            more(node.value)
        return result
    name = dotted(node)
    short = (name or "").rsplit(".", 1)[-1]
    if short in SCALARS:
        result.scalars.add({"None": "null"}.get(short, short))
        return result
    if short in LISTS:
        result.scalars.add("list of any")
        return result
    if short in OBJECTS:
        result.scalars.add("object")
        return result
    if name is None or short in {"Any", "object"} or (module.name, name) in seen:
        result.scalars.add("any")
        return result
    hit = source.resolve(module, name)
    if hit is None:
        result.scalars.add(f"unresolved {short}")
        return result
    where, found = hit
    if isinstance(found, ast.ClassDef):
        bases = {(dotted(base) or "").rsplit(".", 1)[-1] for base in found.bases}
        if bases & {"Enum", "StrEnum", "IntEnum"}:
            result.scalars.add("str")
            for item in found.body:
                if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str):
                    result.values.add(item.value.value)
        else:
            result.classes.append((0, where, found))
    elif isinstance(found, ast.Call) and (dotted(found.func) or "").endswith("TypedDict"):
        result.classes.append((0, where, found))
    elif isinstance(found, ast.Call):
        callee = (dotted(found.func) or "").rsplit(".", 1)[-1]
        if callee == "NewType" and len(found.args) == 2:
            more(found.args[1], 0, where, seen | {(module.name, name)})
        elif callee == "TypeVar":
            bound = next((k.value for k in found.keywords if k.arg == "bound"), None)
            more(bound, 0, where, seen | {(module.name, name)}) if bound else result.scalars.add("any")
        elif callee == "TypeAliasType" and len(found.args) == 2:
            more(found.args[1], 0, where, seen | {(module.name, name)})
        else:
            result.scalars.add("any")
    elif isinstance(found, (ast.Subscript, ast.BinOp, ast.Name, ast.Attribute, ast.Constant)):
        more(found, 0, where, seen | {(module.name, name)})
    else:
        result.scalars.add("any")
    return result


def alias_of(source, module, *nodes):
    """The name on the wire that `Field(alias=...)`, `PropertyInfo(alias=...)` or `Form(alias=...)` gives, or none."""
    names = []
    for node in nodes:
        for call in ast.walk(node) if node is not None else ():
            if not isinstance(call, ast.Call):
                continue
            for keyword in call.keywords:
                if keyword.arg in {"alias", "validation_alias"}:
                    if isinstance(keyword.value, ast.Call):  # AliasChoices("a", "b")
                        names += [a.value for a in keyword.value.args if isinstance(a, ast.Constant)]
                    elif isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
                        names.append(keyword.value.value)
    return names


def members_of(source, module, node, seen=frozenset()):
    """Members of a class and its bases: `{name: (module, annotation)}`; `*` when it keeps unknown members."""
    found = {}
    if isinstance(node, ast.Call):  # X = TypedDict("X", {"a": int})
        if len(node.args) > 1 and isinstance(node.args[1], ast.Dict):
            for key, value in zip(node.args[1].keys, node.args[1].values):
                if isinstance(key, ast.Constant):
                    found[key.value] = (module, value)
        return found
    if id(node) in seen:
        return found
    for base in reversed(node.bases):
        if isinstance(base, ast.Subscript):
            base = base.value
        name = dotted(base)
        if name and name.rsplit(".", 1)[-1] not in DATA_BASES:
            hit = source.resolve(module, name)
            if hit and isinstance(hit[1], (ast.ClassDef, ast.Call)):
                found.update(members_of(source, hit[0], hit[1], seen | {id(node)}))
    # An argument of the constructor is a member where the class is no model of its own (`__init__` of plain classes).
    for item in node.body:
        if isinstance(item, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "model_config" for t in item.targets):
            for keyword in ast.walk(item.value):
                if isinstance(keyword, ast.keyword) and keyword.arg == "extra":
                    value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                    found.pop("*", None)
                    if value == "allow":
                        found["*"] = (module, None)
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        name = item.target.id
        annotation = ast.unparse(item.annotation)
        if name.startswith("_") or annotation.startswith("ClassVar") or name == "model_config":
            continue
        if isinstance(item.value, ast.Call) and (dotted(item.value.func) or "").endswith("PrivateAttr"):
            continue
        if isinstance(item.value, ast.Call) and any(
            k.arg == "exclude" and isinstance(k.value, ast.Constant) and k.value.value == "wire" for k in item.value.keywords
        ):
            continue
        for wire in alias_of(source, module, item.annotation, item.value) or [name]:
            found[wire] = (module, item.annotation)
    for name in validated(node):
        found.setdefault(name, (module, ast.Name("Any")))
    return found


def validated(node):
    """Members that a class takes from the raw object before its own are filled: in `mode="before"` validators."""
    for function in node.body:
        if not isinstance(function, ast.FunctionDef):
            continue
        if not any("model_validator" in (text := ast.unparse(d)) and "before" in text for d in function.decorator_list):
            continue
        raw = {argument.arg for argument in function.args.args[1:]}
        for inner in ast.walk(function):
            key = None
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.args:
                if inner.func.attr in {"get", "pop"} and dotted(inner.func.value) in raw:
                    key = inner.args[0]
            elif isinstance(inner, ast.Subscript) and dotted(inner.value) in raw:
                key = inner.slice
            elif isinstance(inner, ast.Compare) and len(inner.ops) == 1 and isinstance(inner.ops[0], (ast.In, ast.NotIn)):
                if dotted(inner.comparators[0]) in raw:
                    key = inner.left
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value


def describe(kind):
    """A `Type` in words, for a line of the inventory."""
    names = set(kind.scalars)
    for lists, _, node in kind.classes:
        names.add("list of object" if lists else "object")
    names.discard("null")
    words = sorted(names) or ["null"]
    return " | ".join(words)


def flatten(source, module, node, deepest=7):
    """Yields `(path, type, values)` for every member below a class, `[]` for the elements of a list."""
    rows = {}

    def below(module, node, prefix, open_classes, depth):
        for name, (where, annotation) in members_of(source, module, node).items():
            path = f"{prefix}.{name}" if prefix else name
            if name == "*":
                rows.setdefault(path, ({"kept unread"}, set()))
                continue
            kind = read_type(source, where, annotation)
            entry = rows.setdefault(path, (set(), set()))
            entry[0].update(describe(kind).split(" | "))
            entry[1].update(kind.values)
            for lists, inner_module, inner in kind.classes:
                if id(inner) in open_classes or depth >= deepest:
                    continue
                below(inner_module, inner, path + "[]" * min(lists, 2), open_classes | {id(inner)}, depth + 1)

    below(module, node, "", {id(node)}, 1)
    return rows
