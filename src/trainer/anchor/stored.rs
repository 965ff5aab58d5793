//! Log-probabilities of a reference, computed once and kept in a folder.

use crate::checkpoint::{CheckpointError, DirWriter, Dtype, Manifest, Pending, Shards, read_json, write_model};
use crate::data::Batch;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const ABOUT: &str = "reference.json";
const VALUES: &str = "log_probs";
const COUNTS: &str = "counts";

/// What stored log-probabilities depend on, each as a hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The weights, the adapter's included.
    pub model: String,
    /// The records.
    pub data: String,
    /// The tokens and masks that the records became: template, tokenizer, truncation, what is learned.
    pub encoding: String,
    /// The pictures, and how they are brought to the encoder and the projector.
    #[serde(default)]
    pub images: String,
}

/// Stored log-probabilities that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredError {
    /// They belong to something else.
    #[error(
        "{path}: these log-probabilities were computed with other {part}: the fingerprint was {stored} then and is {now} now; run the \
         recipe preprocess_reference again with the same --model, --data and data settings"
    )]
    Mismatch {
        /// The folder.
        path: PathBuf,
        /// What differs.
        part: &'static str,
        /// Its hash then.
        stored: String,
        /// Its hash now.
        now: String,
    },
    /// A batch has rows that the folder knows otherwise.
    #[error(
        "{path}: record {index} has {stored} learned tokens there and {now} now; run the recipe preprocess_reference again"
    )]
    Tokens {
        /// The folder.
        path: PathBuf,
        /// The record's number.
        index: usize,
        /// Tokens then.
        stored: usize,
        /// Tokens now.
        now: usize,
    },
    /// There is held-out data, but nothing was stored for it.
    #[error(
        "the stored log-probabilities are of the training data alone; run the recipe preprocess_reference again with the same \
         --eval-data, or leave --eval-data out"
    )]
    NoEvaluation,
    /// An objective that reads more than log-probabilities.
    #[error("stored log-probabilities serve objectives over log-probabilities alone; take `reference: FrozenCopy`")]
    Kind,
    /// A folder that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Log-probabilities of every row of a data set, by record.
#[derive(Clone, Debug)]
pub struct StoredLogProbs {
    path: PathBuf,
    values: Vec<f32>,
    /// Where each row's values begin; one more than there are rows.
    starts: Vec<usize>,
    rows_per_record: usize,
}

#[derive(Serialize, Deserialize)]
struct About {
    fingerprint: Fingerprint,
    /// SHA-256 of the values.
    values: String,
    records: usize,
    rows_per_record: usize,
}

impl StoredLogProbs {
    /// Reads a folder and checks that it belongs to what it is used for.
    ///
    /// # Errors
    /// [`StoredError::Mismatch`], [`StoredError::Checkpoint`].
    pub fn open(path: &Path, now: &Fingerprint) -> Result<Self, StoredError> {
        let file = path.join(ABOUT);
        let about: About = serde_json::from_value(read_json(&file)?).map_err(|error| CheckpointError::Json {
            path: file.clone(),
            line: error.line(),
            column: error.column(),
            message: error.to_string(),
        })?;
        let then = &about.fingerprint;
        for (part, stored, now) in [
            ("model", &then.model, &now.model),
            ("data", &then.data, &now.data),
            ("encoding", &then.encoding, &now.encoding),
            ("images", &then.images, &now.images),
        ] {
            if stored != now {
                let short = |hash: &str| hash.chars().take(12).collect();
                return Err(StoredError::Mismatch {
                    path: path.to_owned(),
                    part,
                    stored: short(stored),
                    now: short(now),
                });
            }
        }
        let shards = Shards::open(path)?;
        let held = |name: &str| {
            let missing =
                || CheckpointError::tensor(path, name, "is missing; run the recipe preprocess_reference again");
            shards.get(name).ok_or_else(missing)
        };
        let values = held(VALUES)?;
        if hash(values.bytes) != about.values {
            return Err(CheckpointError::tensor(
                path,
                VALUES,
                "was changed after it was written; run the recipe preprocess_reference again",
            )
            .into());
        }
        let values = values.to_f32()?;
        let counts = held(COUNTS)?;
        let counts = counts.bytes.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes) as usize);
        let mut starts = vec![0];
        for count in counts {
            starts.push(starts[starts.len() - 1] + count);
        }
        if starts.len() != about.records * about.rows_per_record + 1 || starts[starts.len() - 1] != values.len() {
            return Err(CheckpointError::tensor(path, COUNTS, "does not add up to the stored values").into());
        }
        Ok(Self { path: path.to_owned(), values, starts, rows_per_record: about.rows_per_record })
    }

    /// The values of a batch's rows one after another, and how many each has.
    ///
    /// # Errors
    /// [`StoredError::Tokens`].
    pub fn of(&self, batch: &Batch) -> Result<(Vec<f32>, Vec<usize>), StoredError> {
        let (mut values, mut per_row) = (Vec::new(), Vec::with_capacity(batch.rows));
        let wanted = batch.supervised_by_row();
        for (row, &index) in batch.indices.iter().enumerate() {
            let at = index * self.rows_per_record + row % self.rows_per_record.max(1);
            let stored = match (self.starts.get(at), self.starts.get(at + 1)) {
                (Some(&start), Some(&end)) => &self.values[start..end],
                _ => &[],
            };
            if stored.len() != wanted[row] {
                let (path, stored, now) = (self.path.clone(), stored.len(), wanted[row]);
                return Err(StoredError::Tokens { path, index, stored, now });
            }
            values.extend_from_slice(stored);
            per_row.push(stored.len());
        }
        Ok((values, per_row))
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Collects log-probabilities, batch by batch in any order, and writes them.
#[derive(Debug)]
pub struct StoredWriter {
    rows: Vec<Vec<f32>>,
    rows_per_record: usize,
}

impl StoredWriter {
    /// Room for `records` of `rows_per_record` rows. What is never added stays empty.
    pub fn new(records: usize, rows_per_record: usize) -> Self {
        Self { rows: vec![Vec::new(); records * rows_per_record], rows_per_record }
    }

    /// Adds the values of a batch's rows.
    pub fn add(&mut self, batch: &Batch, log_probs: Vec<Vec<f32>>) {
        for (row, (&index, values)) in batch.indices.iter().zip(log_probs).enumerate() {
            let at = index * self.rows_per_record + row % self.rows_per_record.max(1);
            if let Some(place) = self.rows.get_mut(at) {
                *place = values;
            }
        }
    }

    /// Writes the folder.
    ///
    /// # Errors
    /// [`CheckpointError`] where it cannot be written.
    pub fn write(self, path: &Path, fingerprint: Fingerprint) -> Result<(), CheckpointError> {
        let about = About {
            fingerprint,
            values: String::new(),
            records: self.rows.len() / self.rows_per_record.max(1),
            rows_per_record: self.rows_per_record,
        };
        let counts: Vec<u8> = self.rows.iter().flat_map(|row| (row.len() as u64).to_le_bytes()).collect();
        let values: Vec<u8> = self.rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        let length = values.len() / 4;
        let about = About { values: hash(&values), ..about };
        let tensors = vec![
            Pending::owned(VALUES.to_owned(), vec![length], Dtype::F32, values),
            Pending::owned(COUNTS.to_owned(), vec![self.rows.len()], Dtype::U64, counts),
        ];
        let mut folder = DirWriter::create(path)?;
        write_model(&mut folder, "model", tensors, None)?;
        let about = serde_json::to_value(about).map_err(|error| CheckpointError::Json {
            path: path.join(ABOUT),
            line: 0,
            column: 0,
            message: error.to_string(),
        })?;
        folder.write_json(ABOUT, &about)?;
        folder.commit(Manifest::Omitted)?;
        Ok(())
    }
}
