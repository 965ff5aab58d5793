//! The stack machine of the pickle format, protocols 2 to 5, over values that can do nothing.
//!
//! There is no recursion and nothing is called: a name that the pickle asks for is looked up in
//! [`globals`](super::globals), and "calling" it makes a value in [`rebuild`](super::rebuild).
//! Every instruction costs at least one byte of input and keeps a bounded number of values, so that
//! memory is bounded by the input, whatever lengths and indices it claims.
//!
//! Source: the instruction list in CPython's `Lib/pickletools.py`.

use super::error::{PickleError, shown};
use super::globals;
use super::input::Input;
use super::opcode as op;
use super::rebuild;
use super::value::{Heap, Object, Value};

/// Most values on the stack; `torch.save` puts a few thousand there.
const MAX_STACK: usize = 1 << 20;

/// A pickle's result.
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    pub heap: Heap<'a>,
    pub root: Value<'a>,
    /// Bytes of the pickle, its last instruction included.
    pub len: usize,
}

/// Runs the pickle at the beginning of `input`; `base` is where that is in the file, for messages.
pub(super) fn load(input: &[u8], base: usize) -> Result<Loaded<'_>, PickleError> {
    let mut machine = Machine {
        input: Input::new(input, base),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        heap: Heap::default(),
        copied: 0,
    };
    loop {
        let start = machine.input.at;
        let step = machine.step();
        match step {
            Ok(None) => {}
            Ok(Some(root)) => return Ok(Loaded { heap: machine.heap, root, len: machine.input.at }),
            Err(Refusal::Reason(reason)) => return Err(PickleError::pickle(base + start, reason)),
            Err(Refusal::Global { global, why }) => return Err(PickleError::Global { at: base + start, global, why }),
        }
    }
}

enum Refusal {
    Reason(String),
    Global { global: String, why: &'static str },
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Self::Reason(reason.to_owned())
    }
}

struct Machine<'a> {
    input: Input<'a>,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: Vec<Option<Value<'a>>>,
    heap: Heap<'a>,
    /// Entries that were copied from one object into another, which no byte of input paid for.
    copied: usize,
}

impl<'a> Machine<'a> {
    /// Runs one instruction; `Some` is the pickle's result.
    fn step(&mut self) -> Result<Option<Value<'a>>, Refusal> {
        let code = self.input.byte()?;
        match code {
            op::STOP => return self.pop().map(Some),
            op::PROTO => self.proto()?,
            op::FRAME => drop(self.input.length::<8>("the frame")?),
            op::MARK => self.marks.push(self.stack.len()),
            op::NONE => self.push(Value::None)?,
            op::NEWTRUE => self.push(Value::Bool(true))?,
            op::NEWFALSE => self.push(Value::Bool(false))?,
            op::BININT | op::BININT1 | op::BININT2 | op::LONG1 | op::LONG4 => self.integer(code)?,
            op::BINFLOAT => {
                self.input.take(8)?;
                self.push(Value::Other("a float"))?;
            }
            op::SHORT_BINUNICODE | op::BINUNICODE | op::BINUNICODE8 => self.text(code)?,
            op::SHORT_BINSTRING | op::BINSTRING => self.python2_text(code)?,
            op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => self.bytes(code)?,
            op::EMPTY_TUPLE | op::TUPLE | op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => self.tuple(code)?,
            op::EMPTY_LIST => self.make(Object::List(Vec::new()))?,
            op::EMPTY_DICT => self.make(Object::Dict(Vec::new()))?,
            op::EMPTY_SET => self.push(Value::Other("a set"))?,
            op::FROZENSET => {
                self.pop_mark()?;
                self.push(Value::Other("a set"))?;
            }
            op::APPEND | op::APPENDS | op::SETITEM | op::SETITEMS | op::ADDITEMS => self.fill(code)?,
            op::POP => self.discard()?,
            op::POP_MARK => drop(self.pop_mark()?),
            op::DUP => {
                let top = self.top()?;
                self.push(top)?;
            }
            op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => self.remember(code)?,
            op::BINGET | op::LONG_BINGET => self.recall(code)?,
            op::GLOBAL | op::STACK_GLOBAL => self.global(code)?,
            op::REDUCE => self.reduce()?,
            op::BUILD => self.build()?,
            op::BINPERSID => {
                let id = self.pop()?;
                let storage = rebuild::storage(&self.heap, id)?;
                self.make(Object::Storage(storage))?;
            }
            _ => return Err(op::refusal(code).into()),
        }
        Ok(None)
    }

    fn proto(&mut self) -> Result<(), Refusal> {
        match self.input.byte()? {
            2..=5 => Ok(()),
            other => Err(format!("pickle protocol {other}, expected 2 to 5").into()),
        }
    }

    fn integer(&mut self, code: u8) -> Result<(), Refusal> {
        let value = match code {
            op::BININT => Value::Int(i32::from_le_bytes(self.input.array()?).into()),
            op::BININT1 => Value::Int(self.input.byte()?.into()),
            op::BININT2 => Value::Int(u16::from_le_bytes(self.input.array()?).into()),
            _ => {
                let len = if code == op::LONG1 {
                    self.input.length::<1>("an integer")?
                } else {
                    self.input.length::<4>("an integer")?
                };
                long(self.input.take(len)?)
            }
        };
        self.push(value)
    }

    fn text(&mut self, code: u8) -> Result<(), Refusal> {
        let bytes = match code {
            op::SHORT_BINUNICODE => self.input.counted::<1>("a string"),
            op::BINUNICODE => self.input.counted::<4>("a string"),
            _ => self.input.counted::<8>("a string"),
        }?;
        let text = std::str::from_utf8(bytes).map_err(|error| format!("a string is not UTF-8: {error}"))?;
        self.push(Value::Str(text))
    }

    /// Python 2's `str`, in which old files keep the tensors' names.
    fn python2_text(&mut self, code: u8) -> Result<(), Refusal> {
        let bytes = if code == op::SHORT_BINSTRING {
            self.input.counted::<1>("a string")
        } else {
            self.input.counted::<4>("a string")
        }?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Other("bytes"), Value::Str))
    }

    fn bytes(&mut self, code: u8) -> Result<(), Refusal> {
        match code {
            op::SHORT_BINBYTES => self.input.counted::<1>("bytes"),
            op::BINBYTES => self.input.counted::<4>("bytes"),
            _ => self.input.counted::<8>("bytes"),
        }?;
        self.push(Value::Other("bytes"))
    }

    fn tuple(&mut self, code: u8) -> Result<(), Refusal> {
        let from = match code {
            op::EMPTY_TUPLE => self.stack.len(),
            op::TUPLE => self.mark()?,
            _ => {
                let count = usize::from(code - op::TUPLE1) + 1;
                self.reachable().checked_sub(count).map(|_| self.stack.len() - count).ok_or(EMPTY)?
            }
        };
        let tuple = self.heap.tuple(&self.stack[from..]);
        self.stack.truncate(from);
        self.push(tuple)
    }

    /// Puts values into the list, dict or set below them.
    fn fill(&mut self, code: u8) -> Result<(), Refusal> {
        let from = match code {
            op::APPEND | op::SETITEM => {
                let count = if code == op::APPEND { 1 } else { 2 };
                self.reachable().checked_sub(count).map(|_| self.stack.len() - count).ok_or(EMPTY)?
            }
            _ => self.mark()?,
        };
        let values = self.stack.split_off(from);
        let target = self.top()?;
        let object = match target {
            Value::Object(handle) => self.heap.get_mut(handle),
            Value::Other("a set") if code == op::ADDITEMS => return Ok(()),
            other => return Err(format!("it puts values into {}", self.heap.kind(other)).into()),
        };
        match (object, code) {
            (Object::List(list), op::APPEND | op::APPENDS) => list.extend(values),
            (Object::Dict(entries), op::SETITEM | op::SETITEMS) => {
                let (pairs, rest) = values.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err("it sets a key without a value".into());
                }
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            _ => return Err(format!("it puts values into {} by the wrong instruction", self.heap.kind(target)).into()),
        }
        Ok(())
    }

    /// `POP` also removes a mark where that is the last thing pushed.
    fn discard(&mut self) -> Result<(), Refusal> {
        if self.reachable() == 0 && self.marks.pop().is_some() {
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn remember(&mut self, code: u8) -> Result<(), Refusal> {
        let index = match code {
            op::BINPUT => self.input.byte()?.into(),
            op::LONG_BINPUT => u32::from_le_bytes(self.input.array()?) as usize,
            _ => self.memo.len(),
        };
        // Writers number the memo from 0 or 1 without holes, and each entry takes a byte or more.
        if index > self.input.at {
            return Err(format!("it writes entry {index} of the memo after {} bytes", self.input.at).into());
        }
        let top = self.top()?;
        if index >= self.memo.len() {
            self.memo.resize(index + 1, None);
        }
        self.memo[index] = Some(top);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Result<(), Refusal> {
        let index = if code == op::BINGET {
            self.input.byte()?.into()
        } else {
            u32::from_le_bytes(self.input.array()?) as usize
        };
        match self.memo.get(index) {
            Some(&Some(value)) => self.push(value),
            _ => Err(format!("it reads entry {index} of the memo, which was not written").into()),
        }
    }

    fn global(&mut self, code: u8) -> Result<(), Refusal> {
        let (module, name) = if code == op::GLOBAL {
            (self.input.line()?, self.input.line()?)
        } else {
            let name = self.pop()?;
            match (self.pop()?, name) {
                (Value::Str(module), Value::Str(name)) => (module, name),
                (module, name) => {
                    let kinds = format!("{} and {}", self.heap.kind(module), self.heap.kind(name));
                    return Err(format!("it names a function by {kinds}, expected two strings").into());
                }
            }
        };
        match globals::lookup(module, name) {
            Ok(global) => self.push(Value::Global(global)),
            Err(why) => Err(Refusal::Global { global: shown(&format!("{module}.{name}")), why }),
        }
    }

    fn reduce(&mut self) -> Result<(), Refusal> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let budget = self.input.len().saturating_sub(self.copied);
        let (value, copied) = rebuild::call(&mut self.heap, function, arguments, budget)?;
        self.copied += copied;
        self.push(value)
    }

    /// Attributes of a dict, such as the `_metadata` of `Module.state_dict()`, are dropped: they
    /// hold version numbers.
    fn build(&mut self) -> Result<(), Refusal> {
        self.pop()?;
        let target = self.top()?;
        match self.heap.dict(target) {
            Some(_) => Ok(()),
            None => Err(format!("it sets attributes of {}", self.heap.kind(target)).into()),
        }
    }

    fn make(&mut self, object: Object<'a>) -> Result<(), Refusal> {
        let value = self.heap.object(object)?;
        self.push(value)
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Refusal> {
        if self.stack.len() >= MAX_STACK {
            return Err(format!("more than {MAX_STACK} values are on the stack").into());
        }
        self.stack.push(value);
        Ok(())
    }

    /// Values above the last mark: what lies below is out of reach until the mark is gone.
    fn reachable(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Value<'a>, Refusal> {
        self.stack.last().copied().filter(|_| self.reachable() > 0).ok_or(EMPTY.into())
    }

    fn pop(&mut self) -> Result<Value<'a>, Refusal> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn mark(&mut self) -> Result<usize, Refusal> {
        self.marks.pop().ok_or_else(|| "there is no mark".into())
    }

    fn pop_mark(&mut self) -> Result<(), Refusal> {
        let from = self.mark()?;
        self.stack.truncate(from);
        Ok(())
    }
}

const EMPTY: &str = "it takes a value from an empty stack";

/// A little-endian two's complement integer of any length.
fn long<'a>(bytes: &[u8]) -> Value<'a> {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    match wide.get_mut(..bytes.len()) {
        Some(low) => low.copy_from_slice(bytes),
        None => return Value::Other("an integer of more than 64 bits"),
    }
    Value::Int(i64::from_le_bytes(wide))
}
