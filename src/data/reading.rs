//! How records are read, whatever their kind.

use super::{BadRecord, Overlong};

/// Settings that every data kind shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// One of LLaVA's conversations by name, `checkpoint` for the checkpoint's own template; `None` for the model's default.
    pub template: Option<String>,
    /// The most tokens a record may have, image tokens included.
    pub max_tokens_count: usize,
    /// What is done with longer records.
    pub overlong: Overlong,
    /// What is done with records that are refused.
    pub bad_record: BadRecord,
}

impl Reading {
    /// From the settings' own words, which their table has checked.
    pub fn parse(template: Option<String>, max_tokens_count: usize, overlong: &str, bad_record: &str) -> Self {
        let overlong = match overlong {
            "skip" => Overlong::Skip,
            "error" => Overlong::Error,
            _ => Overlong::Truncate,
        };
        let bad_record = if bad_record == "skip" { BadRecord::Skip } else { BadRecord::Error };
        Self { template, max_tokens_count, overlong, bad_record }
    }
}

impl Default for Reading {
    fn default() -> Self {
        Self { template: None, max_tokens_count: 2048, overlong: Overlong::default(), bad_record: BadRecord::default() }
    }
}
