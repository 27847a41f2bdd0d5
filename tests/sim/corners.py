"""Where a server's words can stand, place by place: one definition, result or question for each.

Each place has an object of its own, so that nothing found at one place hides what was not found at another.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

Made = Callable[[str], dict[str, Any]]


def _field(**members: Any) -> dict[str, Any]:
    return {"inputSchema": {"type": "object", "properties": {"a": {"type": "string", **members}}}}


# -- definitions: place → the members beside a plain one's -----------------------------------------------------------

TOOL: Final[Mapping[str, Made]] = {
    "tool.title": lambda w: {"title": w},
    "tool.description": lambda w: {"description": w},
    "tool.schema.description": lambda w: {"inputSchema": {"type": "object", "description": w}},
    "tool.schema.defs": lambda w: {"inputSchema": {"type": "object", "$defs": {"x": {"description": w}}}},
    "tool.schema.vendor": lambda w: {"inputSchema": {"type": "object", "x-note": [w]}},
    "tool.schema.title": lambda w: _field(title=w),
    "tool.field.name": lambda w: {"inputSchema": {"type": "object", "properties": {w: {"type": "string"}}}},
    "tool.field.description": lambda w: _field(description=w),
    "tool.field.enum": lambda w: _field(enum=["one", w]),
    "tool.field.const": lambda w: _field(anyOf=[{"const": w}, {"const": "one"}]),
    "tool.field.default": lambda w: _field(default=w),
    "tool.field.example": lambda w: _field(examples=[w]),
    "tool.field.comment": lambda w: _field(**{"$comment": w}),
    "tool.output.description": lambda w: {"outputSchema": {"type": "object", "description": w}},
    "tool.annotations.title": lambda w: {"annotations": {"title": w}},
    "tool.annotations.other": lambda w: {"annotations": {"note": w}},
    "tool.meta": lambda w: {"_meta": {"com.example/note": w}},
    "tool.meta.key": lambda w: {"_meta": {f"com.example/{w}": 1}},
    "tool.meta.reserved": lambda w: {"_meta": {"io.modelcontextprotocol/note": w}},
    "tool.icon": lambda w: {"icons": [{"src": "https://pictures.example/" + w}]},
    "tool.icon.data": lambda w: {"icons": [{"src": "data:image/png;base64," + w}]},
    "tool.icon.other": lambda w: {"icons": [{"src": "data:image/png;base64,AAAA", "mimeType": w, "note": w}]},
    "tool.unknown": lambda w: {"note": w},
}
RESOURCE: Final[Mapping[str, Made]] = {
    "resource.name": lambda w: {"name": w},
    "resource.title": lambda w: {"title": w},
    "resource.description": lambda w: {"description": w},
    "resource.mime": lambda w: {"mimeType": w},
    "resource.annotations": lambda w: {"annotations": {"audience": [w]}},
    "resource.modified": lambda w: {"annotations": {"lastModified": w}},
    "resource.list.meta": lambda w: {"_meta": {"com.example/note": w}},
    "resource.uri": lambda w: {"uri": "test://corner/" + w},
    "resource.unknown": lambda w: {"note": w},
}
TEMPLATE: Final[Mapping[str, Made]] = {
    "template.name": lambda w: {"name": w},
    "template.title": lambda w: {"title": w},
    "template.description": lambda w: {"description": w},
    "template.mime": lambda w: {"mimeType": w},
    "template.uri": lambda w: {"uriTemplate": "test://corner/" + w + "/{id}"},
    "template.meta": lambda w: {"_meta": {"com.example/note": w}},
}
PROMPT: Final[Mapping[str, Made]] = {
    "prompt.title": lambda w: {"title": w},
    "prompt.description": lambda w: {"description": w},
    "prompt.argument.name": lambda w: {"arguments": [{"name": w}]},
    "prompt.argument.title": lambda w: {"arguments": [{"name": "who", "title": w}]},
    "prompt.argument.description": lambda w: {"arguments": [{"name": "who", "description": w}]},
    "prompt.argument.other": lambda w: {"arguments": [{"name": "who", "note": w}]},
    "prompt.meta": lambda w: {"_meta": {"com.example/note": w}},
}
SERVER: Final[Mapping[str, str]] = {  # place → the member of serverInfo
    "server.name": "name",
    "server.version": "version",
    "server.title": "title",
    "server.description": "description",
    "server.website": "websiteUrl",
}


def corner(place: str) -> str:
    """Return the name of the definition that stands for a place."""
    return "corner-" + place.replace(".", "-")


# -- results: place → a whole result ---------------------------------------------------------------------------------


def _blocks(*blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"content": list(blocks), **more}


def _text(**members: Any) -> dict[str, Any]:
    return {"type": "text", "text": "fine", **members}


def _link(**members: Any) -> dict[str, Any]:
    return {"type": "resource_link", "uri": "test://one", "name": "one", **members}


def _held(**members: Any) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": "test://in", "mimeType": "text/plain", "text": "fine", **members}}


def blob(words: str) -> str:
    """Return words as a host would find them in a blob of text."""
    return base64.b64encode(words.encode()).decode()


RESULT: Final[Mapping[str, Made]] = {
    "result.annotations": lambda w: _blocks(_text(annotations={"audience": [w]})),
    "result.image.mime": lambda w: _blocks({"type": "image", "data": "AAAA", "mimeType": w}),
    "result.image.data": lambda w: _blocks({"type": "image", "data": w, "mimeType": "image/png"}),
    "result.audio.data": lambda w: _blocks({"type": "audio", "data": w, "mimeType": "audio/wav"}),
    "result.other.block": lambda w: _blocks({"type": "x-other", "note": {"deep": [w]}}),
    "result.link.uri": lambda w: _blocks(_link(uri="test://one/" + w)),
    "result.link.name": lambda w: _blocks(_link(name=w)),
    "result.link.title": lambda w: _blocks(_link(title=w)),
    "result.link.mime": lambda w: _blocks(_link(mimeType=w)),
    "result.link.icon": lambda w: _blocks(_link(icons=[{"src": "https://pictures.example/" + w}])),
    "result.link.meta": lambda w: _blocks(_link(_meta={"com.example/note": w})),
    "result.embedded.uri": lambda w: _blocks(_held(uri="test://in/" + w)),
    "result.embedded.mime": lambda w: _blocks(_held(mimeType=w)),
    "result.embedded.meta": lambda w: _blocks(_held(_meta={"com.example/note": w})),
    "result.embedded.blob": lambda w: _blocks(
        {"type": "resource", "resource": {"uri": "test://in", "mimeType": "text/html", "blob": blob(w)}}
    ),
    "result.structured.key": lambda w: _blocks(_text(), structuredContent={w: 1}),
    "result.unknown": lambda w: _blocks(_text(), note=w),
    "result.meta.key": lambda w: _blocks(_text(), _meta={f"com.example/{w}": 1}),
    "result.meta.reserved": lambda w: _blocks(_text(), _meta={"io.modelcontextprotocol/note": w}),
    "result.block.meta.reserved": lambda w: _blocks(_text(_meta={"io.modelcontextprotocol/note": w})),
}
READ: Final[Mapping[str, Made]] = {
    "resource.read.uri": lambda w: {"uri": "test://one/" + w, "text": "fine"},
    "resource.read.mime": lambda w: {"uri": "test://one", "mimeType": w, "text": "fine"},
    "resource.read.blob": lambda w: {"uri": "test://one", "mimeType": "text/html", "blob": blob(w)},
    "resource.read.annotations": lambda w: {"uri": "test://one", "text": "fine", "annotations": {"audience": [w]}},
    "resource.read.other": lambda w: {"uri": "test://one", "text": "fine", "note": w},
}
PROMPTED: Final[Mapping[str, Made]] = {
    "prompt.embedded": lambda w: _held(text=w),
    "prompt.embedded.blob": lambda w: {
        "type": "resource",
        "resource": {"uri": "test://in", "mimeType": "text/html", "blob": blob(w)},
    },
    "prompt.link": lambda w: _link(description=w),
    "prompt.image": lambda w: {"type": "image", "data": w, "mimeType": "image/png"},
    "prompt.block.meta": lambda w: _text(_meta={"com.example/note": w}),
    "prompt.block.annotations": lambda w: _text(annotations={"audience": [w]}),
    "prompt.block.other": lambda w: _text(note=w),
}

# -- questions: place → what is asked --------------------------------------------------------------------------------


def _form(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, **more}
    return {"method": "elicitation/create", "params": {"message": "Which?", "requestedSchema": schema}}


def _colour(**members: Any) -> dict[str, Any]:
    return _form({"colour": {"type": "string", **members}})


def _sample(**more: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": {"type": "text", "text": "Say it."}}]
    return {"method": "sampling/createMessage", "params": {"messages": asked, "maxTokens": 10, **more}}


def _said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return _sample(messages=[{"role": "assistant", "content": list(blocks)}])


def _tool(**members: Any) -> dict[str, Any]:
    return _sample(tools=[{"name": "t", "inputSchema": {"type": "object"}, **members}])


QUESTION: Final[Mapping[str, Made]] = {
    "ask.form.field": lambda w: _form({"colour": {"type": "string"}, w: {"type": "string"}}),
    "ask.form.enum": lambda w: _colour(enum=["blue", w]),
    "ask.form.enum.names": lambda w: _colour(enum=["blue", "red"], enumNames=["Blue", w]),
    "ask.form.choice": lambda w: _colour(oneOf=[{"const": "blue", "title": w}]),
    "ask.form.default": lambda w: _colour(default=w),
    "ask.form.pattern": lambda w: _form({"colour": {"type": "string"}, "other": {"type": "string", "pattern": w}}),
    "ask.form.items": lambda w: _form(
        {"colour": {"type": "string"}, "more": {"type": "array", "items": {"type": "string", "enum": [w]}}}
    ),
    "ask.form.schema.title": lambda w: _form({"colour": {"type": "string"}}, title=w),
    "ask.form.other": lambda w: _colour(note=w),
    "ask.meta": lambda w: {
        **_colour(),
        "params": {**_colour()["params"], "_meta": {"com.example/note": w}},
    },
    "ask.sampling.tool": lambda w: _tool(description=w),
    "ask.sampling.tool.schema": lambda w: _tool(inputSchema={"type": "object", "description": w}),
    "ask.sampling.tool.use": lambda w: _said({"type": "tool_use", "id": "u", "name": "t", "input": {"a": w}}),
    "ask.sampling.tool.result": lambda w: _said({"type": "tool_result", "toolUseId": "u", "content": [_text(text=w)]}),
    "ask.sampling.tool.structured": lambda w: _said(
        {"type": "tool_result", "toolUseId": "u", "content": [], "structuredContent": {"a": w}}
    ),
    "ask.sampling.tool.embedded": lambda w: _said(
        {"type": "tool_result", "toolUseId": "u", "content": [_held(text=w)]}
    ),
    "ask.sampling.tool.blob": lambda w: _said(
        {
            "type": "tool_result",
            "toolUseId": "u",
            "content": [
                {"type": "resource", "resource": {"uri": "test://in", "mimeType": "text/html", "blob": blob(w)}}
            ],
        }
    ),
    "ask.sampling.stop": lambda w: _sample(stopSequences=[w]),
    "ask.sampling.metadata": lambda w: _sample(metadata={"a": w}),
    "ask.sampling.hint": lambda w: _sample(modelPreferences={"hints": [{"name": w}]}),
    "ask.roots.meta": lambda w: {"method": "roots/list", "params": {"_meta": {"com.example/note": w}}},
}
