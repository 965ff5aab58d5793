//! Every record of a data set, read and tokenized before any weight is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::row::unknown_fields;
use super::{DataError, DataKind, Dataset, Encoder, Outcome, Sample, TextRow};
use crate::example::{Facts, Shape};
use crate::image;

/// Problems that are kept in full; of the others only the number is known.
const PROBLEMS_KEPT: usize = 20;

/// Records between two calls of the progress callback, and the unit of work of a thread.
const PIECE: usize = 64;

/// What a preflight found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Records that will be trained on.
    pub ok: usize,
    /// The same by source, in the order of [`Dataset::sources`].
    pub ok_by_source: Vec<usize>,
    /// The first refused records, in the data set's order.
    pub problems: Vec<DataError>,
    /// Number of refused records, by [`DataError::reason`].
    pub problem_counts: BTreeMap<&'static str, usize>,
    /// Number of records skipped on account of their length, by [`SkipReason::label`](super::SkipReason::label).
    pub skipped: BTreeMap<&'static str, usize>,
    /// Records that are cut to the length limit.
    pub truncated: usize,
    /// Turns before the user's first one that were dropped.
    pub dropped_leading: usize,
    /// Fields that no one reads, and how often they occur.
    pub ignored_fields: BTreeMap<String, usize>,
    /// Per record, the number of tokens of its longest row after truncation, image tokens included; 0 for one that is not trained on.
    pub lengths: Vec<usize>,
    /// Per record, its number of words, negative where it has no image: what [`Sampler::epoch`](super::Sampler::epoch)
    /// takes; 0 for one that is not trained on.
    pub signed_lengths: Vec<i64>,
    /// Per record, the supervised tokens of all its rows; 0 for one that is not trained on.
    pub supervised: Vec<usize>,
    /// Per record, its images that are shown; 0 for one that is not trained on.
    pub shown: Vec<usize>,
    /// Supervised tokens of all records.
    pub supervised_tokens: usize,
    /// Image tokens of all records.
    pub image_tokens: usize,
    /// Images of all records.
    pub images: usize,
    /// Per record that will be trained on, what it says besides its conversation; kept on request only.
    pub facts: Vec<Facts>,
    /// Per record, a hash of its tokens and masks; 0 for one that is not trained on.
    encodings: Vec<u64>,
    /// Sum of the hashes of every record's images, each with its record's number.
    images_hash: u64,
}

/// What is looked at.
pub struct Check<'a> {
    /// Whether images are decoded whole, or their headers read.
    pub decode: bool,
    /// Whether the bytes of images are hashed ([`Checked::images_hash`]).
    pub hashes_images: bool,
    /// Whether what records say is kept ([`Checked::facts`]).
    pub keeps_facts: bool,
    /// Whether the objective can learn from a record that says this; the reason where it cannot.
    pub accepts: &'a (dyn Fn(&Facts) -> Result<(), String> + Sync),
}

impl Default for Check<'_> {
    fn default() -> Self {
        Self { decode: false, hashes_images: false, keeps_facts: false, accepts: &|_| Ok(()) }
    }
}

impl Checked {
    /// Number of refused records.
    pub fn refused(&self) -> usize {
        self.problem_counts.values().sum()
    }

    /// Tokens of all records that will be trained on.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// SHA-256 over the tokens and masks of all records, in hexadecimal: it changes with the records, the template, the
    /// tokenizer, the length limit and what is learned.
    pub fn encoding(&self) -> String {
        let bytes: Vec<u8> = self.encodings.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A hash of the bytes of all records' images, in their places; 0 where it was not asked for.
    pub fn images_hash(&self) -> u64 {
        self.images_hash
    }

    /// Per record, whether it has images.
    pub fn has_image(&self) -> impl Iterator<Item = bool> + '_ {
        self.signed_lengths.iter().map(|&length| length > 0)
    }
}

/// Reads, tokenizes and checks every record, on all threads. `progress` is called now and then, from any thread, with the number of records done.
pub fn check<K: DataKind>(
    dataset: &Dataset<K>,
    encoder: &Encoder,
    check: &Check<'_>,
    progress: impl Fn(usize) + Sync,
) -> Checked {
    let done = AtomicUsize::new(0);
    let pieces: Vec<Checked> = (0..dataset.len().div_ceil(PIECE))
        .into_par_iter()
        .map(|piece| {
            let range = piece * PIECE..((piece + 1) * PIECE).min(dataset.len());
            let count = range.len();
            let checked = check_range(dataset, encoder, check, range);
            progress(done.fetch_add(count, Ordering::Relaxed) + count);
            checked
        })
        .collect();
    let mut whole = Checked::default();
    pieces.into_iter().for_each(|piece| whole.append(piece));
    whole
}

fn check_range<K: DataKind>(
    dataset: &Dataset<K>,
    encoder: &Encoder,
    check: &Check<'_>,
    range: Range<usize>,
) -> Checked {
    let mut checked = Checked { ok_by_source: vec![0; dataset.sources().len()], ..Checked::default() };
    for index in range {
        checked.lengths.push(0);
        checked.signed_lengths.push(0);
        checked.supervised.push(0);
        checked.shown.push(0);
        checked.encodings.push(0);
        let before = checked.ok;
        if let Err(error) = check_record(dataset, encoder, check, index, &mut checked) {
            *checked.problem_counts.entry(error.reason()).or_default() += 1;
            checked.keep(error);
        }
        checked.ok_by_source[dataset.source_of(index)] += checked.ok - before;
    }
    checked
}

fn check_record<K: DataKind>(
    dataset: &Dataset<K>,
    encoder: &Encoder,
    check: &Check<'_>,
    index: usize,
    checked: &mut Checked,
) -> Result<(), DataError> {
    let row = dataset.row(index)?;
    if dataset.part(index) == 0 {
        unknown_fields(&row, K::FIELDS, |field| *checked.ignored_fields.entry(field).or_default() += 1);
    }
    let sample = dataset.read(index, &row)?;
    let facts = <K::Shape as Shape>::facts(&sample.target);
    (check.accepts)(&facts).map_err(|reason| DataError::Refused { place: sample.place.clone(), reason })?;
    check_images(&sample, check.decode)?;
    if check.hashes_images {
        for (number, path) in sample.images.iter().enumerate() {
            let bytes = std::fs::read(path).unwrap_or_default();
            let mut hasher = Sha256::new();
            hasher.update((index as u64).to_le_bytes());
            hasher.update((number as u64).to_le_bytes());
            hasher.update(&bytes);
            checked.images_hash = checked.images_hash.wrapping_add(first_bits(hasher));
        }
    }
    match encoder.encode_text(&sample)? {
        Outcome::Whole(kept) => checked.count(&sample, &kept),
        Outcome::Truncated { kept, .. } => {
            checked.truncated += 1;
            checked.count(&sample, &kept);
        }
        Outcome::Skipped { reason, .. } => {
            *checked.skipped.entry(reason.label()).or_default() += 1;
            return Ok(());
        }
    }
    if check.keeps_facts {
        checked.facts.push(facts);
    }
    Ok(())
}

fn check_images<S: Shape>(sample: &Sample<S>, decode: bool) -> Result<(), DataError> {
    let check = |path: &Path| match decode {
        true => image::decode(path).map(drop),
        false => image::probe(path).map(drop),
    };
    for (i, path) in sample.images.iter().enumerate() {
        check(path).map_err(|source| DataError::Image {
            place: sample.place.clone(),
            number: i + 1,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

impl Checked {
    fn count<S: Shape>(&mut self, sample: &Sample<S>, rows: &[TextRow]) {
        self.ok += 1;
        self.dropped_leading += sample.dropped_leading;
        if let Some(length) = self.lengths.last_mut() {
            *length = rows.iter().map(|row| row.text.input_ids.len()).max().unwrap_or(0);
        }
        if let Some(length) = self.signed_lengths.last_mut() {
            *length = sample.signed_length();
        }
        if let Some(hash) = self.encodings.last_mut() {
            *hash = hash_rows(rows);
        }
        if let (Some(supervised), Some(shown)) = (self.supervised.last_mut(), self.shown.last_mut()) {
            *supervised = rows.iter().map(|row| row.text.num_supervised()).sum();
            *shown = rows.first().map_or(0, |row| row.images.len());
        }
        for row in rows {
            self.supervised_tokens += row.text.num_supervised();
            self.image_tokens += row.text.image_positions.iter().map(Range::len).sum::<usize>();
        }
        self.images += rows.first().map_or(0, |row| row.images.len());
    }

    fn keep(&mut self, problem: DataError) {
        if self.problems.len() < PROBLEMS_KEPT {
            self.problems.push(problem);
        }
    }

    /// Adds what was found in the records that follow.
    fn append(&mut self, next: Checked) {
        self.ok += next.ok;
        self.ok_by_source.resize(self.ok_by_source.len().max(next.ok_by_source.len()), 0);
        self.ok_by_source.iter_mut().zip(next.ok_by_source).for_each(|(sum, ok)| *sum += ok);
        next.problems.into_iter().for_each(|problem| self.keep(problem));
        add(&mut self.problem_counts, next.problem_counts);
        add(&mut self.skipped, next.skipped);
        self.truncated += next.truncated;
        self.dropped_leading += next.dropped_leading;
        add(&mut self.ignored_fields, next.ignored_fields);
        self.lengths.extend(next.lengths);
        self.signed_lengths.extend(next.signed_lengths);
        self.supervised.extend(next.supervised);
        self.shown.extend(next.shown);
        self.supervised_tokens += next.supervised_tokens;
        self.image_tokens += next.image_tokens;
        self.images += next.images;
        self.facts.extend(next.facts);
        self.encodings.extend(next.encodings);
        self.images_hash = self.images_hash.wrapping_add(next.images_hash);
    }
}

/// The first 64 bits of a SHA-256 over tokens and masks, never 0.
fn hash_rows(rows: &[TextRow]) -> u64 {
    let mut hasher = Sha256::new();
    for row in rows.iter().map(|row| &row.text) {
        hasher.update((row.input_ids.len() as u64).to_le_bytes());
        row.input_ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        let mask: Vec<u8> = row.supervised.iter().map(|&learned| u8::from(learned)).collect();
        hasher.update(mask);
    }
    first_bits(hasher).max(1)
}

fn first_bits(hasher: Sha256) -> u64 {
    hasher.finalize().iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte))
}

fn add<Key: Ord>(to: &mut BTreeMap<Key, usize>, from: BTreeMap<Key, usize>) {
    for (key, count) in from {
        *to.entry(key).or_default() += count;
    }
}
