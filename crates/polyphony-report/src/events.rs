//! TensorBoard event files.
//!
//! A file is a sequence of records, each a protocol buffer `Event` with its length and checksums
//! (TensorFlow's `tensorflow/core/util/event.proto`, `framework/summary.proto` and the TFRecord format).
//! The crates that write such files have not been maintained for years. Scalars need only three messages,
//! so they are declared here for `prost`.

use std::{
    io::{self, BufRead, ErrorKind, Read, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "Content", tags = "3, 5")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    // Optional, because a plain field is left out if it is 0, and TensorBoard then shows no value.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Writes the first record of an event file.
///
/// # Errors
/// If `output` cannot be written to.
pub(crate) fn begin(output: &mut impl Write) -> io::Result<()> {
    write(output, 0, Content::FileVersion("brain.Event:2".to_owned()))
}

/// Writes the scalars of a step with their tags. Values that are not finite are left out.
///
/// # Errors
/// If `output` cannot be written to.
pub(crate) fn add(
    output: &mut impl Write,
    step: usize,
    scalars: impl IntoIterator<Item = (String, f64)>,
) -> io::Result<()> {
    let finite = scalars.into_iter().filter(|(_, value)| value.is_finite());
    let scalar = |(tag, value): (String, f64)| Scalar {
        tag,
        simple_value: Some(value as f32),
    };
    let values = finite.map(scalar).collect();
    write(output, step as i64, Content::Summary(Summary { values }))
}

fn write(output: &mut impl Write, step: i64, content: Content) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let event = Event {
        wall_time: now.map_or(0.0, |now| now.as_secs_f64()),
        step,
        content: Some(content),
    };
    let record = event.encode_to_vec();
    let length = (record.len() as u64).to_le_bytes();
    output.write_all(&length)?;
    output.write_all(&masked_checksum(&length).to_le_bytes())?;
    output.write_all(&record)?;
    output.write_all(&masked_checksum(&record).to_le_bytes())
}

/// Whether `input` consists of complete records whose checksums are right.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn is_whole(mut input: impl BufRead) -> io::Result<bool> {
    while !input.fill_buf()?.is_empty() {
        let length = checked(&mut input, 8)?;
        let Some(length) =
            length.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)))
        else {
            return Ok(false);
        };
        if checked(&mut input, length)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The next `length` bytes; `None` if they are incomplete or their checksum is wrong.
fn checked(input: &mut impl Read, length: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    input.by_ref().take(length).read_to_end(&mut bytes)?;
    let mut checksum = [0; 4];
    match input.read_exact(&mut checksum) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let is_right = u32::from_le_bytes(checksum) == masked_checksum(&bytes);
    Ok(is_right.then_some(bytes))
}

/// The checksum of a TFRecord. The format masks it, because data that contains a checksum may be checksummed
/// again.
fn masked_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// The scalars of an event file: step, tag and value.
#[cfg(test)]
pub(crate) fn read(mut bytes: &[u8]) -> Vec<(i64, String, f32)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let checksum = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let record = &bytes[12..12 + length];
        assert_eq!(checksum(8), masked_checksum(&bytes[..8]));
        assert_eq!(checksum(12 + length), masked_checksum(record));
        let event = Event::decode(record).unwrap();
        if let Some(Content::Summary(Summary { values })) = event.content {
            let scalar = |scalar: Scalar| (event.step, scalar.tag, scalar.simple_value.unwrap());
            found.extend(values.into_iter().map(scalar));
        }
        bytes = &bytes[16 + length..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_laid_out_as_tensorflow_does() {
        let mut file = Vec::new();
        begin(&mut file).unwrap();
        // Field 1 is a double, and field 3 is a string of 13 bytes. A step of 0 is not written.
        assert_eq!(file[..8], 24u64.to_le_bytes());
        // The result of TensorFlow's masked_crc32c for these eight bytes.
        assert_eq!(file[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(file[12], 1 << 3 | 1);
        assert_eq!(file[21..23], [3 << 3 | 2, 13]);
        assert_eq!(&file[23..36], b"brain.Event:2");
        assert_eq!(file.len(), 40);
    }

    #[test]
    fn scalars_keep_their_names_and_only_finite_ones_are_written() {
        let mut file = Vec::new();
        begin(&mut file).unwrap();
        let scalars = [
            ("return", 1.5),
            ("a/kl", f64::NAN),
            ("timing.secs", 2.0),
            ("zero", 0.0),
        ];
        let scalars = scalars.map(|(tag, value)| (tag.to_owned(), value));
        add(&mut file, 7, scalars).unwrap();
        let found = read(&file);
        let found: Vec<_> = found
            .iter()
            .map(|(step, tag, value)| (*step, tag.as_str(), *value))
            .collect();
        assert_eq!(
            found,
            [
                (7, "return", 1.5),
                (7, "timing.secs", 2.0),
                (7, "zero", 0.0)
            ]
        );
    }
}
