//! Checks structures in Thrift's compact protocol before the Parquet decoder reads them.
//!
//! The decoder skips what it does not know, item by item. For two kinds of items it reads nothing: for booleans
//! in a list or map, and for items of a fixed size beyond the end of the file. A few bytes can therefore claim
//! billions of items, and lists of lists any number.
//!
//! The decoder reads a field that it knows as the kind that it expects, whatever kind the file claims. The check
//! would then see other items than the decoder, so a known field of another kind is an error.

use std::io::{self, ErrorKind, Read};

/// The deepest nesting. The decoder skips at most 64 levels below the few that it knows.
const MAX_DEPTH: usize = 80;

/// The most bytes of a number of 64 bits.
const MAX_NUMBER_BYTES: u32 = 10;

/// What is known about a field: its number, and the kind of its values.
pub(super) type Field = (i16, Kind);

/// A kind of values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Boolean,
    Byte,
    /// A whole number of 16, 32 or 64 bits; the encoding is the same.
    Number,
    Double,
    Text,
    List(&'static Kind),
    Structure(&'static [Field]),
}

impl Kind {
    /// Whether the code of a kind in a file is the code of this kind.
    fn has_code(self, code: u8) -> bool {
        match self {
            Self::Boolean => matches!(code, 1 | 2),
            Self::Byte => code == 3,
            Self::Number => matches!(code, 4..=6),
            Self::Double => code == 7,
            Self::Text => code == 8,
            Self::List(_) => code == 9,
            Self::Structure(_) => code == 12,
        }
    }
}

/// Checks that a structure is complete, that the known fields are of their kinds, and that each item takes at
/// least one byte.
///
/// # Errors
///
/// If this is not so, or if the bytes are not a structure.
pub(super) fn check(bytes: &mut impl Read, fields: &[Field]) -> io::Result<()> {
    Structure { bytes }.fields(fields, MAX_DEPTH)
}

struct Structure<'a, R> {
    bytes: &'a mut R,
}

impl<R: Read> Structure<'_, R> {
    fn fields(&mut self, known: &[Field], depth: usize) -> io::Result<()> {
        let mut id: i16 = 0;
        loop {
            let head = self.byte()?;
            let (distance, code) = (head >> 4, head & 0x0f);
            id = match (code, distance) {
                // The end of the structure.
                (0, _) => return Ok(()),
                // The field's number follows if it is not near the previous one. The decoder keeps 16 bits of it.
                (_, 0) => {
                    let number = self.number()?;
                    ((number >> 1) as i64 ^ -((number & 1) as i64)) as i16
                }
                (_, distance) => id
                    .checked_add(distance.into())
                    .ok_or_else(|| wrong("it has too many fields"))?,
            };
            let kind = known.iter().find(|(known, _)| *known == id);
            let kind = kind.map(|(_, kind)| *kind);
            if kind.is_some_and(|kind| !kind.has_code(code)) {
                return Err(wrong("it has a field of another kind than Parquet's"));
            }
            match code {
                // The code is the value of a boolean field.
                1 | 2 => {}
                _ => self.value(code, kind, depth)?,
            }
        }
    }

    /// One value of a field, a list or a map. Its kind is `None` if it is not known.
    fn value(&mut self, code: u8, kind: Option<Kind>, depth: usize) -> io::Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(wrong("it is nested too deeply"));
        };
        match code {
            1 | 2 => Err(wrong("it has a list of booleans")),
            3 => self.skip(1),
            4..=6 => self.number().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.number()?;
                self.skip(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let code = head & 0x0f;
                let count = match head >> 4 {
                    15 => self.number()?,
                    short => short.into(),
                };
                let item = match kind {
                    Some(Kind::List(item)) => Some(*item),
                    _ => None,
                };
                if count > 0 && item.is_some_and(|item| !item.has_code(code)) {
                    return Err(wrong("it has a list of another kind than Parquet's"));
                }
                (0..count).try_for_each(|_| self.value(code, item, depth))
            }
            11 => {
                let count = self.number()?;
                if count == 0 {
                    return Ok(());
                }
                let codes = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.value(codes >> 4, None, depth)?;
                    self.value(codes & 0x0f, None, depth)
                })
            }
            12 => match kind {
                Some(Kind::Structure(known)) => self.fields(known, depth),
                _ => self.fields(&[], depth),
            },
            13 => self.skip(16),
            _ => Err(wrong("it has a field of an unknown kind")),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        byte(self.bytes)
    }

    fn number(&mut self) -> io::Result<u64> {
        number(self.bytes, MAX_NUMBER_BYTES)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        match io::copy(&mut self.bytes.by_ref().take(length), &mut io::sink())? {
            skipped if skipped == length => Ok(()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Reads a byte.
pub(super) fn byte(bytes: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    bytes.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// Reads a number of at most `max_bytes` groups of seven bits, lowest first.
pub(super) fn number(bytes: &mut impl Read, max_bytes: u32) -> io::Result<u64> {
    let mut number = 0;
    for place in 0..max_bytes {
        let byte = byte(bytes)?;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(wrong("it has a number of more than 64 bits"))
}

fn wrong(reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_takes_a_byte() {
        let many = [0xff, 0xff, 0xff, 0xff, 0x07];
        let list = |kind: u8| [&[0x19, 0xf0 | kind][..], &many].concat();
        let map = |kinds: u8| [&[0x1b][..], &many, &[kinds]].concat();
        let end = "failed to fill whole buffer";
        let rows: [(&str, Vec<u8>, Result<(), &str>); 15] = [
            ("nothing but the end", vec![0], Ok(())),
            ("no end", vec![], Err(end)),
            (
                "a value of each kind",
                [
                    &[0x11, 0x12, 0x13, 9, 0x14, 0x80, 1, 0x17][..],
                    &[0; 8],
                    &[0x18, 2, b'a', b'b', 0x19, 0x23, 1, 2, 0x1b, 0],
                    &[0x1b, 1, 0x38, 7, 1, b'c', 0x1c, 0, 0x1d],
                    &[0; 16],
                    &[0x05, 2, 3, 0],
                ]
                .concat(),
                Ok(()),
            ),
            ("booleans", list(1), Err("it has a list of booleans")),
            ("other booleans", list(2), Err("it has a list of booleans")),
            ("boolean keys", map(0x13), Err("it has a list of booleans")),
            (
                "boolean values",
                [map(0x32), vec![0]].concat(),
                Err("it has a list of booleans"),
            ),
            ("doubles", list(7), Err("unexpected end of file")),
            ("texts", list(8), Err(end)),
            ("structures", list(12), Err(end)),
            ("identifiers", list(13), Err("unexpected end of file")),
            (
                "a long text",
                [&[0x18][..], &many].concat(),
                Err("unexpected end of file"),
            ),
            (
                "lists of lists",
                vec![0x19; 200],
                Err("it is nested too deeply"),
            ),
            (
                "a long number",
                vec![
                    0x16, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01,
                ],
                Err("it has a number of more than 64 bits"),
            ),
            (
                "an unknown kind",
                vec![0x1e],
                Err("it has a field of an unknown kind"),
            ),
        ];
        for (what, bytes, expected) in rows {
            let checked = check(&mut bytes.as_slice(), &[]).map_err(|error| error.to_string());
            assert_eq!(checked, expected.map_err(str::to_owned), "{what}");
        }
    }

    #[test]
    fn known_fields_are_of_their_kinds() {
        const INNER: &[Field] = &[(2, Kind::Boolean)];
        const FIELDS: &[Field] = &[
            (1, Kind::Number),
            (2, Kind::List(&Kind::Text)),
            (3, Kind::Structure(INNER)),
        ];
        let kind = Err("it has a field of another kind than Parquet's");
        let rows: [(&str, &[u8], Result<(), &str>); 8] = [
            (
                "all",
                &[0x15, 4, 0x19, 0x18, 1, b'a', 0x1c, 0x21, 0, 0],
                Ok(()),
            ),
            ("another number", &[0x16, 4, 0], Ok(())),
            ("an empty list", &[0x29, 0x02, 0], Ok(())),
            ("a text instead of a number", &[0x18, 1, b'a', 0], kind),
            ("a number by its full identifier", &[0x08, 2, 0, 0], kind),
            (
                "an identifier of 17 bits",
                &[0x08, 0x82, 0x80, 0x08, 0, 0],
                kind,
            ),
            ("a number in a structure", &[0x3c, 0x25, 2, 0, 0], kind),
            (
                "a list of numbers",
                &[0x29, 0x15, 2, 0],
                Err("it has a list of another kind than Parquet's"),
            ),
        ];
        for (what, bytes, expected) in rows {
            let checked = check(&mut &*bytes, FIELDS).map_err(|error| error.to_string());
            assert_eq!(checked, expected.map_err(str::to_owned), "{what}");
        }
    }
}
