//! Pages to rows.

use std::ffi::OsStr;
use std::path::Path;

use parquet::column::reader::ColumnReader;
use parquet::file::reader::RowGroupReader;
use serde_json::{Map, Value};

use super::Problem;
use super::schema::{Node, Shape};
use super::value::{Form, Keep, Stored, picture};

/// The columns of one row group, read a few rows at a time.
pub struct Columns(Vec<Column>);

struct Column {
    reader: ColumnReader,
    values: std::vec::IntoIter<Stored>,
    /// Of each entry; empty where the column is never null.
    defined: Vec<i16>,
    /// Of each entry; empty where the column is in no list.
    repeated: Vec<i16>,
    most_defined: i16,
    entries: usize,
    /// The entry that is next.
    at: usize,
}

/// Reads records into a column and wraps each value.
macro_rules! read {
    ($column:expr, $reader:expr, $rows:expr, $wrap:expr) => {{
        let mut values = Vec::new();
        let (defined, repeated) = (Some(&mut $column.defined), Some(&mut $column.repeated));
        let read = $reader.read_records($rows, defined, repeated, &mut values)?;
        $column.values = values.into_iter().map($wrap).collect::<Vec<_>>().into_iter();
        read
    }};
}

impl Columns {
    /// The columns of a row group.
    pub fn of(group: &dyn RowGroupReader) -> Result<Self, Problem> {
        let schema = group.metadata().schema_descr_ptr();
        let column = |i: usize| {
            Ok(Column {
                reader: group.get_column_reader(i)?,
                values: Vec::new().into_iter(),
                defined: Vec::new(),
                repeated: Vec::new(),
                most_defined: schema.column(i).max_def_level(),
                entries: 0,
                at: 0,
            })
        };
        (0..group.num_columns()).map(column).collect::<Result<_, _>>().map(Self)
    }

    /// Reads the next `rows` rows of every column.
    pub fn fill(&mut self, rows: usize) -> Result<(), Problem> {
        self.0.iter_mut().try_for_each(|column| column.fill(rows))
    }

    /// The next row, as an object. `keep` puts a file's bytes somewhere and returns its name.
    pub fn record(&mut self, root: &Node, keep: &mut Keep<'_, Problem>) -> Result<Value, Problem> {
        if self.0.iter().any(|column| column.repetition().is_none_or(|level| level != 0)) {
            return Err(disagree());
        }
        self.read(root, keep)
    }

    fn read(&mut self, node: &Node, keep: &mut Keep<'_, Problem>) -> Result<Value, Problem> {
        let first = node.leaves.start;
        if self.column(first)?.definition()? < node.defined {
            self.skip(node)?;
            return Ok(Value::Null);
        }
        match &node.shape {
            Shape::Value(form) => match self.take(first)? {
                Some(stored) => form.json(&stored, keep),
                None => Err(disagree()),
            },
            Shape::Object(fields) => {
                let mut object = Map::with_capacity(fields.len());
                for (name, field) in fields {
                    object.insert(name.clone(), self.read(field, keep)?);
                }
                Ok(Value::Object(object))
            }
            Shape::File { bytes, path } => self.file(bytes, path, keep),
            Shape::List { element, filled, repeated } => {
                let mut list = Vec::new();
                self.each(node, *filled, *repeated, |columns| {
                    list.push(columns.read(element, keep)?);
                    Ok(())
                })?;
                Ok(Value::Array(list))
            }
            Shape::Map { key, value, filled, repeated } => {
                let mut object = Map::new();
                self.each(node, *filled, *repeated, |columns| {
                    let key = match columns.read(key, keep)? {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    object.insert(key, columns.read(value, keep)?);
                    Ok(())
                })?;
                Ok(Value::Object(object))
            }
        }
    }

    /// Calls `one` for each element of a list.
    fn each(
        &mut self,
        list: &Node,
        filled: i16,
        repeated: i16,
        mut one: impl FnMut(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let first = list.leaves.start;
        if self.column(first)?.definition()? < filled {
            return self.skip(list);
        }
        loop {
            one(self)?;
            if self.column(first)?.repetition().is_none_or(|level| level < repeated) {
                return Ok(());
            }
        }
    }

    /// A file that the table carries: the name it is kept under, or, without bytes, the one the table gives.
    fn file(&mut self, bytes: &Node, path: &Node, keep: &mut Keep<'_, Problem>) -> Result<Value, Problem> {
        let bytes = self.take_within(bytes)?;
        let path = match self.take_within(path)? {
            Some(stored) => Form::Text.json(&stored, keep)?,
            None => Value::Null,
        };
        let Some(Stored::Bytes(bytes)) = bytes else { return Ok(path) };
        let named = path.as_str().and_then(|path| Path::new(path).extension()).and_then(OsStr::to_str);
        let named = named.filter(|name| name.len() <= 5 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let extension = picture(bytes.data()).or(named).unwrap_or("bin");
        Ok(Value::String(keep(bytes.data(), extension)?))
    }

    fn take_within(&mut self, node: &Node) -> Result<Option<Stored>, Problem> {
        self.take(node.leaves.start)
    }

    /// The next value of a column, or `None` where it is null.
    fn take(&mut self, column: usize) -> Result<Option<Stored>, Problem> {
        self.column(column)?.take()
    }

    /// Moves behind one entry of all columns below a node.
    fn skip(&mut self, node: &Node) -> Result<(), Problem> {
        node.leaves.clone().try_for_each(|leaf| self.take(leaf).map(drop))
    }

    fn column(&mut self, column: usize) -> Result<&mut Column, Problem> {
        self.0.get_mut(column).ok_or_else(disagree)
    }
}

impl Column {
    fn fill(&mut self, rows: usize) -> Result<(), Problem> {
        self.defined.clear();
        self.repeated.clear();
        self.at = 0;
        let (records, _, entries) = match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => read!(self, reader, rows, Stored::Bool),
            ColumnReader::Int32ColumnReader(reader) => read!(self, reader, rows, Stored::Int32),
            ColumnReader::Int64ColumnReader(reader) => read!(self, reader, rows, Stored::Int64),
            ColumnReader::Int96ColumnReader(reader) => {
                read!(self, reader, rows, |time| Stored::Nanoseconds(time.to_nanos()))
            }
            ColumnReader::FloatColumnReader(reader) => read!(self, reader, rows, Stored::Float),
            ColumnReader::DoubleColumnReader(reader) => read!(self, reader, rows, Stored::Double),
            ColumnReader::ByteArrayColumnReader(reader) => read!(self, reader, rows, Stored::Bytes),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                read!(self, reader, rows, |bytes| Stored::Bytes(bytes.into()))
            }
        };
        self.entries = entries;
        if records != rows {
            return Err(Problem::File(format!("a column ends early: {records} of the next {rows} rows are there")));
        }
        Ok(())
    }

    /// The definition level of the next entry.
    fn definition(&self) -> Result<i16, Problem> {
        if self.at >= self.entries {
            return Err(disagree());
        }
        Ok(self.defined.get(self.at).copied().unwrap_or(self.most_defined))
    }

    /// The repetition level of the next entry, of which there may be none.
    fn repetition(&self) -> Option<i16> {
        (self.at < self.entries).then(|| self.repeated.get(self.at).copied().unwrap_or(0))
    }

    fn take(&mut self) -> Result<Option<Stored>, Problem> {
        let there = self.definition()? == self.most_defined;
        self.at += 1;
        match there.then(|| self.values.next()) {
            Some(None) => Err(disagree()),
            Some(value) => Ok(value),
            None => Ok(None),
        }
    }
}

impl From<String> for Problem {
    fn from(detail: String) -> Self {
        Self::File(detail)
    }
}

fn disagree() -> Problem {
    Problem::File("the columns disagree about where a row ends or what is null".to_owned())
}
