//! What compiles and what does not. One file per rule; the recipes that compile are modules of this
//! test binary, so that they are linked with burn once and not one by one.

mod pass {
    pub mod alignment;
    pub mod builders;
    pub mod forms;
    pub mod from_macro;
    pub mod own_encoder;
    pub mod paths;
    pub mod readme;
    pub mod values;
}

use pass::{alignment, builders, forms, from_macro, own_encoder, paths, readme, values};
use serde_json::{Value, json};

#[test]
fn mistakes_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/fail/*.rs");
}

#[test]
fn every_form_compiles_and_gives_what_it_says() {
    let given = |values: &serde_json::Map<String, Value>| Value::Object(values.clone());
    let recipe = forms::every_slot();
    let parts = recipe.parts();
    assert_eq!(parts.name, "forms");
    assert_eq!(given(parts.train.values()), json!({"learning_rate": 1e-3, "num_train_epochs": 2}));
    assert_eq!(given(parts.projector.values()), json!({"depth": 3}));
    assert_eq!(parts.adapter.values()["target_modules"], json!(["q_proj", "v_proj"]));

    let recipe = values::values(0.5);
    let adapter = recipe.parts().adapter.build().unwrap();
    assert_eq!((adapter.r, adapter.lora_alpha, adapter.lora_dropout), (4, 8.0, 0.25));
    let train = recipe.parts().train.build().unwrap();
    assert_eq!((train.max_steps, train.seed, train.learning_rate), (None, 42, 1.0));
    assert_eq!(train.per_device_train_batch_size, 16);
    assert!(values::values(4.0).parts().adapter.build().is_err());

    let recipe = from_macro::from_macro();
    assert_eq!(given(recipe.parts().adapter.values()), json!({"r": 4, "lora_alpha": 8.0}));

    let _ = (forms::full(), forms::text_only(), forms::empty_slots(), forms::packed(), own_encoder::own_encoder());
    alignment::all();
    let _ = (paths::paths(), paths::generic::<firebrick::prelude::Llama>(), readme::main);
}

#[test]
fn the_macro_and_the_builders_give_the_same() {
    let (hand, written) = (builders::by_hand(), builders::by_macro());
    let (hand, written) = (hand.parts(), written.parts());
    assert_eq!(hand.adapter, written.adapter);
    assert_eq!(hand.projector, written.projector);
    assert_eq!(hand.train, written.train);
    assert_eq!(written.name, "builders");
}
