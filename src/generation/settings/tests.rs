//! Settings, a checkpoint's, and what becomes of both.

use super::*;
use crate::generation::beams::BeamRules;
use crate::generation::decoding::Method;
use crate::settings::{Component, Given, Resolver, Section, audit};

struct Words;

impl Vocabulary for Words {
    fn encode(&self, text: &str) -> Vec<u32> {
        text.bytes().filter(u8::is_ascii).map(u32::from).collect()
    }

    fn special_id(&self, text: &str) -> Option<u32> {
        (text == "<end>").then_some(7)
    }
}

fn refused(given: Given<Generation>) -> String {
    given.build().unwrap_err().to_string()
}

fn under(file: &str, given: &Given<Generation>) -> Result<Generation, SettingError> {
    CheckpointDefaults::parse(file, "generation_config.json")?.under(given)
}

#[test]
fn a_checkpoint_of_temperature_zero_is_greedy() {
    let file = r#"{"temperature": 0.0, "top_p": 0.9}"#;
    assert!(!under(file, &Generation::given()).unwrap().do_sample);
    let drawn = under(file, &Generation::given().set("do_sample", true)).unwrap();
    assert_eq!((drawn.do_sample, drawn.temperature, drawn.top_p), (true, 1.0, 0.9));
}

#[test]
fn the_table_agrees_with_the_struct() {
    audit::<Generation>().unwrap();
}

#[test]
fn contradictions_name_both_settings() {
    let given = Generation::given;
    let cases = [
        (given().set("temperature", 0.5), "temperature", "do_sample"),
        (given().set("top_k", 3), "top_k", "do_sample"),
        (given().set("top_p", 0.5), "top_p", "do_sample"),
        (given().set("min_p", 0.5), "min_p", "do_sample"),
        (given().set("top_h", 0.5), "top_h", "do_sample"),
        (given().set("typical_p", 0.5), "typical_p", "do_sample"),
        (given().set("epsilon_cutoff", 0.5), "epsilon_cutoff", "do_sample"),
        (given().set("eta_cutoff", 0.5), "eta_cutoff", "do_sample"),
        (given().set("best_of", 2), "best_of", "do_sample"),
        (given().set("num_return_sequences", 2), "num_return_sequences", "do_sample"),
        (given().set("early_stopping", "true"), "early_stopping", "num_beams"),
        (given().set("length_penalty", 2.0), "length_penalty", "num_beams"),
        (given().set("num_beam_groups", 2), "num_beam_groups", "num_beams"),
        (given().set("diversity_penalty", 2.0), "diversity_penalty", "num_beams"),
        (given().set("num_beams", 4).set("num_beam_groups", 2), "num_beam_groups", "diversity_penalty"),
        (given().set("num_beams", 4).set("diversity_penalty", 1.0), "diversity_penalty", "num_beam_groups"),
        (
            given().set("num_beams", 4).set("num_beam_groups", 3).set("diversity_penalty", 1.0),
            "num_beam_groups",
            "num_beams",
        ),
        (
            given().set("num_beams", 4).set("num_beam_groups", 2).set("diversity_penalty", 1.0).set("do_sample", true),
            "num_beam_groups",
            "do_sample",
        ),
        (given().set("penalty_alpha", 0.5).set("do_sample", true), "penalty_alpha", "do_sample"),
        (given().set("penalty_alpha", 0.5).set("num_beams", 2), "penalty_alpha", "num_beams"),
        (given().set("penalty_alpha", 0.5).set("top_k", 1), "penalty_alpha", "top_k"),
        (given().set("num_beams", 2).set("num_return_sequences", 3), "num_return_sequences", "num_beams"),
        (given().set("do_sample", true).set("num_beams", 2).set("best_of", 3), "best_of", "num_beams"),
        (
            given().set("do_sample", true).set("num_return_sequences", 3).set("best_of", 2),
            "num_return_sequences",
            "best_of",
        ),
        (given().set("top_logprobs", 3), "top_logprobs", "logprobs"),
        (
            given().set("allowed_token_ids", ["1 2"]).set("suppress_tokens", ["2", "1"]),
            "allowed_token_ids",
            "suppress_tokens",
        ),
        (given().set("max_length", 3).set("max_new_tokens", 3), "max_length", "max_new_tokens"),
        (given().set("min_new_tokens", 4).set("max_new_tokens", 3), "min_new_tokens", "max_new_tokens"),
        (given().set("min_length", 4).set("max_length", 3), "min_length", "max_length"),
    ];
    for (given, one, other) in cases {
        let message = refused(given);
        assert!(message.contains(&format!("`{one}`")) && message.contains(&format!("`{other}`")), "{message}");
    }
    let message = refused(given().set("temperature", 0.5));
    assert_eq!(
        message,
        "`temperature` is given, but `do_sample` is false, so that nothing is drawn; set `do_sample` to true, or leave \
         `temperature` out"
    );
    assert!(refused(given().set("stop_strings", ["a", ""])).contains("empty text"));
}

#[test]
fn ids_are_written_as_text() {
    let given = Generation::given()
        .set("bad_words_ids", ["12 7", "3"])
        .set("sequence_bias", ["5=1.5", "5 6 = -2"])
        .set("eos_token_id", ["1", "2 3"]);
    let settings = given.build().unwrap();
    assert_eq!(settings.bad_words_ids, [TokenIds(vec![12, 7]), TokenIds(vec![3])]);
    assert_eq!(settings.sequence_bias[1], BiasedIds { ids: TokenIds(vec![5, 6]), bias: -2.0 });
    let json = serde_json::to_value(&settings).unwrap();
    assert_eq!(json["bad_words_ids"], serde_json::json!(["12 7", "3"]));
    assert_eq!(json["sequence_bias"], serde_json::json!(["5=1.5", "5 6=-2"]));
    assert_eq!(serde_json::from_value::<Generation>(json).unwrap(), settings);
    for (name, text) in [("eos_token_id", "x"), ("eos_token_id", ""), ("eos_token_id", "-1"), ("sequence_bias", "5")] {
        assert!(refused(Generation::given().set(name, [text])).contains("as in \"12 7"), "{name} {text}");
    }
    assert!(refused(Generation::given().set("sequence_bias", ["5=inf"])).contains("finite"));
}

#[test]
fn the_command_line_sets_them() {
    let resolved = Resolver::new(vec![Section::of::<Generation>("generation")])
        .command_line(&[
            "generation.num_beams=4",
            "generation.early_stopping=never",
            "generation.eos_token_id=1,2",
            "generation.stop_strings=[\"\\n\\n\", \"User:\"]",
            "generation.max_new_tokens=9",
        ])
        .unwrap()
        .finish();
    let settings: Generation = resolved.section("generation").unwrap();
    assert_eq!((settings.num_beams, settings.early_stopping), (4, EarlyStopping::Never));
    assert_eq!(TokenIds::all(&settings.eos_token_id), [1, 2]);
    assert_eq!(settings.stop_strings, ["\n\n", "User:"]);
}

#[test]
fn given_settings_win_over_the_checkpoint() {
    let llama = r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [128001, 128009],
                    "bos_token_id": 128000, "max_length": 4096, "transformers_version": "4.44.0"}"#;
    let settings = under(llama, &Generation::given()).unwrap();
    assert!(settings.do_sample);
    assert_eq!((settings.temperature, settings.top_p, settings.top_k), (0.6, 0.9, 50));
    assert_eq!((settings.max_new_tokens, settings.max_length), (None, Some(4096)));
    assert_eq!(TokenIds::all(&settings.eos_token_id), [128001, 128009]);
    // A temperature alone draws as the checkpoint does.
    let warm = under(llama, &Generation::given().set("temperature", 1.2)).unwrap();
    assert_eq!((warm.do_sample, warm.temperature, warm.top_p), (true, 1.2, 0.9));
    // Greedy: what the checkpoint says of drawing has no effect, and is no contradiction.
    let greedy = under(llama, &Generation::given().set("do_sample", false)).unwrap();
    assert_eq!((greedy.do_sample, greedy.temperature, greedy.top_p), (false, 1.0, 1.0));
    let short = under(llama, &Generation::given().set("max_new_tokens", 5).set("eos_token_id", ["9"])).unwrap();
    assert_eq!((short.max_new_tokens, short.max_length), (Some(5), None));
    assert_eq!(TokenIds::all(&short.eos_token_id), [9]);
    // Contrastive search is asked for, and does not draw.
    let contrastive = under(llama, &Generation::given().set("penalty_alpha", 0.6)).unwrap();
    assert!(contrastive.is_contrastive());
    // What is given contradicts itself.
    let both = Generation::given().set("do_sample", false).set("temperature", 0.5);
    assert!(under(llama, &both).unwrap_err().to_string().contains("`temperature`"));
    // Beams of a checkpoint that draws are drawn, as transformers has it.
    let beams = under(llama, &Generation::given().set("num_beams", 3)).unwrap();
    assert!(beams.do_sample && beams.num_beams == 3);
}

#[test]
fn a_checkpoint_without_sense_is_passed_over() {
    // transformers 5 warns of these and goes on.
    let settings = under(r#"{"temperature": 0.9, "top_p": 0.6, "length_penalty": 2.0}"#, &Generation::given()).unwrap();
    assert_eq!(settings, Generation::default());
    let nothing =
        r#"{"penalty_alpha": 0.0, "top_k": null, "guidance_scale": 1.0, "chat_format": "chatml", "use_cache": false}"#;
    assert_eq!(under(nothing, &Generation::given()).unwrap(), Generation::default());
    assert_eq!(CheckpointDefaults::default().under(&Generation::given()).unwrap(), Generation::default());
}

#[test]
fn what_would_change_answers_and_is_not_there_is_refused() {
    let message = |file: &str| under(file, &Generation::given()).unwrap_err().to_string();
    assert_eq!(
        message(r#"{"guidance_scale": 1.5}"#),
        "generation_config.json: `guidance_scale` is 1.5, which changes what is generated and is not supported; take it out \
         of the file"
    );
    assert!(message(r#"{"forced_eos_token_id": 2}"#).contains("`forced_eos_token_id` is 2"));
    assert_eq!(
        message(r#"{"temperature": "hot"}"#),
        "generation_config.json: `temperature` is \"hot\", but takes a number above 0; repair the file"
    );
    assert!(message(r#"{"eos_token_id": [1, -2]}"#).contains("`eos_token_id`"));
    assert!(message("[]").contains("no object"));
    assert!(message("{").contains("no JSON"));
}

#[test]
fn forms_of_a_checkpoint_are_ours() {
    let file = r#"{"eos_token_id": 2, "early_stopping": true, "num_beams": 2, "bad_words_ids": [[1, 2], [3]],
                   "sequence_bias": [[[4, 5], -1.5]], "suppress_tokens": [6, 7], "stop_strings": "x", "top_k": 10,
                   "num_return_sequences": 2, "length_penalty": 2}"#;
    let settings = under(file, &Generation::given()).unwrap();
    assert_eq!(settings.early_stopping, EarlyStopping::WhenFull);
    assert_eq!(TokenIds::all(&settings.eos_token_id), [2]);
    assert_eq!(settings.bad_words_ids, [TokenIds(vec![1, 2]), TokenIds(vec![3])]);
    assert_eq!(settings.sequence_bias, [BiasedIds { ids: TokenIds(vec![4, 5]), bias: -1.5 }]);
    assert_eq!(TokenIds::all(&settings.suppress_tokens), [6, 7]);
    assert_eq!((settings.stop_strings.len(), settings.length_penalty, settings.top_k), (1, 2.0, 50));
    assert_eq!(CheckpointDefaults::parse(file, "f").unwrap().eos_token_ids(), [2]);
    assert!(under(r#"{"early_stopping": "always", "num_beams": 2}"#, &Generation::given()).is_err());
}

#[test]
fn settings_become_a_search() {
    let given = Generation::given().set("stop_strings", ["<end>", "###"]).set("eos_token_id", ["9"]);
    let decoding = given.clone().set("max_new_tokens", 3).build().unwrap().resolve(&Words).unwrap();
    assert_eq!(decoding.method, Method::Greedy);
    // A stop string that is a special token is a stop token.
    assert_eq!((decoding.stop.ids.as_slice(), decoding.stop.strings.len()), (&[7, 9][..], 1));
    assert!(decoding.processors.is_empty() && decoding.filters.is_empty());
    let method = |given: Given<Generation>| given.build().unwrap().resolve(&Words).unwrap().method;
    let sampled = || Generation::given().set("do_sample", true);
    assert_eq!(method(sampled().set("num_return_sequences", 3)), Method::Sample { sequences: 3 });
    assert_eq!(method(sampled().set("num_return_sequences", 3).set("best_of", 8)), Method::Sample { sequences: 8 });
    let rules = BeamRules {
        beams: 4,
        length_penalty: 1.0,
        early_stopping: EarlyStopping::Heuristic,
        returned: 1,
        sample: false,
    };
    assert_eq!(method(Generation::given().set("num_beams", 4)), Method::Beams(rules.clone()));
    assert_eq!(
        method(Generation::given().set("num_beams", 4).set("num_beam_groups", 2).set("diversity_penalty", 0.5)),
        Method::DiverseBeams { rules, groups: 2, penalty: 0.5 }
    );
    assert_eq!(
        method(Generation::given().set("penalty_alpha", 0.5)),
        Method::Contrastive { candidates: 50, alpha: 0.5 }
    );
}

#[test]
fn bad_words_are_spelled_both_ways() {
    let words = |word: &str| Generation::given().set("bad_words", [word]).build().unwrap().resolve(&Words);
    let decoding = words("no").unwrap();
    assert_eq!(format!("{:?}", decoding.processors[0]), "BadWords { words: [[32, 110, 111], [110, 111]] }");
    assert_eq!(
        words("é").unwrap_err().to_string(),
        "`bad_words` holds \"é\", of which the tokenizer makes no token; take it out"
    );
}

#[test]
fn filters_leave_room_for_beams_to_go_on() {
    let given =
        Generation::given().set("do_sample", true).set("num_beams", 2).set("eos_token_id", ["1 2"]).set("top_k", 1);
    let decoding = given.build().unwrap().resolve(&Words).unwrap();
    assert_eq!(format!("{:?}", decoding.filters[0]), "TopK { k: 1, keep: 3 }");
}

#[test]
fn a_file_of_settings_is_obeyed_or_refused() {
    let given = |json: &str| Generation::given_in(json, "mine.json").map_err(|error| error.to_string());
    let json = r#"{"do_sample": true, "temperature": 1, "eos_token_id": [2, 5], "best_of": 4, "bad_words": ["no"],
        "early_stopping": null, "transformers_version": "4.1", "use_cache": true, "guidance_scale": 1.0}"#;
    let settings = given(json).unwrap().build().unwrap();
    assert_eq!((settings.temperature, settings.best_of), (1.0, Some(4)));
    assert_eq!((TokenIds::all(&settings.eos_token_id), settings.bad_words), (vec![2, 5], vec!["no".to_owned()]));
    assert_eq!(given(r#"{"early_stopping": true, "num_beams": 2}"#).unwrap().build().unwrap().num_beams, 2);
    let error = given(r#"{"temprature": 0.5}"#).unwrap_err();
    assert!(error.contains("mine.json: there is no setting `temprature` (did you mean `temperature`?)"), "{error}");
    assert!(given(r#"{"top_p": 2}"#).unwrap_err().contains("mine.json: `top_p` is 2, but takes"));
    assert!(given(r#"{"guidance_scale": 2.0}"#).unwrap_err().contains("not supported"));
    assert!(given("[]").unwrap_err().contains("holds no object"));
}
