//! What the allowed functions make of their arguments, as descriptions.

use super::super::tensors::Dtype;
use super::error::shown;
use super::globals::Global;
use super::value::{Heap, Object, Storage, Tensor, Tuple, Value};

/// The value of `function(*arguments)`, and how many entries were copied for it, at most `budget`.
pub(super) fn call<'a>(
    heap: &mut Heap<'a>,
    function: Value<'a>,
    arguments: Value<'a>,
    budget: usize,
) -> Result<(Value<'a>, usize), String> {
    let Value::Global(function) = function else {
        return Err(format!("it calls {}", heap.kind(function)));
    };
    let Value::Tuple(arguments) = arguments else {
        return Err(format!("it calls a function with {}, expected a tuple", heap.kind(arguments)));
    };
    let value = match function {
        Global::OrderedDict => return ordered_dict(heap, arguments, budget),
        Global::Set => Value::Other("a set"),
        Global::Encode => Value::Other("bytes"),
        Global::Device => Value::Other("a device"),
        Global::Size => match heap.items(arguments) {
            [] => Value::Tuple(arguments),
            &[Value::Tuple(size)] => Value::Tuple(size),
            _ => return Err("torch.Size gets something else than one tuple".to_owned()),
        },
        _ => rebuilt(heap, function, arguments)?,
    };
    Ok((value, 0))
}

/// Python 2 wrote an ordered dict's entries as an argument, a list of pairs.
fn ordered_dict<'a>(heap: &mut Heap<'a>, arguments: Tuple, budget: usize) -> Result<(Value<'a>, usize), String> {
    let pairs: &[Value<'_>] = match heap.items(arguments) {
        [] => &[],
        &[list] => heap.sequence(list).ok_or_else(|| format!("an OrderedDict is made of {}", heap.kind(list)))?,
        more => return Err(format!("an OrderedDict is made of {} arguments, expected 0 or 1", more.len())),
    };
    let copied = pairs.len();
    if copied > budget {
        return Err("it copies the same values again and again".to_owned());
    }
    let entries = pairs
        .iter()
        .map(|&pair| match heap.sequence(pair) {
            Some(&[key, value]) => Ok((key, value)),
            _ => Err(format!("an entry of an OrderedDict is {}, expected a pair", heap.kind(pair))),
        })
        .collect::<Result<_, _>>()?;
    Ok((heap.object(Object::Dict(entries))?, copied))
}

/// A tensor from one of torch's rebuild functions. Gradients, hooks and attributes are dropped.
fn rebuilt<'a>(heap: &mut Heap<'a>, function: Global, arguments: Tuple) -> Result<Value<'a>, String> {
    let (function, arguments) = match (function, heap.items(arguments)) {
        // A tensor with attributes: (function, class, its arguments, attributes).
        (
            Global::RebuildFromType,
            &[Value::Global(inner), Value::Global(Global::TensorClass), Value::Tuple(tuple), _],
        ) => (inner, tuple),
        (function, _) => (function, arguments),
    };
    let (&[storage, offset, size, stride], rest) = match (function, heap.items(arguments)) {
        (Global::RebuildParameter, &[tensor, _, _]) | (Global::RebuildParameterWithState, &[tensor, _, _, _]) => {
            return match heap.tensor(tensor) {
                Some(_) => Ok(tensor),
                None => Err(format!("a parameter is made of {}", heap.kind(tensor))),
            };
        }
        (Global::RebuildTensor | Global::RebuildTensorV2 | Global::RebuildTensorV3, arguments) => {
            arguments.split_first_chunk::<4>().ok_or("a tensor is made of fewer than 4 arguments")?
        }
        _ => return Err("it calls a function with arguments that torch does not give it".to_owned()),
    };
    let (dtype, metadata) = match (function, rest) {
        (Global::RebuildTensor, []) | (Global::RebuildTensorV2, [_, _]) => (None, None),
        (Global::RebuildTensorV2, &[_, _, metadata]) => (None, Some(metadata)),
        (Global::RebuildTensorV3, &[_, _, Value::Global(Global::Dtype(dtype))]) => (Some(dtype), None),
        (Global::RebuildTensorV3, &[_, _, Value::Global(Global::Dtype(dtype)), metadata]) => {
            (Some(dtype), Some(metadata))
        }
        _ => return Err(format!("a tensor is made of {} arguments of the wrong kinds", rest.len() + 4)),
    };
    plain(heap, metadata)?;
    let tensor = tensor(heap, [storage, offset, size, stride], dtype)?;
    heap.object(Object::Tensor(tensor))
}

/// Refuses tensors whose values are not the bytes of their storage.
fn plain<'a>(heap: &Heap<'a>, metadata: Option<Value<'a>>) -> Result<(), String> {
    let flags = match metadata {
        None | Some(Value::None) => return Ok(()),
        Some(metadata) => heap.dict(metadata).ok_or_else(|| format!("a tensor's flags are {}", heap.kind(metadata)))?,
    };
    match flags.iter().find(|(_, value)| !matches!(value, Value::Bool(false))) {
        None => Ok(()),
        Some(&(Value::Str(flag), _)) => {
            Err(format!("a tensor carries the flag `{}`: save it with `.resolve_conj().resolve_neg()`", shown(flag)))
        }
        Some(_) => Err("a tensor carries a flag that is no name".to_owned()),
    }
}

fn tensor<'a>(heap: &Heap<'a>, arguments: [Value<'a>; 4], dtype: Option<Dtype>) -> Result<Tensor, String> {
    let (Value::Object(handle), Value::Int(offset), Value::Tuple(size), Value::Tuple(stride)) = arguments.into() else {
        let kinds = arguments.map(|value| heap.kind(value)).join(", ");
        return Err(format!("a tensor is made of {kinds}; expected a storage, an integer and two tuples"));
    };
    let Object::Storage(storage) = heap.get(handle) else {
        return Err(format!("a tensor is made of {}, expected a storage", heap.kind(arguments[0])));
    };
    Ok(Tensor { storage: handle, dtype: dtype.unwrap_or(storage.dtype), offset, size, stride })
}

/// The storage that a persistent id names.
pub(super) fn storage<'a>(heap: &Heap<'a>, id: Value<'a>) -> Result<Storage<'a>, String> {
    let Value::Tuple(id) = id else {
        return Err(format!("a storage is named by {}, expected a tuple", heap.kind(id)));
    };
    let (kind, class, key, location, len) = match heap.items(id) {
        // The older format has a sixth member, which was a view of the storage before torch 0.4.
        &[Value::Str("module"), ..] => {
            return Err("it holds a whole module and its code; save `module.state_dict()` instead".to_owned());
        }
        &[kind, class, key, location, len] | &[kind, class, key, location, len, Value::None] => {
            (kind, class, key, location, len)
        }
        &[_, _, _, _, _, _] => return Err("it holds a view of a storage, as torch wrote before 0.4".to_owned()),
        items => return Err(format!("a storage is named by {} values, expected 5 or 6", items.len())),
    };
    match (kind, class, key, location, len) {
        (Value::Str("storage"), _, _, Value::Str("meta"), _) => {
            Err("a tensor is on the device `meta`, which has no values".to_owned())
        }
        (
            Value::Str("storage"),
            Value::Global(Global::Storage(dtype)),
            Value::Str(key),
            Value::Str(_),
            Value::Int(len),
        ) => {
            let len = u64::try_from(len).map_err(|_| format!("a storage has {len} elements"))?;
            Ok(Storage { key, dtype, len })
        }
        _ => {
            let kinds = [kind, class, key, location, len].map(|value| heap.kind(value)).join(", ");
            Err(format!(
                "a storage is named by {kinds}; expected the string `storage`, a storage class, two strings and an integer"
            ))
        }
    }
}
