//! The values a pickle can make here: a small closed set, none of which can do anything.

use super::super::tensors::Dtype;
use super::globals::Global;

/// One value. Copying it copies a handle; lists and dicts live in the [`Heap`], so that the memo's
/// aliases see what is put into them later.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Str(&'a str),
    Tuple(Tuple),
    Global(Global),
    Object(u32),
    /// Something that no state dict needs, by what it is: `a float`.
    Other(&'static str),
}

/// A window of the heap's items.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuple {
    start: u32,
    len: u32,
}

/// What a handle stands for.
#[derive(Debug)]
pub(super) enum Object<'a> {
    List(Vec<Value<'a>>),
    /// In the order of writing; a key may occur twice.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(Tensor),
}

/// The bytes that tensors are views of, by their name in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub dtype: Dtype,
    /// Elements, as the pickle claims.
    pub len: u64,
}

/// A tensor as the pickle describes it, not yet checked against its storage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    /// The storage's handle.
    pub storage: u32,
    pub dtype: Dtype,
    /// Elements before the first.
    pub offset: i64,
    pub size: Tuple,
    pub stride: Tuple,
}

/// All objects of one pickle. Nothing is freed before the end: what a pickle can make is bounded by
/// its length.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    objects: Vec<Object<'a>>,
    items: Vec<Value<'a>>,
}

/// More objects than a checkpoint of two hundred thousand tensors needs.
const MAX_OBJECTS: usize = 1 << 20;

impl<'a> Heap<'a> {
    pub fn object(&mut self, object: Object<'a>) -> Result<Value<'a>, String> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(format!("it makes more than {MAX_OBJECTS} objects"));
        }
        self.objects.push(object);
        Ok(Value::Object((self.objects.len() - 1) as u32))
    }

    /// Every item was paid for by at least one byte of a pickle that is far shorter than 4 GiB.
    pub fn tuple(&mut self, items: &[Value<'a>]) -> Value<'a> {
        let tuple = Tuple { start: self.items.len() as u32, len: items.len() as u32 };
        self.items.extend_from_slice(items);
        Value::Tuple(tuple)
    }

    pub fn items(&self, tuple: Tuple) -> &[Value<'a>] {
        &self.items[tuple.start as usize..][..tuple.len as usize]
    }

    pub fn get(&self, handle: u32) -> &Object<'a> {
        &self.objects[handle as usize]
    }

    pub fn get_mut(&mut self, handle: u32) -> &mut Object<'a> {
        &mut self.objects[handle as usize]
    }

    pub fn objects(&self) -> &[Object<'a>] {
        &self.objects
    }

    pub fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match value {
            Value::Object(handle) => match self.get(handle) {
                Object::Dict(entries) => Some(entries),
                _ => None,
            },
            _ => None,
        }
    }

    /// The members of a list or a tuple.
    pub fn sequence(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(tuple) => Some(self.items(tuple)),
            Value::Object(handle) => match self.get(handle) {
                Object::List(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn tensor(&self, value: Value<'a>) -> Option<Tensor> {
        match value {
            Value::Object(handle) => match self.get(handle) {
                Object::Tensor(tensor) => Some(*tensor),
                _ => None,
            },
            _ => None,
        }
    }

    /// What a value is, for messages.
    pub fn kind(&self, value: Value<'a>) -> &'static str {
        match value {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an integer",
            Value::Str(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::Global(_) => "a function or class",
            Value::Other(kind) => kind,
            Value::Object(handle) => match self.get(handle) {
                Object::List(_) => "a list",
                Object::Dict(_) => "a dict",
                Object::Storage(_) => "a storage",
                Object::Tensor(_) => "a tensor",
            },
        }
    }
}
