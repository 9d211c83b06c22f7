"""Reads llama.cpp's server: keys that its handlers take from a request, found by the few forms in which it writes that."""

import re

FORMS = [
    re.compile(r'json_value\(\s*(\w+)\s*,\s*"([^"]+)"'),
    re.compile(r'(\w+)\.(?:at|contains|value|erase|find|count)\(\s*"([^"]+)"'),
    re.compile(r'(\w+)\["([^"]+)"\]'),
]
FIELD = re.compile(r'new (field_\w+)(?:<[^>]*>)?\(\s*"([^"]+)"')
ALIAS = re.compile(r'add_alias\("([^"]+)"\)')
PARAM = re.compile(r'get_param\("([^"]+)"')
HEADER = re.compile(r'get_header_value\("([^"]+)"')
ROUTE = re.compile(r'\.(get|post|del|put)\s*\(\s*"(/[^"]*)"\s*,\s*ex_wrapper\((?:\w+(?:\.|->))?(\w+)')
KINDS = {"field_bool": "bool", "field_num": "number", "field_str": "str", "field_json": "any", "field_nested": "object"}

# What a body's reader is called in each function, and where the object is: handlers read the body, converters read parts of it.
COMPLETION = ["schema"]
OBJECTS = {
    "oaicompat_completion_params_parse": {"body": "", "response_format": "response_format"},
    "oaicompat_chat_params_parse": {
        "body": "",
        "response_format": "response_format",
        "msg": "messages[]",
        "p": "messages[].content[]",
        "image_url": "messages[].content[].image_url",
        "input_audio": "messages[].content[].input_audio",
        "input_video": "messages[].content[].input_video",
    },
    "oaicompat_content_load_media": {
        "p": "messages[].content[]",
        "image_url": "messages[].content[].image_url",
        "input_audio": "messages[].content[].input_audio",
        "input_video": "messages[].content[].input_video",
    },
    "server_chat_convert_responses_to_chatcmpl": {
        "response_body": "",
        "item": "input[]",
        "input_item": "input[].content[]",
        "output_text": "input[].content[]",
        "reasoning": "reasoning",
        "resp_tool": "tools[]",
    },
    "server_chat_convert_anthropic_to_oai": {
        "body": "",
        "msg": "messages[]",
        "block": "messages[].content[]",
        "c": "messages[].content[].content[]",
        "source": "messages[].content[].source",
        "tool": "tools[]",
        "tc": "tool_choice",
        "thinking": "thinking",
        "metadata": "metadata",
    },
    "convert_transcriptions_to_chatcmpl": {"inp_body": "form:"},
    "server_task_state_from_json": {"data": ""},
    "parse_questions": {"body": "", "q": "questions[]"},
    "parse_state": {"body": "", "part": "messages[].content[]", "msg": "messages[]"},
    "post_control": {"body": ""},
    "post_infill": {"data": "", "body": "", "chunk": "input_extra[]"},
    "post_tokenize": {"body": ""},
    "post_detokenize": {"body": ""},
    "post_rerank": {"body": ""},
    "post_apply_template": {"body": ""},
    "post_systemone": {"body": ""},
    "handle_embeddings_impl": {"body": ""},
    "handle_completions_impl": {"data": ""},
    "handle_count_tokens": {"body": ""},
    "parse_lora_request": {"entry": "[]"},
    "post_lora_adapters": {"body": ""},
    "format_prompt_infill": {"chunk": "input_extra[]"},
}
CHAT = ["oaicompat_chat_params_parse", "oaicompat_content_load_media", "handle_completions_impl", *COMPLETION]
HANDLERS = {
    "post_completions": ["handle_completions_impl", *COMPLETION],
    "post_completions_oai": ["oaicompat_completion_params_parse", "handle_completions_impl", *COMPLETION],
    "post_chat_completions": CHAT,
    "post_chat_completions_tok": CHAT,
    "post_responses_oai": ["server_chat_convert_responses_to_chatcmpl", *CHAT],
    "post_responses_tok_oai": ["server_chat_convert_responses_to_chatcmpl", *CHAT],
    "post_anthropic_messages": ["server_chat_convert_anthropic_to_oai", *CHAT],
    "post_anthropic_count_tokens": ["server_chat_convert_anthropic_to_oai", *CHAT],
    "post_transcriptions_oai": ["convert_transcriptions_to_chatcmpl", *CHAT],
    "post_infill": ["post_infill", "format_prompt_infill", "handle_completions_impl", *COMPLETION],
    "post_embeddings": ["handle_embeddings_impl"],
    "post_embeddings_oai": ["handle_embeddings_impl"],
    "post_rerank": ["post_rerank"],
    "post_tokenize": ["post_tokenize"],
    "post_detokenize": ["post_detokenize"],
    "post_apply_template": ["post_apply_template", *CHAT],
    "post_systemone": ["post_systemone", "parse_questions", "parse_state"],
    "post_control": ["post_control"],
    "post_lora_adapters": ["post_lora_adapters"],
}


def read(folder, result):
    """Adds every route of the server, with the members that its handler's functions read."""
    folder = next(path.parent for path in folder.rglob("server-context.cpp"))
    files = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("*.cpp"))}
    everything = "\n".join(files.values())
    for verb, path, handler in ROUTE.findall(files["server.cpp"]):
        route = f"{'DELETE' if verb == 'del' else verb.upper()} {path.replace(':id_slot', '{id_slot}')}"
        result.routes[route]
        for name in HANDLERS.get(handler, []):
            for place, member, kind in members(everything, files, name):
                form = route.endswith("audio/transcriptions")
                if form and place != "form" and ("." in member or "[]" in member):
                    continue
                result.add(route, "form" if form else "json", member, kind, ())
        if verb in {"post", "get", "del"}:
            # A router takes the model from the query of GET and DELETE, and from the body of POST; both are listed by hand below.
            if verb != "post":
                result.add(route, "query", "model", "str", ())
    for name in sorted(set(PARAM.findall(everything))):
        result.add("*", "query", name, "str", ())
    for name in sorted(set(HEADER.findall(everything))):
        result.add("*", "header", name.lower(), "str", ())
    for route in list(result.routes):
        if route.startswith("POST ") and result.routes[route]:
            form = route.endswith("audio/transcriptions")
            result.add(route, "form" if form else "json", "model", "str", ())
    for route in ("POST /v1/audio/transcriptions", "POST /audio/transcriptions"):
        result.add(route, "form", "file", "file", ())


def members(everything, files, name):
    """`(place, member, type)` of what one function reads."""
    if name == "schema":
        yield from schema(files["server-schema.cpp"])
        return
    body = function(everything, name)
    objects = OBJECTS[name]
    for form in FORMS:
        for owner, key in form.findall(body):
            if owner not in objects:
                continue
            at = objects[owner]
            place = "form" if at == "form:" else "json"
            at = at.removeprefix("form:")
            yield place, f"{at}.{key}" if at else key, "any"


def schema(text):
    """Fields of the completion schema, with their aliases; those of a nested field are below it."""
    for statement in re.split(r"\n    add\(", text)[1:]:
        fields = FIELD.findall(statement)
        if not fields:
            continue
        kind, name = fields[0]
        yield "json", name, KINDS.get(kind, "any")
        for alias in ALIAS.findall(statement):
            yield "json", alias, KINDS.get(kind, "any")
        if kind == "field_nested":
            for inner, inner_name in fields[1:]:
                yield "json", f"{name}.{inner_name}", KINDS.get(inner, "any")


def function(text, name):
    """The text of a function's body, by its name and its braces."""
    match = re.search(rf"(?:\b{name}\([^;{{]*\)\s*(?:const\s*)?\{{|this->{name}\s*=\s*\[[^\]]*\]\([^)]*\)\s*\{{)", text)
    if not match:
        raise SystemExit(f"members: llama.cpp has no function `{name}` any more; correct tools/members/cpp_source.py")
    depth, at = 0, match.end() - 1
    for at in range(match.end() - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            break
    return text[match.end() : at]
