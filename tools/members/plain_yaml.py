"""Reads the part of YAML that the classification is written in: nested mappings, lists, flow lists and mappings, scalars."""

import re


class YamlError(Exception):
    """What is wrong, and in which line."""


def load(path):
    """The document at `path`."""
    lines, number = [], 0
    raw = path.read_text(encoding="utf-8").split("\n")
    while number < len(raw):
        start, text = number, strip_comment(raw[number])
        while balance(text) > 0 and number + 1 < len(raw):
            number += 1
            text += " " + strip_comment(raw[number]).strip()
        number += 1
        if text.strip():
            lines.append((start + 1, len(text) - len(text.lstrip(" ")), text.strip()))
    value, rest = block(lines, 0, path)
    if rest != len(lines):
        raise YamlError(f"{path}:{lines[rest][0]}: unexpected indentation")
    return value


def strip_comment(line):
    quoted = False
    for at, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char == "#" and not quoted and (at == 0 or line[at - 1] == " "):
            return line[:at].rstrip()
    return line.rstrip()


def balance(text):
    depth, quoted = 0, False
    for char in text:
        if char == '"':
            quoted = not quoted
        elif not quoted:
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(char, 0)
    return depth


def block(lines, at, path):
    if at >= len(lines):
        return None, at
    _, indent, text = lines[at]
    if text.startswith("- ") or text == "-":
        result = []
        while at < len(lines) and lines[at][1] == indent and lines[at][2].startswith("-"):
            number, _, text = lines[at]
            result.append(scalar(text[1:].strip(), path, number))
            at += 1
        return result, at
    result = {}
    while at < len(lines) and lines[at][1] == indent:
        number, _, text = lines[at]
        match = re.match(r'("[^"]*"|[^:\s][^:]*):(?:\s+(.*))?$', text)
        if not match:
            raise YamlError(f"{path}:{number}: not `key: value`: {text}")
        key = match.group(1).strip('"')
        if key in result:
            raise YamlError(f"{path}:{number}: `{key}` is repeated")
        at += 1
        if match.group(2):
            result[key] = scalar(match.group(2), path, number)
        elif at < len(lines) and lines[at][1] > indent:
            result[key], at = block(lines, at, path)
        else:
            result[key] = None
    return result, at


def scalar(text, path, number):
    """A flow value or a scalar that fills the rest of a line."""
    if text[:1] not in ("[", "{", '"'):
        return typed(text)
    value, rest = flow(text, path, number)
    if rest.strip():
        raise YamlError(f"{path}:{number}: text after a value: {rest}")
    return value


def flow(text, path, number):
    text = text.lstrip()
    if text.startswith("["):
        result, text = [], text[1:].lstrip()
        while not text.startswith("]"):
            value, text = flow(text, path, number)
            result.append(value)
            text = separated(text, "]", path, number)
        return result, text[1:]
    if text.startswith("{"):
        result, text = {}, text[1:].lstrip()
        while not text.startswith("}"):
            match = re.match(r'("[^"]*"|[\w./-]+)\s*:\s+', text)
            if not match:
                raise YamlError(f"{path}:{number}: not a key: {text[:40]}")
            key = match.group(1).strip('"')
            if key in result:
                raise YamlError(f"{path}:{number}: `{key}` is repeated")
            result[key], text = flow(text[match.end() :], path, number)
            text = separated(text, "}", path, number)
        return result, text[1:]
    if text.startswith('"'):
        match = re.match(r'"((?:[^"\\]|\\.)*)"', text)
        if not match:
            raise YamlError(f"{path}:{number}: an unfinished string: {text[:40]}")
        return match.group(1).replace('\\"', '"').replace("\\\\", "\\"), text[match.end() :]
    match = re.match(r"[^,\[\]{}]+", text)
    if not match:
        raise YamlError(f"{path}:{number}: not a value: {text[:40]}")
    return typed(match.group(0).strip()), text[match.end() :]


def typed(word):
    plain = {"true": True, "false": False, "null": None}
    return plain[word] if word in plain else int(word) if re.fullmatch(r"\d+", word) else word


def separated(text, close, path, number):
    text = text.lstrip()
    if text.startswith(","):
        return text[1:].lstrip()
    if not text.startswith(close):
        raise YamlError(f"{path}:{number}: expected `,` or `{close}`: {text[:40]}")
    return text
