//! One stored value as JSON.

use chrono::{DateTime, NaiveTime, SecondsFormat};
use half::f16;
use parquet::data_type::ByteArray;
use serde_json::{Number, Value};

/// A value as it is stored.
#[derive(Debug)]
pub enum Stored {
    Bool(bool),
    Int32(i32),
    Int64(i64),
    /// A time of old writers: nanoseconds since 1970.
    Nanoseconds(i64),
    Float(f32),
    Double(f64),
    Bytes(ByteArray),
}

/// What a stored value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// What it is stored as.
    Plain,
    Unsigned,
    Text,
    /// Bytes that the table says no more about.
    Bytes,
    Decimal {
        scale: i32,
    },
    Date,
    Time {
        per_second: i64,
    },
    Timestamp {
        per_second: i64,
        utc: bool,
    },
    Uuid,
    Float16,
}

/// Puts bytes into a file with this extension and returns its name.
pub type Keep<'a, E> = dyn FnMut(&[u8], &str) -> Result<String, E> + 'a;

impl Form {
    /// The value as JSON. Dates and times are written as in ISO 8601; decimals become the nearest number; a number that
    /// JSON has no word for becomes a text such as `"NaN"`, so that nobody takes it for a missing one. Bytes become the
    /// name of a file where they are a picture or no text.
    ///
    /// # Errors
    /// In words, for values that do not fit their column; those of `keep`.
    pub fn json<E: From<String>>(self, stored: &Stored, keep: &mut Keep<'_, E>) -> Result<Value, E> {
        let misfit = || E::from(format!("the column is {self:?}, but this is stored there: {stored:?}"));
        Ok(match (self, stored) {
            (Self::Plain, Stored::Bool(value)) => Value::Bool(*value),
            (Self::Plain, Stored::Int32(value)) => Value::from(*value),
            (Self::Plain, Stored::Int64(value)) => Value::from(*value),
            (Self::Plain, Stored::Float(value)) => single(*value),
            (Self::Plain, Stored::Double(value)) => number(*value),
            (Self::Unsigned, Stored::Int32(value)) => Value::from(value.cast_unsigned()),
            (Self::Unsigned, Stored::Int64(value)) => Value::from(value.cast_unsigned()),
            (Self::Text, Stored::Bytes(bytes)) => {
                Value::from(text(bytes).ok_or_else(|| E::from("a text that is not UTF-8".to_owned()))?)
            }
            (Self::Bytes, Stored::Bytes(bytes)) => match (picture(bytes.data()), text(bytes)) {
                (None, Some(text)) => Value::from(text),
                (kind, _) => Value::from(keep(bytes.data(), kind.unwrap_or("bin"))?),
            },
            (Self::Decimal { scale }, Stored::Int32(value)) => decimal(i128::from(*value), scale),
            (Self::Decimal { scale }, Stored::Int64(value)) => decimal(i128::from(*value), scale),
            (Self::Decimal { scale }, Stored::Bytes(bytes)) => {
                decimal(big_endian(bytes.data()).ok_or_else(misfit)?, scale)
            }
            (Self::Date, Stored::Int32(days)) => {
                let date = DateTime::from_timestamp(i64::from(*days) * 86_400, 0).ok_or_else(misfit)?;
                Value::from(date.date_naive().to_string())
            }
            (Self::Time { per_second }, Stored::Int32(value)) => {
                time(i64::from(*value), per_second).ok_or_else(misfit)?
            }
            (Self::Time { per_second }, Stored::Int64(value)) => time(*value, per_second).ok_or_else(misfit)?,
            (Self::Timestamp { per_second, utc }, Stored::Int64(value)) => {
                timestamp(*value, per_second, utc).ok_or_else(misfit)?
            }
            (_, Stored::Nanoseconds(value)) => timestamp(*value, 1_000_000_000, false).ok_or_else(misfit)?,
            (Self::Uuid, Stored::Bytes(bytes)) if bytes.len() == 16 => Value::from(uuid(bytes.data())),
            (Self::Float16, Stored::Bytes(bytes)) => match bytes.data() {
                &[low, high] => single(f16::from_le_bytes([low, high]).to_f32()),
                _ => return Err(misfit()),
            },
            _ => return Err(misfit()),
        })
    }
}

/// The extension for a picture, by its first bytes.
pub fn picture(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [0xFF, 0xD8, 0xFF, ..] => Some("jpg"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Some("bmp"),
        _ => None,
    }
}

fn text(bytes: &ByteArray) -> Option<&str> {
    std::str::from_utf8(bytes.data()).ok()
}

/// By way of its shortest decimal form, so that 0.1 stays 0.1.
fn single(value: f32) -> Value {
    if value.is_finite() { number(value.to_string().parse().unwrap_or(f64::from(value))) } else { number(value.into()) }
}

fn number(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => Value::from("NaN"),
        None if value > 0.0 => Value::from("Infinity"),
        None => Value::from("-Infinity"),
    }
}

fn decimal(unscaled: i128, scale: i32) -> Value {
    match i64::try_from(unscaled) {
        Ok(whole) if scale == 0 => Value::from(whole),
        // Reading the decimal form rounds once, where dividing would round twice.
        _ => number(format!("{unscaled}e{}", -i64::from(scale)).parse().unwrap_or(f64::NAN)),
    }
}

/// A number in two's complement of at most 16 bytes.
fn big_endian(bytes: &[u8]) -> Option<i128> {
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
    Some(bytes.iter().fold(sign, |number, byte| number << 8 | i128::from(*byte)))
}

fn time(value: i64, per_second: i64) -> Option<Value> {
    let (seconds, nanoseconds) = split(value, per_second)?;
    let time = NaiveTime::from_num_seconds_from_midnight_opt(u32::try_from(seconds).ok()?, nanoseconds)?;
    Some(Value::from(time.to_string()))
}

fn timestamp(value: i64, per_second: i64, utc: bool) -> Option<Value> {
    let (seconds, nanoseconds) = split(value, per_second)?;
    let mut text = DateTime::from_timestamp(seconds, nanoseconds)?.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    if !utc {
        text.truncate(text.len() - 1);
    }
    Some(Value::from(text))
}

fn split(value: i64, per_second: i64) -> Option<(i64, u32)> {
    let rest = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
    Some((value.div_euclid(per_second), u32::try_from(rest).ok()?))
}

fn uuid(bytes: &[u8]) -> String {
    let hexadecimal = super::super::scratch::hexadecimal(bytes);
    [&hexadecimal[..8], &hexadecimal[8..12], &hexadecimal[12..16], &hexadecimal[16..20], &hexadecimal[20..]].join("-")
}
