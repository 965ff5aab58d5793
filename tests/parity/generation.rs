//! Greedy answers, alone and in a left-padded batch, through the key-value cache.

use super::case::{Case, batch, device, every_case};
use firebrick::data::{Encoded, PadSide};
use firebrick::generation::Stop;
use firebrick::projector::Projector;
use firebrick::trainer::Policy;
use firebrick::vision::VisionEncoder;
use serde_json::json;

every_case!(answers, device());

fn answers<V: VisionEncoder, P: Projector>(case: &Case<V, P>) {
    let expected = case.reference.json["generation"].as_array().unwrap();
    let prompts: Vec<Encoded> = expected
        .iter()
        .map(|one| {
            let index = case.samples.iter().position(|sample| sample.id == one["id"]).unwrap();
            let prompt = case.encoder.encode_prompt(&case.samples[index], index).unwrap().encoded;
            assert_eq!(json!(prompt.input_ids), one["input_ids"], "{}", one["id"]);
            prompt
        })
        .collect();
    let end = case.encoder.tokenizer.eos().unwrap();
    let stop = Stop { end_tokens: vec![end], max_new_tokens: 12 };
    let generate = |prompts: &[Encoded]| {
        case.loaded.model.generate(&batch(prompts, PadSide::Left), &stop, &case.device, &mut |_, _| true)
    };
    let together = generate(&prompts);
    for (row, one) in expected.iter().enumerate() {
        // The reference's ids hold the token that ended the answer.
        let wanted: Vec<u32> = serde_json::from_value(one["output_ids"].clone()).unwrap();
        let wanted = wanted.strip_suffix(&[end]).unwrap_or(&wanted);
        assert_eq!(generate(&prompts[row..=row])[0], wanted, "{} alone", one["id"]);
        assert_eq!(together[row], wanted, "{} in a batch", one["id"]);
        assert_eq!(case.encoder.tokenizer.decode(wanted), one["text"], "{}", one["id"]);
    }
}
