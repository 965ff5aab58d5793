"""The `openai` package against `serve` over a model that answers questions about pictures (see README.md).

    python model_client.py URL --data eval.json --images DIR [--least 0.5] [--folder CHECKPOINT]

`--data` is a file in LLaVA's form, one question per record. Its pictures are sent as data URLs; the answers, whole and streamed, are
compared with the file's, and a share of `--least` must be right. With `--folder`, transformers has the same checkpoint say what
it finds of the answers, and the log-probabilities must agree.

Versions: openai 3.54.0, Python 3.11; with --folder torch 2.15.0, transformers 5.23.0, pillow 12.3.0.
"""

import argparse
import asyncio
import base64
import json
import math
import struct
from pathlib import Path

import openai

TOLERANCE = 1e-3


def records(path, images, most):
    found = []
    for record in json.loads(Path(path).read_text()):
        question, answer = record["conversations"][0]["value"], record["conversations"][1]["value"]
        if "image" in record and question.count("<image>") == 1:
            found.append((question.replace("<image>", "").strip("\n"), Path(images) / record["image"], answer))
    assert found, f"{path} has no question about one picture"
    return found[:most]


def messages(question, picture):
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "\n" + question}]
    return [{"role": "user", "content": parts}]


async def answers(client, model, rows):
    """All at once, every second one streamed."""

    async def one(i, row):
        asked = dict(model=model, messages=messages(*row[:2]), temperature=0, max_tokens=40)
        if i % 2:
            stream = await client.chat.completions.create(stream=True, **asked)
            return "".join([c.delta.content or "" async for chunk in stream for c in chunk.choices])
        return (await client.chat.completions.create(**asked)).choices[0].message.content

    return await asyncio.gather(*[one(i, row) for i, row in enumerate(rows)])


def logprobs(client, model, row):
    asked = dict(model=model, messages=messages(*row[:2]), temperature=0, max_tokens=40, logprobs=True, top_logprobs=3)
    whole = client.chat.completions.create(**asked)
    tokens = whole.choices[0].logprobs.content
    stream = client.chat.completions.create(stream=True, **asked)
    streamed = [t for chunk in stream for c in chunk.choices if c.logprobs for t in c.logprobs.content]
    # Batches of other sizes sum in another order.
    assert [t.token for t in streamed] == [t.token for t in tokens]
    assert all(abs(a.logprob - b.logprob) < TOLERANCE for a, b in zip(streamed, tokens))
    for token in tokens:
        best = token.top_logprobs[0]
        assert len(token.top_logprobs) == 3 and best.token == token.token and abs(best.logprob - token.logprob) < 1e-5
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) < 1.0001
    assert whole.usage.completion_tokens == len(tokens)
    return [token.logprob for token in tokens], whole.usage


def compare(folder, client, model, rows):
    """Log-probabilities of the model's own answers, as transformers finds them."""
    import torch
    from PIL import Image
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaForConditionalGeneration

    reference = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    try:
        from transformers import CLIPImageProcessorPil as Processor
    except ImportError:
        Processor = CLIPImageProcessor
    processor = Processor.from_pretrained(folder)
    config = json.loads((Path(folder) / "config.json").read_text())
    image, count = tokenizer.decode([config["image_token_index"]]), config["image_seq_length"]
    system = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
              "polite answers to the user's questions.")
    worst = 0.0
    for question, picture, _ in rows:
        found, usage = logprobs(client, model, (question, picture, None))
        prompt = f"{system} USER: {image * count}\n{question} ASSISTANT:"
        ids = tokenizer(prompt)["input_ids"]
        assert len(ids) == usage.prompt_tokens, (len(ids), usage)
        pixels = processor(Image.open(picture).convert("RGB"), return_tensors="pt")["pixel_values"]
        for value in found:
            with torch.no_grad():
                logits = reference(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, -1]
            best = int(logits.argmax())
            worst = max(worst, abs(float(torch.log_softmax(logits, -1)[best]) - value))
            ids.append(best)
    assert worst < TOLERANCE, worst
    print(f"ok transformers' log-probabilities of {len(rows)} answers, largest difference {worst:.1e}")


def rest(client, model):
    long = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], n=3, seed=1,
                                          temperature=1.0, max_tokens=5, extra_body={"ignore_eos": True})
    assert [c.finish_reason for c in long.choices] == ["length"] * 3 and long.usage.completion_tokens == 15
    again = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], n=3, seed=1,
                                           temperature=1.0, max_tokens=5, extra_body={"ignore_eos": True})
    assert [c.message.content for c in again.choices] == [c.message.content for c in long.choices]
    echo = client.completions.create(model=model, prompt="What is in the picture?", max_tokens=1, echo=True, logprobs=1)
    assert echo.choices[0].logprobs.token_logprobs[0] is None
    packed = client.embeddings.create(model=model, input=["What is it?", "a circle"])
    plain = client.embeddings.create(model=model, input=["What is it?", "a circle"], encoding_format="float")
    for a, b in zip(packed.data, plain.data):
        assert abs(sum(x * x for x in a.embedding) - 1) < 1e-4
        assert all(abs(x - struct.unpack("f", struct.pack("f", y))[0]) < 1e-6 for x, y in zip(a.embedding, b.embedding))
    for bad, words in [("https://example.org/a.png", "not fetched"), ("file:///etc/passwd", "without a folder"),
                       ("data:image/png;base64,AAAA", "first bytes")]:
        parts = [{"type": "image_url", "image_url": {"url": bad}}]
        try:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])
            raise SystemExit(f"{bad} was not refused")
        except openai.BadRequestError as error:
            assert words in error.message, error.message
    print("ok choices, seeds, echo, embeddings, refusals")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--least", type=float, default=0.0)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--folder")
    given = parser.parse_args()
    client = openai.OpenAI(base_url=given.url + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    rows = records(given.data, given.images, given.most)
    many = openai.AsyncOpenAI(base_url=given.url + "/v1", api_key="none", max_retries=8)
    found = asyncio.run(answers(many, model, rows))
    right = sum(answer.strip() == row[2] for answer, row in zip(found, rows))
    print(f"{right} of {len(rows)} answers are the file's, for instance {found[0]!r}")
    assert right >= given.least * len(rows)
    logprobs(client, model, rows[0])
    print("ok whole, streamed, log-probabilities")
    rest(client, model)
    if given.folder:
        compare(given.folder, client, model, rows[:8])


main()
