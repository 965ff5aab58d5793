//! What virtual tokens start from.

use super::case::{TextCase, device, log_probs};
use super::prompt_learning::{Tuned, attach, values};
use firebrick::adapters::{Adapter, PrefixTuning, PromptTuning};
use firebrick::models::CausalLm;

#[test]
fn a_prompt_starts_from_the_rows_of_a_text() {
    for name in ["prompt_text_long", "prompt_text_short"] {
        let case = Tuned::<PromptTuning>::fresh(name);
        let ids: Vec<u32> = serde_json::from_value(case.reference.json["init_token_ids"].clone()).unwrap();
        let mut model = case.base.loaded.model.language_model.clone();
        let rows = model.token_table_mut().rows(&ids);
        assert_eq!(values(case.virtual_tokens().table()), values(rows), "{name}");
        let saved = Tuned::<PromptTuning>::saved(name);
        assert_eq!(values(case.virtual_tokens().table()), values(saved.virtual_tokens().table()), "{name}");
    }
}

/// The table of a fresh tuner over `llama_text`, and the case.
fn started<A: Adapter>(adapter: &A) -> (TextCase, Vec<f32>) {
    let mut case = TextCase::text("llama_text", &device().autodiff());
    attach(&mut case, adapter);
    let table = values(case.loaded.model.virtual_tokens.as_ref().unwrap().table());
    (case, table)
}

#[test]
fn a_prompt_starts_from_the_rows_of_sampled_tokens() {
    let sampled = PromptTuning::builder().prompt_tuning_init("SAMPLE_VOCAB".to_owned()).num_virtual_tokens(9).build();
    let (case, table) = started(&sampled.unwrap());
    let rows = values(case.loaded.model.language_model.embed_tokens.weight.val());
    let rows: Vec<&[f32]> = rows.chunks(32).collect();
    let found: Vec<_> = table.chunks(32).map(|row| rows.iter().position(|known| *known == row).unwrap()).collect();
    assert_eq!(found.len(), 9);
    assert!(found.iter().any(|id| *id != found[0]), "{found:?}");
}

#[test]
fn a_zero_prefix_is_zero_with_and_without_a_projection_and_is_no_identity() {
    for projection in [false, true] {
        let prefix =
            PrefixTuning::builder().init_weights(Some("zero".to_owned())).prefix_projection(projection).build();
        let (mut case, table) = started(&prefix.unwrap());
        assert_eq!(table, vec![0.0; 20 * 64]);
        let with = log_probs(&case.loaded.model, &case.encoded, &case.device);
        case.loaded.model.virtual_tokens = None;
        assert_ne!(with, log_probs(&case.loaded.model, &case.encoded, &case.device));
    }
}
