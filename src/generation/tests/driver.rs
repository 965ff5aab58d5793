//! Rows that share a batch, join it and leave it; what is streamed; draws.

use super::table::{Mute, Table, Talk, request, searches};
use crate::generation::decoding::{Answers, Ask, Common, DecodeError, Decoding, Method, Want};
use crate::generation::driver::{Batch, BatchError, Request, StepModel, generate};
use crate::generation::math;
use crate::generation::sequence::{Event, Sequence};
use crate::generation::settings::Generation;
use crate::generation::stop::tests::Pieces;
use crate::generation::stop::{FinishReason, StopRules};
use crate::settings::{Component, Given};
use std::ops::ControlFlow;

const EOS: &str = "1";

fn decoding(given: Given<Generation>) -> Decoding {
    given.build().unwrap().resolve(&Mute).unwrap()
}

/// Every method, with settings that make a row's answers end at different steps.
fn methods() -> Vec<Decoding> {
    let base = || Generation::given().set("eos_token_id", [EOS]).set("max_new_tokens", 15);
    let sampled = || base().set("do_sample", true);
    vec![
        decoding(base()),
        decoding(base().set("repetition_penalty", 1.3).set("logprobs", true).set("top_logprobs", 3)),
        decoding(sampled().set("top_k", 0)),
        decoding(sampled().set("top_k", 6).set("top_p", 0.8).set("temperature", 1.4)),
        decoding(sampled().set("top_k", 0).set("typical_p", 0.7).set("num_return_sequences", 3)),
        decoding(sampled().set("top_k", 5).set("num_return_sequences", 2).set("logprobs", true)),
        decoding(base().set("num_beams", 3).set("num_return_sequences", 2).set("logprobs", true)),
        decoding(sampled().set("num_beams", 3).set("num_return_sequences", 3)),
        decoding(base().set("num_beams", 4).set("num_beam_groups", 2).set("diversity_penalty", 1.0)),
        decoding(base().set("penalty_alpha", 0.6).set("top_k", 4).set("logprobs", true)),
    ]
}

fn prompts() -> Vec<Vec<u32>> {
    searches("searches.json").prompts
}

fn table(talk: Talk) -> Table {
    Table::new(1, 24, talk)
}

fn silent() -> impl FnMut(u64, Event) -> ControlFlow<()> {
    |_, _| ControlFlow::Continue(())
}

/// Every prompt under every method, as one batch would have them.
fn everything(pieces: Option<&Pieces>) -> Vec<Request<Vec<u32>>> {
    let methods = methods();
    let row = |n: usize, prompt: &Vec<u32>| request(&methods[n % methods.len()], prompt, n as u64, pieces);
    let all = prompts().into_iter().cycle().take(4 * methods.len());
    all.enumerate().map(|(n, prompt)| row(n, &prompt)).collect()
}

fn pieces() -> Pieces {
    Pieces::new(&searches("searches.json").pieces)
}

/// Scores are sums in another order or of numbers rounded elsewhere.
fn assert_same(ours: &[Sequence], theirs: &[Sequence], at: &str) {
    const CLOSE: f64 = 1e-5;
    assert_eq!(ours.len(), theirs.len(), "{at}");
    for (a, b) in ours.iter().zip(theirs) {
        assert_eq!((&a.ids, &a.text, &a.finish), (&b.ids, &b.text, &b.finish), "{at}");
        assert!((a.score.unwrap_or(0.0) - b.score.unwrap_or(0.0)).abs() < CLOSE, "{at}: {:?} {:?}", a.score, b.score);
        assert_eq!(a.logprobs.len(), b.logprobs.len(), "{at}");
        for (a, b) in a.logprobs.iter().zip(&b.logprobs) {
            assert!((a.logprob - b.logprob).abs() < CLOSE as f32, "{at}: {a:?} {b:?}");
            let ids = |top: &[(u32, f32)]| top.iter().map(|(id, _)| *id).collect::<Vec<u32>>();
            assert_eq!(ids(&a.top), ids(&b.top), "{at}");
        }
    }
}

/// A batch of mixed methods and lengths gives what every row gives alone, whatever the model answers with.
#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let pieces = pieces();
    let together = generate(table(Talk::All), everything(Some(&pieces)), &mut silent()).unwrap();
    for talk in [Talk::All, Talk::Least] {
        for (n, row) in everything(Some(&pieces)).into_iter().enumerate() {
            let alone = generate(table(talk), vec![row], &mut silent()).unwrap();
            assert_same(&alone[0], &together[n], &format!("row {n} {talk:?}"));
        }
    }
    let other_way: Vec<_> = everything(Some(&pieces)).into_iter().rev().collect();
    let mut other_way = generate(table(Talk::Least), other_way, &mut silent()).unwrap();
    other_way.reverse();
    for (n, (a, b)) in other_way.iter().zip(&together).enumerate() {
        assert_same(a, b, &format!("row {n} of the other way round"));
    }
}

/// Rows that join one by one, while others are in progress, give what they give together.
#[test]
fn rows_join_and_leave() {
    let pieces = pieces();
    let together = generate(table(Talk::All), everything(Some(&pieces)), &mut silent()).unwrap();
    let mut batch = Batch::new(table(Talk::All));
    let mut done = Vec::new();
    for (n, row) in everything(Some(&pieces)).into_iter().enumerate() {
        assert_eq!(batch.admit(vec![row], &mut silent()).unwrap(), [n as u64]);
        for _ in 0..n % 3 {
            batch.step(&mut silent()).unwrap();
        }
        assert!(batch.rows() < 30, "rows leave");
        done.extend(batch.take_done());
    }
    while batch.step(&mut silent()).unwrap() {}
    done.extend(batch.take_done());
    assert_eq!(batch.lanes(), 0);
    done.sort_by_key(|(row, _)| *row);
    assert_eq!(done.len(), together.len());
    for ((row, ours), theirs) in done.iter().zip(&together) {
        assert_same(ours.as_ref().unwrap(), theirs, &format!("row {row}"));
    }
}

#[test]
fn finished_rows_cost_nothing() {
    let mut model = table(Talk::All);
    let rows: Vec<_> = prompts().iter().map(|prompt| request(&methods()[0], prompt, 0, None)).collect();
    let answers = generate(&mut model, rows, &mut silent()).unwrap();
    let lengths: Vec<usize> = answers.iter().map(|row| row[0].ids.len()).collect();
    let longest = *lengths.iter().max().unwrap();
    // Call `n` makes token `n` of the rows that have one.
    let expected: Vec<usize> = (0..longest).map(|n| lengths.iter().filter(|&&length| length > n).count()).collect();
    assert_eq!(model.widths, expected);
    assert!(expected.first() > expected.last(), "{expected:?}");
    assert!(model.lanes.is_empty());
}

/// What need not be read back is not asked for.
#[test]
fn a_model_is_asked_for_no_more_than_it_must_tell() {
    let kinds = |decoding: &Decoding| {
        let mut model = table(Talk::Least);
        generate(&mut model, vec![request(decoding, &[5, 9], 0, None)], &mut silent()).unwrap();
        model.kinds.sort_unstable();
        model.kinds.dedup();
        model.kinds
    };
    let base = || Generation::given().set("eos_token_id", [EOS]);
    let sampled = || base().set("do_sample", true);
    assert_eq!(kinds(&decoding(base())), ["chosen"]);
    assert_eq!(kinds(&decoding(base().set("logprobs", true))), ["best"]);
    assert_eq!(kinds(&decoding(sampled().set("top_k", 0).set("temperature", 0.5))), ["chosen"]);
    assert_eq!(kinds(&decoding(sampled().set("top_p", 0.5))), ["best"]);
    assert_eq!(kinds(&decoding(sampled().set("top_k", 0).set("top_p", 0.5))), ["logits"]);
    assert_eq!(kinds(&decoding(base().set("num_beams", 2))), ["best"]);
    assert_eq!(kinds(&decoding(base().set("num_beams", 2).set("repetition_penalty", 2.0))), ["logits"]);
    assert_eq!(kinds(&decoding(base().set("penalty_alpha", 0.5))), ["best"]);
    // Only the first steps need the logits.
    assert_eq!(kinds(&decoding(base().set("min_new_tokens", 3))), ["chosen", "logits"]);
}

#[test]
fn lanes_that_ask_for_different_things_are_served_together() {
    let common = |wants: &[Want]| {
        let asks: Vec<Ask> = wants.iter().map(|&want| Ask { want, similarity: false }).collect();
        Common::of(&asks)
    };
    let draw = Want::Draw { temperature: 0.5, uniform: 0.25 };
    assert_eq!(common(&[Want::Likeliest; 2]), Common::Likeliest);
    assert_eq!(common(&[Want::Likeliest, draw]), Common::Draw(vec![None, Some((0.5, 0.25))]));
    assert_eq!(common(&[Want::Best(3), Want::Likeliest, Want::Best(5)]), Common::Best(5));
    assert_eq!(common(&[Want::Best(3), draw]), Common::Logits);
    assert_eq!(common(&[draw, Want::Logits]), Common::Logits);
}

/// Ids, text and end of an answer, put together of its events.
type Heard = (Vec<u32>, String, Option<FinishReason>);

#[test]
fn what_is_streamed_is_the_answer() {
    let pieces = pieces();
    let stop = StopRules { ids: vec![1], strings: vec!["ab".to_owned(), "y".to_owned()], ..StopRules::default() };
    for method in [Method::Greedy, Method::Sample { sequences: 3 }, Method::Contrastive { candidates: 3, alpha: 0.5 }] {
        let decoding = Decoding { method, ..Decoding::greedy(stop.clone()) };
        let rows: Vec<_> =
            prompts().iter().enumerate().map(|(n, p)| request(&decoding, p, n as u64, Some(&pieces))).collect();
        let mut heard: Vec<Vec<Heard>> = vec![vec![Default::default(); 3]; rows.len()];
        let mut on_event = |row: u64, event: Event| {
            let (ids, text, finish) = &mut heard[row as usize][event.sequence];
            assert_eq!(*finish, None, "an event after the last");
            ids.extend(event.token);
            text.push_str(&event.text);
            assert!(!text.contains('y') && !text.contains("ab"));
            *finish = event.finish;
            ControlFlow::Continue(())
        };
        let answers = generate(table(Talk::Least), rows, &mut on_event).unwrap();
        for (row, heard) in answers.iter().zip(&heard) {
            for (answer, (ids, text, finish)) in row.iter().zip(heard) {
                assert_eq!((&answer.ids, &answer.text, Some(&answer.finish)), (ids, text, finish.as_ref()));
            }
        }
    }
}

#[test]
fn a_row_that_nobody_listens_to_is_given_up() {
    let rows = || prompts().iter().map(|prompt| request(&methods()[0], prompt, 0, None)).collect::<Vec<_>>();
    let whole = generate(table(Talk::All), rows(), &mut silent()).unwrap();
    let mut heard = 0;
    let mut on_event = |row: u64, _: Event| {
        heard += usize::from(row == 2);
        if row == 2 && heard == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let answers = generate(table(Talk::All), rows(), &mut on_event).unwrap();
    for (n, (ours, all)) in answers.iter().zip(&whole).enumerate() {
        if n == 2 {
            assert_eq!((&ours[0].ids[..], &ours[0].finish), (&all[0].ids[..2], &FinishReason::Cancelled));
        } else {
            assert_eq!(ours, all);
        }
    }
}

/// Cancelled from outside, between two steps, rows of several lanes leave the others as they were.
#[test]
fn rows_are_cancelled_between_steps() {
    let methods = methods();
    let rows = || (0..10).map(|n| request(&methods[n], &prompts()[n % 4], n as u64, None)).collect::<Vec<_>>();
    let whole = generate(table(Talk::All), rows(), &mut silent()).unwrap();
    let mut batch = Batch::new(table(Talk::All));
    let numbers = batch.admit(rows(), &mut silent()).unwrap();
    let cancelled = [0, 4, 6, 7, 8];
    for (step, &row) in cancelled.iter().enumerate() {
        if step > 0 {
            batch.step(&mut silent()).unwrap();
        }
        batch.cancel(numbers[row]);
        // One that is not there is nobody's.
        batch.cancel(999);
    }
    while batch.step(&mut silent()).unwrap() {}
    let mut done = batch.take_done();
    done.sort_by_key(|(row, _)| *row);
    assert_eq!(done.len(), 10);
    for (row, answers) in done {
        let (row, answers) = (row as usize, answers.unwrap());
        if cancelled.contains(&row) {
            assert!(!answers.is_empty(), "row {row} has no answer at all");
        } else {
            assert_same(&answers, &whole[row], &format!("row {row}"));
        }
    }
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let model = table(Talk::All);
    let given = Generation::given().set("logprobs", true).set("top_logprobs", 4).set("repetition_penalty", 1.5);
    let methods = [
        decoding(given.clone()),
        decoding(given.clone().set("num_beams", 3)),
        decoding(given.clone().set("do_sample", true).set("temperature", 0.3)),
        decoding(given.set("penalty_alpha", 0.4)),
    ];
    for decoding in methods {
        let answers = generate(table(Talk::All), vec![request(&decoding, &[5, 9], 0, None)], &mut silent()).unwrap();
        let answer = &answers[0][0];
        assert_eq!(answer.logprobs.len(), answer.ids.len());
        let mut ids = vec![5, 9];
        for (token, &id) in answer.logprobs.iter().zip(&answer.ids) {
            let mut logprobs = model.logits(&ids);
            math::log_softmax(&mut logprobs).unwrap();
            assert_eq!(token.id, id);
            assert!((token.logprob - logprobs[id as usize]).abs() < 1e-5, "{token:?}");
            for (ours, theirs) in token.top.iter().zip(math::top(&logprobs, 4)) {
                assert!(ours.0 == theirs.0 && (ours.1 - theirs.1).abs() < 1e-5, "{ours:?} {theirs:?}");
            }
            ids.push(id);
        }
        let mean = answer.logprobs.iter().map(|token| f64::from(token.logprob)).sum::<f64>() / answer.ids.len() as f64;
        assert_eq!(answer.mean_logprob(), Some(mean));
    }
}

/// First tokens of 3000 rows against the filtered distribution. Seeds are fixed, so that it cannot fail by chance.
#[test]
fn sampled_rows_follow_the_filtered_distribution() {
    const ROWS: u64 = 3000;
    // 99.99% of χ² with 23 degrees of freedom, more than any of these has, lies below.
    const LIMIT: f64 = 59.0;
    let sampled = || Generation::given().set("do_sample", true).set("max_new_tokens", 1);
    let cases = [
        (sampled().set("top_k", 0), Talk::Least),
        (sampled().set("top_k", 0), Talk::All),
        (sampled().set("top_k", 7).set("temperature", 2.0), Talk::Least),
        (sampled().set("top_k", 0).set("top_p", 0.9).set("temperature", 1.5), Talk::All),
    ];
    for (given, talk) in cases {
        let decoding = decoding(given);
        let mut scores = table(talk).logits(&[5, 9]);
        let context = crate::generation::processors::RowContext { prompt: &[5, 9], generated: &[], beams: 1 };
        decoding.filter(&context, &mut scores);
        let probabilities = math::softmax(&scores).unwrap();
        let rows = (0..ROWS).map(|key| request(&decoding, &[5, 9], key, None)).collect();
        let mut counts = vec![0.0; scores.len()];
        for row in generate(table(talk), rows, &mut silent()).unwrap() {
            counts[row[0].ids[0] as usize] += 1.0;
        }
        // Rare tokens are counted together: χ² is an approximation that wants a few of each kind.
        let (mut chi, mut rare) = (0.0, (0.0, 0.0));
        let term = |count: f64, expected: f64| (count - expected) * (count - expected) / expected;
        for (&count, &probability) in counts.iter().zip(&probabilities) {
            let expected = f64::from(probability) * ROWS as f64;
            assert!(probability > 0.0 || count == 0.0, "a filtered token was drawn");
            if expected < 5.0 {
                rare = (rare.0 + count, rare.1 + expected);
            } else {
                chi += term(count, expected);
            }
        }
        if rare.1 > 1.0 {
            chi += term(rare.0, rare.1);
        }
        assert!(chi < LIMIT, "χ² {chi}");
    }
}

#[test]
fn seeds_and_keys_change_the_draws() {
    let ids = |seed: u64, key: u64| {
        let decoding = decoding(Generation::given().set("do_sample", true).set("seed", seed));
        generate(table(Talk::All), vec![request(&decoding, &[5, 9], key, None)], &mut silent()).unwrap()[0][0]
            .ids
            .clone()
    };
    assert_eq!(ids(1, 1), ids(1, 1));
    assert_ne!(ids(1, 1), ids(2, 1));
    assert_ne!(ids(1, 1), ids(1, 2));
}

#[test]
fn a_prompt_without_room_has_an_empty_answer() {
    for given in
        [Generation::given(), Generation::given().set("num_beams", 2), Generation::given().set("penalty_alpha", 0.5)]
    {
        let decoding = decoding(given.set("max_length", 4));
        let mut model = table(Talk::All);
        let rows = vec![request(&decoding, &[5, 9, 6, 7], 0, None), request(&decoding, &[5, 9, 6], 0, None)];
        let answers = generate(&mut model, rows, &mut silent()).unwrap();
        assert_eq!((answers[0][0].ids.len(), &answers[0][0].finish), (0, &FinishReason::Length));
        assert_eq!(answers[1][0].ids.len(), 1);
    }
}

#[test]
fn stop_strings_need_text() {
    let decoding = decoding(Generation::given().set("stop_strings", ["ab"]));
    let error = generate(table(Talk::All), vec![request(&decoding, &[5, 9], 0, None)], &mut silent()).unwrap_err();
    assert_eq!(error.to_string(), "row 0: `stop_strings` are given, but the row has no detokenizer; give it one");
}

/// One row's trouble is its own.
#[test]
fn a_row_without_tokens_ends_alone() {
    let none_left = decoding(Generation::given().set("allowed_token_ids", ["5"]).set("suppress_tokens", ["6"]));
    let mut nothing = none_left.clone();
    nothing.processors.push(std::sync::Arc::new(crate::generation::processors::SuppressTokens { ids: vec![5] }));
    let mut batch = Batch::new(table(Talk::All));
    let rows = vec![request(&nothing, &[5, 9], 0, None), request(&none_left, &[5, 9], 0, None)];
    batch.admit(rows, &mut silent()).unwrap();
    while batch.step(&mut silent()).unwrap() {}
    let done = batch.take_done();
    assert_eq!(done[0], (0, Err(DecodeError::NothingLeft { step: 0 })));
    assert_eq!(done[1].1.as_ref().unwrap()[0].ids, [5; 20]);
}

/// A model of one answer.
#[derive(Debug)]
struct Says(Answers);

impl StepModel for Says {
    type Prompt = Vec<u32>;
    type Error = std::convert::Infallible;

    fn start(&mut self, _: Vec<Vec<u32>>, _: &[Ask]) -> Result<Answers, Self::Error> {
        Ok(self.0.clone())
    }

    fn step(&mut self, _: &[u32], _: &[Ask]) -> Result<Answers, Self::Error> {
        Ok(self.0.clone())
    }

    fn keep(&mut self, _: &[usize]) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[test]
fn answers_that_do_not_fit_are_refused() {
    let run = |answers: Answers, given: Given<Generation>| {
        let rows = vec![request(&decoding(given), &[5, 9], 0, None)];
        match generate(Says(answers), rows, &mut silent()) {
            Err(BatchError::Row { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    };
    let nan = Answers::logits(3, vec![0.0, f32::NAN, 1.0]);
    assert_eq!(run(nan.clone(), Generation::given()), DecodeError::NotFinite { step: 0 });
    assert_eq!(run(nan.clone(), Generation::given().set("num_beams", 2)), DecodeError::NotFinite { step: 0 });
    assert_eq!(run(nan.clone(), Generation::given().set("penalty_alpha", 0.5)), DecodeError::NotFinite { step: 0 });
    assert_eq!(run(nan, Generation::given().set("logprobs", true)), DecodeError::NotFinite { step: 0 });
    let two = Answers::logits(3, vec![0.0; 6]);
    assert_eq!(run(two, Generation::given()), DecodeError::Lanes { found: 2, expected: 1 });
    let ragged = Answers::logits(4, vec![0.0; 6]);
    assert_eq!(run(ragged, Generation::given()), DecodeError::Lanes { found: 0, expected: 1 });
    let token = Answers::chosen(vec![1]);
    let needs_all = Generation::given().set("repetition_penalty", 2.0);
    assert!(matches!(run(token.clone(), needs_all), DecodeError::TooLittle { .. }));
    let several = Generation::given().set("do_sample", true).set("num_return_sequences", 2);
    assert!(matches!(run(token, several), DecodeError::TooLittle { .. }));
    let unlike = Answers::logits(3, vec![0.0, 2.0, 1.0]);
    let contrastive = Generation::given().set("penalty_alpha", 0.5).set("top_k", 3);
    assert!(matches!(run(unlike, contrastive), DecodeError::Lanes { .. }));
}

#[test]
fn invalid_scores_are_replaced_on_request() {
    let rows = vec![request(&decoding(Generation::given().set("remove_invalid_values", true)), &[5], 0, None)];
    let answers = generate(Says(Answers::logits(3, vec![-1.0, f32::NAN, -2.0])), rows, &mut silent()).unwrap();
    assert_eq!(answers[0][0].ids, [1; 20]);
}
