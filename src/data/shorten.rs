//! Rows that are too long: whole messages are kept, and where not even one exchange fits, its end is cut off.
//!
//! - A conversation that is learned keeps the longest run of first messages that fits and ends in an answer, or, with
//!   `keep_end`, of last messages that fits and begins with the user; the system message stays in front as long as
//!   something fits behind it. What is kept is rendered and encoded anew, so that nothing in it is half there.
//! - Of a pair (and whatever else has a context and answers) the context is kept. With `keep_end` it loses its oldest
//!   messages first, the same ones in both rows.
//! - A row that is judged as a whole keeps messages likewise, up to any message.
//! - Where nothing of that fits, the end of the shortest choice (without `keep_end`, of a pair's rows) is cut off, as TRL
//!   does. Then an answer has no end marker. Where the cut would fall into an image, or leave nothing to learn, the record
//!   is skipped and counted.

use super::encode::{Outcome, Overlong, SkipReason};
use super::rows::{Part, RowParts};
use super::{DataError, Encoder, Place, TextRow};
use crate::example::Learns;
use crate::text::EncodedText;

impl Encoder {
    /// Encodes the rows of one record within the length limit; the longest row decides. `overlong` says what is done with
    /// more.
    pub(super) fn fit(
        &self,
        rows: &[RowParts],
        overlong: Overlong,
        place: &Place,
    ) -> Result<Outcome<Vec<TextRow>>, DataError> {
        let whole = rows.iter().map(|row| self.encode_row(row, &row.all(), place)).collect::<Result<Vec<_>, _>>()?;
        for (row, encoded) in rows.iter().zip(&whole) {
            if row.learns != Learns::Row && !teaches(&encoded.text.supervised) {
                let tokens = encoded.text.input_ids.len();
                return Err(DataError::NoSupervision { place: place.clone(), tokens });
            }
        }
        let tokens = whole.iter().map(|row| row.text.input_ids.len()).max().unwrap_or(0);
        if tokens <= self.max_length {
            return Ok(Outcome::Whole(whole));
        }
        match overlong {
            Overlong::Truncate => Ok(self.shorten(rows, whole, tokens, place)),
            Overlong::Skip => Ok(Outcome::Skipped { reason: SkipReason::TooLong, tokens }),
            Overlong::Error => Err(DataError::Overlong { place: place.clone(), tokens, max_length: self.max_length }),
        }
    }

    fn shorten(&self, rows: &[RowParts], whole: Vec<TextRow>, tokens: usize, place: &Place) -> Outcome<Vec<TextRow>> {
        // The rows of a record have one context, so that the parts of the first are those of all.
        let lists = rows.first().map_or_else(Vec::new, RowParts::parts);
        for list in &lists {
            if let Some(kept) = self.longest(rows, list, place) {
                return Outcome::Truncated { kept, tokens };
            }
        }
        let shortest = lists.iter().filter_map(|list| self.encode_part(rows, list.last()?, place));
        let mut last_resorts: Vec<Vec<TextRow>> = shortest.collect();
        if last_resorts.is_empty() {
            last_resorts.push(whole);
        }
        let learns = rows.first().map_or(Learns::Answers, |row| row.learns);
        let mut reason = SkipReason::NothingToLearn;
        for (i, rows) in last_resorts.into_iter().enumerate() {
            match rows.into_iter().map(|row| cut(row, self.max_length, learns)).collect() {
                Ok(kept) => return Outcome::Truncated { kept, tokens },
                Err(why) if i == 0 => reason = why,
                Err(_) => {}
            }
        }
        Outcome::Skipped { reason, tokens }
    }

    /// The first part of which all rows fit. The parts become shorter, so that it is found by halving.
    fn longest(&self, rows: &[RowParts], parts: &[Part], place: &Place) -> Option<Vec<TextRow>> {
        let (mut first, mut end) = (0, parts.len());
        let mut found = None;
        while first < end {
            let middle = first.midpoint(end);
            let encoded = self.encode_part(rows, &parts[middle], place);
            match encoded.filter(|rows| rows.iter().all(|row| row.text.input_ids.len() <= self.max_length)) {
                Some(fits) => {
                    found = Some(fits);
                    end = middle;
                }
                None => first = middle + 1,
            }
        }
        found
    }

    /// `None` for a part that the template has no words for (it may ask for a system message), or that teaches nothing.
    fn encode_part(&self, rows: &[RowParts], part: &Part, place: &Place) -> Option<Vec<TextRow>> {
        let encode = |row: &RowParts| {
            let encoded = self.encode_row(row, &row.messages(part), place).ok()?;
            (row.learns == Learns::Row || teaches(&encoded.text.supervised)).then_some(encoded)
        };
        rows.iter().map(encode).collect()
    }
}

/// Cuts a row to its first `max_length` tokens. Images that lie wholly behind the cut go with the text around them.
fn cut(row: TextRow, max_length: usize, learns: Learns) -> Result<TextRow, SkipReason> {
    let TextRow { text, mut images } = row;
    let text = truncate(text, max_length, learns)?;
    images.truncate(text.image_positions.len());
    Ok(TextRow { text, images })
}

/// Cuts a text to its first `max_length` tokens.
pub(super) fn truncate(mut text: EncodedText, max_length: usize, learns: Learns) -> Result<EncodedText, SkipReason> {
    if text.input_ids.len() <= max_length {
        return Ok(text);
    }
    if text.image_positions.iter().any(|at| at.start < max_length && max_length < at.end) {
        return Err(SkipReason::CutImage);
    }
    if learns != Learns::Row && !teaches(&text.supervised[..max_length]) {
        return Err(SkipReason::NothingToLearn);
    }
    text.input_ids.truncate(max_length);
    text.supervised.truncate(max_length);
    text.image_positions.retain(|at| at.end <= max_length);
    Ok(text)
}

/// Whether any token is a target. The first one never is: nothing precedes it.
pub(super) fn teaches(supervised: &[bool]) -> bool {
    supervised.iter().skip(1).any(|&s| s)
}
