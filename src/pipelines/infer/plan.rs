//! The order in which records are worked on.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{InferError, Records};

/// What is done with a record that cannot be read or answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// It ends the run.
    Error,
    /// It is written with an `error` in place of answers.
    Skip,
}

/// Which records are worked on together: those of like length, long ones first, so that what does not fit into memory shows
/// at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The records, in the order of the output.
    pub(super) range: Range<usize>,
    /// Records of a chunk, chunk by chunk.
    pub(super) chunks: Vec<Vec<usize>>,
    /// Records that cannot be read, and why.
    pub(super) unread: BTreeMap<usize, String>,
    pub(super) bad: BadRecord,
}

impl Plan {
    /// Reads all records of `range` once and sorts them into chunks of `chunk` records. `watch` is told of records that were
    /// read, on any thread.
    ///
    /// # Errors
    /// [`InferError::Data`] of the first record that cannot be read, unless such records are skipped.
    pub fn new(
        records: &dyn Records,
        range: Range<usize>,
        chunk: usize,
        bad: BadRecord,
        watch: &(dyn Fn() + Sync),
    ) -> Result<Self, InferError> {
        let read: Vec<Result<(usize, usize), (usize, crate::data::DataError)>> = range
            .clone()
            .into_par_iter()
            .map(|index| {
                let size = records.record(index).map(|record| record.size());
                watch();
                size.map(|size| (index, size)).map_err(|error| (index, error))
            })
            .collect();
        let mut sizes = Vec::with_capacity(read.len());
        let mut unread = BTreeMap::new();
        for one in read {
            match (one, bad) {
                (Ok(one), _) => sizes.push(one),
                (Err((_, error)), BadRecord::Error) => return Err(InferError::Data(error)),
                (Err((index, error)), BadRecord::Skip) => drop(unread.insert(index, error.to_string())),
            }
        }
        sizes.sort_by_key(|&(index, size)| (std::cmp::Reverse(size), index));
        let chunks = sizes.chunks(chunk.max(1)).map(|chunk| chunk.iter().map(|&(index, _)| index).collect()).collect();
        Ok(Self { range, chunks, unread, bad })
    }

    /// What tells this order from others, in one word: which records can be read, and how they are put together.
    pub(super) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for chunk in &self.chunks {
            hash.update((chunk.len() as u64).to_le_bytes());
            chunk.iter().for_each(|&index| hash.update((index as u64).to_le_bytes()));
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Records in all.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}
