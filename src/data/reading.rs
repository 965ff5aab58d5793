//! How records are read, whatever their kind.

use super::{BadRecord, Overlong};
use crate::example::Learns;

/// Settings that every data kind shares; [`data_component!`](crate::data_component) adds them to a kind's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// How a conversation is written as text: the name of a template, `checkpoint` for the checkpoint's own, or a file;
    /// `None` for the model's default.
    pub template: Option<String>,
    /// The most tokens a record may have, image tokens included.
    pub max_tokens_count: usize,
    /// What is done with longer records.
    pub overlong: Overlong,
    /// Whether a longer record keeps its last messages instead of its first ones.
    pub keep_end: bool,
    /// What is done with records that are refused.
    pub bad_record: BadRecord,
    /// Whether the assistant's messages alone are learned, not all text.
    pub only_answer_loss: bool,
    /// Whether of the assistant's messages the last one alone is learned.
    pub only_last_replica_loss: bool,
    /// Whether the records' system messages are left out.
    pub ignore_system_prompt: bool,
    /// Whether a text ends as its template ends it; else one more end of sequence follows, which is not learned.
    pub single_eos: bool,
}

impl Reading {
    /// The words of `overlong` and `bad_record`, which their table has checked.
    pub fn parse(mut self, overlong: &str, bad_record: &str) -> Self {
        self.overlong = match overlong {
            "skip" => Overlong::Skip,
            "error" => Overlong::Error,
            _ => Overlong::Truncate,
        };
        self.bad_record = if bad_record == "skip" { BadRecord::Skip } else { BadRecord::Error };
        self
    }
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            template: None,
            max_tokens_count: 2048,
            overlong: Overlong::default(),
            keep_end: false,
            bad_record: BadRecord::default(),
            only_answer_loss: true,
            only_last_replica_loss: false,
            ignore_system_prompt: false,
            single_eos: true,
        }
    }
}

/// What of a record's messages is written, learned and kept where not all of it fits, whatever its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Whether the assistant's messages alone are learned. Else all text is, images and the BOS in front excepted, of all
    /// messages whose `train` is set: a pair's context never is.
    pub only_answer_loss: bool,
    /// Whether of the assistant's messages the last one that is kept is the only one learned.
    pub only_last_replica_loss: bool,
    /// Whether system messages are left out, with the images they may show.
    pub ignore_system_prompt: bool,
    /// Whether a text ends as its template ends it; else one more end of sequence follows, which is not learned.
    pub single_eos: bool,
    /// Whether a record that is too long keeps its last messages instead of its first ones.
    pub keep_end: bool,
}

impl TextOptions {
    /// The settings that would be ignored where this is learned from a row, by their names: a recipe refuses them.
    pub fn without_effect(&self, learns: Learns) -> Vec<&'static str> {
        if learns == Learns::Answers {
            return Vec::new();
        }
        let chosen =
            [("only_answer_loss", !self.only_answer_loss), ("only_last_replica_loss", self.only_last_replica_loss)];
        chosen.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }
}

impl Default for TextOptions {
    fn default() -> Self {
        Self::from(&Reading::default())
    }
}

impl From<&Reading> for TextOptions {
    fn from(reading: &Reading) -> Self {
        Self {
            only_answer_loss: reading.only_answer_loss,
            only_last_replica_loss: reading.only_last_replica_loss,
            ignore_system_prompt: reading.ignore_system_prompt,
            single_eos: reading.single_eos,
            keep_end: reading.keep_end,
        }
    }
}

/// Defines a data kind's settings: those of its own, then those that all kinds share. Writes
/// `fn common(&self) -> Reading`, for [`DataKind::reading`](crate::data::DataKind::reading) to return.
///
/// The form is [`component!`](crate::component)'s; each field of the kind's own ends in a comma.
#[macro_export]
macro_rules! data_component {
    (
        $(#[$meta:meta])*
        pub struct $name:ident, $builder:ident { $($own:tt)* }
        $(check = $check:path;)?
    ) => {
        $crate::component! {
            $(#[$meta])*
            pub struct $name, $builder {
                $($own)*
                /// How a conversation is written as text: a named template (`v1`, `plain`, `plain_text`, …), `checkpoint`
                /// for the checkpoint's own, or a file FILE.json of a prefix/suffix template; left open, the checkpoint's, or v1 for LLaVA.
                pub template: Option<String> = None => $crate::settings::Kind::text().or_none(),
                /// The most tokens a record may have, image tokens included.
                pub max_tokens_count: usize = 2048 => $crate::settings::Kind::count(),
                /// What is done with a longer record.
                pub overlong: String = "truncate".to_owned() => $crate::settings::Kind::choice(&["truncate", "skip", "error"]),
                /// Whether a longer record keeps its last messages instead of its first ones.
                pub keep_end: bool = false => $crate::settings::Kind::bool(),
                /// What is done with a record that is refused.
                pub bad_record: String = "error".to_owned() => $crate::settings::Kind::choice(&["error", "skip"]),
                /// Whether the assistant's messages alone are learned, not all text.
                pub only_answer_loss: bool = true => $crate::settings::Kind::bool(),
                /// Whether of the assistant's messages the last one alone is learned.
                pub only_last_replica_loss: bool = false => $crate::settings::Kind::bool(),
                /// Whether the records' system messages are left out.
                pub ignore_system_prompt: bool = false => $crate::settings::Kind::bool(),
                /// Whether a text ends as its template ends it; else one more end of sequence follows, which is not learned.
                pub single_eos: bool = true => $crate::settings::Kind::bool(),
            }
            $(check = $check;)?
        }

        impl $name {
            /// The settings that all data kinds share.
            pub fn common(&self) -> $crate::data::Reading {
                let reading = $crate::data::Reading {
                    template: self.template.clone(),
                    max_tokens_count: self.max_tokens_count,
                    keep_end: self.keep_end,
                    only_answer_loss: self.only_answer_loss,
                    only_last_replica_loss: self.only_last_replica_loss,
                    ignore_system_prompt: self.ignore_system_prompt,
                    single_eos: self.single_eos,
                    ..$crate::data::Reading::default()
                };
                reading.parse(&self.overlong, &self.bad_record)
            }
        }
    };
}
