//! What bytes a vocabulary's pieces stand for.

use tokenizers::DecoderWrapper;

/// Whether each character of a piece stands for a byte, as GPT-2 writes them.
pub(super) fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(all) => all.get_decoders().iter().any(is_byte_level),
        _ => false,
    }
}

/// The bytes of a piece such as `\u{120}cat`; `None` where a character of it stands for none.
pub(super) fn of_byte_level(piece: &str) -> Option<Vec<u8>> {
    piece.chars().map(byte).collect()
}

/// The byte of a piece such as `<0xF0>`.
pub(super) fn of_fallback(piece: &str) -> Option<Vec<u8>> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_byte.then(|| u8::from_str_radix(digits, 16).ok().map(|byte| vec![byte])).flatten()
}

/// GPT-2 lets printable bytes stand for themselves; the others have the characters from U+0100 on, in their order.
fn byte(c: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(printable),
        code => (0..=u8::MAX).filter(|byte| !printable(byte)).nth((code - 0x100) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;
    use std::path::Path;

    fn tokenizer(name: &str) -> Tokenizer {
        Tokenizer::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name)).unwrap()
    }

    #[test]
    fn tokens_of_a_text_have_its_text_and_bytes() {
        for name in ["metaspace", "bytelevel"] {
            let tokenizer = tokenizer(name);
            let text = "The quick cat \u{1F600} says \u{e9}.";
            let ids: Vec<u32> = tokenizer.encode(text).unwrap().iter().map(|token| token.id).collect();
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.bytes_within(id).unwrap()).collect();
            assert_eq!(String::from_utf8(bytes).unwrap().trim_start(), text, "{name}");
            let words: Vec<u32> = tokenizer.encode("x and the").unwrap().iter().map(|token| token.id).collect();
            let joined: String = words.iter().map(|&id| tokenizer.text_within(id)).collect();
            assert_eq!(joined.trim_start(), "x and the", "{name}");
        }
    }

    #[test]
    fn every_byte_has_its_own_character() {
        let all = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<u8> = all.into_iter().map(|c| byte(c).unwrap()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<u8>>());
        assert_eq!(of_byte_level("\u{120}cat"), Some(b" cat".to_vec()));
        assert_eq!((of_byte_level("\u{2581}cat"), of_fallback("<0xF0>")), (None, Some(vec![0xF0])));
        assert_eq!([of_fallback("<0xF>"), of_fallback("<0x+1>"), of_fallback("cat")], [None, None, None]);
    }
}
