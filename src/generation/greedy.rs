//! Greedy answers to a batch that is on its device already.

use super::decoding::{Answers, Ask, Decoding};
use super::driver::{Request, StepModel, generate};
use super::lanes::Lanes;
use super::row::RowSettings;
use super::stop::{FinishReason, StopRules};
use crate::models::CausalLm;
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use crate::vlm::{Vlm, VlmInputs};
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

/// When decoding ends.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Tokens that end a row; they are not part of the answer.
    pub end_tokens: Vec<u32>,
    /// Tokens after which a row ends anyway.
    pub max_new_tokens: usize,
}

/// The likeliest token at each step, for every row of a left-padded batch, until each has ended.
///
/// `on_token(row, id)` sees each new token of an answer as it is made; returning `false` ends that row.
///
/// Run it on `model.valid()`: on a model that is tracked for gradients it would keep every step's graph.
pub fn greedy<L: CausalLm, T: VisionTower, P: ProjectorModel>(
    model: &Vlm<L, T, P>,
    inputs: &VlmInputs,
    stop: &Stop,
    mut on_token: impl FnMut(usize, u32) -> bool,
) -> Vec<Vec<u32>> {
    let rules =
        StopRules { ids: stop.end_tokens.clone(), max_new_tokens: Some(stop.max_new_tokens), ..StopRules::default() };
    let decoding = Arc::new(Decoding::greedy(rules));
    let row = |_| Request {
        prompt: (),
        settings: RowSettings { decoding: decoding.clone(), prompt: Vec::new(), key: 0, detokenizer: None },
    };
    let rows = (0..inputs.ids_bt.dims()[0]).map(row).collect();
    // The padding's token is for prompts that come later, of which there are none.
    let lanes = Lanes::new(model, 0, stop.max_new_tokens, &inputs.ids_bt.device());
    let answers = generate(Whole { lanes, inputs }, rows, &mut |row, event| match (event.token, event.finish) {
        (None, _) | (_, Some(FinishReason::StopToken(_))) => ControlFlow::Continue(()),
        (Some(id), _) if on_token(row as usize, id) => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    match answers {
        Ok(rows) => {
            rows.iter().map(|row| row.first().map_or_else(Vec::new, |one| one.content_ids().to_vec())).collect()
        }
        // Greedy rows ask for nothing but tokens, and no score of theirs can be wrong.
        Err(error) => unreachable!("{error}"),
    }
}

/// A batch whose rows all begin at once.
struct Whole<'a, 'b, L: CausalLm, T: VisionTower, P: ProjectorModel> {
    lanes: Lanes<'a, L, T, P>,
    inputs: &'b VlmInputs,
}

impl<L: CausalLm, T: VisionTower, P: ProjectorModel> StepModel for Whole<'_, '_, L, T, P> {
    type Prompt = ();
    type Error = Infallible;

    fn start(&mut self, _: Vec<()>, asks: &[Ask]) -> Result<Answers, Infallible> {
        Ok(self.lanes.read(self.inputs, asks))
    }

    fn step(&mut self, tokens: &[u32], asks: &[Ask]) -> Result<Answers, Infallible> {
        self.lanes.step(tokens, asks)
    }

    fn keep(&mut self, lanes: &[usize]) -> Result<(), Infallible> {
        self.lanes.keep(lanes)
    }
}
