//! Checks structures in Thrift's compact protocol before the Parquet decoder reads them.
//!
//! The decoder skips what it does not know, item by item. For two kinds of items it reads nothing: for booleans
//! in a list or map, and for items of a fixed size beyond the end of the file. A few bytes can therefore claim
//! billions of items, and lists of lists any number.

use std::io::{self, ErrorKind, Read};

/// The deepest nesting. The decoder skips at most 64 levels below the few that it knows.
const MAX_DEPTH: usize = 80;

/// The most bytes of a number of 64 bits.
const MAX_NUMBER_BYTES: u32 = 10;

/// Checks that a structure is complete, and that each of its items takes at least one byte.
///
/// # Errors
///
/// If this is not so, or if the bytes are not a structure.
pub(super) fn check(bytes: &mut impl Read) -> io::Result<()> {
    Structure { bytes }.fields(MAX_DEPTH)
}

struct Structure<'a, R> {
    bytes: &'a mut R,
}

impl<R: Read> Structure<'_, R> {
    fn fields(&mut self, depth: usize) -> io::Result<()> {
        loop {
            let head = self.byte()?;
            let (distance, kind) = (head >> 4, head & 0x0f);
            match kind {
                // The end of the structure.
                0 => return Ok(()),
                // The field's number follows if it is not near the previous one.
                _ if distance == 0 => drop(self.number()?),
                _ => {}
            }
            match kind {
                // The kind is the value of a boolean field.
                1 | 2 => {}
                _ => self.value(kind, depth)?,
            }
        }
    }

    /// One value of a field, a list or a map.
    fn value(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(wrong("it is nested too deeply"));
        };
        match kind {
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
                let count = match head >> 4 {
                    15 => self.number()?,
                    short => short.into(),
                };
                (0..count).try_for_each(|_| self.value(head & 0x0f, depth))
            }
            11 => {
                let count = self.number()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.value(kinds >> 4, depth)?;
                    self.value(kinds & 0x0f, depth)
                })
            }
            12 => self.fields(depth),
            13 => self.skip(16),
            _ => Err(wrong("it has a field of an unknown kind")),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.bytes.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// A number in groups of seven bits, lowest first.
    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for place in 0..MAX_NUMBER_BYTES {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(wrong("it has a number of more than 64 bits"))
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        match io::copy(&mut self.bytes.by_ref().take(length), &mut io::sink())? {
            skipped if skipped == length => Ok(()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
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
            let checked = check(&mut bytes.as_slice()).map_err(|error| error.to_string());
            assert_eq!(checked, expected.map_err(str::to_owned), "{what}");
        }
    }
}
