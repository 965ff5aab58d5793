"""Decoding: what transformers makes of logits, and what its searches find, on a model that is a hash of two tokens.

    python decoding.py FIXTURES            (transformers 5.23.0: processors.json, searches.json)
    python decoding.py FIXTURES old        (transformers 4.51.3, tokenizers 0.21.4, huggingface_hub 0.36.2, any torch:
                                            old_searches.json, the searches that transformers 5 leaves to the hub:
                                            groups of beams and contrastive search)

FIXTURES is tests/fixtures/generation. The settings of each case are written with transformers' names, and the tests read
them as a `generation_config.json`.
"""

import argparse
import inspect
import json
import math
import pathlib

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models
from transformers import GenerationConfig, PreTrainedModel, PretrainedConfig, PreTrainedTokenizerFast
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

PAD, EOS, EOS2 = 0, 1, 2
PIECES = ["<pad>", "<eos>", "<eos2>", "a", "b", "c", "d", "e", "f", "ab", "cd", "#", "##", "\n", " x", " y", "xy", "x",
          "y", "bc", "de#", "fa", " ", "z"]
V = len(PIECES)
HIDDEN = 6


def mix(*parts):
    """A hash of 32 bits, the same in the tests."""
    h = 0
    for part in parts:
        h = ((h ^ part) * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF
        h ^= h >> 15
        h = (h * 0x85EBCA6B) & 0xFFFFFFFF
        h ^= h >> 13
    return h


def unit(h):
    """From 0 up to but not including 1; exact in float32."""
    return (h >> 8) / (1 << 24)


def logits_after(before, last, seed):
    row = [unit(mix(seed, before, last, token)) * 8.0 - 4.0 for token in range(V)]
    row[PAD] = -30.0
    return row


def hidden_of(before, last, seed):
    return [unit(mix(seed, before, last, 1000 + i)) * 2.0 - 0.5 for i in range(HIDDEN)]


class TableConfig(PretrainedConfig):
    model_type = "table"

    def __init__(self, seed=1, **kwargs):
        super().__init__(**kwargs)
        self.seed, self.vocab_size, self.hidden_size, self.num_hidden_layers = seed, V, HIDDEN, 1
        self.num_attention_heads = 1


class Table(PreTrainedModel, GenerationMixin):
    config_class = TableConfig
    _supports_cache_class = True
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.dummy = torch.nn.Parameter(torch.zeros(1))
        if hasattr(self, "post_init"):
            self.post_init()

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, output_hidden_states=None,
                **kwargs):
        ids = input_ids
        if past_key_values is not None and use_cache:
            # The cache holds the ids themselves.
            keys, _ = past_key_values.update(ids[:, None, :, None].float(), ids[:, None, :, None].float(), 0)
            ids = keys[:, 0, :, 0].long()
        new = input_ids.shape[1]
        rows, hidden = [], []
        for row in ids.tolist():
            pairs = list(zip([0] + row[:-1], row))[-new:]
            rows.append([logits_after(a, b, self.config.seed) for a, b in pairs])
            hidden.append([hidden_of(a, b, self.config.seed) for a, b in pairs])
        return CausalLMOutputWithPast(
            logits=torch.tensor(rows, dtype=torch.float32), past_key_values=past_key_values,
            hidden_states=(torch.tensor(hidden, dtype=torch.float32),) if output_hidden_states else None)


def tokenizer():
    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def numbers(values):
    """-inf as null, which JSON lacks."""
    return [None if v == -math.inf else v for v in values]


# Processors.

PROCESSORS = [
    {"do_sample": True, "top_k": 0, "temperature": 0.7},
    {"do_sample": True, "top_k": 5},
    {"do_sample": True, "top_k": 0, "top_p": 0.85},
    {"do_sample": True, "top_k": 0, "top_p": 0.3},
    {"do_sample": True, "top_k": 0, "top_p": 0.0},
    {"do_sample": True, "top_k": 0, "min_p": 0.1},
    {"do_sample": True, "top_k": 0, "top_h": 0.5},
    {"do_sample": True, "top_k": 0, "typical_p": 0.6},
    {"do_sample": True, "top_k": 0, "typical_p": 0.15},
    {"do_sample": True, "top_k": 0, "epsilon_cutoff": 0.03},
    {"do_sample": True, "top_k": 0, "eta_cutoff": 0.05},
    {"do_sample": True, "top_k": 12, "top_p": 0.8, "temperature": 1.3, "min_p": 0.02},
    {"do_sample": True, "top_k": 20, "top_p": 0.95, "typical_p": 0.9, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02,
     "renormalize_logits": True},
    {"do_sample": True, "top_k": 3, "top_p": 0.2, "min_p": 0.9, "num_beams": 3, "eos_token_id": [1, 2]},
    {"do_sample": True, "top_k": 0, "typical_p": 0.1, "epsilon_cutoff": 0.4, "eta_cutoff": 0.4, "num_beams": 2,
     "eos_token_id": 1},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": [[5], [7, 9], [1], [3, 4, 6]], "eos_token_id": 1},
    {"min_length": 9, "eos_token_id": [1, 2]},
    {"min_new_tokens": 2, "eos_token_id": [1, 2]},
    {"suppress_tokens": [3, 30]},
    {"begin_suppress_tokens": [4, 31]},
    {"sequence_bias": [[[5], 1.5], [[7, 9], -2.5], [[3, 4, 6], 4.0]]},
    {"remove_invalid_values": True},
    {"renormalize_logits": True},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words_ids": [[8], [4, 5]], "min_new_tokens": 3,
     "eos_token_id": [1], "suppress_tokens": [12], "begin_suppress_tokens": [13], "sequence_bias": [[[10], 2.0]],
     "do_sample": True, "temperature": 0.8, "top_k": 15, "top_p": 0.9, "min_p": 0.01, "renormalize_logits": True},
]
# Made so that n-grams, bad words and biased sequences occur.
CONTEXTS = [
    ([3, 4, 5, 3, 4], []),
    ([7, 9, 1], [7]),
    ([5, 6, 5, 6, 5], [3, 4]),
    ([8], [3, 3, 3, 3, 4]),
    ([2, 11, 12, 2, 11], [12, 2, 11, 39]),
]
WIDTH = 40


def processors(out):
    model = Table(TableConfig())
    generator = np.random.default_rng(7)
    rows = []
    for n, (prompt, generated) in enumerate(CONTEXTS):
        scores = (generator.standard_normal(WIDTH) * (1.0 + n)).astype(np.float32)
        rows.append({"prompt": prompt, "generated": generated, "scores": scores.tolist()})
    cases = []
    for settings in PROCESSORS:
        expected = []
        for row in rows:
            config = GenerationConfig(**settings)
            eos = settings.get("eos_token_id")
            config._eos_token_tensor = None if eos is None else torch.tensor([eos] if isinstance(eos, int) else eos)
            processor = model._get_logits_processor(config, input_ids_seq_length=len(row["prompt"]), device="cpu")
            ids = torch.tensor([row["prompt"] + row["generated"]])
            expected.append(numbers(processor(ids, torch.tensor([row["scores"]]))[0].tolist()))
        cases.append({"settings": settings, "expected": expected})
    special = []
    for values in ([1.0, math.nan, math.inf, -math.inf, 2.0],):
        processor = transformers.InfNanRemoveLogitsProcessor()
        special.append(processor(torch.tensor([[0]]), torch.tensor([values]))[0].tolist())
    write(out / "processors.json", {"rows": rows, "cases": cases, "invalid_replaced": special[0]})


# Searches.

# No prompt ends as a stop string begins: transformers finds one that begins in the prompt, we search the answer alone.
PROMPTS = [[5, 9, 15], [3, 5], [10, 6, 6, 19, 7, 8], [23, 22, 3, 6]]
ONE, TWO = {"eos_token_id": 1}, {"eos_token_id": [1, 2]}
GREEDY = [
    {"max_new_tokens": 12, **ONE},
    {"max_new_tokens": 20, **TWO, "repetition_penalty": 1.3},
    {"max_new_tokens": 16, **ONE, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
    {"max_new_tokens": 16, **ONE, "bad_words_ids": [[6], [4, 9], [16, 3]], "suppress_tokens": [12]},
    {"max_new_tokens": 30, "stop_strings": ["ab", "x\n", "#d"]},
    {"max_new_tokens": 30, **TWO, "stop_strings": ["y", "bc#"], "begin_suppress_tokens": [18]},
]
BEAMS = [
    {"num_beams": beams, "length_penalty": penalty, "early_stopping": stopping, "max_new_tokens": 14, **eos}
    for beams, eos in ((2, ONE), (3, TWO), (5, ONE))
    for penalty in (0.0, 1.0, -0.7, 1.8)
    for stopping in (True, False, "never")
] + [
    {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 9, **ONE},
    {"num_beams": 5, "num_return_sequences": 4, "max_new_tokens": 20, **TWO, "early_stopping": True, "length_penalty": 0.6},
    {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 10},
    {"num_beams": 3, "max_new_tokens": 15, **ONE, "repetition_penalty": 1.5},
    {"num_beams": 3, "max_new_tokens": 15, **ONE, "repetition_penalty": 1.5, "renormalize_logits": True},
    {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 15, **TWO, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 12, **ONE, "bad_words_ids": [[6], [4, 9]],
     "sequence_bias": [[[7], 1.0], [[7, 8], -3.0]]},
    {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 20, "stop_strings": ["ab", "x\n", "#d"]},
    {"num_beams": 5, "num_return_sequences": 5, "max_new_tokens": 20, **ONE, "stop_strings": ["a", "y", "#"],
     "early_stopping": True},
    {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 20, **TWO, "stop_strings": ["c", "bc#", "z"],
     "early_stopping": "never", "length_penalty": 2.0},
    # More beams than tokens that can come: fillers take their places.
    {"num_beams": 6, "num_return_sequences": 3, "max_new_tokens": 6, **ONE,
     "suppress_tokens": [0, 2] + list(range(6, V))},
]
OLD = [
    {"num_beams": beams, "num_beam_groups": groups, "diversity_penalty": penalty, "length_penalty": length,
     "early_stopping": stopping, "num_return_sequences": beams, "max_new_tokens": 12, **eos}
    for beams, groups, penalty, eos in ((4, 2, 1.0, ONE), (6, 3, 0.5, TWO), (3, 3, 2.5, ONE), (6, 2, 8.0, TWO))
    for length in (1.0, -0.5, 1.7)
    for stopping in (True, False, "never")
] + [
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "num_return_sequences": 3, "max_new_tokens": 12, **ONE,
     "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 4},
]
CONTRASTIVE = [
    {"penalty_alpha": alpha, "top_k": k, "max_new_tokens": 14, **ONE}
    for alpha in (0.1, 0.4, 0.6, 0.9) for k in (2, 4, 8)
] + [{"penalty_alpha": 0.5, "top_k": 5, "max_new_tokens": 14, **TWO, "repetition_penalty": 1.2, "suppress_tokens": [7]}]


def ended(ids, settings):
    """Generated ids up to the end, where nothing else says how many there are."""
    eos = settings.get("eos_token_id", [])
    eos = [eos] if isinstance(eos, int) else eos
    for n, token in enumerate(ids):
        if token in eos or token == PAD:
            return ids[:n] if token == PAD else ids[:n + 1]
    return ids


def run(model, prompts, settings, **more):
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    if "stop_strings" in settings:
        more["tokenizer"] = tokenizer()
    # Fresh defaults each time, and a padding id that is never generated.
    model.generation_config = GenerationConfig(pad_token_id=PAD)
    out = model.generate(input_ids=ids, attention_mask=mask, return_dict_in_generate=True, output_scores=True,
                         output_logits=True, **settings, **more)
    return out, width


def greedy(model, settings):
    # Without a stop token transformers does not pad what has ended: such rows go alone.
    batches = [PROMPTS] if "eos_token_id" in settings else [[prompt] for prompt in PROMPTS]
    rows = []
    for prompts in batches:
        out, width = run(model, prompts, settings, use_cache=False, do_sample=False)
        for n in range(len(prompts)):
            ids = ended(out.sequences[n, width:].tolist(), settings)
            logs = [torch.log_softmax(out.logits[step][n], -1)[token].item() for step, token in enumerate(ids)]
            rows.append([{"ids": ids, "logprobs": logs}])
    return rows


def beams(model, settings):
    out, width = run(model, PROMPTS, settings, use_cache=False, do_sample=False)
    each = settings.get("num_return_sequences", 1)
    rows = []
    for n in range(len(PROMPTS)):
        answers = []
        for sequence in range(n * each, (n + 1) * each):
            length = int((out.beam_indices[sequence] >= 0).sum())
            ids = out.sequences[sequence, width:width + length].tolist()
            answers.append({"ids": ids, "score": out.sequences_scores[sequence].item()})
        rows.append(answers)
    return rows


def groups(model, settings):
    out, width = run(model, PROMPTS, settings, use_cache=False, do_sample=False)
    each = settings.get("num_return_sequences", 1)
    rows = []
    for n in range(len(PROMPTS)):
        answers = []
        for sequence in range(n * each, (n + 1) * each):
            ids = ended(out.sequences[sequence, width:].tolist(), settings)
            answers.append({"ids": ids, "score": out.sequences_scores[sequence].item()})
        rows.append(answers)
    return rows


def contrastive(model, settings):
    rows = []
    for prompt in PROMPTS:
        out, width = run(model, [prompt], settings, do_sample=False)
        rows.append([{"ids": ended(out.sequences[0, width:].tolist(), settings)}])
    return rows


def searches(cases):
    found = []
    for seed in (1, 2):
        model = Table(TableConfig(seed=seed)).eval()
        for search, settings in cases:
            found.append({"seed": seed, "settings": settings, "rows": search(model, settings)})
    return {"pieces": PIECES, "prompts": PROMPTS, "hash": mix(1, 2, 3), "cases": found}


def write(path, content):
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size)


def main():
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(main)))
    parser.add_argument("fixtures", type=pathlib.Path)
    parser.add_argument("what", nargs="?", default="new", choices=["new", "old"])
    arguments = parser.parse_args()
    arguments.fixtures.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    expected = {"new": "5.23.0", "old": "4.51.3"}[arguments.what]
    assert transformers.__version__ == expected, transformers.__version__
    if arguments.what == "new":
        processors(arguments.fixtures)
        new = [(greedy, case) for case in GREEDY] + [(beams, case) for case in BEAMS]
        write(arguments.fixtures / "searches.json", searches(new))
    else:
        old = [(groups, case) for case in OLD] + [(contrastive, case) for case in CONTRASTIVE]
        write(arguments.fixtures / "old_searches.json", searches(old))


if __name__ == "__main__":
    main()
