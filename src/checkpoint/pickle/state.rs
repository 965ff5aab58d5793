//! Finding the state dict in what a file holds, and the tensors' names.

use super::error::{PickleError, shown};
use super::value::{Heap, Tensor, Value};

/// Keys under which training scripts keep the state dict, beside other things.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// Keys of a training checkpoint whose tensors are no weights.
const TRAINING: [&str; 16] = [
    "optimizer",
    "optimizers",
    "optimizer_state_dict",
    "optimizer_states",
    "optim",
    "lr_scheduler",
    "lr_schedulers",
    "scheduler",
    "scheduler_state_dict",
    "scaler",
    "amp",
    "rng_state",
    "rng_states",
    "cuda_rng_state",
    "random_rng_state",
    "loops",
];

/// Deepest nesting of dicts and lists; a dict that holds itself ends here.
const MAX_DEPTH: usize = 32;

/// Values and bytes of names that the smallest pickle may give, so that short loops are called by
/// their name.
const FLOOR: usize = 1 << 14;

/// Tensors with their names, and what else the file holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub tensors: Vec<(String, Tensor)>,
    pub beside: Vec<String>,
}

/// Walks the file's value. `pickle` is the pickle's length, which bounds the walk: aliases let a few
/// bytes describe a tree of any size.
pub(super) fn find<'a>(heap: &Heap<'a>, root: Value<'a>, pickle: usize) -> Result<Found, PickleError> {
    let mut walk = Walk {
        heap,
        visits: pickle * 8 + FLOOR,
        letters: pickle * 4 + FLOOR,
        // A tensor's key and value take 6 bytes at the very least, where the value is an alias.
        leaves: pickle / 4 + FLOOR,
        found: Found::default(),
    };
    let root = walk.unwrap(root)?;
    if heap.dict(root).is_none() {
        return Err(PickleError::contents(format!(
            "the file holds {}, expected a dict of tensors by name",
            heap.kind(root)
        )));
    }
    if !walk.holds_tensor(root, 0)? {
        return Err(PickleError::contents("there is no tensor in the file"));
    }
    walk.descend(String::new(), root, 0)?;
    Ok(walk.found)
}

struct Walk<'h, 'a> {
    heap: &'h Heap<'a>,
    /// Values that may still be looked at.
    visits: usize,
    /// Bytes of names that may still be made.
    letters: usize,
    /// Names that may still be kept.
    leaves: usize,
    found: Found,
}

impl<'a> Walk<'_, 'a> {
    /// Steps into `{"state_dict": …}` and the like for as long as everything else is no weights.
    fn unwrap(&mut self, mut root: Value<'a>) -> Result<Value<'a>, PickleError> {
        for _ in 0..MAX_DEPTH {
            let Some(entries) = self.heap.dict(root) else { break };
            let (mut inside, mut outside) = (Vec::new(), Vec::new());
            for &(key, value) in entries {
                let key = if let Value::Str(key) = key { key } else { "" };
                if !self.holds_tensor(value, 0)? {
                    continue;
                }
                if WRAPPERS.contains(&key) && self.heap.dict(value).is_some() {
                    inside.push((key, value));
                } else if !TRAINING.contains(&key) {
                    outside.push(key);
                }
            }
            let weights = match inside[..] {
                [] => break,
                [(_, weights)] if outside.is_empty() => weights,
                [(key, _), ..] => {
                    let other = inside.get(1).map(|&(key, _)| key).or(outside.first().copied()).unwrap_or_default();
                    return Err(PickleError::contents(format!(
                        "there are tensors under `{}` and under `{}`; save the dict that is meant in a file of its own",
                        shown(key),
                        shown(other)
                    )));
                }
            };
            for &(key, value) in entries {
                if !same(value, weights) {
                    let name = self.name("", key)?;
                    self.leaf()?;
                    self.found.beside.push(name);
                }
            }
            root = weights;
        }
        Ok(root)
    }

    fn holds_tensor(&mut self, value: Value<'a>, depth: usize) -> Result<bool, PickleError> {
        self.visit(depth)?;
        if self.heap.tensor(value).is_some() {
            return Ok(true);
        }
        let heap = self.heap;
        for &(_, value) in heap.dict(value).unwrap_or_default() {
            if self.holds_tensor(value, depth + 1)? {
                return Ok(true);
            }
        }
        for &value in heap.sequence(value).unwrap_or_default() {
            if self.holds_tensor(value, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Collects the tensors at and below `value`, which is called `name`.
    fn descend(&mut self, name: String, value: Value<'a>, depth: usize) -> Result<(), PickleError> {
        let heap = self.heap;
        if let Some(tensor) = heap.tensor(value) {
            self.leaf()?;
            self.found.tensors.push((name, tensor));
        } else if !self.holds_tensor(value, depth)? {
            self.leaf()?;
            self.found.beside.push(name);
        } else if let Some(entries) = heap.dict(value) {
            for &(key, value) in entries {
                let name = self.name(&name, key)?;
                self.descend(name, value, depth + 1)?;
            }
        } else {
            for (at, &value) in heap.sequence(value).unwrap_or_default().iter().enumerate() {
                let name = self.name(&name, Value::Int(at as i64))?;
                self.descend(name, value, depth + 1)?;
            }
        }
        Ok(())
    }

    /// The name of an entry: `outer.key`.
    fn name(&mut self, outer: &str, key: Value<'a>) -> Result<String, PickleError> {
        let name = match key {
            Value::Str(key) if outer.is_empty() => key.to_owned(),
            Value::Str(key) => format!("{outer}.{key}"),
            Value::Int(key) if outer.is_empty() => key.to_string(),
            Value::Int(key) => format!("{outer}.{key}"),
            other => {
                let kind = self.heap.kind(other);
                return Err(PickleError::contents(format!(
                    "a key under `{}` is {kind}, expected a name",
                    shown(outer)
                )));
            }
        };
        self.letters = self.letters.checked_sub(name.len()).ok_or_else(repeats)?;
        Ok(name)
    }

    fn leaf(&mut self) -> Result<(), PickleError> {
        self.leaves = self.leaves.checked_sub(1).ok_or_else(repeats)?;
        Ok(())
    }

    fn visit(&mut self, depth: usize) -> Result<(), PickleError> {
        if depth > MAX_DEPTH {
            return Err(PickleError::contents(format!(
                "dicts and lists are nested deeper than {MAX_DEPTH}, or one holds itself"
            )));
        }
        self.visits = self.visits.checked_sub(1).ok_or_else(repeats)?;
        Ok(())
    }
}

fn repeats() -> PickleError {
    PickleError::contents("the same dicts and lists are repeated more often than any checkpoint does")
}

fn same(one: Value<'_>, other: Value<'_>) -> bool {
    matches!((one, other), (Value::Object(one), Value::Object(other)) if one == other)
}
