//! A model that decodes several rows at once, with one cache for all of them.

// b lanes, t new tokens, d hidden width, v vocabulary
use super::decoding::{Answers, Ask, Common, Tokens};
use super::driver::StepModel;
use super::reuse::{History, Parked, Reuse, rest};
use crate::data::{Encoded, PadSide, Padding, collate};
use crate::models::CausalLm;
use crate::nn::{KvCache, SequenceLayout, is_flex, linear, to_f32, token_stats};
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use crate::vlm::{Vlm, VlmInputs};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Padding in front of every lane below which it is not worth a copy to be rid of it.
const COMPACTED: usize = 64;

/// Of several prompts at once, a beginning that is known is passed over only where it is at least this share of the prompt:
/// prompts are read together, and those that go on from different places are not.
const WORTH: f64 = 0.5;

/// The lanes of a [`Vlm`]: a batch that is padded on the left, whose rows join and leave.
///
/// Give it a model without gradients: a tracked one would keep every step's graph.
#[derive(Debug)]
pub struct Lanes<'a, L: CausalLm, T: VisionTower, P: ProjectorModel> {
    model: &'a Vlm<L, T, P>,
    device: Device,
    pad_token: u32,
    room: usize,
    rows: Option<Rows>,
    parked: Parked,
    /// Tokens of the prompts that came last that were not read.
    reused: Vec<usize>,
}

/// The lanes in progress.
#[derive(Debug)]
struct Rows {
    cache: KvCache,
    /// Tokens of padding in front of each lane.
    starts: Vec<usize>,
    /// What each lane has read; `None` where nobody knows, or will ask.
    histories: Vec<Option<History>>,
    /// The last hidden states so far, each of length 1, `[b, n, d]`; kept for contrastive search alone.
    directions: Option<Tensor<3>>,
}

impl<'a, L: CausalLm, T: VisionTower, P: ProjectorModel> Lanes<'a, L, T, P> {
    /// No lanes yet. `room` is how many tokens an answer may have: up to that many, a step writes its keys and values beside the
    /// others instead of moving them.
    pub fn new(model: &'a Vlm<L, T, P>, pad_token: u32, room: usize, device: &Device) -> Self {
        let (device, parked) = (device.clone(), Parked::new(Reuse::OFF));
        Self { model, device, pad_token, room, rows: None, parked, reused: Vec::new() }
    }

    /// Remembers rows that have ended, within these bounds, and reads of a prompt only what is new.
    ///
    /// With rotations that depend on the length ([`CausalLm::keys_stay`]) nothing is remembered: a key that was made at one
    /// length is another one at another.
    pub fn with_reuse(mut self, reuse: Reuse) -> Self {
        self.parked = Parked::new(if self.model.language_model.keys_stay() { reuse } else { Reuse::OFF });
        self
    }

    /// Reads prompts that are batched already, padded on the left.
    pub fn read(&mut self, inputs: &VlmInputs, asks: &[Ask]) -> Answers {
        let (new, last_bd) = self.fresh(inputs, asks);
        self.enter(new, last_bd, asks)
    }

    /// New lanes that read these prompts from their beginning, and the last hidden states, `[b, d]`.
    fn fresh(&self, inputs: &VlmInputs, asks: &[Ask]) -> (Rows, Tensor<2>) {
        let [b, t] = inputs.ids_bt.dims();
        let starts: Vec<usize> = (0..b).map(|row| inputs.layout.starts.of(row).first().copied().unwrap_or(0)).collect();
        let room = t + self.virtual_tokens() + self.room;
        let mut cache = self.model.language_model.new_cache().with_room(room);
        let hidden = self.model.hidden(inputs, Some(&mut cache));
        let directions = asks.iter().any(|ask| ask.similarity).then(|| {
            // Virtual tokens have no hidden states of their own in what comes back.
            let front = cache.length - t;
            let own = directions_of(hidden.clone());
            match front {
                0 => own,
                n => Tensor::cat(vec![Tensor::zeros([b, n, own.dims()[2]], &own.device()), own], 1),
            }
        });
        (Rows { cache, starts, histories: vec![None; b], directions }, last(hidden))
    }

    /// New lanes that go on from these beginnings, with as many tokens each, and the last hidden states, `[b, d]`.
    fn behind(&self, beginnings: Vec<KvCache>, rests: &[Encoded]) -> (Rows, Tensor<2>) {
        let mut beginnings = beginnings.into_iter();
        let mut cache = beginnings.next().unwrap_or_default();
        let mut starts = vec![0];
        for next in beginnings {
            let [above, below] = cache.join(next);
            starts.iter_mut().for_each(|start| *start += above);
            starts.push(below);
        }
        let layout = SequenceLayout { past: cache.length, ..SequenceLayout::with_starts(starts.clone()) };
        let inputs = VlmInputs { layout, ..self.upload(rests) };
        let hidden = self.model.hidden(&inputs, Some(&mut cache));
        (Rows { cache, starts, histories: vec![None; rests.len()], directions: None }, last(hidden))
    }

    /// Reads prompts of which some begin as rows did that have ended; `known` has those beginnings.
    fn read_on(&mut self, prompts: Vec<Encoded>, known: Vec<Option<(usize, KvCache)>>, asks: &[Ask]) -> Answers {
        let front = self.virtual_tokens();
        // What is left of the prompts is read together where it has the same length.
        let mut groups: BTreeMap<Option<usize>, Group> = BTreeMap::new();
        for (place, (prompt, known)) in prompts.into_iter().zip(known).enumerate() {
            let (left, beginning) = match known {
                None => (None, None),
                Some((tokens, cache)) => {
                    let room = front + prompt.input_ids.len() + self.room;
                    (Some(prompt.input_ids.len() - tokens), Some((tokens, cache.beginning(front + tokens, room))))
                }
            };
            let group = groups.entry(left).or_default();
            group.places.push(place);
            group.rests.push(rest(prompt, beginning.as_ref().map_or(0, |(tokens, _)| *tokens)));
            group.beginnings.extend(beginning.map(|(_, cache)| cache));
        }
        let (mut lasts, mut places) = (Vec::new(), Vec::new());
        let mut all: Option<Rows> = None;
        for Group { places: own, rests, beginnings } in groups.into_values() {
            let (rows, last_bd) = match beginnings.is_empty() {
                true => self.fresh(&self.upload(&rests), &[]),
                false => self.behind(beginnings, &rests),
            };
            places.extend(own);
            lasts.push(last_bd);
            match &mut all {
                None => all = Some(rows),
                Some(all) => all.join(rows),
            }
        }
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_by_key(|&lane| places[lane]);
        let last_bd = Tensor::cat(lasts, 0);
        match all {
            Some(rows) if order.is_sorted() => self.enter(rows, last_bd, asks),
            Some(rows) => {
                let index = Tensor::<1, Int>::from_data(
                    TensorData::new(order.iter().map(|&lane| lane as i32).collect(), [order.len()]),
                    &self.device,
                );
                self.enter(rows.kept(&order, &self.device), last_bd.select(0, index), asks)
            }
            None => Answers::chosen(Vec::new()),
        }
    }

    /// Puts new lanes behind those that are there, and answers about them.
    fn enter(&mut self, new: Rows, last_bd: Tensor<2>, asks: &[Ask]) -> Answers {
        let answers = self.answers(last_bd, asks);
        let similarities = new.directions.as_ref().map(|all| likeness(all, &new.starts)).unwrap_or_default();
        match &mut self.rows {
            None => self.rows = Some(new),
            Some(rows) => rows.join(new),
        }
        Answers { similarities, ..answers }
    }

    /// The beginnings of prompts that are known and worth passing over.
    fn known(&mut self, histories: &[Option<History>], asks: &[Ask]) -> Vec<Option<(usize, KvCache)>> {
        // Contrastive search needs the hidden states of what was read, which nobody has kept.
        if asks.iter().any(|ask| ask.similarity) {
            return vec![None; histories.len()];
        }
        let least = |history: &History| match histories.len() {
            1 => 1,
            _ => (WORTH * history.len() as f64).ceil() as usize,
        };
        let find = |history: &Option<History>| {
            let history = history.as_ref()?;
            self.parked.find(history).filter(|(tokens, _)| *tokens >= least(history))
        };
        histories.iter().map(find).collect()
    }

    fn upload(&self, prompts: &[Encoded]) -> VlmInputs {
        let padding = Padding { token: self.pad_token, side: PadSide::Left, multiple_of: 1 };
        VlmInputs::upload(&collate(prompts, &padding), &self.device)
    }

    /// Tokens that every row of the cache has in front of its own.
    fn virtual_tokens(&self) -> usize {
        self.model.virtual_tokens.as_ref().map_or(0, |tokens| tokens.table().dims()[0])
    }

    fn answers(&self, last_bd: Tensor<2>, asks: &[Ask]) -> Answers {
        let head = self.model.language_model.head();
        let b = last_bd.dims()[0];
        let common = Common::of(asks);
        if common == Common::Likeliest {
            let unused = Tensor::<1, Int>::zeros([b], &last_bd.device());
            return Answers::chosen(ids(token_stats(last_bd, head, unused).argmax));
        }
        let logits_bv = to_f32(linear(last_bd, head, None));
        let vocabulary = logits_bv.dims()[1];
        // The CPU's logits are in host memory already.
        let tokens = match common {
            _ if is_flex(&self.device) => Tokens::Logits { vocabulary, logits: floats(logits_bv) },
            Common::Best(n) => best(logits_bv, n.min(vocabulary)),
            Common::Draw(draws) => Tokens::Chosen(draw(logits_bv, &draws)),
            Common::Likeliest | Common::Logits => Tokens::Logits { vocabulary, logits: floats(logits_bv) },
        };
        Answers { tokens, similarities: Vec::new() }
    }
}

impl<L: CausalLm, T: VisionTower, P: ProjectorModel> StepModel for Lanes<'_, L, T, P> {
    type Prompt = Encoded;
    type Error = Infallible;

    fn start(&mut self, prompts: Vec<Encoded>, asks: &[Ask]) -> Result<Answers, Infallible> {
        if !self.parked.is_on() {
            return Ok(self.read(&self.upload(&prompts), asks));
        }
        let histories: Vec<Option<History>> = prompts.iter().map(History::of).collect();
        let known = self.known(&histories, asks);
        self.reused = known.iter().map(|known| known.as_ref().map_or(0, |(tokens, _)| *tokens)).collect();
        let answers = match known.iter().all(Option::is_none) {
            true => self.read(&self.upload(&prompts), asks),
            false => self.read_on(prompts, known, asks),
        };
        if let Some(rows) = &mut self.rows {
            let first = rows.histories.len() - histories.len();
            rows.histories.splice(first.., histories);
        }
        Ok(answers)
    }

    fn step(&mut self, tokens: &[u32], asks: &[Ask]) -> Result<Answers, Infallible> {
        let Some(mut rows) = self.rows.take() else { return Ok(Answers::chosen(Vec::new())) };
        let ids: Vec<i32> = tokens.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [tokens.len(), 1]), &self.device);
        let layout = SequenceLayout { past: rows.cache.length, ..SequenceLayout::with_starts(rows.starts.clone()) };
        let decoder = &self.model.language_model;
        let hidden = decoder.hidden(decoder.embed(ids), &layout, Some(&mut rows.cache));
        rows.directions = match rows.directions.take() {
            Some(all) if asks.iter().any(|ask| ask.similarity) => {
                Some(Tensor::cat(vec![all, directions_of(hidden.clone())], 1))
            }
            _ => None,
        };
        let similarities = rows.directions.as_ref().map(|all| likeness(all, &rows.starts)).unwrap_or_default();
        let answers = self.answers(last(hidden), asks);
        rows.histories.iter_mut().zip(tokens).for_each(|(history, &id)| {
            if let Some(history) = history {
                history.push(id);
            }
        });
        self.rows = Some(rows);
        Ok(Answers { similarities, ..answers })
    }

    fn keep(&mut self, lanes: &[usize]) -> Result<(), Infallible> {
        self.rows = self.rows.take().filter(|_| !lanes.is_empty()).map(|rows| rows.kept(lanes, &self.device));
        Ok(())
    }

    fn ended(&mut self, lane: usize) {
        let Some(rows) = &self.rows else { return };
        if let Some(history) = rows.histories.get(lane).cloned().flatten() {
            self.parked.park(history, || rows.cache.row(lane, rows.starts[lane]));
        }
    }

    fn reused(&self) -> &[usize] {
        &self.reused
    }
}

/// Prompts of which as much is left to be read.
#[derive(Debug, Default)]
struct Group {
    /// Their places among all.
    places: Vec<usize>,
    rests: Vec<Encoded>,
    beginnings: Vec<KvCache>,
}

impl Rows {
    /// These lanes, in this order; padding that all of them have in front goes.
    fn kept(mut self, lanes: &[usize], device: &Device) -> Self {
        let index: Vec<i32> = lanes.iter().map(|&lane| lane as i32).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [lanes.len()]), device);
        self.cache.keep(lanes, device);
        self.starts = lanes.iter().map(|&lane| self.starts[lane]).collect();
        self.histories = lanes.iter().map(|&lane| self.histories[lane].clone()).collect();
        self.directions = self.directions.map(|all| all.select(0, index));
        let common = self.starts.iter().copied().min().unwrap_or(0);
        if common >= COMPACTED && 2 * common >= self.cache.length {
            self.cache.forget_front(common);
            self.starts.iter_mut().for_each(|start| *start -= common);
            let left = self.cache.length;
            self.directions = self.directions.map(|all| all.narrow(1, common, left));
        }
        self
    }

    fn join(&mut self, other: Self) {
        let moved = self.cache.join(other.cache);
        self.starts.iter_mut().for_each(|start| *start += moved[0]);
        self.starts.extend(other.starts.iter().map(|start| start + moved[1]));
        self.histories.extend(other.histories);
        self.directions = match (self.directions.take(), other.directions) {
            (Some(these), Some(those)) => Some(Tensor::cat(vec![behind(these, moved[0]), behind(those, moved[1])], 0)),
            _ => None,
        };
    }
}

/// With `n` tokens of nothing in front.
fn behind(x_bnd: Tensor<3>, n: usize) -> Tensor<3> {
    let [b, _, d] = x_bnd.dims();
    match n {
        0 => x_bnd,
        n => Tensor::cat(vec![Tensor::zeros([b, n, d], &x_bnd.device()), x_bnd], 1),
    }
}

/// Hidden states of length 1, f32.
fn directions_of(hidden_btd: Tensor<3>) -> Tensor<3> {
    let hidden = to_f32(hidden_btd);
    let length = hidden.clone().square().sum_dim(2).sqrt().clamp_min(f32::MIN_POSITIVE);
    hidden / length
}

/// The greatest cosine similarity of each lane's last direction to those before it, from its start on.
fn likeness(all_bnd: &Tensor<3>, starts: &[usize]) -> Vec<f32> {
    let [b, n, _] = all_bnd.dims();
    if n < 2 {
        return vec![0.0; b];
    }
    let newest = all_bnd.clone().narrow(1, n - 1, 1);
    let values = floats((all_bnd.clone().narrow(1, 0, n - 1) * newest).sum_dim(2).reshape([b, n - 1]));
    let of = |(lane, row): (usize, &[f32])| row[starts[lane].min(n - 2)..].iter().copied().fold(f32::MIN, f32::max);
    values.chunks_exact(n - 1).enumerate().map(of).collect()
}

/// The hidden states of the last position, `[b, d]`.
fn last(hidden_btd: Tensor<3>) -> Tensor<2> {
    let [b, t, d] = hidden_btd.dims();
    hidden_btd.narrow(1, t - 1, 1).reshape([b, d])
}

/// The best `n` of each row, chosen where the logits are.
fn best(logits_bv: Tensor<2>, n: usize) -> Tokens {
    let top = logits_bv.clone().max_dim(1);
    let log_sums = (logits_bv.clone() - top.clone()).exp().sum_dim(1).log() + top;
    let (values, indices) = logits_bv.topk_with_indices(n, 1);
    let indices = ids(indices);
    Tokens::Best { width: n, ids: indices, logits: floats(values), log_sums: floats(log_sums) }
}

/// A temperature and a number from 0 to 1, or nothing where the likeliest token is taken.
type Drawn = Option<(f32, f64)>;

/// A token of each row, drawn or the likeliest, where the logits are.
fn draw(logits_bv: Tensor<2>, draws: &[Drawn]) -> Vec<u32> {
    let ([b, v], device) = (logits_bv.dims(), logits_bv.device());
    let column = |value: fn(&Drawn) -> f32| {
        let values: Vec<f32> = draws.iter().map(value).collect();
        Tensor::<2>::from_data(TensorData::new(values, [b, 1]), &device)
    };
    let likeliest = draws.iter().any(Option::is_none).then(|| ids(logits_bv.clone().argmax(1)));
    let heated = logits_bv / column(|draw| draw.map_or(1.0, |(temperature, _)| temperature));
    let weights = (heated.clone() - heated.max_dim(1)).exp();
    let passed = weights.cumsum(1);
    let total = passed.clone().narrow(1, v - 1, 1);
    let until = total * column(|draw| draw.map_or(0.0, |(_, uniform)| uniform as f32));
    // As many as are passed come before it. A draw that rounds up to the whole takes the last token.
    let drawn = ids(passed.lower_equal(until).int().sum_dim(1)).into_iter().map(|id| id.min(v as u32 - 1));
    match likeliest {
        None => drawn.collect(),
        Some(best) => drawn.zip(best).zip(draws).map(|((drawn, best), draw)| draw.map_or(best, |_| drawn)).collect(),
    }
}

fn ids<const D: usize>(tensor: Tensor<D, Int>) -> Vec<u32> {
    tensor.into_data().iter::<i64>().map(|id| id as u32).collect()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
