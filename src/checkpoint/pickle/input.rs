//! The bytes of a pickle, whose claims about lengths are compared with what is left.

/// Longest pickle read. A tensor takes about 100 bytes of it.
pub(super) const MAX_PICKLE: usize = 16 << 20;

/// A pickle, read from its beginning.
#[derive(Debug)]
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    /// Whether the file goes on behind `bytes`.
    cut: bool,
    /// Where the pickle begins in the file, for messages.
    base: usize,
    /// Bytes read.
    pub at: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8], base: usize) -> Self {
        Self { bytes: &bytes[..bytes.len().min(MAX_PICKLE)], cut: bytes.len() > MAX_PICKLE, base, at: 0 }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes.first_chunk().copied().ok_or_else(|| "the pickle ends".to_owned())
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..len) else {
            return Err(self.ends(len));
        };
        self.at += len;
        Ok(taken)
    }

    fn ends(&self, wanted: usize) -> String {
        let end = self.base + self.bytes.len();
        if self.cut {
            return format!("the pickle is longer than the {MAX_PICKLE} bytes allowed");
        }
        format!("{wanted} bytes are to follow, but the pickle ends at byte {end}; the file is truncated or damaged")
    }

    /// A little-endian length of `N` bytes, at most what is left.
    pub fn length<const N: usize>(&mut self, what: &str) -> Result<usize, String> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.array::<N>()?);
        let (claimed, left) = (u64::from_le_bytes(wide), self.bytes.len() - self.at);
        if claimed > left as u64 {
            return Err(match self.cut {
                true => self.ends(0),
                false => format!("{what} claims {claimed} bytes, the pickle has {left} left"),
            });
        }
        Ok(claimed as usize)
    }

    pub fn counted<const N: usize>(&mut self, what: &str) -> Result<&'a [u8], String> {
        let len = self.length::<N>(what)?;
        self.take(len)
    }

    pub fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let Some(len) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.ends(rest.len() + 1));
        };
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|error| format!("a name is not UTF-8: {error}"))
    }
}
