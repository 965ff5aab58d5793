"""`supervised.json` and `neftune_noise.safetensors`: TRL's SFT and GKD trainers..

    python trl_supervised.py MODEL FIXTURES     (trl 1.16.0)
"""

import argparse
import pathlib

import torch
from trl import SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from trl_common import IGNORE, PERTURBATION, VERSIONS, load, models, number, run, save_tensors, tokenizer, write
from trl_records import SUPERVISED

ANSWERS = {"assistant_only_loss": True}
SFT_CASES = [
    {}, ANSWERS, {**ANSWERS, "label_smoothing_factor": 0.1}, {"label_smoothing_factor": 0.2},
    {**ANSWERS, "loss_type": "dft"}, {"loss_type": "dft"},
    {**ANSWERS, "label_smoothing_factor": 0.1, "loss_type": "dft"},
    {**ANSWERS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    {**ANSWERS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1},
]
SEED = 11
GKD_CASES = [{"beta": b} for b in (0.0, 0.1, 0.5, 1.0)] + [{"beta": 0.5, "temperature": 2.0}]
DIVERGENCES = [(b, t) for b in (0.0, 0.1, 0.5, 1.0) for t in (1.0, 0.9, 2.0)]


def conversation(row):
    """The prompt and the last answer of a supervised record."""
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


def sft(folder, settings, rows=SUPERVISED, **more):
    return run(SFTTrainer, SFTConfig, rows, settings, model=load(folder), processing_class=tokenizer(folder), **more)


def rows_with_labels(batch):
    """Rows without padding, each with the places of its learned tokens."""
    out = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"]):
        keep = mask.bool()
        ids, labels = ids[keep].tolist(), labels[keep].tolist()
        assert all(b in (IGNORE, a) for a, b in zip(ids, labels))
        out.append({"ids": ids, "learned": spans([b != IGNORE for b in labels])})
    return out


def spans(flags):
    """Half-open ranges of the true flags."""
    edges = [i for i in range(len(flags) + 1) if (i > 0 and flags[i - 1]) != (i < len(flags) and flags[i])]
    return [[a, b] for a, b in zip(edges[::2], edges[1::2])]


def learned_tokens(folder):
    """One value per learned token of the answers, from the logits: what the losses are made of."""
    batch = sft(folder, ANSWERS).inputs[0]
    with torch.no_grad():
        logits = load(folder)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    mask = labels != IGNORE
    logits, ids = logits[mask].double(), labels[mask]
    log_probs = logits.log_softmax(-1)
    return {
        "per_row": mask.sum(1).tolist(), "ids": ids.tolist(),
        "log_probs": number(log_probs.gather(1, ids[:, None])[:, 0]), "normalizers": number(logits.logsumexp(-1)),
        "mean_logits": number(logits.mean(-1)), "entropies": number(-(log_probs.exp() * log_probs).sum(-1)),
        "correct": (logits.argmax(-1) == ids).tolist(),
    }


def made_divergences():
    """TRL's divergence and its gradient on small logits that are written down."""
    torch.manual_seed(SEED)
    student, teacher = 3 * torch.randn(5, 7), 3 * torch.randn(5, 7)
    out = {"student": number(student), "teacher": number(teacher), "cases": []}
    for b, t in DIVERGENCES:
        leaf = student.clone().requires_grad_()
        loss = GKDTrainer.generalized_jsd_loss(leaf[None], teacher[None], labels=torch.zeros(1, 5), beta=b,
                                               temperature=t)
        loss.backward()
        out["cases"].append({"beta": b, "temperature": t, "loss": number(loss), "gradient": number(leaf.grad)})
    return out


def neftune(folder, settings, rows):
    """The noise is drawn inside transformers' hook; a hook in front of it seeds the generator and draws the same."""
    def before(seen):
        embedding = seen.trainer.model.get_input_embeddings()

        def seed(module, args):
            shape = (*args[0].shape, module.embedding_dim)
            if module.training:
                bound = settings["neftune_noise_alpha"] / torch.sqrt(torch.tensor(shape[1] * shape[2]))
                torch.manual_seed(SEED)
                seen.kept.setdefault("noise", torch.zeros(shape).uniform_(-bound, bound))
                torch.manual_seed(SEED)

        def check(module, args, out):
            if module.training:
                plain = torch.nn.functional.embedding(args[0], module.weight)
                assert torch.equal(out, plain + seen.kept["noise"]), "another noise was added"
                seen.kept["checked"] = True

        embedding.register_forward_pre_hook(seed)
        seen.late = lambda: embedding.register_forward_hook(check)
        inner = seen.trainer.training_step

        def training_step(*args, **kwargs):
            seen.late()  # after transformers has put its own hook in place
            seen.late = lambda: None
            return inner(*args, **kwargs)

        seen.trainer.training_step = training_step

    seen = sft(folder, settings, rows, before=before)
    assert seen.kept["checked"]
    return seen


def gkd(folder, settings, **more):
    student, teacher = models(folder)
    return run(GKDTrainer, GKDConfig, SUPERVISED, {"max_new_tokens": 6, **settings}, model=student,
               teacher_model=teacher, processing_class=tokenizer(folder, "</s>"), **more)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("fixtures", type=pathlib.Path)
    args = parser.parse_args()
    target = args.fixtures / "supervised.json"
    content = {"versions": VERSIONS, "teacher": PERTURBATION}
    for name, settings in (("all_tokens", {}), ("answers", ANSWERS)):
        content[f"ids_{name}"] = rows_with_labels(sft(args.model, settings).inputs[0])
    content["ids_prompt_completion"] = rows_with_labels(
        sft(args.model, {}, [conversation(r) for r in SUPERVISED]).inputs[0])
    content["learned_tokens_answers"] = learned_tokens(args.model)
    content["sft"] = []
    for case in SFT_CASES:
        step = sft(args.model, case).steps()[0]
        content["sft"].append({"settings": case, **step})
        print("sft", case, step["loss"], step["grad_norm"], flush=True)
    case = {**ANSWERS, "max_steps": 10, "learning_rate": 1e-2}
    seen = sft(args.model, case, evaluate=True)
    content["sft_trajectory"] = {"settings": case, "steps": seen.steps(), "evaluation_after": seen.evaluation()}
    write(target, content)

    content["neftune"], noise = [], {}
    for alpha in (5.0, 15.0):
        settings = {**ANSWERS, "neftune_noise_alpha": alpha}
        seen = neftune(args.model, settings, SUPERVISED[:2])
        step, batch = seen.steps()[0], seen.inputs[0]
        bound = alpha / (batch["input_ids"].shape[1] * 32) ** 0.5
        noise.setdefault("noise_over_bound", (seen.kept["noise"] / bound).contiguous())
        assert torch.allclose(noise["noise_over_bound"] * bound, seen.kept["noise"], atol=1e-7)
        content["neftune"].append({"settings": settings, "rows": [0, 1], "shape": list(seen.kept["noise"].shape),
                                   "bound": number(bound), **step})
        print("neftune", alpha, step["loss"], step["grad_norm"], flush=True)
    save_tensors(args.fixtures / "neftune_noise.safetensors", noise)
    write(target, content)

    content["gkd"] = []
    for case in GKD_CASES:
        seen = gkd(args.model, {"lmbda": 0.0, **case})
        content["gkd"].append({"settings": case, **seen.steps()[0]})
        content.setdefault("gkd_ids", rows_with_labels(seen.inputs[0]))
        content.setdefault("gkd_padding_left", seen.inputs[0]["attention_mask"][:, 0].tolist().count(0) > 0)
        print("gkd", case, content["gkd"][-1]["loss"], content["gkd"][-1]["grad_norm"], flush=True)
    seen = gkd(args.model, {"lmbda": 1.0, "beta": 0.5})
    content["gkd_on_policy"] = {"settings": {"lmbda": 1.0, "beta": 0.5}, "generated": rows_with_labels(seen.inputs[0]),
                                "divided_by": int(seen.items[0]), **seen.steps()[0]}
    batch = gkd(args.model, {"lmbda": 0.0}).inputs[0]
    student, teacher = models(args.model)
    with torch.no_grad():
        logits = [m(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
                  for m in (student, teacher)]
    content["generalized_jsd"] = [
        {"beta": b, "temperature": t, **{r: number(GKDTrainer.generalized_jsd_loss(
            *logits, labels=batch["labels"][:, 1:], beta=b, temperature=t, reduction=r)) for r in ("batchmean", "sum")}}
        for b, t in DIVERGENCES]
    content["made_divergences"] = made_divergences()
    write(target, content)


if __name__ == "__main__":
    main()
