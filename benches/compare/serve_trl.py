"""TRL's own DPO: a real `DPOTrainer`, whose `training_step` and optimizer are called as its loop calls them."""
import json
import os
import sys
import tempfile

from .making import lora_config
from .serving import count, load_model, serve


def pairs(spec: dict, tokenizer):
    """The rows of the batch as records of text, which the trainer tokenizes: question, chosen and rejected answer."""
    import datasets
    from safetensors.torch import load_file

    batch = load_file(spec["data"])
    ids, labels, ends = (batch[key].tolist() for key in ("input_ids", "labels", "ends"))

    def split(row: int) -> tuple[str, str]:
        answer = next(at for at, label in enumerate(labels[row]) if label != -100)
        words = tokenizer.convert_ids_to_tokens(ids[row][:ends[row]])
        return " ".join(words[:answer]), " " + " ".join(words[answer:])

    rows = [(*split(row), split(row + 1)[1]) for row in range(0, len(ids), 2)]
    return datasets.Dataset.from_list(
        [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in rows])


class Training:
    def __init__(self, spec: dict):
        import datasets
        import transformers
        import trl
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        # Nothing is taken from an earlier process: what is computed before the first step is computed by both.
        datasets.disable_caching()
        datasets.disable_progress_bars()
        transformers.logging.set_verbosity_error()
        tokenizer = transformers.AutoTokenizer.from_pretrained(spec["model"])
        data = pairs(spec, tokenizer)
        self.folder = tempfile.TemporaryDirectory()
        config = trl.DPOConfig(
            output_dir=self.folder.name, per_device_train_batch_size=len(data), max_length=None, beta=spec["beta"],
            learning_rate=spec["learning_rate"], lr_scheduler_type="constant", weight_decay=0.0,
            max_grad_norm=spec["max_grad_norm"], precompute_ref_log_probs=spec["reference"] == "stored",
            gradient_checkpointing=spec["checkpointing"], use_cpu=spec["device"] == "cpu", bf16=spec["bf16"],
            report_to=[], dataloader_pin_memory=False)
        model = load_model(spec, trained=True)
        lora = spec["mode"] == "lora"
        trainer = trl.DPOTrainer(
            model, args=config, train_dataset=data, peft_config=lora_config(spec["family"], spec["rank"]) if lora else None,
            processing_class=tokenizer)
        if lora:
            state = load_file(os.path.join(spec["adapter"], "adapter_model.safetensors"))
            set_peft_model_state_dict(trainer.model, state)
        rows = list(trainer.train_dataset)
        self.tokens = sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows)
        self.supervised = sum(len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows)
        self.inputs = trainer.data_collator(rows)
        self.trained = [p for p in trainer.model.parameters() if p.requires_grad]
        # As `_inner_training_loop` prepares them.
        trainer.create_optimizer_and_scheduler(num_training_steps=1000)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        self.trainer = trainer

    def facts(self) -> dict:
        return {"tokens": self.tokens, "supervised_tokens": self.supervised,
                "trainable_parameters": count(self.trained), "parameters": count(self.trainer.model.parameters())}

    def turn(self) -> dict:
        trainer = self.trainer
        # The trainer takes entries out of what it is given.
        loss = trainer.training_step(trainer.model, dict(self.inputs))
        norm = trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.model.zero_grad()
        return {"loss": loss.item(), "grad_norm": norm.item()}


if __name__ == "__main__":
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    serve(json.loads(sys.argv[1]), Training)
