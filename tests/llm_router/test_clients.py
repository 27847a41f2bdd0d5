"""The real clients on loopback: openai and anthropic, through the router and against the demonstration provider."""

import asyncio
import json
import sys

import pytest

from examples.demo_provider import DemoProvider, example
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server
from tests.llm_router.rig import ANTHROPIC_TOOLS, TOOLS, rig
from tests.sim.provider import SECRET, TEXT

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.e2e

HELLO = [{"role": "user", "content": "Hello there"}]


def client_of(r, token="alice"):
    return openai.AsyncOpenAI(base_url=r.url + "/v1", api_key=token, max_retries=0)


async def test_the_openai_client_works_unchanged_with_a_token_as_its_key(scanner):
    async with rig(scanner) as r, client_of(r) as client:
        answer = await client.chat.completions.create(model="ok", messages=HELLO)
        assert answer.choices[0].message.content == "".join(TEXT)
        assert answer._request_id.startswith("x_")
        assert "ok" in {m.id async for m in client.models.list()}


async def test_the_openai_client_reads_our_streams_and_tool_calls(scanner):
    async with rig(scanner) as r, client_of(r) as client:
        text, usage = "", None
        stream = await client.chat.completions.create(
            model="ok", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            usage = chunk.usage or usage
        assert text == "".join(TEXT)
        assert usage.total_tokens == 12
        # The client's own accumulator checks every event against its types.
        strict = [{**t, "function": {**t["function"], "strict": True}} for t in TOOLS]
        async with client.chat.completions.stream(model="call", messages=HELLO, tools=strict) as events:
            final = await events.get_final_completion()
        assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == {"zone": "UTC"}


async def test_a_whole_conversation_with_a_tool_goes_round(scanner):
    async with rig(scanner, app=DemoProvider(key="operator-key")) as r, client_of(r) as client:
        messages = [{"role": "user", "content": "what time is it"}]
        first = await client.chat.completions.create(model="demo-small", messages=messages, tools=TOOLS)
        call = first.choices[0].message.tool_calls[0]
        messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "12:00"}]
        second = await client.chat.completions.create(model="demo-small", messages=messages, tools=TOOLS)
        assert second.choices[0].message.content == "The tool answered: 12:00"


async def test_the_openai_client_raises_cleanly_on_a_denial(scanner):
    async with rig(scanner) as r, client_of(r) as client:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.chat.completions.create(model="ok", messages=[{"role": "user", "content": SECRET}])
        assert caught.value.code == "denied"
        assert caught.value.body["decision_id"].startswith("d_")
        with pytest.raises(openai.AuthenticationError):
            async with client_of(r, "nobody") as other:
                await other.models.list()
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nothing", messages=HELLO)


@pytest.mark.parametrize("model", ["call-secret", "cut", "error-midway"])
async def test_the_openai_client_raises_cleanly_inside_a_stream(scanner, model):
    async with rig(scanner) as r, client_of(r) as client:
        stream = await client.chat.completions.create(model=model, messages=HELLO, tools=TOOLS, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
        assert SECRET not in str(caught.value)


async def test_a_denial_is_not_retried_by_the_client(scanner):
    async with rig(scanner) as r:
        async with openai.AsyncOpenAI(base_url=r.url + "/v1", api_key="alice") as client:
            with pytest.raises(openai.PermissionDeniedError):
                await client.chat.completions.create(model="ok", messages=[{"role": "user", "content": SECRET}])
        assert r.points.count("llm.request") == 1


# -- anthropic ---------------------------------------------------------------------------------------------


def messages_client(r, token="alice", **more):
    return anthropic.AsyncAnthropic(base_url=r.url, **({"api_key": token, "max_retries": 0} | more))


ASKED = {"max_tokens": 50, "messages": HELLO}


async def test_the_anthropic_client_works_unchanged_with_a_token_as_its_key(scanner):
    async with rig(scanner, protocol="anthropic") as r, messages_client(r) as client:
        answer = await client.messages.create(model="ok", **ASKED)
        assert answer.content[0].text == "".join(TEXT)
        assert answer._request_id.startswith("x_")
        assert answer.usage.cache_read_input_tokens == 2
        assert "ok" in {m.id async for m in client.models.list()}
        async with messages_client(r, api_key=None, auth_token="alice") as other:
            assert (await other.messages.create(model="ok", **ASKED)).stop_reason == "end_turn"


async def test_the_anthropic_client_reads_our_streams_thinking_and_tool_calls(scanner):
    async with rig(scanner, protocol="anthropic") as r, messages_client(r) as client:
        async with client.messages.stream(model="ok", **ASKED) as stream:
            assert "".join([text async for text in stream.text_stream]) == "".join(TEXT)
            final = await stream.get_final_message()
        assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 5)
        async with client.messages.stream(model="thinking", **ASKED) as stream:
            thought = await stream.get_final_message()
        assert [block.type for block in thought.content] == ["thinking", "text"]
        turns = [*HELLO, {"role": "assistant", "content": thought.content}, {"role": "user", "content": "go on"}]
        await client.messages.create(model="ok", max_tokens=50, messages=turns)
        sent = r.provider.seen[-1][1]["messages"][1]["content"]
        assert sent[0] == {"type": "thinking", "thinking": "Let me think.", "signature": thought.content[0].signature}
        async with client.messages.stream(model="call-two", tools=ANTHROPIC_TOOLS, **ASKED) as stream:
            called = await stream.get_final_message()
        assert [block.input for block in called.content if block.type == "tool_use"] == [{"zone": "UTC"}, {"path": "a"}]


async def test_a_whole_conversation_with_a_tool_goes_round_with_the_anthropic_client(scanner):
    async with (
        rig(scanner, app=DemoProvider(key="operator-key"), protocol="anthropic") as r,
        messages_client(r) as client,
    ):
        asked = {"model": "demo-small", "max_tokens": 50, "tools": ANTHROPIC_TOOLS, "system": "be brief"}
        turns = [{"role": "user", "content": "what time is it"}]
        first = await client.messages.create(messages=turns, **asked)
        assert first.stop_reason == "tool_use"
        result = {"type": "tool_result", "tool_use_id": first.content[0].id, "content": "12:00"}
        turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = await client.messages.create(messages=turns, **asked)
        assert second.content[0].text == "The tool answered: 12:00"


async def test_the_anthropic_client_raises_cleanly_and_does_not_retry_a_denial(scanner):
    async with rig(scanner, protocol="anthropic") as r:
        async with messages_client(r, max_retries=2) as client:
            with pytest.raises(anthropic.PermissionDeniedError) as caught:
                await client.messages.create(model="ok", max_tokens=5, messages=[{"role": "user", "content": SECRET}])
            assert caught.value.body["error"]["code"] == "denied"
            assert caught.value.request_id.startswith("d_")
            assert r.points.count("llm.request") == 1
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.create(model="unheard-of", **ASKED)
        async with messages_client(r, "nobody") as other:
            with pytest.raises(anthropic.AuthenticationError):
                await other.messages.create(model="ok", **ASKED)


@pytest.mark.parametrize("model", ["call-secret", "thinking-secret", "cut", "start-only", "error-midway", "no-reason"])
async def test_the_anthropic_client_raises_cleanly_inside_a_stream(scanner, model):
    """By itself the client takes a stream that ends early for a whole answer."""
    async with rig(scanner, protocol="anthropic") as r, messages_client(r) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with client.messages.stream(model=model, tools=ANTHROPIC_TOOLS, **ASKED) as stream:
                await stream.get_final_message()
        assert SECRET not in str(caught.value)


# -- the demonstration provider by itself ------------------------------------------------------------------


@pytest.fixture
async def demo():
    tasks = Tasks()
    server = Server([Listener("data", "127.0.0.1", 0, DemoProvider(key="k"))], SystemClock(), tasks)
    await server.start()
    yield f"http://127.0.0.1:{server.ports['data']}"
    await server.stop(grace_s=0.1)
    await tasks.close()


async def test_the_demonstration_provider_speaks_to_the_anthropic_client(demo):
    async with anthropic.AsyncAnthropic(base_url=demo, api_key="k", max_retries=0) as client:
        asked = {"model": "demo-small", "max_tokens": 50}
        said = await client.messages.create(messages=[{"role": "user", "content": "say hello"}], **asked)
        assert said.content[0].text == "hello"
        question = [{"role": "user", "content": "what time is it"}]
        called = await client.messages.create(messages=question, tools=ANTHROPIC_TOOLS, **asked)
        assert (called.stop_reason, called.content[0].input) == ("tool_use", {"zone": "Europe/Paris"})
        async with client.messages.stream(messages=question, tools=ANTHROPIC_TOOLS, **asked) as stream:
            final = await stream.get_final_message()
        assert final.content[0].input == {"zone": "Europe/Paris"}
        result = {"type": "tool_result", "tool_use_id": called.content[0].id, "content": "12:00"}
        turns = [*question, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
        answered = await client.messages.create(messages=turns, **asked)
        assert answered.content[0].text == "The tool answered: 12:00"


async def test_the_demonstration_provider_speaks_to_the_openai_client(demo):
    async with openai.AsyncOpenAI(base_url=demo + "/v1", api_key="k", max_retries=0) as client:
        assert [m.id async for m in client.models.list()] == ["demo-small", "demo-large"]
        async with client.chat.completions.stream(model="demo-small", messages=HELLO) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content.startswith("You asked: Hello there")
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="none", messages=HELLO)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="demo-small", messages=[])
    async with openai.AsyncOpenAI(base_url=demo + "/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_the_demonstration_provider_starts_as_a_program_and_says_where(root):
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        str(root / "examples" / "demo_provider.py"),
        "--port",
        "0",
        "--gap-ms",
        "0",
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        told = json.loads(await asyncio.wait_for(program.stdout.readline(), 20))
        async with openai.AsyncOpenAI(base_url=told["url"], api_key="any", max_retries=0) as client:
            answer = await client.chat.completions.create(
                model="demo-small", messages=[{"role": "user", "content": "say hi"}]
            )
        assert answer.choices[0].message.content == "hi"
    finally:
        program.terminate()
        await asyncio.wait_for(program.wait(), 10)


def test_example_arguments_fit_their_schema():
    schema = {
        "properties": {"timezone": {"type": "string"}, "n": {"type": "integer"}, "k": {"enum": ["a", "b"]}},
        "required": ["timezone", "n", "k"],
    }
    assert example(schema) == {"timezone": "Europe/Paris", "n": 1, "k": "a"}
    assert example({}) == {}
