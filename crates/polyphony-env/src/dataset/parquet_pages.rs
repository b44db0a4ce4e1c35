//! Decompresses Parquet files within the bounds of a data set.
//!
//! The decoder trusts the sizes in a file, and lets some pages grow without limit. Therefore this module
//! checks the file's metadata before the decoder reads it, and decompresses the pages itself. The
//! decoder gets metadata that declares the pages uncompressed.

use std::{
    fs::File,
    io::{self, Read, Seek},
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

use super::{
    bounds::{Bound, DataBounds},
    parquet_fields::{METADATA, PAGE_HEADER},
    thrift,
};

/// The largest metadata of a file, in bytes. In memory, metadata takes many times its size.
const MAX_METADATA: usize = 8 << 20;

/// The largest number of columns and column groups. It is limited because the decoder walks groups by
/// recursion, and stores for each column the names of all groups around it.
const MAX_COLUMNS: usize = 1000;

/// The memory that the decoder needs for a dictionary's value, besides its bytes.
const DICTIONARY_VALUE: usize = 32;

/// A Parquet file whose pages are decompressed within bounds.
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
            decompressed: AtomicUsize::new(0),
        };
        Ok(Self {
            source: Arc::new(source),
            metadata,
        })
    }
}

/// Checks the size and the structure of the metadata, and the number of columns, which is at its start. A
/// file without Parquet's marker at its end passes this check, because the decoder refuses it anyway.
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
    if length > MAX_METADATA {
        return Err(ParquetError::General(format!(
            "its metadata takes {length} bytes, and at most {MAX_METADATA} are read; \
             write the file again with larger row groups and only the needed columns"
        )));
    }
    let metadata = file.get_bytes(start, length)?;
    match number_of_columns(&metadata) {
        Some(..=MAX_COLUMNS) => thrift::check(&mut &*metadata, METADATA)
            .map_err(|error| bad_structure("metadata", &error)),
        Some(columns) => Err(ParquetError::General(format!(
            "it has {columns} columns, and at most {MAX_COLUMNS} are read; \
             write it again with only the needed columns"
        ))),
        None => Err(ParquetError::General(
            "damaged file: its metadata does not begin with its columns".to_owned(),
        )),
    }
}

/// The error for a structure that [`thrift::check`] refuses.
fn bad_structure(what: &str, error: &io::Error) -> ParquetError {
    ParquetError::General(format!("damaged file: the {what} is wrong: {error}"))
}

/// The number of columns and groups, including the root. The metadata is a structure in Thrift's compact
/// protocol: its first field is the version, its second field is the list of columns.
fn number_of_columns(mut metadata: &[u8]) -> Option<usize> {
    const VERSION: u8 = 0x15;
    const COLUMNS: u8 = 0x19;
    /// The most bytes of a number of 32 bits.
    const MAX_BYTES: u32 = 5;
    let bytes = &mut metadata;
    if thrift::byte(bytes).ok()? != VERSION {
        return None;
    }
    thrift::number(bytes, MAX_BYTES).ok()?;
    if thrift::byte(bytes).ok()? != COLUMNS {
        return None;
    }
    match thrift::byte(bytes).ok()? >> 4 {
        0xf => usize::try_from(thrift::number(bytes, MAX_BYTES).ok()?).ok(),
        short => Some(usize::from(short)),
    }
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
        let uncompressed = column
            .clone()
            .into_builder()
            .set_compression_codec(CompressionCodec::UNCOMPRESSED)
            .build()?;
        let rows = usize::try_from(self.metadata.num_rows())?;
        let pages = SerializedPageReader::new(Arc::clone(&self.source), &uncompressed, rows, None)?;
        Ok(Box::new(BoundedPages {
            pages,
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

/// The bytes of a file, and how many bytes were decompressed so far.
struct Source {
    file: File,
    bounds: DataBounds,
    decompressed: AtomicUsize,
}

impl Source {
    /// Counts decompressed bytes, and fails if there are more than allowed.
    fn count(&self, bytes: usize) -> Result<()> {
        self.check_room(bytes)?;
        self.decompressed.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Fails if this many more bytes would exceed the bound on decompressed bytes.
    fn check_room(&self, bytes: usize) -> Result<()> {
        let decompressed = self.decompressed.load(Ordering::Relaxed);
        self.check(decompressed.saturating_add(bytes))
    }

    /// How many more bytes may be decompressed.
    fn room(&self) -> usize {
        let max = self.bounds.max(Bound::File);
        max.saturating_sub(self.decompressed.load(Ordering::Relaxed))
    }

    fn check(&self, decompressed: usize) -> Result<()> {
        let checked = self.bounds.check(Bound::File, decompressed);
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

    /// The decoder reads the header of a page this way, and nothing else.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        let mut reader = self.file.get_read(start)?;
        thrift::check(&mut reader, PAGE_HEADER)
            .map_err(|error| bad_structure("header of a page", &error))?;
        // The header is usually still in the buffer.
        let end = reader.stream_position()?;
        reader.seek_relative(start as i64 - end as i64)?;
        Ok(reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.check_room(length)?;
        self.file.get_bytes(start, length)
    }
}

/// The pages of one column in one row group.
struct BoundedPages {
    pages: SerializedPageReader<Source>,
    codec: CompressionCodec,
    source: Arc<Source>,
}

impl BoundedPages {
    fn decompress(&self, mut page: Page) -> Result<Page> {
        match &mut page {
            Page::DictionaryPage {
                buf, num_values, ..
            } => {
                *buf = self.decompress_bytes(buf, 0)?;
                let values = *num_values as usize;
                self.source.count(values.saturating_mul(DICTIONARY_VALUE))?;
            }
            Page::DataPage { buf, encoding, .. } => {
                check_encoding(*encoding)?;
                *buf = self.decompress_bytes(buf, 0)?;
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
                    *buf = self.decompress_bytes(buf, levels)?;
                } else {
                    self.source.count(buf.len())?;
                }
            }
        }
        Ok(page)
    }

    /// The content of a page, whose first `plain` bytes are not compressed.
    fn decompress_bytes(&self, page: &Bytes, plain: usize) -> Result<Bytes> {
        let Some((head, compressed)) = page.split_at_checked(plain) else {
            return Err(ParquetError::EOF("page without its levels".to_owned()));
        };
        // If all values are null, there may be no compressed bytes at all.
        if compressed.is_empty() || self.codec == CompressionCodec::UNCOMPRESSED {
            self.source.count(page.len())?;
            return Ok(page.clone());
        }
        // One byte more than allowed, so that a page that is too large is noticed.
        let limit = self.source.room().saturating_add(1) as u64;
        let mut bytes = head.to_vec();
        match self.codec {
            CompressionCodec::SNAPPY => {
                let length = snap::raw::decompress_len(compressed).map_err(broken_snappy)?;
                self.source.check_room(length)?;
                bytes.resize(plain + length, 0);
                let result = snap::raw::Decoder::new().decompress(compressed, &mut bytes[plain..]);
                result.map_err(broken_snappy)?;
            }
            CompressionCodec::GZIP => {
                let mut decoder = MultiGzDecoder::new(compressed).take(limit);
                decoder.read_to_end(&mut bytes)?;
            }
            CompressionCodec::ZSTD => match zstd::bulk::Decompressor::upper_bound(compressed) {
                Some(length) => {
                    self.source.check_room(length)?;
                    bytes.resize(plain + length, 0);
                    zstd::bulk::decompress_to_buffer(compressed, &mut bytes[plain..])?;
                }
                None => {
                    let decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                    decoder.take(limit).read_to_end(&mut bytes)?;
                }
            },
            codec => {
                return Err(ParquetError::NYI(format!(
                    "pages compressed with {codec:?}; \
                     write the file again with snappy, gzip or zstd"
                )));
            }
        }
        self.source.count(bytes.len())?;
        Ok(bytes.into())
    }
}

/// Wraps the error in the same way as `parquet` does with its feature `snap`, which only tests enable.
fn broken_snappy(error: snap::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// Rejects encodings that can repeat a page's content any number of times, because the decoder would
/// allocate all of it.
fn check_encoding(encoding: Encoding) -> Result<()> {
    match encoding {
        Encoding::PLAIN
        | Encoding::PLAIN_DICTIONARY
        | Encoding::RLE_DICTIONARY
        | Encoding::RLE
        | Encoding::DELTA_BINARY_PACKED
        | Encoding::BYTE_STREAM_SPLIT => Ok(()),
        encoding => Err(ParquetError::NYI(format!(
            "the encoding {encoding}; write the file again with plain or dictionary encoding"
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
        let page = self.pages.get_next_page()?;
        page.map(|page| self.decompress(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}
