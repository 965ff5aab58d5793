//! How tokens are chosen, as requests say it over HTTP.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::{EngineError, Request, Sampling};
use super::write::unsupported;
use crate::generation::settings::TokenIds;
use crate::openai::SamplingFields;

/// The fields of a request that choose tokens.
///
/// # Errors
/// [`EngineError::Unsupported`] for what the interface has no field for, by name.
pub(super) fn sampling(request: &Request) -> Result<SamplingFields, EngineError> {
    let mut fields = of_sampling(&request.sampling, request.n);
    let refuse = |reason: String| unsupported(&request.id, &reason);
    if let Some(reason) = request.misplaced() {
        return Err(refuse(reason));
    }
    if let Some(given) = &request.generation {
        given.build().map_err(|error| refuse(error.to_string()))?;
    }
    for (name, value) in request.further() {
        further(&mut fields, name, value).map_err(refuse)?;
    }
    if let (Some(seed), Some(key)) = (fields.seed, request.key) {
        fields.seed = Some(mixed(seed as u64, key));
    }
    Ok(fields)
}

fn of_sampling(sampling: &Sampling, n: usize) -> SamplingFields {
    SamplingFields {
        n: (n != 1).then_some(n as u32),
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        max_tokens: sampling.max_new_tokens,
        stop: sampling.stop.clone(),
        // The same 64 bits.
        seed: sampling.seed.map(|seed| seed as i64),
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        // Servers differ in what 0 means; all take -1 for every candidate.
        top_k: sampling.top_k.map(|k| if k == 0 { -1 } else { k.into() }),
        min_p: sampling.min_p,
        typical_p: sampling.typical_p,
        repetition_penalty: sampling.repetition_penalty,
        no_repeat_ngram_size: sampling.no_repeat_ngram_size,
        min_tokens: sampling.min_new_tokens,
        stop_token_ids: sampling.stop_ids.clone(),
        bad_words: sampling.bad_words.clone(),
        allowed_token_ids: sampling.allowed_tokens.clone(),
        ignore_eos: sampling.ignore_eos.then_some(true),
    }
}

/// Puts one further setting into its field.
fn further(fields: &mut SamplingFields, name: &str, value: &Value) -> Result<(), String> {
    match name {
        "temperature" => put(&mut fields.temperature, name, value),
        "top_p" => put(&mut fields.top_p, name, value),
        "min_p" => put(&mut fields.min_p, name, value),
        "typical_p" => put(&mut fields.typical_p, name, value),
        "repetition_penalty" => put(&mut fields.repetition_penalty, name, value),
        "presence_penalty" => put(&mut fields.presence_penalty, name, value),
        "frequency_penalty" => put(&mut fields.frequency_penalty, name, value),
        "no_repeat_ngram_size" => put(&mut fields.no_repeat_ngram_size, name, value),
        "min_new_tokens" => put(&mut fields.min_tokens, name, value),
        "max_new_tokens" => put(&mut fields.max_tokens, name, value),
        "seed" => put(&mut fields.seed, name, value),
        "top_k" => {
            // Servers differ in what 0 means; all take -1 for every candidate.
            let k = if value.as_i64() == Some(0) { &Value::from(-1) } else { value };
            put(&mut fields.top_k, name, k)
        }
        "stop_strings" => put_list(&mut fields.stop, name, read(name, value)?),
        "bad_words" => put_list(&mut fields.bad_words, name, read(name, value)?),
        "allowed_token_ids" => put_list(&mut fields.allowed_token_ids, name, ids(name, value)?),
        "eos_token_id" => {
            // Beside each other the two say: these tokens end an answer, and no others.
            put_list(&mut fields.stop_token_ids, name, ids(name, value)?)?;
            put(&mut fields.ignore_eos, name, &Value::from(true))
        }
        // A server draws unless it is told otherwise.
        "do_sample" if value.as_bool() == Some(true) => Ok(()),
        "do_sample" => put(&mut fields.temperature, name, &Value::from(0.0)),
        _ => Err(format!("`{name}` cannot be sent over HTTP; leave it out, or take the model's own folder")),
    }
}

fn put<T: DeserializeOwned>(field: &mut Option<T>, name: &str, value: &Value) -> Result<(), String> {
    if field.is_some() {
        return Err(twice(name));
    }
    *field = Some(read(name, value)?);
    Ok(())
}

fn put_list<T>(field: &mut Vec<T>, name: &str, values: Vec<T>) -> Result<(), String> {
    if !field.is_empty() {
        return Err(twice(name));
    }
    *field = values;
    Ok(())
}

fn twice(name: &str) -> String {
    format!("`{name}` contradicts another setting of the request; leave one of the two out")
}

fn ids(name: &str, value: &Value) -> Result<Vec<u32>, String> {
    Ok(TokenIds::all(&read::<Vec<TokenIds>>(name, value)?))
}

fn read<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone())
        .map_err(|error| format!("`{name}` is {value}, which cannot be sent ({error})"))
}

/// A seed for one of several requests of the same seed, of 63 bits (SplitMix64's finalizer, Steele et al. 2014).
fn mixed(seed: u64, key: u64) -> i64 {
    let mut z = seed.wrapping_add(key.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Prompt;
    use crate::generation::settings::Generation;
    use crate::settings::Given;

    fn sent(given: Given<Generation>) -> Result<SamplingFields, String> {
        let request = Request { generation: Some(given), ..Request::new("row", Prompt::Text("a".into())) };
        sampling(&request).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_interface_has_a_field_for_is_sent() {
        let given = Given::new().set("do_sample", true).set("temperature", 0.5).set("top_k", 0).set("seed", 7);
        let given = given.set("stop_strings", ["END"]).set("eos_token_id", ["2 3"]).set("max_new_tokens", 9);
        let fields = sent(given).unwrap();
        let found = (fields.temperature, fields.top_k, fields.seed, fields.max_tokens, fields.ignore_eos);
        assert_eq!(found, (Some(0.5), Some(-1), Some(7), Some(9), Some(true)));
        assert_eq!((fields.stop, fields.stop_token_ids), (vec!["END".to_owned()], vec![2, 3]));
        assert_eq!(sent(Given::new().set("do_sample", false)).unwrap().temperature, Some(0.0));
    }

    #[test]
    fn the_rest_is_refused_by_name() {
        let refused = |given: Given<Generation>| sent(given).unwrap_err();
        let error = refused(Given::new().set("num_beams", 3));
        assert!(error.starts_with("row: `num_beams` cannot be sent over HTTP"), "{error}");
        let error = refused(Given::new().set("temperature", 0.5));
        assert!(error.contains("`do_sample` is false"), "{error}");
        let error = refused(Given::new().set("best_of", 2).set("do_sample", true));
        assert!(error.contains("`best_of` is no setting of a request"), "{error}");
        let sampling = Sampling { temperature: Some(1.0), ..Sampling::default() };
        let generation = Some(Given::new().set("do_sample", false));
        let request = Request { generation, sampling, ..Request::new("row", Prompt::Text("a".into())) };
        let error = super::sampling(&request).unwrap_err().to_string();
        assert!(error.contains("`do_sample` contradicts"), "{error}");
    }

    #[test]
    fn keys_tell_the_draws_of_one_seed_apart() {
        let seed = |seed, key| {
            let sampling = Sampling { seed, ..Sampling::default() };
            let request = Request { sampling, key, ..Request::new("row", Prompt::Text("a".into())) };
            super::sampling(&request).unwrap().seed
        };
        assert_eq!((seed(None, Some(3)), seed(Some(5), None)), (None, Some(5)));
        let drawn: std::collections::BTreeSet<_> = (0..1000).map(|key| seed(Some(5), Some(key))).collect();
        assert!(drawn.len() == 1000 && drawn.iter().flatten().all(|seed| *seed >= 0));
        assert_eq!(seed(Some(5), Some(3)), seed(Some(5), Some(3)));
    }
}
