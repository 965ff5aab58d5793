//! Whole searches against the references' sequences and scores.

use super::table::{Case, Fixture, Table, Talk, decoding, mix, request, searches};
use crate::generation::driver::generate;
use crate::generation::sequence::Sequence;
use crate::generation::stop::FinishReason;
use crate::generation::stop::tests::Pieces;
use std::ops::ControlFlow;

/// What the issue asks of scores: sums of up to 30 log-probabilities in `f32`.
const SCORE: f64 = 1e-4;
/// One log-probability in `f32`.
const LOGPROB: f32 = 2e-6;

fn run(fixture: &Fixture, case: &Case, talk: Talk, alone: bool) -> (Vec<Vec<Sequence>>, Table) {
    let mut decoding = decoding(&case.settings);
    if case.rows[0][0].logprobs.is_some() {
        decoding.logprobs = Some(0);
    }
    let pieces = Pieces::new(&fixture.pieces);
    let mut model = Table::new(case.seed, fixture.pieces.len(), talk);
    let mut rows = Vec::new();
    let prompts: Vec<&[Vec<u32>]> = if alone { fixture.prompts.chunks(1).collect() } else { vec![&fixture.prompts] };
    for prompts in prompts {
        let requests = prompts.iter().map(|prompt| request(&decoding, prompt, 0, Some(&pieces))).collect();
        rows.extend(generate(&mut model, requests, &mut |_, _| ControlFlow::Continue(())).unwrap());
    }
    (rows, model)
}

fn check(name: &str) {
    let fixture = searches(name);
    assert_eq!(mix(&[1, 2, 3]), fixture.hash);
    for case in &fixture.cases {
        for (talk, alone) in [(Talk::All, false), (Talk::All, true), (Talk::Least, false)] {
            let (rows, model) = run(&fixture, case, talk, alone);
            assert!(model.lanes.is_empty(), "the model keeps lanes");
            assert_eq!(rows.len(), case.rows.len());
            for (row, (ours, theirs)) in rows.iter().zip(&case.rows).enumerate() {
                let at = format!("{} seed {} row {row} {talk:?} alone {alone}", case.settings, case.seed);
                assert_eq!(ours.len(), theirs.len(), "{at}");
                for (ours, theirs) in ours.iter().zip(theirs) {
                    assert_eq!(as_written(ours, case), theirs.ids, "{at}");
                    if let Some(score) = theirs.score {
                        assert!((ours.score.unwrap() - score).abs() < SCORE, "{at}: {:?} {score}", ours.score);
                    }
                    for (ours, theirs) in ours.logprobs.iter().zip(theirs.logprobs.iter().flatten()) {
                        assert!((ours.logprob - theirs).abs() < LOGPROB, "{at}: {ours:?} {theirs}");
                    }
                }
            }
        }
    }
}

/// transformers 4's groups write the first stop token at the end of an answer, whichever came.
fn as_written(answer: &Sequence, case: &Case) -> Vec<u32> {
    let mut ids = answer.ids.clone();
    let first = case.settings["eos_token_id"][0].as_u64();
    if let (Some(_), Some(first), FinishReason::StopToken(_)) =
        (case.settings.get("num_beam_groups"), first, &answer.finish)
    {
        ids.pop();
        ids.push(first as u32);
    }
    ids
}

#[test]
fn greedy_and_beams_are_those_of_transformers() {
    check("searches.json");
}

#[test]
fn diverse_beams_and_contrastive_search_are_those_of_transformers_4() {
    check("old_searches.json");
}

/// The fixtures must hold what they are for: every way to end, and answers of different lengths in one row.
#[test]
fn the_fixtures_exercise_every_end() {
    let fixture = searches("searches.json");
    let mut ends = [0; 3];
    for case in &fixture.cases {
        for row in run(&fixture, case, Talk::All, false).0 {
            for answer in row {
                match answer.finish {
                    FinishReason::StopToken(_) => ends[0] += 1,
                    FinishReason::StopString(stop) => {
                        assert!(!answer.text.contains(&stop), "{:?} holds {stop:?}", answer.text);
                        ends[1] += 1;
                    }
                    FinishReason::Length => ends[2] += 1,
                    FinishReason::Cancelled => panic!("nobody cancelled"),
                }
            }
        }
    }
    assert!(ends.iter().all(|&n| n > 20), "{ends:?}");
}
