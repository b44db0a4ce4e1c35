//! Checks the binary table of a `Precompiled` normalizer, because the library that reads it trusts
//! every number.
//!
//! The format is that of SentencePiece: the length of a trie, the trie (a double array of 32-bit units,
//! as darts-clone builds it), and the texts that its values point to, each of which ends with a zero
//! byte.

/// The longest replacement of a character, in bytes.
const MAX_TEXT: usize = 128;

/// Reads a table in Base64 and returns the length of its longest replacement, in bytes.
///
/// # Errors
/// If it is damaged, or its texts are too long.
pub(super) fn longest_text(base64: &str) -> Result<usize, String> {
    let bytes = decode(base64).ok_or("is not Base64")?;
    let (size, rest) = bytes.split_first_chunk().ok_or("is empty")?;
    let size = u32::from_le_bytes(*size) as usize / 4 * 4;
    let (trie, texts) = rest.split_at_checked(size).ok_or("ends inside its trie")?;
    let texts = str::from_utf8(texts).map_err(|_| "has texts that are not UTF-8")?;
    let units: Vec<usize> = trie
        .as_chunks()
        .0
        .iter()
        .map(|unit| u32::from_le_bytes(*unit) as usize)
        .collect();

    let outside = || "has a trie that points outside of itself".to_owned();
    let offset = |unit: usize| (unit >> 10) << ((unit & (1 << 9)) >> 6);
    let mut longest = 0;
    let mut visited = vec![false; units.len()];
    let root = units.first().copied().ok_or("has an empty trie")?;
    let mut pending = vec![offset(root)];
    while let Some(children) = pending.pop() {
        // The child for a byte is at this index xor the byte. The library reads that unit before it
        // knows whether there is a child.
        if children | 0xff >= units.len() {
            return Err(outside());
        }
        if std::mem::replace(&mut visited[children], true) {
            continue;
        }
        for byte in 1..=0xff_usize {
            let child = children ^ byte;
            let unit = units[child];
            if unit & (1 << 31 | 0xff) != byte {
                continue;
            }
            let next = child ^ offset(unit);
            if unit & (1 << 8) != 0 {
                let value = units.get(next).ok_or_else(outside)? & !(1 << 31);
                let text = texts
                    .get(value..)
                    .ok_or("has a trie that points outside of its texts")?;
                longest = longest.max(text.find('\0').unwrap_or(text.len()));
            }
            pending.push(next);
        }
    }
    if longest > MAX_TEXT {
        return Err(format!(
            "makes {longest} bytes of a character, but at most {MAX_TEXT} are allowed"
        ));
    }
    Ok(longest)
}

/// The bytes of a Base64 text with padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index of the child for `a`.
    const CHILD: usize = 256 ^ b'a' as usize;

    /// A table that replaces `a` by the first of some texts, with some of its units changed.
    fn table(changes: &[(usize, u32)], texts: &[u8]) -> String {
        let mut units = vec![0_u32; 512];
        // The offset of the root's children is 256, and so is that of its only child. That child's value
        // is at 256, too.
        units[0] = 256 << 10;
        units[CHILD] = u32::from(b'a') << 10 | 1 << 8 | u32::from(b'a');
        for (index, unit) in changes {
            units[*index] = *unit;
        }
        let mut bytes = 2048_u32.to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(texts);
        encode(&bytes)
    }

    fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let mut padded = [0; 4];
            padded[1..=chunk.len()].copy_from_slice(chunk);
            let bits = u32::from_be_bytes(padded);
            for digit in 0..4 {
                text.push(match digit <= chunk.len() {
                    true => DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char,
                    false => '=',
                });
            }
        }
        text
    }

    #[test]
    fn base64_is_read_as_it_was_written() {
        for length in 0..9_u8 {
            let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(77)).collect();
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
        for text in ["A", "AA=A", "A===", "AA", "AAAA====", "é==="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_damaged_table_is_refused() {
        const OUTSIDE: &str = "points outside of";
        let accents = "é\0é\0".as_bytes();
        type Row<'a> = (&'a [(usize, u32)], &'a [u8], Result<usize, &'a str>);
        let rows: [Row<'_>; 10] = [
            (&[], accents, Ok(2)),
            (&[], b"", Ok(0)),
            (&[(256, 3)], accents, Ok(2)),
            (&[(256, 1)], accents, Err(OUTSIDE)),
            (&[(256, 7)], accents, Err(OUTSIDE)),
            (&[(0, 512 << 10)], accents, Err(OUTSIDE)),
            (
                &[(CHILD, 9999 << 10 | 1 << 8 | 0x61)],
                accents,
                Err(OUTSIDE),
            ),
            (
                &[(CHILD, 0x7fff_fc00 | 1 << 9 | 0x61)],
                accents,
                Err(OUTSIDE),
            ),
            (&[], &[b'x'; 4096], Err("makes 4096 bytes")),
            (&[], b"\xff", Err("not UTF-8")),
        ];
        for (changes, texts, expected) in rows {
            match (longest_text(&table(changes, texts)), expected) {
                (Ok(longest), Ok(expected)) => assert_eq!(longest, expected),
                (Err(reason), Err(words)) => assert!(reason.contains(words), "{reason}"),
                (outcome, expected) => panic!("{changes:?}: {outcome:?}, not {expected:?}"),
            }
        }
    }
}
