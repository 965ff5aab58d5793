//! What the macro writes, by hand.

use firebrick::prelude::*;

pub fn by_hand() -> Experiment<Llama, Lora, Clip, Mlp2xGelu> {
    Experiment::builder()
        .name("by_hand")
        .model(Llama::default())
        .adapter(Lora::builder().r(16).lora_dropout(0.1))
        .vision(Clip::given())
        .projector(Mlp { depth: 3, ..Mlp::default() })
        .data(LlavaData::given())
        .train(Train::given().set("learning_rate", 1e-3))
        .with(fits())
}

pub fn by_macro() -> Experiment<Llama, Lora, Clip, Mlp2xGelu> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 16, lora_dropout: 0.1>,
        vision: Clip,
        projector: Mlp<depth: 3>,
        data: LlavaData,
        train: Train<learning_rate: 1e-3>,
    }
}
