//! Special tokens as settings.

use crate::settings::{Kind, SettingError};
use crate::text::{AddedTokens, SpecialRole, TextError, Tokenizer, WantedTokens};

crate::component! {
    /// Special tokens that the tokenizer should have. A role that it has already stays as it is; tokens that it lacks are
    /// added, and the embedding tables grow with them.
    pub struct SpecialTokens, SpecialTokensBuilder {
        /// Begin of sequence, where the tokenizer has none. Whether texts begin with it is the tokenizer's own setting.
        pub bos_token: Option<String> = None => Kind::text().or_none(),
        /// End of sequence, where the tokenizer has none.
        pub eos_token: Option<String> = None => Kind::text().or_none(),
        /// Padding, where the tokenizer has none.
        pub pad_token: Option<String> = None => Kind::text().or_none(),
        /// Unknown token, where the tokenizer has none.
        pub unk_token: Option<String> = None => Kind::text().or_none(),
        /// Separator, where the tokenizer has none.
        pub sep_token: Option<String> = None => Kind::text().or_none(),
        /// More special tokens, such as the markers of a prefix/suffix template.
        pub additional_special_tokens: Vec<String> = Vec::new() => Kind::list(),
        /// What the embeddings of new tokens begin with, each as `TOKEN=TEXT`: the mean of the embeddings of the text's
        /// tokens. A new token that is not listed begins with the mean of all embeddings.
        pub embeddings_initialization: Vec<String> = Vec::new() => Kind::list(),
        /// The embedding tables grow to a multiple of this many rows.
        pub pad_to_multiple_of: Option<usize> = None => Kind::count().or_none(),
    }
    check = SpecialTokens::check_tokens;
}

impl SpecialTokens {
    /// Adds the tokens to a tokenizer. What it returns says which rows the tables need and how they begin.
    ///
    /// # Errors
    /// As [`Tokenizer::add_wanted`].
    pub fn add_to(&self, tokenizer: &mut Tokenizer) -> Result<AddedTokens, TextError> {
        tokenizer.add_wanted(&self.wanted())
    }

    /// How many rows a table of `rows` rows has to have for a tokenizer; never fewer than it has.
    pub fn table_rows(&self, tokenizer: &Tokenizer, rows: usize) -> usize {
        tokenizer.vocab_size().max(rows).next_multiple_of(self.pad_to_multiple_of.unwrap_or(1))
    }

    fn wanted(&self) -> WantedTokens {
        let origins = self.embeddings_initialization.iter().filter_map(|entry| self.origin(entry));
        WantedTokens {
            roles: self.roles().into_iter().filter_map(|(role, token)| Some((role, token.clone()?))).collect(),
            additional: self.additional_special_tokens.clone(),
            origins: origins.map(|(token, text)| (token.to_owned(), text.to_owned())).collect(),
        }
    }

    fn roles(&self) -> [(SpecialRole, &Option<String>); 5] {
        [
            (SpecialRole::Bos, &self.bos_token),
            (SpecialRole::Eos, &self.eos_token),
            (SpecialRole::Pad, &self.pad_token),
            (SpecialRole::Unk, &self.unk_token),
            (SpecialRole::Sep, &self.sep_token),
        ]
    }

    /// The token and the text of an entry. A token may have an equals sign in it, so that the tokens decide; the longest.
    fn origin<'a>(&self, entry: &'a str) -> Option<(&'a str, &'a str)> {
        let named = self.roles().into_iter().filter_map(|(_, token)| token.as_ref());
        let of =
            |token: &String| Some((entry.get(..token.len())?, entry.strip_prefix(token.as_str())?.strip_prefix('=')?));
        named.chain(&self.additional_special_tokens).filter_map(of).max_by_key(|(token, _)| token.len())
    }

    fn check_tokens(&self) -> Result<(), SettingError> {
        match self.embeddings_initialization.iter().find(|entry| self.origin(entry).is_none()) {
            Some(entry) => Err(SettingError::rule(format!(
                "`embeddings_initialization` has {entry:?}, which is not `TOKEN=TEXT` with a token that is named beside it; add \
                 the token to `additional_special_tokens`"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::audit;

    #[test]
    fn an_entry_is_a_token_and_its_text() {
        audit::<SpecialTokens>().unwrap();
        let tokens = SpecialTokens {
            additional_special_tokens: vec!["<a=".into(), "<a=b>".into()],
            eos_token: Some("<end>".into()),
            embeddings_initialization: vec!["<a=b>=x = y".into(), "<a==z".into(), "<end>=.".into()],
            ..SpecialTokens::default()
        };
        tokens.check_tokens().unwrap();
        let wanted = tokens.wanted();
        let expected = [("<a=b>", "x = y"), ("<a=", "z"), ("<end>", ".")];
        assert_eq!(wanted.origins, expected.map(|(token, text)| (token.to_owned(), text.to_owned())));
        assert_eq!(wanted.roles, [(SpecialRole::Eos, "<end>".to_owned())]);
        let wrong = SpecialTokens { embeddings_initialization: vec!["<b>=x".into()], ..tokens };
        assert!(wrong.check_tokens().unwrap_err().to_string().contains("<b>=x"));
    }
}
