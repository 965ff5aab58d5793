//! Prompts that begin as an earlier row did, on tiny checkpoints: the same answers and the same numbers as without reuse.

use crate::checkpoint::bridge::Hold;
use crate::data::{Encoded, Place};
use crate::generation::decoding::{Decoding, Method};
use crate::generation::driver::{Batch, Request};
use crate::generation::row::RowSettings;
use crate::generation::sequence::Sequence;
use crate::generation::stop::StopRules;
use crate::generation::{Lanes, Reuse};
use crate::models::{CausalLm, Llama};
use crate::nn::{VirtualPlace, VirtualTokens};
use crate::projector::{Mlp2xGelu, NoProjector, Projector, ProjectorModel};
use crate::recipe::{Opened, VlmOf};
use crate::vision::{Clip, NoVision, VisionEncoder, VisionTower};
use crate::vlm::Vlm;
use burn::tensor::Device;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of log-probabilities in f32, whose sums run in another order where a sequence is read in two parts.
const NATS: f32 = 1e-5;

/// More than any of the checkpoints has tokens, so that every log-probability is returned.
const VOCABULARY: usize = 1000;

const BOUNDS: Reuse = Reuse { rows: 2, tokens: 4096 };

type Text = VlmOf<Llama, NoVision, NoProjector>;
type Pictures = VlmOf<Llama, Clip, Mlp2xGelu>;

fn model<V: VisionEncoder, P: Projector>(dir: &Path) -> VlmOf<Llama, V, P> {
    let device = Device::flex();
    let opened = Opened::<Llama, V, P>::new(dir, &Llama::default(), &V::default(), &P::default(), &device).unwrap();
    opened.load(&P::default(), &|_| Hold::Frozen, &device).unwrap().model
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name).join("model")
}

fn text(name: &str) -> Text {
    model::<NoVision, NoProjector>(&fixture(name))
}

/// A checkpoint whose configuration has `change` in it.
fn changed(name: &str, change: &[(&str, serde_json::Value)]) -> Text {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change.iter().for_each(|(key, value)| config[*key] = value.clone());
    std::fs::write(&path, config.to_string()).unwrap();
    model::<NoVision, NoProjector>(dir.path())
}

/// Some ids, none of them special.
fn words(seed: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| 10 + (seed * 7919 + i * i * 31 + i * 17) % 300).collect()
}

fn prompt(ids: Vec<u32>) -> Encoded {
    Encoded {
        supervised: vec![false; ids.len()],
        input_ids: ids,
        image_positions: Vec::new(),
        pixel_values: Vec::new(),
        image_size: (0, 0),
        id: String::new(),
        index: 0,
        place: Place { file: Path::new("test").into(), line: 1 },
    }
}

/// Up to seven tokens, every log-probability with each.
fn greedy() -> Decoding {
    let stop = StopRules { max_new_tokens: Some(7), ..StopRules::default() };
    Decoding { logprobs: Some(VOCABULARY), ..Decoding::greedy(stop) }
}

/// A batch with reuse beside one without.
struct Both<'a, L: CausalLm, T: VisionTower, P: ProjectorModel> {
    model: &'a Vlm<L, T, P>,
    batch: Batch<Lanes<'a, L, T, P>>,
}

impl<'a, L: CausalLm, T: VisionTower, P: ProjectorModel> Both<'a, L, T, P> {
    fn new(model: &'a Vlm<L, T, P>, bounds: Reuse) -> Self {
        let lanes = Lanes::new(model, 0, 5, &Device::flex()).with_reuse(bounds);
        Self { model, batch: Batch::new(lanes) }
    }

    /// Answers prompts together; the answers are those that each has alone, and `reused` tokens of each were not read.
    #[track_caller]
    fn answer(&mut self, decoding: &Decoding, prompts: &[Encoded], reused: &[usize]) -> Vec<Vec<u32>> {
        let decoding = Arc::new(decoding.clone());
        let requests = prompts.iter().map(|prompt| request(&decoding, prompt)).collect();
        let numbers = self.batch.admit(requests, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let found = self.batch.take_reused();
        let of = |number: &u64| found.iter().find(|(row, _)| row == number).map_or(0, |(_, tokens)| *tokens);
        assert_eq!(numbers.iter().map(of).collect::<Vec<_>>(), reused, "tokens that were not read");
        while self.batch.step(&mut |_, _| ControlFlow::Continue(())).unwrap() {}
        let mut done = self.batch.take_done();
        done.sort_by_key(|(number, _)| *number);
        let answers = done.into_iter().map(|(_, sequences)| sequences.unwrap());
        let pairs = answers.zip(prompts);
        pairs.map(|(found, prompt)| same(&found, &alone(self.model, &decoding, prompt))).collect()
    }
}

fn request(decoding: &Arc<Decoding>, prompt: &Encoded) -> Request<Encoded> {
    let settings =
        RowSettings { decoding: decoding.clone(), prompt: prompt.input_ids.clone(), key: 0, detokenizer: None };
    Request { prompt: prompt.clone(), settings }
}

fn alone<L: CausalLm, T: VisionTower, P: ProjectorModel>(
    model: &Vlm<L, T, P>,
    decoding: &Arc<Decoding>,
    prompt: &Encoded,
) -> Vec<Sequence> {
    let lanes = Lanes::new(model, 0, 5, &Device::flex());
    let rows = vec![request(decoding, prompt)];
    crate::generation::driver::generate(lanes, rows, &mut |_, _| ControlFlow::Continue(())).unwrap().remove(0)
}

/// The tokens of the first answer, where both have the same tokens and the same log-probabilities.
#[track_caller]
fn same(found: &[Sequence], expected: &[Sequence]) -> Vec<u32> {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.ids, expected.ids);
        for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
            let sorted = |mut top: Vec<(u32, f32)>| {
                top.sort_by_key(|(id, _)| *id);
                top
            };
            let (found, expected) = (sorted(found.top.clone()), sorted(expected.top.clone()));
            assert!(found.len() > 300 && found.len() == expected.len());
            for ((id, found), (other, expected)) in found.iter().zip(&expected) {
                assert!(id == other && (found - expected).abs() < NATS, "{id} {found}, {other} {expected}");
            }
        }
    }
    found[0].ids.clone()
}

/// A conversation of several turns: each prompt is all before it, the answer and something new.
fn turns<L: CausalLm, T: VisionTower, P: ProjectorModel>(both: &mut Both<'_, L, T, P>, decoding: &Decoding) {
    let mut ids = words(1, 20);
    let mut known = 0;
    for turn in 2..6 {
        let answer = both.answer(decoding, &[prompt(ids.clone())], &[known]).remove(0);
        // The last token was chosen and never read.
        known = ids.len() + answer.len() - 1;
        ids.extend(&answer);
        ids.extend(words(turn, turn + 1));
    }
}

#[test]
fn a_conversation_is_read_once() {
    for name in ["llama_text", "qwen2_text", "mistral_text"] {
        let model = text(name);
        turns(&mut Both::new(&model, BOUNDS), &greedy());
    }
}

#[test]
fn two_conversations_in_turn() {
    let model = text("llama_text");
    let mut both = Both::new(&model, BOUNDS);
    let (mut ids, mut known) = ([words(1, 20), words(2, 30)], [0, 0]);
    for turn in 0..6 {
        let who = turn % 2;
        let answer = both.answer(&greedy(), &[prompt(ids[who].clone())], &[known[who]]).remove(0);
        known[who] = ids[who].len() + answer.len() - 1;
        ids[who].extend(&answer);
        ids[who].extend(words(turn as u32 + 5, 4));
    }
    // A third one drives out the one that was not used for longest.
    both.answer(&greedy(), &[prompt(words(9, 10))], &[0]);
    both.answer(&greedy(), &[prompt(ids[0].clone())], &[0]);
}

#[test]
fn another_answer_to_the_same_question() {
    let model = text("llama_text");
    let mut both = Both::new(&model, BOUNDS);
    let ids = words(1, 20);
    both.answer(&greedy(), &[prompt(ids.clone())], &[0]);
    both.answer(&greedy(), &[prompt(ids.clone())], &[19]);
    both.answer(&greedy(), &[prompt(ids[..12].to_vec())], &[11]);
    let mut other = ids[..15].to_vec();
    other.extend(words(3, 9));
    both.answer(&greedy(), &[prompt(other)], &[15]);
}

#[test]
fn rows_with_beginnings_of_several_lengths_in_one_admission() {
    let model = text("llama_text");
    let mut both = Both::new(&model, Reuse { rows: 4, tokens: 4096 });
    let (a, b) = (words(1, 40), words(2, 25));
    both.answer(&greedy(), &[prompt(a.clone()), prompt(b.clone())], &[0, 0]);
    let with = |ids: &[u32], more: u32| prompt([ids, &words(more, more)[..]].concat());
    let prompts = [
        with(&a, 5),
        prompt(words(8, 33)),
        with(&b, 3),
        with(&b[..20], 5),
        // Less than half is known, and reading it with the others costs less.
        with(&a[..4], 9),
        with(&a[..30], 3),
    ];
    both.answer(&greedy(), &prompts, &[40, 0, 25, 20, 0, 30]);
}

#[test]
fn rows_join_and_leave_while_others_are_in_progress() {
    let model = text("llama_text");
    let mut both = Both::new(&model, BOUNDS);
    let ids = words(1, 40);
    both.answer(&greedy(), &[prompt(ids.clone())], &[0]);
    let decoding = Arc::new(greedy());
    let mut ignored = |_: u64, _| ControlFlow::Continue(());
    let prompts = [prompt(words(4, 12)), prompt([&ids[..], &words(5, 6)[..]].concat()), prompt(words(6, 90))];
    let mut numbers = Vec::new();
    for prompt in &prompts {
        numbers.extend(both.batch.admit(vec![request(&decoding, prompt)], &mut ignored).unwrap());
        both.batch.step(&mut ignored).unwrap();
    }
    assert_eq!(both.batch.take_reused(), [(numbers[1], 40)]);
    // Given up as far as it has come; what it has read is known afterwards.
    both.batch.cancel(numbers[0]);
    while both.batch.step(&mut ignored).unwrap() {}
    let done = both.batch.take_done();
    assert_eq!(done.len(), 3);
    for (number, found) in &done[1..] {
        let place = numbers.iter().position(|n| n == number).unwrap();
        same(found.as_ref().unwrap(), &alone(&model, &decoding, &prompts[place]));
    }
    let mut again = Both { model: &model, batch: both.batch };
    again.answer(&greedy(), &[prompt([&prompts[2].input_ids[..], &[11]].concat())], &[90]);
}

#[test]
fn sampled_sequences_and_beams_go_on_from_a_beginning() {
    let model = text("llama_text");
    let mut both = Both::new(&model, BOUNDS);
    let ids = words(1, 20);
    both.answer(&greedy(), &[prompt(ids.clone())], &[0]);
    let sampled = Decoding { method: Method::Sample { sequences: 3 }, seed: 5, ..greedy() };
    both.answer(&sampled, &[prompt(ids.clone())], &[19]);
    let stop = StopRules { max_new_tokens: Some(7), ids: vec![11], ..StopRules::default() };
    let rules = crate::generation::beams::BeamRules {
        beams: 3,
        length_penalty: 1.0,
        early_stopping: crate::generation::settings::EarlyStopping::Heuristic,
        returned: 2,
        sample: false,
    };
    let beams = Decoding { method: Method::Beams(rules), ..Decoding::greedy(stop) };
    both.answer(&beams, &[prompt([&ids[..], &[17, 18]].concat())], &[20]);
    both.answer(&greedy(), &[prompt([&ids[..], &[17, 18, 19]].concat())], &[22]);
}

#[test]
fn contrastive_search_reads_everything() {
    let model = text("llama_text");
    let mut both = Both::new(&model, BOUNDS);
    let ids = words(1, 20);
    both.answer(&greedy(), &[prompt(ids.clone())], &[0]);
    let contrastive = Decoding { method: Method::Contrastive { candidates: 3, alpha: 0.6 }, ..greedy() };
    both.answer(&contrastive, &[prompt(ids)], &[0]);
}

#[test]
fn a_window_sees_what_it_needs() {
    let model = changed("mistral_text", &[("sliding_window", 6.into())]);
    let plain = text("mistral_text");
    let ids = prompt(words(1, 20));
    let decoding = Arc::new(greedy());
    let (narrow, wide) = (alone(&model, &decoding, &ids), alone(&plain, &decoding, &ids));
    assert_ne!(narrow[0].logprobs, wide[0].logprobs, "the window does something");
    turns(&mut Both::new(&model, BOUNDS), &greedy());
}

#[test]
fn rotations_that_depend_on_the_length_are_made_anew() {
    let rope = serde_json::json!({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0});
    let model = changed("llama_text", &[("rope_parameters", rope), ("max_position_embeddings", 24.into())]);
    assert!(!model.language_model.keys_stay() && text("llama_text").language_model.keys_stay());
    let mut both = Both::new(&model, BOUNDS);
    let ids = words(1, 20);
    both.answer(&greedy(), &[prompt(ids.clone())], &[0]);
    both.answer(&greedy(), &[prompt([ids, words(2, 20)].concat())], &[0]);
}

#[test]
fn virtual_tokens_stay_in_front() {
    let device = Device::flex();
    let plain = text("llama_text");
    let first = prompt(words(1, 20));
    let expected = alone(&plain, &Arc::new(greedy()), &first);
    let lm = &plain.language_model;
    let keys = 2 * lm.num_layers() * lm.num_key_value_heads() * lm.head_dim();
    for (place, width) in [(VirtualPlace::Embeddings, lm.hidden_size()), (VirtualPlace::KeysAndValues, keys)] {
        let mut model = plain.clone();
        model.virtual_tokens = Some(VirtualTokens::plain([3, width], place, &device));
        let found = alone(&model, &Arc::new(greedy()), &first);
        assert_ne!(found[0].logprobs, expected[0].logprobs, "{place:?} does something");
        turns(&mut Both::new(&model, BOUNDS), &greedy());
        let mut both = Both::new(&model, BOUNDS);
        let (a, b) = (words(1, 40), words(2, 25));
        both.answer(&greedy(), &[prompt(a.clone()), prompt(b.clone())], &[0, 0]);
        let with = |ids: &[u32], more: u32| prompt([ids, &words(more, more)[..]].concat());
        both.answer(&greedy(), &[with(&b, 5), with(&a, 5), prompt(words(5, 60))], &[25, 40, 0]);
    }
}

/// A prompt of words and pictures, each picture of its own seed.
fn pictures(model: &Pictures, parts: &[Result<Vec<u32>, u32>]) -> Encoded {
    let mut all = prompt(Vec::new());
    let tokens = model.tokens_per_image();
    for part in parts {
        let from = all.input_ids.len();
        match part {
            Ok(ids) => all.input_ids.extend(ids),
            Err(seed) => {
                all.input_ids.extend(vec![9; tokens]);
                all.image_positions.push(from..from + tokens);
                all.image_size = (30, 30);
                let value = |i: u32| ((i * 31 + seed * 101) % 255) as f32 / 127.5 - 1.0;
                all.pixel_values.extend((0..3 * 30 * 30).map(value));
            }
        }
    }
    all.supervised = vec![false; all.input_ids.len()];
    all
}

#[test]
fn pictures_enter_once() {
    let model = model::<Clip, Mlp2xGelu>(&fixture("llava_gqa"));
    let tokens = model.tokens_per_image();
    let mut both = Both::new(&model, BOUNDS);
    let (intro, ask) = (words(1, 10), words(2, 6));
    let mut parts = vec![Ok(intro.clone()), Err(1), Ok(ask.clone())];
    let first = pictures(&model, &parts);
    let answer = both.answer(&greedy(), std::slice::from_ref(&first), &[0]).remove(0);
    let mut known = first.input_ids.len() + answer.len() - 1;
    parts.extend([Ok(answer), Err(2), Ok(words(3, 5))]);
    let second = pictures(&model, &parts);
    let answer = both.answer(&greedy(), std::slice::from_ref(&second), &[known]).remove(0);
    known = second.input_ids.len() + answer.len() - 1;
    parts.extend([Ok(answer), Ok(words(4, 5))]);
    both.answer(&greedy(), &[pictures(&model, &parts)], &[known]);
    // Another picture in the first one's place: nothing from there on is known.
    parts[1] = Err(3);
    both.answer(&greedy(), &[pictures(&model, &parts)], &[10]);
    // A prompt that ends with a picture reads it whole.
    let ends = pictures(&model, &[Ok(intro.clone()), Err(1)]);
    both.answer(&greedy(), &[ends], &[10]);
    // In one admission: one that knows its picture, one that has another, one with none.
    let behind = pictures(&model, &[Ok(intro.clone()), Err(3), Ok(ask.clone()), Ok(words(7, 3))]);
    let other = pictures(&model, &[Ok(intro), Err(8), Ok(ask)]);
    let reused = 10 + tokens + 6;
    both.answer(&greedy(), &[prompt(words(6, 9)), other, behind], &[0, 0, reused]);
}
