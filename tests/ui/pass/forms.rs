//! Every form of an invocation.

use firebrick::prelude::*;

/// No adapter: full fine-tuning of a vision-language model.
pub fn full() -> Experiment<Llama, NoAdapter, Clip, Mlp2xGelu> {
    experiment! { model: Llama, vision: Clip, projector: Mlp2xGelu }
}

/// No encoder: a language model on chat messages.
pub fn text_only() -> Experiment<Llama, Lora, NoVision, NoProjector, Sft, MessagesData> {
    experiment!(model: Llama, adapter: Lora)
}

/// Every slot, in another order, in square brackets.
pub fn every_slot() -> Experiment<Llama, Lora, Clip, Mlp, Sft, LlavaData, NoReference> {
    experiment![
        train: Train<learning_rate: 1e-3, num_train_epochs: 2,>,
        data: LlavaData,
        reference: NoReference,
        objective: Sft<>,
        projector: Mlp<depth: 3>,
        vision: Clip,
        adapter: Lora<
            r: 16,
            lora_alpha: 32,
            lora_dropout: 0.05,
            use_rslora: true,
            target_modules: ["q_proj", "v_proj"],
        >,
        model: Llama
    ]
}

/// Slots that are empty on purpose.
pub fn empty_slots() -> Experiment<Llama, NoAdapter, NoVision, NoProjector, Sft, LlavaData> {
    experiment! {
        model: Llama,
        adapter: NoAdapter,
        vision: NoVision,
        projector: NoProjector,
        data: LlavaData,
    }
}

/// Several texts in one row.
pub fn packed() -> Experiment<Llama, Lora, NoVision, NoProjector, Sft, ChatData> {
    experiment! { model: Llama, adapter: Lora, data: ChatData, train: Train<packing: true> }
}
