"""What servers ask and clients answer: closed lists, shapes, facts, and who is named as asking (mcp reference §5.6)."""

import mcp_types.methods as official
import pytest

from firewall.core.errors import Malformed
from firewall.core.points import Point
from mcp_gateway import questions
from mcp_gateway.versions import LEGACY, MODERN

ALL = {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {}}
FORM = {
    "message": "Who are you?",
    "requestedSchema": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "title": "Your name", "minLength": 1, "x-evil": "dropped"},
            "age": {"type": "integer", "minimum": 0},
            "colours": {"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}},
            "size": {"type": "string", "oneOf": [{"const": "s", "title": "Small", "extra": 1}]},
        },
        "required": ["name"],
        "$defs": {"dropped": {}},
    },
    "task": {"ttl": 1},
}
SAMPLE = {
    "messages": [{"role": "user", "content": {"type": "text", "text": "hi", "annotations": {"x": 1}}, "extra": 1}],
    "maxTokens": 100,
    "includeContext": "allServers",
    "systemPrompt": "be short",
    "modelPreferences": {"hints": [{"name": "small", "more": 1}], "costPriority": 0.5},
    "unknown": "dropped",
}


def ask(method, params, can=ALL, era=MODERN, **more):
    return questions.parse(method, params, can, upstream="demo", era=era, **more)


def test_a_form_is_rebuilt_from_a_closed_list_and_names_who_asks():
    found = ask("elicitation/create", FORM)
    assert found.ask is Point.MCP_ELICITATION_ASK
    assert found.params["message"] == 'The server "demo" asks: Who are you?'
    assert found.params["_meta"] == {questions.UPSTREAM: "demo"}
    assert set(found.params) == {"message", "requestedSchema", "_meta", "mode"}
    assert set(found.params["requestedSchema"]) == {"type", "properties", "required"}
    assert "x-evil" not in found.params["requestedSchema"]["properties"]["name"]
    assert found.facts == {
        "mode": "form",
        "fields": ["name", "age", "colours", "size"],
        "titles": ["Your name"],
        "formats": [],
    }


def test_what_is_built_is_what_the_specification_allows_in_every_revision():
    for era, version in ((LEGACY, "2025-06-18"), (LEGACY, "2025-11-25")):
        form = ask("elicitation/create", FORM, era=era)
        official.parse_server_request("elicitation/create", version, form.params)
    asked = ask("sampling/createMessage", SAMPLE, era=LEGACY)
    official.parse_server_request("sampling/createMessage", "2025-11-25", asked.params)
    url = {"mode": "url", "url": "https://example.com/a", "message": "m", "elicitationId": "e1"}
    link = ask("elicitation/create", url, era=LEGACY)
    official.parse_server_request("elicitation/create", "2025-11-25", link.params)


def test_sampling_never_takes_the_context_of_other_servers():
    found = ask("sampling/createMessage", SAMPLE)
    assert found.params["includeContext"] == "none"
    assert "unknown" not in found.params
    assert found.params["messages"] == [{"role": "user", "content": {"type": "text", "text": "hi"}}]
    assert found.params["modelPreferences"] == {"hints": [{"name": "small"}], "costPriority": 0.5}
    assert found.facts == {"max_tokens": 100, "tools": 0, "include_context": "none", "messages": 1}


@pytest.mark.parametrize(
    ("url", "facts"),
    [
        ("https://example.com/x?y=1", {"scheme": "https", "host": "example.com", "host_class": "public", "userinfo": False, "idn": False}),
        ("http://127.0.0.1/x", {"scheme": "http", "host": "127.0.0.1", "host_class": "private", "userinfo": False, "idn": False}),
        ("https://a@example.com/", {"scheme": "https", "host": "example.com", "host_class": "public", "userinfo": True, "idn": False}),
        ("https://xn--pple-43d.com/", {"scheme": "https", "host": "xn--pple-43d.com", "host_class": "public", "userinfo": False, "idn": True}),
        ("https://169.254.169.254/", {"scheme": "https", "host": "169.254.169.254", "host_class": "metadata", "userinfo": False, "idn": False}),
    ],
)  # fmt: skip
def test_an_address_is_described_for_rules_and_never_opened(url, facts):
    found = ask("elicitation/create", {"mode": "url", "url": url, "message": "m"})
    assert found.facts == {"mode": "url", "fields": [], **facts}
    assert "elicitationId" not in found.params


# UR-1: what no browser of ours is ever sent to, and what two readers would read differently.
@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "vbscript:x", "", "https:///x", "example.com",
        "https://example.com\\@evil.com/", "https:/example.com", "https://0x7f.1/", "https://exa mple.com/",
        "https://example.com/\n", "https://ex%61mple.com/", "https://example.com./",
    ],
)  # fmt: skip
def test_an_address_of_another_scheme_or_with_two_readings_is_no_question(url):
    with pytest.raises(Malformed, match="question_shape"):
        ask("elicitation/create", {"mode": "url", "url": url, "message": "m"})


def test_a_look_alike_host_in_its_own_letters_is_told_as_such():
    found = ask("elicitation/create", {"mode": "url", "url": "https://аpple.com/", "message": "m"})
    assert found.facts["idn"] is True


def test_a_legacy_client_gets_an_elicitation_id_and_a_modern_one_none():
    url = {"mode": "url", "url": "https://example.com/", "message": "m"}
    assert ask("elicitation/create", url, era=LEGACY, elicitation_id="e_ours").params["elicitationId"] == "e_ours"
    theirs = {**url, "elicitationId": "theirs"}
    assert ask("elicitation/create", theirs, era=LEGACY, elicitation_id="e").params["elicitationId"] == "theirs"
    assert "elicitationId" not in ask("elicitation/create", theirs).params
    with pytest.raises(Malformed):
        ask("elicitation/create", url, era=LEGACY)


@pytest.mark.parametrize(
    ("method", "params", "can"),
    [
        ("sampling/createMessage", SAMPLE, {}),
        ("sampling/createMessage", {**SAMPLE, "tools": [{"name": "t", "inputSchema": {}}]}, {"sampling": {}}),
        ("sampling/createMessage", {**SAMPLE, "toolChoice": {"mode": "auto"}}, {"sampling": {}}),
        ("elicitation/create", FORM, {"elicitation": {"url": {}}}),
        ("elicitation/create", {"mode": "url", "url": "https://x.example/", "message": "m"}, {"elicitation": {}}),
        ("elicitation/create", {**FORM, "mode": "voice"}, ALL),
        ("roots/list", {}, {"sampling": {}}),
        ("tools/call", {"name": "x"}, ALL),
        ("tasks/get", {"taskId": "x"}, ALL),
    ],
)
def test_what_was_not_declared_is_no_question(method, params, can):
    with pytest.raises(Malformed, match="question_shape"):
        ask(method, params, can)


def test_an_empty_elicitation_capability_means_forms():
    assert ask("elicitation/create", FORM, {"elicitation": {}}).kind == "elicitation"


def test_declared_is_the_clients_own_and_the_operators_word_together():
    client = {"sampling": {"tools": {}, "context": {}}, "elicitation": {}, "roots": {"listChanged": True}, "tasks": {}}
    assert questions.declared(client, frozenset()) == {}
    assert questions.declared(client, frozenset({"roots"})) == {"roots": {}}
    assert questions.declared(client, frozenset({"sampling", "elicitation"})) == {
        "sampling": {"tools": {}},
        "elicitation": {"form": {}},
    }
    assert questions.declared({"elicitation": {"other": {}}}, frozenset({"elicitation"})) == {}
    assert questions.declared("nonsense", frozenset({"roots"})) == {}


@pytest.mark.parametrize(
    "params",
    [
        None, {"messages": []}, {"messages": "x", "maxTokens": 1}, {"messages": [], "maxTokens": -1},
        {"messages": [], "maxTokens": True}, {"messages": [{"role": "system", "content": {"type": "text", "text": "x"}}], "maxTokens": 1},
        {"messages": [{"role": "user", "content": {"type": "resource", "resource": {}}}], "maxTokens": 1},
        {"messages": [{"role": "user", "content": {"type": "text", "text": 7}}], "maxTokens": 1},
        {"messages": [{"role": "user", "content": []}], "maxTokens": 1}, {"messages": [], "maxTokens": 1, "includeContext": "x"},
        {"messages": [], "maxTokens": 1, "metadata": "x"}, {"messages": [], "maxTokens": 1, "stopSequences": [1]},
        {"messages": [], "maxTokens": 1, "tools": [{"name": "no schema"}]}, {"messages": [None] * 501, "maxTokens": 1},
    ],
)  # fmt: skip
def test_a_sampling_request_of_another_shape_is_refused(params):
    with pytest.raises(Malformed, match="question_shape"):
        ask("sampling/createMessage", params)


@pytest.mark.parametrize(
    "field",
    [
        "x", {"type": "object"}, {"type": "null"}, {"type": ["string"]}, {"type": "string", "minLength": -1},
        {"type": "string", "enum": [1]}, {"type": "array"}, {"type": "array", "items": {"type": "object"}},
        {"type": "string", "oneOf": [{"title": "no const"}]}, {"type": "string", "title": {"not": "text"}},
    ],
)  # fmt: skip
def test_a_form_of_more_than_primitive_fields_is_refused(field):
    schema = {"type": "object", "properties": {"f": field}}
    with pytest.raises(Malformed, match="question_shape"):
        ask("elicitation/create", {"message": "m", "requestedSchema": schema})


class TestLists:
    def test_a_map_of_questions_keeps_its_keys(self):
        entries = {"a": {"method": "roots/list"}, "b": {"method": "elicitation/create", "params": FORM}}
        found = questions.listed(entries, ALL, upstream="demo", era=MODERN, new_id=lambda: "e")
        assert {key: question.kind for key, question in found.items()} == {"a": "roots", "b": "elicitation"}

    @pytest.mark.parametrize(
        "entries",
        [[], "x", {"a": "x"}, {"": {"method": "roots/list"}}, {"k" * 129: {"method": "roots/list"}}, {"a": {"method": 1}},
         {str(n): {"method": "roots/list"} for n in range(17)}, {"a": {"method": "tools/call", "params": {}}}],
    )  # fmt: skip
    def test_a_map_of_another_shape_is_refused(self, entries):
        with pytest.raises(Malformed, match="question_shape"):
            questions.listed(entries, ALL, upstream="demo", era=MODERN, new_id=lambda: "e")

    def test_the_data_of_an_url_required_error_holds_addresses_only(self):
        url = {"mode": "url", "url": "https://example.com/", "message": "m", "elicitationId": "e1", "more": 1}
        (found,) = questions.required({"elicitations": [url]}, ALL, upstream="demo", era=LEGACY)
        assert found.params["elicitationId"] == "e1"
        assert "more" not in found.params
        for data in (None, {}, {"elicitations": []}, {"elicitations": [{**FORM, "mode": "form"}]}):
            with pytest.raises(Malformed, match="question_shape"):
                questions.required(data, ALL, upstream="demo", era=LEGACY)


class TestAnswers:
    form = ask("elicitation/create", FORM)

    def test_a_forms_answer_fits_the_asked_schema(self):
        given = {
            "action": "accept",
            "content": {"name": "Ada", "age": 3, "colours": ["red"]},
            "_meta": {"x": 1},
            "y": 1,
        }
        told = questions.answer(self.form, given)
        assert told.result == {"action": "accept", "content": {"name": "Ada", "age": 3, "colours": ["red"]}}
        assert told.facts == {"action": "accept", "fields": ["name", "age", "colours"]}

    @pytest.mark.parametrize(
        "content",
        [{}, {"name": ""}, {"name": 1}, {"name": "a", "age": -1}, {"name": "a", "more": "b"}, {"name": "a", "colours": ["x"]},
         {"name": "a", "size": "xl"}, {"name": {"deep": 1}}, {"name": None}, "x"],
    )  # fmt: skip
    def test_an_answer_that_does_not_fit_is_refused(self, content):
        with pytest.raises(Malformed, match="answer_invalid"):
            questions.answer(self.form, {"action": "accept", "content": content})

    @pytest.mark.parametrize("action", ["decline", "cancel"])
    def test_who_declines_tells_nothing_more(self, action):
        told = questions.answer(self.form, {"action": action, "content": {"name": "kept to myself"}})
        assert told.result == {"action": action}

    @pytest.mark.parametrize("result", [None, [], {}, {"action": "approve"}, {"action": ["accept"]}])
    def test_an_answer_of_another_shape_is_refused(self, result):
        with pytest.raises(Malformed, match="answer_invalid"):
            questions.answer(self.form, result)

    def test_an_address_is_answered_without_content(self):
        link = ask("elicitation/create", {"mode": "url", "url": "https://example.com/", "message": "m"})
        assert questions.answer(link, {"action": "accept", "content": {"a": 1}}).result == {"action": "accept"}

    def test_a_sampled_message_is_closed_and_uses_tools_only_where_they_were_offered(self):
        plain = ask("sampling/createMessage", SAMPLE)
        text = {
            "role": "assistant",
            "content": {"type": "text", "text": "hi"},
            "model": "m",
            "stopReason": "endTurn",
            "x": 1,
        }
        assert questions.answer(plain, text).result == {k: v for k, v in text.items() if k != "x"}
        use = {**text, "content": [{"type": "tool_use", "id": "1", "name": "t", "input": {}, "y": 1}]}
        with pytest.raises(Malformed, match="answer_invalid"):
            questions.answer(plain, use)
        offered = ask("sampling/createMessage", {**SAMPLE, "tools": [{"name": "t", "inputSchema": {}}]})
        told = questions.answer(offered, use)
        assert told.result["content"] == [{"type": "tool_use", "id": "1", "name": "t", "input": {}}]
        assert told.facts["tools"] == 1

    def test_of_a_clients_roots_only_what_configuration_allows_is_told(self):
        asked = ask("roots/list", None)
        uris = [
            "file:///srv/desk/a", "file:///srv/desk", "file:///srv/desktop", "file:///etc", "file:///srv/desk/../../etc",
            "file:///srv/desk/%2e%2e/x", "file://host/srv/desk", "https://example.com/", "file:///srv/desk/a%00b",
            "file:///srv/desk/caf%C3%A9/",
        ]  # fmt: skip
        told = questions.answer(asked, {"roots": [{"uri": u, "name": "n", "z": 1} for u in uris]}, roots=("/srv/desk",))
        assert [root["uri"] for root in told.result["roots"]] == [uris[0], uris[1], uris[-1]]
        assert told.result["roots"][0] == {"uri": uris[0], "name": "n"}
        assert told.facts == {"roots": 3}
        assert questions.answer(asked, {"roots": [{"uri": uris[0]}]}).result == {"roots": []}
        assert len(questions.answer(asked, {"roots": [{"uri": "file:///etc"}]}, roots=("/",)).result["roots"]) == 1

    @pytest.mark.parametrize("result", [{}, {"roots": "x"}, {"roots": ["x"]}, {"roots": [{"uri": 1}]}])
    def test_roots_of_another_shape_are_refused(self, result):
        with pytest.raises(Malformed, match="answer_invalid"):
            questions.answer(ask("roots/list", None), result, roots=("/",))

    def test_what_is_sealed_of_a_question_still_judges_its_answer(self):
        kept = questions.unsealed(self.form.sealed())
        assert questions.answer(kept, {"action": "accept", "content": {"name": "a"}}).facts["fields"] == ["name"]
        with pytest.raises(Malformed, match="answer_invalid"):
            questions.answer(kept, {"action": "accept", "content": {"name": "a", "more": 1}})
        for broken in (None, [], ["approval", None, False]):
            with pytest.raises(Malformed, match="question_shape"):
                questions.unsealed(broken)
