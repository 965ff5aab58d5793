//! Which records are this machine's.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// One of several parts of a file: `2/4` is the second of four.
///
/// Parts are of consecutive records, so that their outputs, one behind the other, are the output of the whole.
///
/// ```
/// use firebrick::pipelines::infer::Shard;
///
/// let second: Shard = "2/4".parse()?;
/// assert_eq!(second.range(10), 2..5);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which, counted from 1.
    number: usize,
    count: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { number: 1, count: 1 };

    /// Whether this is all there is.
    pub fn is_whole(&self) -> bool {
        self.count == 1
    }

    /// Its records, of `records` in all. Parts differ by at most one record.
    pub fn range(&self, records: usize) -> Range<usize> {
        let start = |number: usize| (records as u128 * number as u128 / self.count as u128) as usize;
        start(self.number - 1)..start(self.number)
    }

    /// How file names call it: `2-of-4`, with zeros in front, so that names sort as the parts do.
    pub fn suffix(&self) -> String {
        let digits = self.count.to_string().len();
        format!("{:0digits$}-of-{}", self.number, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        match numbers {
            Some((number, count)) if 1 <= number && number <= count => Ok(Self { number, count }),
            Some((number, count)) if count > 0 => {
                Err(format!("there is no part {number} of {count}; parts are counted from 1 to {count}"))
            }
            _ => Err("write PART/PARTS, for instance 1/4 for the first of four".to_owned()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}
