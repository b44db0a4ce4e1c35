//! Metadata values of a GGUF file, and the cursor that reads them.

use std::fmt;

/// The maximum number of values in a list. A tokenizer may have as many merges.
const MAX_LIST: u64 = 1 << 20;

/// A metadata value; texts and lists are slices of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// Any of the eight integer types.
    Integer(i128),
    /// A 64-bit float, or a 32-bit float as the shortest decimal that rounds to it.
    Float(f64),
    /// A boolean.
    Flag(bool),
    /// A UTF-8 text.
    Text(&'a str),
    /// A list of values of one type.
    List(List<'a>),
}

/// A list whose elements have been checked but not read; it refers to the file's bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List<'a> {
    kind: Kind,
    len: u64,
    bytes: &'a [u8],
}

/// The type of a value in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Flag,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_number(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Flag,
            8 => Self::Text,
            9 => Self::List,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return Err(format!("unknown value type {number}")),
        })
    }
}

impl<'a> List<'a> {
    /// The elements, if they are texts.
    pub(crate) fn texts(&self) -> Option<Vec<&'a str>> {
        self.elements(|value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    /// The elements, if they are integers.
    pub(crate) fn integers(&self) -> Option<Vec<i128>> {
        self.elements(|value| match value {
            Value::Integer(number) => Some(number),
            _ => None,
        })
    }

    /// The elements, if they are floats.
    pub(crate) fn floats(&self) -> Option<Vec<f64>> {
        self.elements(|value| match value {
            Value::Float(number) => Some(number),
            _ => None,
        })
    }

    fn elements<T>(&self, convert: impl Fn(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        let mut cursor = Cursor::new(self.bytes);
        (0..self.len)
            .map(|_| cursor.value_of(self.kind).ok().and_then(&convert))
            .collect()
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(formatter),
            Self::Float(number) => number.fmt(formatter),
            Self::Flag(flag) => flag.fmt(formatter),
            Self::Text(text) => write!(formatter, "{text:?}"),
            Self::List(list) => write!(formatter, "a list of {} values", list.len),
        }
    }
}

/// Reads forward through bytes, and fails instead of passing their end.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    /// The length of the file, of which the cursor may be allowed to read only a part.
    file_len: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self::at_most(bytes, bytes.len())
    }

    /// A cursor that reads at most this many bytes of a file.
    pub(crate) fn at_most(file: &'a [u8], max_bytes: usize) -> Self {
        Self {
            bytes: &file[..file.len().min(max_bytes)],
            position: 0,
            file_len: file.len(),
        }
    }

    /// The number of bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The number of bytes of the file.
    pub(crate) fn file_len(&self) -> usize {
        self.file_len
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let rest = &self.bytes[self.position..];
        let array = *rest
            .first_chunk::<N>()
            .ok_or_else(|| self.too_short(N as u64))?;
        self.position += N;
        Ok(array)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, String> {
        let len = self.u64()?;
        let rest = &self.bytes[self.position..];
        let bytes = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let bytes = bytes.ok_or_else(|| self.too_short(len))?;
        self.position += bytes.len();
        std::str::from_utf8(bytes).map_err(|error| format!("not a UTF-8 text: {error}"))
    }

    /// A value that is preceded by its type.
    pub(crate) fn value(&mut self) -> Result<Value<'a>, String> {
        let kind = Kind::from_number(self.u32()?)?;
        self.value_of(kind)
    }

    fn value_of(&mut self, kind: Kind) -> Result<Value<'a>, String> {
        Ok(match kind {
            Kind::U8 => Value::Integer(self.array().map(u8::from_le_bytes)?.into()),
            Kind::I8 => Value::Integer(self.array().map(i8::from_le_bytes)?.into()),
            Kind::U16 => Value::Integer(self.array().map(u16::from_le_bytes)?.into()),
            Kind::I16 => Value::Integer(self.array().map(i16::from_le_bytes)?.into()),
            Kind::U32 => Value::Integer(self.u32()?.into()),
            Kind::I32 => Value::Integer(self.array().map(i32::from_le_bytes)?.into()),
            Kind::U64 => Value::Integer(self.u64()?.into()),
            Kind::I64 => Value::Integer(self.array().map(i64::from_le_bytes)?.into()),
            Kind::F32 => Value::Float(decimal(self.array().map(f32::from_le_bytes)?)),
            Kind::F64 => Value::Float(self.array().map(f64::from_le_bytes)?),
            Kind::Flag => Value::Flag(self.array::<1>()? != [0]),
            Kind::Text => Value::Text(self.text()?),
            Kind::List => Value::List(self.list()?),
        })
    }

    /// Skips a list after checking every element.
    fn list(&mut self) -> Result<List<'a>, String> {
        let kind = Kind::from_number(self.u32()?)?;
        if kind == Kind::List {
            return Err("lists of lists are not supported".to_owned());
        }
        let len = self.u64()?;
        if len > MAX_LIST {
            return Err(format!(
                "a list of {len} values, but at most {MAX_LIST} are allowed"
            ));
        }
        let start = self.position;
        for _ in 0..len {
            self.value_of(kind)?;
        }
        Ok(List {
            kind,
            len,
            bytes: &self.bytes[start..self.position],
        })
    }

    fn too_short(&self, needed: u64) -> String {
        let left = self.bytes.len() - self.position;
        if needed <= (self.file_len - self.position) as u64 {
            return format!(
                "metadata and tensor table take more than {} bytes, which no known model needs",
                self.bytes.len()
            );
        }
        format!(
            "{needed} bytes expected at byte {}, but {left} are left",
            self.position
        )
    }
}

/// The decimal number that was stored as a 32-bit float: 1e-5 rather than 9.99999974737875e-6.
pub(crate) fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}
