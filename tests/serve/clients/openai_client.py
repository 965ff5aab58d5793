"""The `openai` package against the echo server of `tests/serve` (see README.md).

    python openai_client.py [http://127.0.0.1:8399]

Versions: openai 3.54.0, Python 3.11.
"""

import asyncio
import base64
import struct
import sys
import zlib

import openai

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8399"
client = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0)


def png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + b"\x20\x60\xa0" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def user(content):
    return [{"role": "user", "content": content}]


def models():
    assert [model.id for model in client.models.list()] == ["echo", "team/adapter"]
    assert client.models.retrieve("echo").owned_by == "firebrick"


def chat():
    answer = client.chat.completions.create(model="echo", messages=user("hello there"), n=2, seed=1, temperature=0, user="me")
    assert [choice.message.content for choice in answer.choices] == ["You said: hello there", "You said: hello there (1)"]
    assert answer.choices[0].finish_reason == "stop" and answer.usage.total_tokens == answer.usage.prompt_tokens + 9
    adapter = client.chat.completions.create(model="team/adapter", messages=user("x"), max_completion_tokens=2)
    assert (adapter.model, adapter.choices[0].finish_reason) == ("team/adapter", "length")


def streaming():
    pieces, finish, usage = [], None, None
    stream = client.chat.completions.create(
        model="echo", messages=user("one two three"), stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    assert "".join(pieces) == "You said: one two three" and len([p for p in pieces if p]) == 5, pieces
    assert finish == "stop" and usage.completion_tokens == 5
    with client.chat.completions.stream(model="echo", messages=user("helper")) as helper:
        assert helper.get_final_completion().choices[0].message.content == "You said: helper"


def images():
    data = png(8, 5)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = client.chat.completions.create(model="echo", messages=user(parts))
    assert answer.choices[0].message.content == f"You said: what is this? (1 pictures of {len(data)} bytes)"
    parts[1]["image_url"]["url"] = "https://example.com/a.png"
    refuses(openai.BadRequestError, "not fetched", model="echo", messages=user(parts))


def logprobs():
    answer = client.chat.completions.create(
        model="echo", messages=user("abc"), logprobs=True, top_logprobs=2, max_tokens=13
    )
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "You said: abc"
    assert tokens[-1].logprob == -0.3 and tokens[-1].top_logprobs[0].token == "c" and bytes(tokens[-1].bytes) == b"c"
    stream = client.chat.completions.create(model="echo", messages=user("abc"), logprobs=True, stream=True)
    streamed = [token for chunk in stream for c in chunk.choices if c.logprobs for token in c.logprobs.content]
    assert [token.logprob for token in streamed] == [token.logprob for token in tokens]


def tools():
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    answer = client.chat.completions.create(model="echo", messages=user("say call"), tools=[tool])
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("look", '{"x":1}')
    history = user("say call") + [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "3"}]
    client.chat.completions.create(model="echo", messages=history, tools=[tool])


def completions():
    answer = client.completions.create(model="echo", prompt=["ab", "cd"], n=2, max_tokens=4, echo=True, logprobs=1)
    assert [choice.text for choice in answer.choices] == ["ab and"] * 2 + ["cd and"] * 2
    lists = answer.choices[0].logprobs
    assert lists.tokens == list("ab and") and lists.token_logprobs[0] is None and lists.text_offset == list(range(6))
    tokens = client.completions.create(model="echo", prompt=[104, 105], max_tokens=3, echo=True)
    assert tokens.choices[0].text == "hi an"
    stream = client.completions.create(model="echo", prompt="x", max_tokens=9, stop=[" so"], stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == " and"


def embeddings():
    plain = client.embeddings.create(model="echo", input=["abcd", "a"], encoding_format="float")
    # Without a format the package asks for base64 and unpacks it.
    packed = client.embeddings.create(model="echo", input=["abcd", "a"])
    for a, b in zip(plain.data, packed.data):
        assert len(a.embedding) == 4 and all(abs(x - y) < 1e-6 for x, y in zip(a.embedding, b.embedding))


def refuses(kind, words, **request):
    try:
        client.chat.completions.create(**request)
    except kind as error:
        assert words in error.message, error.message
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


def errors():
    refuses(openai.NotFoundError, "there is no model", model="other", messages=user("x"))
    refuses(openai.BadRequestError, "`guided_json` is unknown", model="echo", messages=user("x"), extra_body={"guided_json": {}})
    refuses(openai.InternalServerError, "oops", model="echo", messages=user("say oops and more"))
    refuses(openai.RateLimitError, "come back later", model="echo", messages=user("say busy"))
    try:
        list(client.chat.completions.create(model="echo", messages=user("say oops and more"), stream=True))
    except openai.APIError as error:
        assert "oops" in error.message
    else:
        raise AssertionError("the error in the stream was not raised")


def retries():
    """The package itself waits as long as `Retry-After` says, and tries again."""
    patient = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=1)
    try:
        patient.chat.completions.create(model="echo", messages=user("say busy"))
    except openai.RateLimitError:
        pass


async def crowd():
    many = openai.AsyncOpenAI(base_url=URL + "/v1", api_key="none", max_retries=5)
    asked = [many.chat.completions.create(model="echo", messages=user(f"client {i}")) for i in range(100)]
    for i, answer in enumerate(await asyncio.gather(*asked)):
        assert answer.choices[0].message.content == f"You said: client {i}"


def leaving():
    stream = client.chat.completions.create(model="echo", messages=user("say much"), max_tokens=4000, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()


for check in [models, chat, streaming, images, logprobs, tools, completions, embeddings, errors, retries, leaving]:
    check()
    print("ok", check.__name__)
asyncio.run(crowd())
print("ok crowd")
