//! LLaVA's first stage: the projector alone learns captions, between a frozen tower and a frozen language model.
//!
//! `cargo run --release --bin llava_pretrain -- --model VICUNA --set vision.from=CLIP --data blip_laion_cc_sbu_558k.json
//! --images images` with the published settings: template `plain`, learning rate 1e-3, 256 records a step, one epoch,
//! cosine with 3% warmup. `final/` holds the projector; `llava_sft --set projector.from=…/final` continues from it.

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
        data: LlavaData<template: "plain", max_tokens_count: 2048>,
        train: Train<
            learning_rate: 1e-3,
            per_device_train_batch_size: 32,
            gradient_accumulation_steps: 8,
            num_train_epochs: 1.0,
            lr_scheduler_type: "cosine",
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            language_model: false,
        >,
    }
    .main()
}
