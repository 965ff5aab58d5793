//! The one list of names a pickle may ask for. A name stands for a variant here, never for code.

use super::super::tensors::Dtype;

/// What an allowed name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    Set,
    /// How protocol 2 spells bytes.
    Encode,
    Size,
    Device,
    /// `torch.Tensor` or `torch.nn.Parameter`, as an argument only.
    TensorClass,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    RebuildParameterWithState,
    RebuildFromType,
    Storage(Dtype),
    Dtype(Dtype),
}

/// The variant of `module.name`.
///
/// # Errors
/// Why it is refused. Every name that is not listed is.
pub(super) fn lookup(module: &str, name: &str) -> Result<Global, &'static str> {
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        ("builtins" | "__builtin__", "set" | "frozenset") => Ok(Global::Set),
        ("_codecs", "encode") => Ok(Global::Encode),
        ("torch", "Size") => Ok(Global::Size),
        ("torch", "device") => Ok(Global::Device),
        ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Ok(Global::TensorClass),
        ("torch._tensor", "_rebuild_from_type_v2") => Ok(Global::RebuildFromType),
        ("torch._utils", name) => rebuild(name),
        ("torch.storage", "UntypedStorage" | "_UntypedStorage") => Ok(Global::Storage(Dtype::U8)),
        ("torch.storage", "_load_from_bytes") => Err("which loads a second pickle from inside the first"),
        ("torch" | "torch.cuda", name) if name.ends_with("Storage") => storage(name).map(Global::Storage),
        ("torch", name) => dtype(name).map(Global::Dtype).ok_or(UNLISTED),
        _ => Err(UNLISTED),
    }
}

const UNLISTED: &str = "which a file of tensors does not need and this reader does not know";

fn rebuild(name: &str) -> Result<Global, &'static str> {
    match name {
        "_rebuild_tensor" => Ok(Global::RebuildTensor),
        "_rebuild_tensor_v2" => Ok(Global::RebuildTensorV2),
        "_rebuild_tensor_v3" => Ok(Global::RebuildTensorV3),
        "_rebuild_parameter" => Ok(Global::RebuildParameter),
        "_rebuild_parameter_with_state" => Ok(Global::RebuildParameterWithState),
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => {
            Err("a sparse tensor: save it with `.to_dense()` instead")
        }
        "_rebuild_qtensor" => Err("a quantized tensor: save it with `.dequantize()` instead"),
        "_rebuild_nested_tensor" => Err("a nested tensor: save its parts instead"),
        "_rebuild_meta_tensor_no_storage" => Err("a tensor on the device `meta`, which has no values"),
        _ => Err(UNLISTED),
    }
}

fn storage(name: &str) -> Result<Dtype, &'static str> {
    Ok(match name {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" | "UntypedStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        "ComplexFloatStorage" => Dtype::C64,
        "ComplexDoubleStorage" => return Err("of the type complex128, which safetensors does not have either"),
        "QInt8Storage" | "QUInt8Storage" | "QInt32Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => {
            return Err("a quantized tensor: save it with `.dequantize()` instead");
        }
        _ => return Err(UNLISTED),
    })
}

fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float64" => Dtype::F64,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        "complex64" => Dtype::C64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e4m3fnuz" => Dtype::F8_E4M3FNUZ,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e5m2fnuz" => Dtype::F8_E5M2FNUZ,
        "float8_e8m0fnu" => Dtype::F8_E8M0,
        _ => return None,
    })
}
