"""Validates what deploy/ holds for Kubernetes and Docker Compose, strictly: an unknown field is an error.

    export PYTHONPATH=$(tools/parts manifests)
    .parts/bin/python tools/manifests.py kubernetes VERSION FILE...    against Kubernetes' own schemas, and those in tests/deploy/crds
    .parts/bin/python tools/manifests.py compose FILE...               against the Compose specification
    .parts/bin/python tools/manifests.py crds DIRECTORY FILE...        against whole CustomResourceDefinitions, as a cluster has them

Prints one line per object: `ok KIND NAME`, or what is wrong with it, and ends with 1 if anything is. CEL rules of custom resources are
not evaluated.
"""

import importlib.util
import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

CRDS = pathlib.Path(__file__).resolve().parents[1] / "tests/deploy/crds"


def strict(schema):
    """A structural schema as Kubernetes means it, in the words of JSON Schema: what is not named is not allowed."""
    out = {key: value for key, value in schema.items() if not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema:
        out["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            out[key] = strict(schema[key])
    if out.pop("nullable", False) and "type" in out:
        out["type"] = [out["type"], "null"]
    return out


def whole(schema):
    """The schema of an object, to which every kind has the same head."""
    out = strict(schema)
    head = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    out["properties"] = {**out.get("properties", {}), **head}
    return out


def vendored():
    """Schemas by `group/version/kind`."""
    files = [json.loads(path.read_text()) for path in sorted(CRDS.glob("*.json"))]
    return {name: whole(schema) for file in files for name, schema in file.items() if name}


def installed(directory):
    """The same, of CustomResourceDefinitions."""
    found = {}
    for path in sorted(pathlib.Path(directory).glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document.get("kind") == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    name = f"{spec['group']}/{version['name']}/{spec['names']['kind']}"
                    found[name] = whole(version["schema"]["openAPIV3Schema"])
    return found


def errors_of(value, schema):
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{'.'.join(map(str, error.path))}: {error.message[:300]}" for error in validator.iter_errors(value)]


def kubernetes(version, crds):
    def check(document):
        name = f"{document.get('apiVersion')}/{document.get('kind')}"
        if schema := crds.get(name):
            return errors_of(document, schema)
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            return [f"there is no schema for {name}"]
        except kubernetes_validate.ValidationError as error:
            return [f"{'.'.join(map(str, error.path))}: {error.message[:300]}"]
        return []

    return check


def compose(document):
    # Found, not imported: the rest of the package is not installed.
    package = importlib.util.find_spec("compose").submodule_search_locations[0]
    return errors_of(document, json.loads((pathlib.Path(package) / "config/compose_spec.json").read_text()))


def custom(crds):
    """Only custom resources: the rest is left to `kubernetes`."""

    def check(document):
        schema = crds.get(f"{document.get('apiVersion')}/{document.get('kind')}")
        return errors_of(document, schema) if schema else None

    return check


def main(arguments):
    match arguments:
        case ["kubernetes", version, *files] if files:
            check = kubernetes(version, vendored())
        case ["crds", directory, *files] if files:
            check = custom(installed(directory))
        case ["compose", *files] if files:
            check = compose
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    wrong = 0
    for file in files:
        for document in filter(None, yaml.safe_load_all(pathlib.Path(file).read_text())):
            name = f"{document.get('kind', 'compose')} {document.get('metadata', document).get('name')}"
            errors = check(document)
            if errors is None:
                continue
            wrong += len(errors)
            print("\n".join(f"{file}: {name}: {error}" for error in errors) or f"ok {name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
