//! Parquet files, unpacked within the bounds of a data set.
//!
//! The decoder believes what a file says of its own sizes, and lets some of its pages grow without an
//! end. So the file's metadata is looked at before the decoder sees it, and pages are unpacked in
//! here: the decoder is told that they are not packed.

use std::{
    fs::File,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use parquet::{
    basic::{CompressionCodec, Encoding},
    bloom_filter::Sbbf,
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
        reader::{ChunkReader, FileReader, Length, RowGroupReader},
        serialized_reader::SerializedPageReader,
    },
    record::reader::RowIter,
    schema::types::Type,
};

use super::bounds::{Bound, DataBounds};

/// How many bytes of metadata a file may end with. In memory they take many times as much.
const MOST_METADATA: usize = 8 << 20;

/// How many columns and groups of columns a file may have: the decoder follows groups by recursion, and
/// keeps for each column the names of all groups around it.
const MOST_COLUMNS: usize = 1000;

/// What a value of a dictionary takes in the decoder's memory, beside its bytes.
const DICTIONARY_VALUE: usize = 32;

/// A Parquet file whose pages are unpacked within bounds.
pub(super) struct BoundedFile {
    source: Arc<Source>,
    metadata: ParquetMetaData,
}

impl BoundedFile {
    pub(super) fn new(file: File, bounds: DataBounds) -> Result<Self> {
        check_metadata(&file)?;
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file)?;
        let source = Source {
            file,
            bounds,
            unpacked: AtomicUsize::new(0),
        };
        Ok(Self {
            source: Arc::new(source),
            metadata,
        })
    }
}

/// Checks the size of the metadata and the number of columns, which stands at its beginning.
fn check_metadata(file: &File) -> Result<()> {
    const END: usize = 8;
    let Some(end) = file.len().checked_sub(END as u64) else {
        return Ok(());
    };
    let tail = file.get_bytes(end, END)?;
    let [a, b, c, d, b'P', b'A', b'R', b'1'] = tail[..] else {
        return Ok(());
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let Some(start) = end.checked_sub(length as u64) else {
        return Ok(());
    };
    if length > MOST_METADATA {
        return Err(ParquetError::General(format!(
            "its metadata takes {length} bytes, and no more than {MOST_METADATA} are read; \
             write the file again with larger row groups and the needed columns alone"
        )));
    }
    let columns = number_of_columns(&file.get_bytes(start, length.min(32))?);
    match columns {
        Some(..=MOST_COLUMNS) => Ok(()),
        Some(columns) => Err(ParquetError::General(format!(
            "it has {columns} columns, and no more than {MOST_COLUMNS} are read; \
             write it again with the needed columns alone"
        ))),
        None => Err(ParquetError::General(
            "damaged file: its metadata does not begin with its columns".to_owned(),
        )),
    }
}

/// The number of columns and groups, with the root. Metadata is a structure in Thrift's compact
/// protocol; its first field is the version, its second the list of columns.
fn number_of_columns(metadata: &[u8]) -> Option<usize> {
    const VERSION: u8 = 0x15;
    const COLUMNS: u8 = 0x19;
    let mut bytes = metadata.iter().copied();
    if bytes.next()? != VERSION {
        return None;
    }
    number(&mut bytes)?;
    if bytes.next()? != COLUMNS {
        return None;
    }
    match bytes.next()? >> 4 {
        0xf => number(&mut bytes),
        short => Some(usize::from(short)),
    }
}

/// A number of up to 32 bits in groups of seven, the lowest first.
fn number(bytes: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let byte = bytes.next()?;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

impl FileReader for BoundedFile {
    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }

    fn num_row_groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    fn get_row_group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        Ok(Box::new(BoundedRowGroup {
            source: Arc::clone(&self.source),
            metadata: self.metadata.row_group(i),
        }))
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct BoundedRowGroup<'a> {
    source: Arc<Source>,
    metadata: &'a RowGroupMetaData,
}

impl RowGroupReader for BoundedRowGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.metadata
    }

    fn num_columns(&self) -> usize {
        self.metadata.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let column = self.metadata.column(i);
        let codec = column.compression_codec();
        let as_it_is = column
            .clone()
            .into_builder()
            .set_compression_codec(CompressionCodec::UNCOMPRESSED)
            .build()?;
        let rows = usize::try_from(self.metadata.num_rows())?;
        let packed = SerializedPageReader::new(Arc::clone(&self.source), &as_it_is, rows, None)?;
        Ok(Box::new(BoundedPages {
            packed,
            codec,
            source: Arc::clone(&self.source),
        }))
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// The bytes of a file, and how much has been unpacked of them.
struct Source {
    file: File,
    bounds: DataBounds,
    unpacked: AtomicUsize,
}

impl Source {
    /// Counts bytes that are unpacked.
    fn count(&self, bytes: usize) -> Result<()> {
        self.check_room(bytes)?;
        self.unpacked.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Fails if there is no room for so many bytes.
    fn check_room(&self, bytes: usize) -> Result<()> {
        self.check(self.unpacked.load(Ordering::Relaxed).saturating_add(bytes))
    }

    /// How many more bytes may be unpacked.
    fn room(&self) -> usize {
        let most = self.bounds.most(Bound::File);
        most.saturating_sub(self.unpacked.load(Ordering::Relaxed))
    }

    fn check(&self, unpacked: usize) -> Result<()> {
        let checked = self.bounds.check(Bound::File, unpacked);
        checked.map_err(|exceeded| ParquetError::External(Box::new(exceeded)))
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl ChunkReader for Source {
    type T = <File as ChunkReader>::T;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.check_room(length)?;
        self.file.get_bytes(start, length)
    }
}

/// The pages of one column in one row group.
struct BoundedPages {
    packed: SerializedPageReader<Source>,
    codec: CompressionCodec,
    source: Arc<Source>,
}

impl BoundedPages {
    fn unpack(&self, mut page: Page) -> Result<Page> {
        match &mut page {
            Page::DictionaryPage {
                buf, num_values, ..
            } => {
                *buf = self.unpacked(buf, 0)?;
                let values = *num_values as usize;
                self.source.count(values.saturating_mul(DICTIONARY_VALUE))?;
            }
            Page::DataPage { buf, encoding, .. } => {
                check_encoding(*encoding)?;
                *buf = self.unpacked(buf, 0)?;
            }
            Page::DataPageV2 {
                buf,
                encoding,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed,
                ..
            } => {
                check_encoding(*encoding)?;
                if *is_compressed {
                    let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                    *buf = self.unpacked(buf, levels)?;
                } else {
                    self.source.count(buf.len())?;
                }
            }
        }
        Ok(page)
    }

    /// The content of a page, whose first bytes are not packed.
    fn unpacked(&self, page: &Bytes, plain: usize) -> Result<Bytes> {
        let Some((head, packed)) = page.split_at_checked(plain) else {
            return Err(ParquetError::EOF("page without its levels".to_owned()));
        };
        // Values that are all null may be packed as nothing.
        if packed.is_empty() || self.codec == CompressionCodec::UNCOMPRESSED {
            self.source.count(page.len())?;
            return Ok(page.clone());
        }
        let one_too_many = self.source.room().saturating_add(1) as u64;
        let mut bytes = head.to_vec();
        match self.codec {
            CompressionCodec::SNAPPY => {
                let length = snap::raw::decompress_len(packed).map_err(broken_snappy)?;
                self.source.check_room(length)?;
                bytes.resize(plain + length, 0);
                let unpacked = snap::raw::Decoder::new().decompress(packed, &mut bytes[plain..]);
                unpacked.map_err(broken_snappy)?;
            }
            CompressionCodec::GZIP => {
                let mut decoder = MultiGzDecoder::new(packed).take(one_too_many);
                decoder.read_to_end(&mut bytes)?;
            }
            CompressionCodec::ZSTD => match zstd::bulk::Decompressor::upper_bound(packed) {
                Some(length) => {
                    self.source.check_room(length)?;
                    bytes.resize(plain + length, 0);
                    zstd::bulk::decompress_to_buffer(packed, &mut bytes[plain..])?;
                }
                None => {
                    let decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                    decoder.take(one_too_many).read_to_end(&mut bytes)?;
                }
            },
            other => {
                return Err(ParquetError::NYI(format!(
                    "pages packed with {other:?}; write the file again with snappy, gzip or zstd"
                )));
            }
        }
        self.source.count(bytes.len())?;
        Ok(bytes.into())
    }
}

/// The library converts such an error itself only if it unpacks pages too.
fn broken_snappy(error: snap::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// Some encodings repeat what stands in a page as often as they like, and the decoder makes room for it.
fn check_encoding(encoding: Encoding) -> Result<()> {
    match encoding {
        Encoding::PLAIN
        | Encoding::PLAIN_DICTIONARY
        | Encoding::RLE_DICTIONARY
        | Encoding::RLE
        | Encoding::DELTA_BINARY_PACKED
        | Encoding::BYTE_STREAM_SPLIT => Ok(()),
        other => Err(ParquetError::NYI(format!(
            "the encoding {other}; write the file again with plain or dictionary encoding"
        ))),
    }
}

impl Iterator for BoundedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for BoundedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.packed.get_next_page()?;
        page.map(|page| self.unpack(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()
    }
}
