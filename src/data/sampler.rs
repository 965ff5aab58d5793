//! Which records form which micro-batch of an epoch.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// The order of an epoch. Every order depends on nothing but its arguments, so a resumed run sees the same batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// As the records stand in the files.
    Sequential,
    /// A new permutation in each epoch.
    #[default]
    Shuffled,
    /// Records of similar length together: a permutation is cut into megabatches of one optimizer step each, and each
    /// is sorted by length, longest first, and dealt to its micro-batches so that their lengths are even.
    Length,
    /// As [`Length`](Self::Length), separately for records with and without images: no micro-batch has both. The
    /// steps of both kinds are shuffled; what does not fill a step comes last.
    Modality,
    /// Records of like length together, over far more than a step: a permutation is cut into megabatches of up to 50
    /// micro-batches, each is sorted by length and cut, and all micro-batches are shuffled. That with the longest record
    /// comes first, so that memory that does not suffice shows at once.
    Bucketed,
}

/// Most micro-batches that are sorted together under [`Sampler::Bucketed`], and fewest megabatches that an epoch is cut
/// into: with only one, every epoch would have the same micro-batches.
const MEGABATCH: (usize, usize) = (50, 4);

impl Sampler {
    /// The micro-batches of one epoch, as record numbers. Each record is in exactly one of them; `accumulation`
    /// successive ones form an optimizer step. Only the last of a group (of all records, or of a modality) may have
    /// fewer than `batch` records.
    ///
    /// `lengths` holds one number per record, positive where it has images, zero or negative where it has none
    /// ([`Sample::signed_length`](super::Sample::signed_length)); [`Sequential`](Self::Sequential) and
    /// [`Shuffled`](Self::Shuffled) use only how many there are, [`Bucketed`](Self::Bucketed) only how long they are, and
    /// does best with tokens. A `batch` or `accumulation` of 0 is taken as 1.
    ///
    /// # Source
    /// `LengthGroupedSampler` of LLaVA (Liu et al. 2023), which mixes the modalities in the last, incomplete step;
    /// here its micro-batches are pure as well. `Bucketed` is transformers' sampler of that name (`group_by_length`), whose
    /// megabatches run from long to short; shuffled, no part of an epoch sees long records alone.
    pub fn epoch(
        &self,
        seed: u64,
        epoch: usize,
        lengths: &[i64],
        batch: usize,
        accumulation: usize,
    ) -> Vec<Vec<usize>> {
        let (batch, accumulation) = (batch.max(1), accumulation.max(1));
        // One stream of the generator per epoch: epochs never overlap, whatever the seeds.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch as u64);
        let all: Vec<usize> = (0..lengths.len()).collect();
        match self {
            Self::Sequential => chunks(&all, batch),
            Self::Shuffled => chunks(&permutation(all, &mut rng), batch),
            Self::Length => {
                let Steps { full, rest } = by_length(all, lengths, batch, accumulation, &mut rng);
                full.into_iter().flatten().chain(rest).collect()
            }
            Self::Modality => {
                let (images, text): (Vec<_>, Vec<_>) = all.into_iter().partition(|&i| lengths[i] > 0);
                let images = by_length(images, lengths, batch, accumulation, &mut rng);
                let text = by_length(text, lengths, batch, accumulation, &mut rng);
                let mut full: Vec<_> = images.full.into_iter().chain(text.full).collect();
                full.shuffle(&mut rng);
                full.into_iter().flatten().chain(images.rest).chain(text.rest).collect()
            }
            Self::Bucketed => bucketed(all, lengths, batch, &mut rng),
        }
    }
}

/// Micro-batches, by optimizer step.
struct Steps {
    /// Steps of exactly `accumulation` micro-batches of exactly `batch` records.
    full: Vec<Vec<Vec<usize>>>,
    /// The micro-batches of the records that do not fill a step.
    rest: Vec<Vec<usize>>,
}

fn by_length(indices: Vec<usize>, lengths: &[i64], batch: usize, accumulation: usize, rng: &mut ChaCha8Rng) -> Steps {
    let order = permutation(indices, rng);
    let megabatches = order.chunks_exact(batch.saturating_mul(accumulation));
    let rest = chunks(&longest_first(megabatches.remainder(), lengths), batch);
    let full =
        megabatches.map(|megabatch| deal(&longest_first(megabatch, lengths), lengths, batch, accumulation)).collect();
    Steps { full, rest }
}

fn bucketed(indices: Vec<usize>, lengths: &[i64], batch: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let (most, fewest) = MEGABATCH;
    let multiple = (indices.len() / (batch.saturating_mul(fewest))).clamp(1, most);
    let order = permutation(indices, rng);
    let megabatches = order.chunks(batch.saturating_mul(multiple));
    let mut batches: Vec<Vec<usize>> =
        megabatches.flat_map(|megabatch| chunks(&longest_first(megabatch, lengths), batch)).collect();
    // What does not fill a micro-batch are the last megabatch's shortest records; it stays last.
    let rest = batches.pop_if(|last| last.len() < batch);
    batches.shuffle(rng);
    let longest = |batch: &Vec<usize>| batch.iter().map(|&i| lengths[i].unsigned_abs()).max();
    // Of equal ones the first.
    let first = (0..batches.len()).rev().max_by_key(|&at| longest(&batches[at]));
    if let Some(first) = first {
        batches.swap(0, first);
    }
    batches.into_iter().chain(rest).collect()
}

/// Deals `sorted` to `hands` hands of `size` records: each record goes to the shortest hand that has room.
fn deal(sorted: &[usize], lengths: &[i64], size: usize, hands: usize) -> Vec<Vec<usize>> {
    let mut dealt: Vec<(u64, Vec<usize>)> = vec![(0, Vec::with_capacity(size)); hands];
    for &index in sorted {
        let open = dealt.iter_mut().filter(|(_, hand)| hand.len() < size);
        if let Some((total, hand)) = open.min_by_key(|(total, _)| *total) {
            *total += lengths[index].unsigned_abs();
            hand.push(index);
        }
    }
    dealt.into_iter().map(|(_, hand)| hand).collect()
}

fn longest_first(indices: &[usize], lengths: &[i64]) -> Vec<usize> {
    let mut sorted = indices.to_vec();
    // Stable: equal lengths keep the permutation's order.
    sorted.sort_by_key(|&i| std::cmp::Reverse(lengths[i].unsigned_abs()));
    sorted
}

fn permutation(mut indices: Vec<usize>, rng: &mut ChaCha8Rng) -> Vec<usize> {
    indices.shuffle(rng);
    indices
}

fn chunks(indices: &[usize], batch: usize) -> Vec<Vec<usize>> {
    indices.chunks(batch).map(<[usize]>::to_vec).collect()
}
