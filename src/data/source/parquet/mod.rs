//! Parquet tables, unpacked once into one line of JSON a row; pictures become files beside it.
//!
//! ```text
//! caught     a decoder's panic is an error of the file
//! guard      is the footer one that the decoder can be trusted with?
//! schema     columns and their nesting -> what a row looks like as JSON
//! columns    pages -> values and levels, a few rows at a time
//! value      one stored value -> JSON
//! ```

mod caught;
mod columns;
mod guard;
mod schema;
mod value;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use self::caught::caught;
use self::columns::Columns;
use self::schema::Node;
use super::scratch::{Scratch, Unpacked};
use crate::data::{DataError, Place};

/// Rows that are held in memory at a time. Few, since a row may hold pictures.
const ROWS: usize = 64;

/// Writes every row of the table at `path` as a line of JSON into `scratch`.
///
/// # Errors
/// [`DataError::Parquet`], [`DataError::ParquetRow`], [`DataError::EmptyTable`] and those of [`Unpacked`].
pub fn unpack(path: &Path, file: File, scratch: &Arc<Scratch>) -> Result<(), DataError> {
    // The decoder refuses most bad input; where one of its assertions fails instead, the file is to blame as well.
    let mut row = 0;
    let unpacked = caught(|| rows(path, file, scratch, &mut row));
    let problem = match unpacked {
        Ok(Ok(0)) => return Err(DataError::EmptyTable { path: path.to_owned() }),
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(problem)) => problem,
        Err(detail) => Problem::File(detail),
    };
    Err(match problem {
        Problem::Data(error) => *error,
        Problem::File(detail) if row == 0 => DataError::Parquet { path: path.to_owned(), detail },
        Problem::File(detail) => DataError::ParquetRow { place: Place::new(path, row), detail },
    })
}

/// Why unpacking ended early.
pub(super) enum Problem {
    /// The file's own fault, in words.
    File(String),
    /// An error that has its place already.
    Data(Box<DataError>),
}

impl From<ParquetError> for Problem {
    fn from(error: ParquetError) -> Self {
        Self::File(match error {
            ParquetError::General(text) | ParquetError::EOF(text) => text,
            other => other.to_string(),
        })
    }
}

impl From<DataError> for Problem {
    fn from(error: DataError) -> Self {
        Self::Data(Box::new(error))
    }
}

/// Number of rows; `row` is the one that is being read, counted from 1, or 0 before the first.
fn rows(path: &Path, file: File, scratch: &Arc<Scratch>, row: &mut usize) -> Result<usize, Problem> {
    guard::check(&file).map_err(Problem::File)?;
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let root = Node::of(&schema).map_err(Problem::File)?;
    let mut unpacked = Unpacked::create(path, scratch)?;
    let mut count = 0;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group)?;
        let expected = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        let mut columns = Columns::of(&*group)?;
        let mut left = expected;
        while left > 0 {
            *row = count + 1;
            let rows = ROWS.min(left);
            columns.fill(rows)?;
            for _ in 0..rows {
                *row = count + 1;
                let value = columns.record(&root, &mut |bytes, name| Ok(unpacked.blob(bytes, name)?))?;
                unpacked.line(&value)?;
                count += 1;
            }
            left -= rows;
        }
    }
    unpacked.finish()?;
    Ok(count)
}
