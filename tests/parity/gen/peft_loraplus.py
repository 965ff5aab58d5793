"""LoRA+ over DoRA with trainable tokens and without biases: the groups, and three AdamW steps. See README.md.

    python peft_loraplus.py FIXTURES OUT     (FIXTURES: where `qwen2_text/model` lies)

Versions: transformers 5.23.0, peft 0.21.2, torch 2.15.0, safetensors 0.8.0.
"""

import argparse
import pathlib

from peft import LoraConfig

from peft_more import loraplus_case


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixtures", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, use_dora=True, target_modules=["q_proj", "v_proj"],
                        trainable_token_indices=[2, 35])
    description = "LoRA+ over DoRA and trainable tokens on Qwen2: three AdamW steps; losses before each and after the last."
    loraplus_case(arguments.fixtures, arguments.out, "loraplus_rows", "qwen2_text", config, description, 53, {})


if __name__ == "__main__":
    main()
