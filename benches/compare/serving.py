"""Their side: the protocol that the Rust program speaks as well, and the model that every job starts with."""
import json
import resource
import sys
import time


def status(field: str) -> int:
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def say(value: dict) -> None:
    print(json.dumps(value), flush=True)


def load_batch(spec: dict) -> dict:
    """The batch with its attention mask and positions behind left padding, on the device."""
    import torch
    from safetensors.torch import load_file

    batch = load_file(spec["data"], device=spec["device"])
    starts, ends = batch.pop("starts"), batch.pop("ends")
    at = torch.arange(batch["input_ids"].shape[1], device=starts.device)
    batch["attention_mask"] = ((at >= starts[:, None]) & (at < ends[:, None])).long()
    return batch


def load_model(spec: dict, trained: bool):
    """The checkpoint as users load it; in bf16 what is frozen is narrow, as it is with ours."""
    import torch
    from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

    kind = AutoModelForCausalLM if spec["family"] == "llama" else LlavaForConditionalGeneration
    narrow = spec["bf16"] and (spec["mode"] == "lora" or not trained)
    model = kind.from_pretrained(
        spec["model"], dtype=torch.bfloat16 if narrow else torch.float32, attn_implementation=spec["attention"])
    return model.to(spec["device"])


def autocast(spec: dict):
    import torch

    return torch.autocast(torch.device(spec["device"]).type, torch.bfloat16, enabled=spec["bf16"])


def count(tensors) -> int:
    return sum(t.numel() for t in tensors)


def supervised(batch: dict) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())


def peaks(spec: dict) -> dict:
    found = {"peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if spec["device"] != "cpu":
        import torch

        found["peak_device"] = torch.cuda.max_memory_allocated()
    return found


def serve(spec: dict, start) -> None:
    """Obeys `turn K` and `quit`; `start()` yields a job with `facts` and `turn`."""
    import torch

    torch.set_num_threads(spec["threads"])
    import transformers.models.auto.modeling_auto  # noqa: F401  what stands in memory before anything is loaded

    idle = status("VmRSS:")
    try:
        job = start(spec)
    except Exception as error:
        say({"failed": reason(error)})
        raise
    say({"ready": {"threads": torch.get_num_threads(), "idle_rss": idle, **peaks(spec), **job.facts()}})
    number = 0
    commands = sys.stdin if spec["turns"] is None else [f"turn {spec['turns']}"]
    for line in commands:
        command, _, turns = line.strip().partition(" ")
        if command == "quit":
            break
        for _ in range(int(turns)):
            number += 1
            started = time.perf_counter()
            try:
                found = job.turn()
            except Exception as error:
                say({"failed": reason(error)})
                raise
            say({"turn": number, "seconds": time.perf_counter() - started, **found})
        say({"done": peaks(spec)})


def reason(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
