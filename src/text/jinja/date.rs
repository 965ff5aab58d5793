//! `strftime_now`.

use super::python::refusal;
use chrono::{DateTime, NaiveDateTime};
use minijinja::Error;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The directives that chrono and Python's `strftime` (of glibc, in the C locale) write alike.
const DIRECTIVES: &str = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY";

/// Python's `datetime.strftime` of a time in UTC, without a time zone.
///
/// # Errors
/// For a directive that is not known.
pub(in crate::text) fn strftime(format: &str, now: SystemTime) -> Result<String, Error> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = i64::try_from(since.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let Some(now) = now.map(|now| now.naive_utc()) else {
        return Err(refusal("strftime_now: the clock shows no date of the Gregorian calendar"));
    };
    let mut out = String::new();
    let mut rest = format;
    while let Some((text, directive)) = rest.split_once('%') {
        out.push_str(text);
        let flag = directive.starts_with(['-', '_', '0']);
        let end = directive.char_indices().nth(1 + usize::from(flag)).map_or(directive.len(), |(end, _)| end);
        write_directive(&directive[..end], flag, now, since, &mut out)?;
        rest = &directive[end..];
    }
    out.push_str(rest);
    Ok(out)
}

fn write_directive(
    directive: &str,
    flag: bool,
    now: NaiveDateTime,
    since: Duration,
    out: &mut String,
) -> Result<(), Error> {
    let known = directive.chars().nth(usize::from(flag)).is_some_and(|c| DIRECTIVES.contains(c));
    let written = match directive {
        "%" => write!(out, "%"),
        // What Python's time without a zone writes.
        "z" | "Z" => Ok(()),
        "f" => write!(out, "{:06}", since.subsec_micros()),
        _ if known => write!(out, "{}", now.format(&format!("%{directive}"))),
        _ => Err(std::fmt::Error),
    };
    written.map_err(|_| refusal(format!("strftime_now: the directive %{directive} is not implemented")))
}
