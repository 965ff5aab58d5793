"""What users of transformers and PEFT write: a training step, greedy answers, log-probabilities."""
import json
import sys
import time

from .serving import autocast, count, load_batch, load_model, serve, supervised


def compiled(model, spec: dict):
    if not spec["compile"]:
        return model
    import torch

    return torch.compile(model)


class Training:
    def __init__(self, spec: dict):
        import torch

        self.spec, self.batch = spec, load_batch(spec)
        model = load_model(spec, trained=True)
        if spec["mode"] == "lora":
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, spec["adapter"], is_trainable=True)
        for name, parameter in model.named_parameters():
            if "vision_tower" in name:
                parameter.requires_grad_(False)
        if spec["checkpointing"]:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.train()
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.parameters = count(model.parameters())
        self.optimizer = torch.optim.AdamW(self.trained, lr=spec["learning_rate"], weight_decay=0.0)
        self.model = compiled(model, spec)

    def facts(self) -> dict:
        return {"tokens": int(self.batch["attention_mask"].sum()), "supervised_tokens": supervised(self.batch),
                "trainable_parameters": count(self.trained), "parameters": self.parameters}

    def turn(self) -> dict:
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.spec):
            loss = self.model(**self.batch).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.spec["max_grad_norm"])
        self.optimizer.step()
        return {"loss": loss.item(), "grad_norm": norm.item()}


class Asked:
    def __init__(self, spec: dict):
        self.spec, self.batch = spec, load_batch(spec)
        model = load_model(spec, trained=False).eval()
        self.parameters = count(model.parameters())
        self.model = compiled(model, spec)

    def facts(self) -> dict:
        return {"tokens": int(self.batch["attention_mask"].sum()), "supervised_tokens": supervised(self.batch),
                "trainable_parameters": 0, "parameters": self.parameters}


class Scoring(Asked):
    def turn(self) -> dict:
        import torch

        labels = self.batch["labels"][:, 1:]
        given = {key: value for key, value in self.batch.items() if key != "labels"}
        with torch.no_grad(), autocast(self.spec):
            logits = self.model(**given, use_cache=False).logits[:, :-1].float()
            values = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        return {"log_probs": values.masked_fill(labels == -100, 0).sum(1).tolist()}


class Generating(Asked):
    def turn(self) -> dict:
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        class Clock(StoppingCriteria):
            first = None

            def __call__(self, ids, scores, **kwargs):
                self.first = self.first or time.perf_counter()
                return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

        clock, started = Clock(), time.perf_counter()
        given = {key: value for key, value in self.batch.items() if key != "labels"}
        # No token ends an answer: both write as many.
        self.model.generation_config.eos_token_id = None
        with torch.no_grad(), autocast(self.spec):
            ids = self.model.generate(
                **given, do_sample=False, max_new_tokens=self.spec["new_tokens"], pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]))
        return {"prefill_seconds": clock.first - started, "answers": ids[:, given["input_ids"].shape[1]:].tolist()}


JOBS = {"train": Training, "score": Scoring, "generate": Generating}

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    serve(given, JOBS[given["job"]])
