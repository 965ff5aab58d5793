//! Activations by the shapes of linear layers.

// t tokens of a batch with padding, d model width
use super::F32;
use crate::nn::params::ParamInfo;
use crate::nn::recompute::{Keep, Selection};
use crate::nn::{FIXED, TRAINED_ROWS};
use crate::vlm::Part;

/// Elements of logits that the loss holds at a time, and the fewest rows of them, as the fused loss has it; of a
/// comparison of distributions, those of both models together.
const CHUNK_ELEMENTS: usize = 8 << 20;
const CHUNK_ROWS: usize = 64;

/// A batch's shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Length of each, padding counted.
    pub length: usize,
    /// Positions whose successor is learned.
    pub supervised: usize,
    /// Images.
    pub images: usize,
    /// Values of an image's pixels.
    pub pixels: usize,
}

impl Batch {
    /// Tokens with padding.
    pub fn tokens(&self) -> usize {
        self.rows * self.length
    }

    /// The larger of each number.
    pub fn max(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            length: self.length.max(other.length),
            supervised: self.supervised.max(other.supervised),
            images: self.images.max(other.images),
            pixels: self.pixels.max(other.pixels),
        }
    }

    /// Bytes in host memory: ids, mask and pixels.
    pub fn host_bytes(&self) -> usize {
        self.tokens() * 5 + self.images * self.pixels * F32
    }
}

/// What the shapes of parameters do not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Width of the decoder's hidden states.
    pub width: usize,
    /// Rows of its head; 0 where it yields scores.
    pub vocabulary: usize,
    /// Query heads.
    pub heads: usize,
    /// Width of keys, or values, of one token in one block.
    pub key_width: usize,
    /// Blocks.
    pub layers: usize,
    /// Tokens that the tower sees of an image.
    pub image_tokens: usize,
    /// Values of an image's pixels.
    pub pixels: usize,
    /// Whether the adapter drops some of its inputs.
    pub dropout: bool,
    /// Whether the adapter scales each output by its own factor (DoRA).
    pub scales_outputs: bool,
    /// Whether the loss wants whole distributions instead of single log-probabilities.
    pub distributions: bool,
}

/// One linear layer of a block.
#[derive(Clone, Debug)]
struct Map {
    /// The module it is in: `…layers.0.self_attn`.
    module: String,
    outputs: usize,
    inputs: usize,
    /// Whether its own weight is trained.
    trained: bool,
    /// Rank of what stands beside it.
    rank: usize,
}

/// What one block keeps and needs, in values for each token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Block {
    /// Its input.
    width: usize,
    /// Kept for the backward pass.
    kept: usize,
    /// At the same time at the most, in its backward pass.
    work: usize,
    /// At the same time at the most, in a pass without gradients.
    widest: usize,
}

impl Block {
    /// Of the block at `index`, what is kept from its forward pass to its gradient: where it is run again its input alone.
    fn kept_between(&self, index: usize, again: Option<Selection>) -> usize {
        match again.filter(|selection| selection.takes(index) && self.kept > 0) {
            None => self.kept,
            Some(Selection { keep: Keep::Device, .. }) => self.width,
            Some(Selection { keep: Keep::Host, .. }) => 0,
        }
    }
}

/// The blocks of decoder and tower.
#[derive(Clone, Debug)]
pub struct Blocks {
    decoder: Vec<Block>,
    tower: Vec<Block>,
    hints: Hints,
    /// Whether the head, or the token table in its place, is trained.
    trains_head: bool,
}

/// What the loss takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Logits of a chunk.
    pub chunk: usize,
    /// Hidden states at the supervised positions, and their gradients.
    pub rows: usize,
    /// The head's gradient.
    pub head_gradient: usize,
}

impl Blocks {
    /// The blocks that these parameters form: of each part, what lies in a numbered layer.
    pub fn of(parameters: &[ParamInfo], trained: &dyn Fn(&str) -> bool, hints: Hints) -> Self {
        let part =
            |part: Part| -> Vec<&ParamInfo> { parameters.iter().filter(|p| Part::of(&p.name) == part).collect() };
        let learns = |p: &&ParamInfo| trained(&p.name);
        let (tower, projector, decoder) = (part(Part::VisionTower), part(Part::Projector), part(Part::LanguageModel));
        let above_tower = tower.iter().any(learns);
        let outside = |p: &&&ParamInfo| layer_of(&p.name).is_none() && !is_last(&p.name);
        // What lies before the first block: a trained projector or token table sends a gradient through every block.
        let into_decoder = above_tower || projector.iter().any(learns) || decoder.iter().filter(outside).any(learns);
        Self {
            decoder: blocks(&decoder, trained, into_decoder, hints),
            tower: blocks(&tower, trained, tower.iter().filter(outside).any(learns), Hints { heads: 0, ..hints }),
            trains_head: trained(if decoder.iter().any(|p| is_head(&p.name)) { HEAD } else { TABLE }),
            hints,
        }
    }

    /// Bytes that the forward pass keeps, where these blocks are run again.
    pub fn kept(&self, batch: &Batch, again: Option<Selection>) -> usize {
        let (decoder, tower) = (batch.tokens(), batch.images * self.hints.image_tokens);
        let sum = |blocks: &[Block]| -> usize {
            blocks.iter().enumerate().map(|(index, block)| block.kept_between(index, again)).sum()
        };
        // The final norm keeps what the last block gives.
        F32 * (sum(&self.decoder) * decoder + sum(&self.tower) * tower + self.hints.width * decoder)
    }

    /// Bytes that the block with the most keeps.
    pub fn kept_by_one(&self, batch: &Batch) -> usize {
        let most = |blocks: &[Block]| blocks.iter().map(|block| block.kept).max().unwrap_or(0);
        F32 * (most(&self.decoder) * batch.tokens()).max(most(&self.tower) * batch.images * self.hints.image_tokens)
    }

    /// Bytes that come back before the first gradient does: the last block's, where it is run again.
    pub fn first_again(&self, batch: &Batch, again: Option<Selection>) -> usize {
        let last = self.decoder.len().saturating_sub(1);
        match again.is_some_and(|selection| selection.takes(last)) {
            true => F32 * self.decoder.last().map_or(0, |block| block.kept) * batch.tokens(),
            false => 0,
        }
    }

    /// Bytes that the backward pass of one block needs at a time.
    pub fn work(&self, batch: &Batch) -> usize {
        let most = |blocks: &[Block]| blocks.iter().map(|block| block.work).max().unwrap_or(0);
        F32 * (most(&self.decoder) * batch.tokens()).max(most(&self.tower) * batch.images * self.hints.image_tokens)
    }

    /// What the loss takes.
    pub fn loss(&self, batch: &Batch) -> Loss {
        let Hints { width, vocabulary, .. } = self.hints;
        if vocabulary == 0 {
            return Loss::default();
        }
        let n = batch.supervised;
        let models = if self.hints.distributions { 2 } else { 1 };
        let chunk = (CHUNK_ELEMENTS / models / vocabulary / CHUNK_ROWS * CHUNK_ROWS).max(CHUNK_ROWS).min(n);
        Loss {
            chunk: F32 * models * chunk * vocabulary,
            // The states that were picked, their gradient, and the gradient spread over all positions.
            rows: F32 * width * (2 * n + batch.tokens()),
            head_gradient: if self.trains_head { F32 * vocabulary * width } else { 0 },
        }
    }

    /// Bytes of a pass without gradients, and of answers that are generated.
    pub fn evaluation(&self, batch: &Batch, answer: usize) -> usize {
        let widest = |blocks: &[Block]| blocks.iter().map(|block| block.widest).max().unwrap_or(0);
        let tokens = batch.tokens();
        let pass = widest(&self.decoder) * tokens;
        let tower = widest(&self.tower) * batch.images * self.hints.image_tokens;
        let cache = 2 * self.hints.key_width * self.hints.layers * (tokens + batch.rows * answer);
        let logits = self.loss(batch).chunk;
        let answers = if answer > 0 { F32 * cache } else { 0 };
        F32 * pass.max(tower) + logits.max(answers)
    }
}

fn blocks(parameters: &[&ParamInfo], trained: &dyn Fn(&str) -> bool, above: bool, hints: Hints) -> Vec<Block> {
    let mut groups: Vec<(usize, Vec<&ParamInfo>)> = Vec::new();
    for parameter in parameters {
        let Some(layer) = layer_of(&parameter.name) else { continue };
        match groups.last_mut().filter(|(last, _)| *last == layer) {
            Some((_, group)) => group.push(parameter),
            None => groups.push((layer, vec![parameter])),
        }
    }
    let mut tracked = above;
    groups
        .iter()
        .map(|(_, group)| {
            tracked |= group.iter().any(|p| trained(&p.name));
            block(&maps(group, trained), tracked, hints)
        })
        .collect()
}

/// What one block keeps: its norms their inputs, attention its operands and its result, the activation its arguments, and
/// every linear layer its input if what it trains needs it.
fn block(maps: &[Map], tracked: bool, hints: Hints) -> Block {
    let width = maps.first().map_or(0, |map| map.inputs);
    // Two statistics of each of two norms, and a log-sum-exp of each head.
    let mut kept = 4 + hints.heads;
    let mut widest = 0;
    for module in maps.chunk_by(|a, b| a.module == b.module) {
        let Some((closing, opening)) = module.split_last() else { continue };
        let attends = closing.module.contains("attn") || closing.module.contains("attention");
        let reads = |map: &Map| map.trained || map.rank > 0;
        // Queries, keys, values, gate and up are read again by what they go into. What the closing layer gives is added to
        // the stream, and the next norm keeps the sum.
        kept += module.iter().map(|map| map.outputs + map.rank).sum::<usize>();
        // The opening layers share one input.
        kept += opening.first().filter(|_| opening.iter().any(reads)).map_or(0, |map| map.inputs);
        // Attention keeps its result itself. A gated block without adapters computes the product of gate and up again; else it
        // is kept for the closing layer alone.
        let computed_again = !attends && opening.len() == 2 && module.iter().all(|map| map.rank == 0);
        kept += if attends || (reads(closing) && !computed_again) { closing.inputs } else { 0 };
        for map in module.iter().filter(|map| map.rank > 0) {
            // The dropped input and its mask; the outputs before and after DoRA's gain.
            kept += if hints.dropout { 2 * map.inputs } else { 0 };
            kept += if hints.scales_outputs { 2 * map.outputs } else { 0 };
        }
        let opened: usize = opening.iter().map(|map| map.outputs).sum();
        widest = widest.max(opened + closing.inputs);
    }
    let work = widest + 2 * width;
    match tracked {
        true => Block { width, kept, work, widest: work },
        false => Block { width, kept: 0, work: 0, widest: work },
    }
}

/// The linear layers among a block's parameters, in their order.
fn maps(group: &[&ParamInfo], trained: &dyn Fn(&str) -> bool) -> Vec<Map> {
    let mut maps: Vec<(String, Map)> = Vec::new();
    for parameter in group {
        if parameter.name.contains(FIXED) || parameter.name.ends_with(TRAINED_ROWS) {
            continue;
        }
        if let Some((path, index)) = parameter.name.split_once(".adapter.params.") {
            if let (Some((_, map)), "0") = (maps.iter_mut().find(|(known, _)| known == path), index) {
                map.rank = parameter.shape.first().copied().unwrap_or(0);
            }
            continue;
        }
        let (Some(path), &[outputs, inputs]) = (parameter.name.strip_suffix(".weight"), parameter.shape.as_slice())
        else {
            continue;
        };
        let module = path.rsplit_once('.').map_or(path, |(module, _)| module).to_owned();
        maps.push((path.to_owned(), Map { module, outputs, inputs, trained: trained(&parameter.name), rank: 0 }));
    }
    maps.into_iter().map(|(_, map)| map).collect()
}

/// The number of the block that a parameter lies in.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

/// The head's weight, and the table that stands for it where it has none.
const HEAD: &str = "language_model.lm_head.weight";
const TABLE: &str = "language_model.embed_tokens.weight";

fn is_head(name: &str) -> bool {
    name == HEAD
}

/// Whether a parameter acts behind the blocks.
fn is_last(name: &str) -> bool {
    name.contains("lm_head") || name.ends_with("language_model.norm.weight") || name.contains("score")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &[(&str, &[usize])] = &[
        ("input_layernorm.weight", &[8]),
        ("self_attn.q_proj.weight", &[8, 8]),
        ("self_attn.k_proj.weight", &[4, 8]),
        ("self_attn.v_proj.weight", &[4, 8]),
        ("self_attn.o_proj.weight", &[8, 8]),
        ("mlp.gate_proj.weight", &[20, 8]),
        ("mlp.up_proj.weight", &[20, 8]),
        ("mlp.down_proj.weight", &[8, 20]),
    ];

    const ADAPTERS: &[(&str, &[usize])] =
        &[("self_attn.q_proj.adapter.params.0", &[2, 8]), ("self_attn.q_proj.adapter.params.1", &[8, 2])];

    fn parameters(layers: usize, adapted: bool) -> Vec<ParamInfo> {
        let named = |name: String, shape: &[usize]| ParamInfo { name, shape: shape.to_vec() };
        let mut all = vec![named(TABLE.to_owned(), &[100, 8])];
        for layer in 0..layers {
            for (name, shape) in BLOCK.iter().chain(if adapted { ADAPTERS } else { &[] }) {
                all.push(named(format!("language_model.layers.{layer}.{name}"), shape));
            }
        }
        all.push(named("language_model.norm.weight".to_owned(), &[8]));
        all.push(named(HEAD.to_owned(), &[100, 8]));
        all
    }

    const HINTS: Hints = Hints {
        width: 8,
        vocabulary: 100,
        heads: 2,
        key_width: 4,
        layers: 2,
        image_tokens: 0,
        pixels: 0,
        dropout: false,
        scales_outputs: false,
        distributions: false,
    };

    const BATCH: Batch = Batch { rows: 3, length: 16, supervised: 10, images: 0, pixels: 0 };

    fn kept(adapted: bool, trained: &dyn Fn(&str) -> bool, hints: Hints) -> usize {
        Blocks::of(&parameters(2, adapted), trained, hints).kept(&BATCH, None) / F32 / BATCH.tokens()
    }

    #[test]
    fn a_block_keeps_what_its_backward_pass_reads() {
        // Both norms' inputs, queries, keys, values, attention's result, gate and up, the statistics; the final norm.
        let frozen = 2 * (8 + 8 + (8 + 4 + 4) + 8 + (20 + 20) + (4 + 2)) + 8;
        // Besides, the normed inputs; the product of gate and up is computed again.
        let whole = frozen + 2 * (8 + 8);
        assert_eq!(kept(false, &|_| true, HINTS), whole);
        // A trained table sends a gradient through blocks that keep no input of their own.
        assert_eq!(kept(false, &|name| name == TABLE, HINTS), frozen);
        // The head alone needs no block.
        assert_eq!(kept(false, &|name| name == HEAD, HINTS), 8);
        // The adapter of q: the input of q, k and v, once, and the narrow activation.
        let adapter = |name: &str| name.contains(".adapter.");
        assert_eq!(kept(true, &adapter, HINTS), frozen + 2 * (8 + 2));
        assert_eq!(kept(true, &adapter, Hints { dropout: true, ..HINTS }), frozen + 2 * (8 + 2 + 16));
        assert_eq!(kept(true, &adapter, Hints { scales_outputs: true, ..HINTS }), frozen + 2 * (8 + 2 + 16));
        // A block that is run again keeps its input.
        let again = |selection| Blocks::of(&parameters(2, false), &|_| true, HINTS).kept(&BATCH, Some(selection));
        let values = |kept: usize| kept / F32 / BATCH.tokens();
        assert_eq!(values(again(Selection::ALL)), 3 * 8);
        assert_eq!(values(again(Selection { first: 1, ..Selection::ALL })), 2 * 8 + (whole - 8) / 2);
        assert_eq!(values(again(Selection { keep: Keep::Host, ..Selection::ALL })), 8);
        // Blocks below the first that is trained keep nothing.
        let upper = |name: &str| name.contains("layers.1.");
        assert_eq!(kept(false, &upper, HINTS), (whole - 8) / 2 + 8);
    }

    #[test]
    fn the_loss_holds_a_chunk_and_the_head_its_gradient() {
        let loss = |trained: &dyn Fn(&str) -> bool, hints: Hints| {
            Blocks::of(&parameters(2, false), trained, hints).loss(&BATCH)
        };
        let whole = loss(&|_| true, HINTS);
        assert_eq!((whole.chunk, whole.rows, whole.head_gradient), (4 * 10 * 100, 4 * 8 * (20 + 48), 4 * 800));
        assert_eq!(loss(&|name| name == TABLE, HINTS).head_gradient, 0);
        assert_eq!(loss(&|_| true, Hints { vocabulary: 0, ..HINTS }), Loss::default(), "scores");
        let many = Batch { supervised: 1 << 20, ..BATCH };
        let chunk = |hints: Hints| {
            Blocks::of(&parameters(1, false), &|_| true, Hints { vocabulary: 32_000, ..hints }).loss(&many).chunk
        };
        assert_eq!(chunk(HINTS), 4 * 256 * 32_000, "no more than that, however many tokens are learned");
        assert_eq!(chunk(Hints { distributions: true, ..HINTS }), 4 * 2 * 128 * 32_000, "of both models");
    }
}
