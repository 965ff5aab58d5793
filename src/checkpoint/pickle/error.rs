//! Why a PyTorch file was not read.

/// What to do with a file that is refused though its owner trusts it.
const ADVICE: &str = "if you trust the file, convert it in Python: `torch.load(file, weights_only=True)`, \
                      then `safetensors.torch.save_file(tensors, file)`";

/// A `.bin`, `.pt` or `.pth` file that cannot be read without running it, or not at all.
///
/// Offsets are bytes from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// The pickle asks for a function or class that a state dict does not need.
    #[error("byte {at}: the pickle asks for `{global}`, {why}; nothing of the file was run; {ADVICE}")]
    Global {
        /// Where the name stands.
        at: usize,
        /// The full name, e.g. `posix.system`.
        global: String,
        /// Why it is refused.
        why: &'static str,
    },
    /// The pickle is damaged, or does something that `torch.save` does not.
    #[error("byte {at}: {reason}")]
    Pickle {
        /// Where the instruction stands.
        at: usize,
        /// What is wrong, with both values.
        reason: String,
    },
    /// The file around the pickle is damaged or of another kind.
    #[error("not a whole PyTorch file: {reason}")]
    File {
        /// What is wrong, with both values.
        reason: String,
    },
    /// The pickle holds something else than one state dict.
    #[error("no state dict: {reason}")]
    Contents {
        /// What was found and what to do.
        reason: String,
    },
    /// One tensor cannot be read.
    #[error("tensor `{tensor}` {reason}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What is wrong, with both values.
        reason: String,
    },
}

impl PickleError {
    pub(super) fn pickle(at: usize, reason: impl Into<String>) -> Self {
        Self::Pickle { at, reason: reason.into() }
    }

    pub(super) fn file(reason: impl Into<String>) -> Self {
        Self::File { reason: reason.into() }
    }

    pub(super) fn contents(reason: impl Into<String>) -> Self {
        Self::Contents { reason: reason.into() }
    }

    pub(super) fn tensor(tensor: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { tensor: shown(tensor), reason: reason.into() }
    }
}

/// A name from the file as it may stand in a message: control characters escaped, so that a file
/// cannot write to the terminal, and not longer than a line or two.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 200;
    let mut text: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}
