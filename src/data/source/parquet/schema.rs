//! What a row of a table looks like as JSON.

use std::ops::Range;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::schema::types::{SchemaDescriptor, Type};

use super::value::Form;

/// A column, or columns that belong together.
///
/// Parquet stores each leaf of the nesting as a column of its own. A definition level says up to which depth of the
/// nesting a value is there, a repetition level in which of the lists around it the value goes on.
#[derive(Debug)]
pub struct Node {
    pub shape: Shape,
    /// The definition level from which on this is not null.
    pub defined: i16,
    /// The leaves below, by number.
    pub leaves: Range<usize>,
}

/// What a node becomes.
#[derive(Debug)]
pub enum Shape {
    /// One value.
    Value(Form),
    /// An object.
    Object(Vec<(String, Node)>),
    /// A file that the table carries, as Hugging Face stores pictures and sound: its bytes, its name, or both.
    File { bytes: Box<Node>, path: Box<Node> },
    /// A list; empty below the definition level, going on at the repetition level.
    List { element: Box<Node>, filled: i16, repeated: i16 },
    /// As a list, of keys and values: an object.
    Map { key: Box<Node>, value: Box<Node>, filled: i16, repeated: i16 },
}

/// Where in the nesting a type stands.
#[derive(Clone, Copy)]
struct Levels {
    defined: i16,
    repeated: i16,
}

impl Node {
    /// The object that each row is.
    ///
    /// # Errors
    /// In words, where the table has no column.
    pub fn of(schema: &SchemaDescriptor) -> Result<Self, String> {
        if schema.num_columns() == 0 {
            return Err("the table has no column".to_owned());
        }
        let mut leaf = 0;
        let top = Levels { defined: 0, repeated: 0 };
        let fields = fields(schema.root_schema(), top, &mut leaf)?;
        Ok(Self { shape: Shape::Object(fields), defined: 0, leaves: 0..leaf })
    }
}

fn fields(group: &Type, levels: Levels, leaf: &mut usize) -> Result<Vec<(String, Node)>, String> {
    group.get_fields().iter().map(|field| Ok((field.name().to_owned(), node(field, levels, leaf)?))).collect()
}

/// A field with its repetition.
fn node(field: &Type, around: Levels, leaf: &mut usize) -> Result<Node, String> {
    let first = *leaf;
    match field.get_basic_info().repetition() {
        Repetition::REQUIRED => content(field, around, leaf),
        Repetition::OPTIONAL => content(field, Levels { defined: around.defined + 1, ..around }, leaf),
        // A repeated field outside a list or map is a list that is never null, of what is never null.
        Repetition::REPEATED => {
            let inner = Levels { defined: around.defined + 1, repeated: around.repeated + 1 };
            let element = Box::new(content(field, inner, leaf)?);
            let shape = Shape::List { element, filled: inner.defined, repeated: inner.repeated };
            Ok(Node { shape, defined: around.defined, leaves: first..*leaf })
        }
    }
}

/// A field without its repetition, which `levels` includes.
fn content(field: &Type, levels: Levels, leaf: &mut usize) -> Result<Node, String> {
    let first = *leaf;
    let shape = if field.is_primitive() {
        *leaf += 1;
        Shape::Value(Form::of(field))
    } else if field.get_fields().is_empty() {
        return Err(format!("`{}` is a group without a column", field.name()));
    } else {
        match annotation(field) {
            Annotation::List(repeated) => list(field, repeated, levels, leaf)?,
            Annotation::Map(entries) => map(entries, levels, leaf)?,
            Annotation::None => object(fields(field, levels, leaf)?),
        }
    };
    Ok(Node { shape, defined: levels.defined, leaves: first..*leaf })
}

enum Annotation<'schema> {
    List(&'schema Type),
    Map(&'schema Type),
    None,
}

/// Whether a group says that it is a list or a map, and looks like one.
fn annotation(group: &Type) -> Annotation<'_> {
    let [inner] = group.get_fields() else { return Annotation::None };
    if inner.get_basic_info().repetition() != Repetition::REPEATED {
        return Annotation::None;
    }
    let info = group.get_basic_info();
    let keyed = inner.is_group() && inner.get_fields().len() == 2;
    match (info.logical_type_ref(), info.converted_type()) {
        (Some(LogicalType::List), _) | (None, ConvertedType::LIST) => Annotation::List(inner),
        (Some(LogicalType::Map), _) | (None, ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE) if keyed => {
            Annotation::Map(inner)
        }
        _ => Annotation::None,
    }
}

/// # Source
/// The format's rules for lists of older writers, `LogicalTypes.md`, "Backward-compatibility rules".
fn list(group: &Type, repeated: &Type, levels: Levels, leaf: &mut usize) -> Result<Shape, String> {
    let inner = Levels { defined: levels.defined + 1, repeated: levels.repeated + 1 };
    let named = repeated.name() == "array" || repeated.name() == format!("{}_tuple", group.name());
    let element = match repeated.is_group().then(|| repeated.get_fields()) {
        Some([element]) if !named => node(element, inner, leaf)?,
        _ => content(repeated, inner, leaf)?,
    };
    Ok(Shape::List { element: Box::new(element), filled: inner.defined, repeated: inner.repeated })
}

fn map(entries: &Type, levels: Levels, leaf: &mut usize) -> Result<Shape, String> {
    let inner = Levels { defined: levels.defined + 1, repeated: levels.repeated + 1 };
    let [key, value] = entries.get_fields() else { return Err("a map without keys and values".to_owned()) };
    let key = Box::new(node(key, inner, leaf)?);
    let value = Box::new(node(value, inner, leaf)?);
    Ok(Shape::Map { key, value, filled: inner.defined, repeated: inner.repeated })
}

fn object(mut fields: Vec<(String, Node)>) -> Shape {
    if fields.len() != 2 {
        return Shape::Object(fields);
    }
    let find = |name: &str, form: Form| {
        fields
            .iter()
            .position(|(field, node)| field == name && matches!(&node.shape, Shape::Value(found) if *found == form))
    };
    match (find("bytes", Form::Bytes), find("path", Form::Text)) {
        (Some(bytes), Some(_)) => {
            let (_, bytes) = fields.swap_remove(bytes);
            let (_, path) = fields.swap_remove(0);
            Shape::File { bytes: Box::new(bytes), path: Box::new(path) }
        }
        _ => Shape::Object(fields),
    }
}

impl Form {
    /// What the values of a column are.
    fn of(field: &Type) -> Self {
        let info = field.get_basic_info();
        if let Some(form) = info.logical_type_ref().and_then(Self::of_logical) {
            return form;
        }
        match info.converted_type() {
            ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON => Self::Text,
            ConvertedType::DECIMAL => Self::Decimal { scale: field.get_scale() },
            ConvertedType::DATE => Self::Date,
            ConvertedType::TIME_MILLIS => Self::Time { per_second: 1000 },
            ConvertedType::TIME_MICROS => Self::Time { per_second: 1_000_000 },
            ConvertedType::TIMESTAMP_MILLIS => Self::Timestamp { per_second: 1000, utc: true },
            ConvertedType::TIMESTAMP_MICROS => Self::Timestamp { per_second: 1_000_000, utc: true },
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64 => {
                Self::Unsigned
            }
            _ => match field.get_physical_type() {
                Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY => Self::Bytes,
                _ => Self::Plain,
            },
        }
    }

    fn of_logical(logical: &LogicalType) -> Option<Self> {
        use parquet::basic::TimeUnit;
        let per_second = |unit: &TimeUnit| match unit {
            TimeUnit::MILLIS => 1000,
            TimeUnit::MICROS => 1_000_000,
            TimeUnit::NANOS => 1_000_000_000,
        };
        Some(match logical {
            LogicalType::String | LogicalType::Enum | LogicalType::Json => Self::Text,
            LogicalType::Decimal(decimal) => Self::Decimal { scale: decimal.scale },
            LogicalType::Date => Self::Date,
            LogicalType::Time(time) => Self::Time { per_second: per_second(&time.unit) },
            LogicalType::Timestamp(time) => {
                Self::Timestamp { per_second: per_second(&time.unit), utc: time.is_adjusted_to_u_t_c }
            }
            LogicalType::Integer(integer) if !integer.is_signed => Self::Unsigned,
            LogicalType::Integer(_) => Self::Plain,
            LogicalType::Uuid => Self::Uuid,
            LogicalType::Float16 => Self::Float16,
            _ => return None,
        })
    }
}
