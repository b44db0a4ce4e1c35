//! Small files that become large when read. Each one hits a bound before it takes much time or memory.

use std::io::Read;

use ::parquet::{
    basic::{Compression, CompressionCodec, Encoding},
    column::{
        page::{CompressedPage, Page, PageWriter},
        writer::ColumnCloseResult,
    },
    file::{
        metadata::ColumnChunkMetaData,
        properties::WriterProperties,
        writer::{SerializedPageWriter, TrackedWrite},
    },
    schema::types::Type,
};
use bytes::Bytes;

use super::*;

const MB: usize = 1 << 20;

/// Small bounds, so that a bomb is quick to make.
fn bounded(mut set: OnDisk) -> OnDisk {
    let bound = |value| NonZeroUsize::new(value).unwrap();
    set.source.fields.clear();
    set.source.bounds = DataBounds {
        record_mb: bound(1),
        records: bound(1000),
        file_mb: bound(3),
        set_mb: bound(2),
    };
    set
}

const ONE_RECORD: &str = "more than 1 MB in one record; if the file is correct, \
    raise the bound, as in `bounds: (record_mb: 2)`";
const RECORDS: &str = "more than 1000 lines or rows; if the file is correct, \
    use fewer records (`limit`) or raise the bound, as in `bounds: (records: 2000)`";
const WHOLE_FILE: &str = "more than 3 MB to read after unpacking; if the file is correct, \
    use fewer records (`limit`) or raise the bound, as in `bounds: (file_mb: 6)`";
const TASKS: &str = "more than 2 MB of tasks; if the file is correct, \
    use fewer records (`limit`) or raise the bound, as in `bounds: (set_mb: 4)`";

#[test]
fn lines_are_bounded() {
    let long = "x".repeat(MB - 20);
    let fields: String = (0..2000).map(|n| format!(r#""{n}":"","#)).collect();
    let rows = [
        (1, ONE_RECORD, "x".repeat(2 * MB)),
        (
            2,
            ONE_RECORD,
            format!("{{}}\n{{\"a\": \"{}\"}}\n", "x".repeat(MB)),
        ),
        (1001, RECORDS, "\n".repeat(5000)),
        (1001, RECORDS, "{\"a\": 1}\n".repeat(5000)),
        (
            4,
            WHOLE_FILE,
            format!("{{\"a\": []}}{long}\n").replace('x', " ").repeat(9),
        ),
        (2, TASKS, format!("{{\"a\":\"{long}\"}}\n").repeat(3)),
        (8, TASKS, format!("{{{fields}\"a\":\"\"}}\n").repeat(99)),
    ];
    for (line, expected, text) in rows {
        let plain = bounded(OnDisk::with("bomb.jsonl", &text));
        assert_eq!(
            plain.error(),
            format!("`bomb.jsonl`, line {line}: {expected}")
        );
        let gzipped = bounded(OnDisk::with("bomb.jsonl.gz", gzip(&text)));
        assert_eq!(
            gzipped.error(),
            format!("`bomb.jsonl.gz`, line {line}: {expected}")
        );
    }
}

#[test]
fn bounds_count_skipped_records_too() {
    let set = bounded(OnDisk::with("bomb.jsonl.gz", gzip(&"{}\n".repeat(5000))));
    let problems = Problems {
        path: set.path().to_owned(),
        skip: 4000,
        limit: None,
        bounds: set.source.bounds,
    };
    let error = set.message(&*problems.load().unwrap_err());
    assert_eq!(error, format!("`bomb.jsonl.gz`, line 1001: {RECORDS}"));
}

#[test]
fn a_file_loads_after_a_bound_is_raised() {
    let mut set = bounded(OnDisk::with("posts.jsonl", "{\"a\": 1}\n".repeat(1500)));
    set.source.limit = NonZeroUsize::new(1000);
    assert_eq!(set.load().len(), 1000);
    set.source.limit = None;
    set.source.bounds.records = NonZeroUsize::new(1500).unwrap();
    assert_eq!(set.load().len(), 1500);
}

/// Nested values are skipped: they take no memory, and the stack does not grow with them.
#[test]
fn nested_values_are_skipped() {
    let deep = ["[".repeat(300_000), "]".repeat(300_000)].concat();
    let set = OnDisk::with(
        "a.jsonl",
        format!("{{\"body\": \"x\", \"deep\": {deep}}}\n"),
    );
    assert_eq!(set.load(), [Task::new("a/1", [("post", "x")])]);
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    let expected = |found| format!("`posts.jsonl` is not a regular file but {found}");
    let set = OnDisk::new("posts.jsonl");
    fs::create_dir(set.path()).unwrap();
    assert_eq!(set.error(), expected("a directory: name a file in it"));

    let not_a_file = "a device, a pipe or a socket: write its content into a file first";
    let set = OnDisk::new("posts.jsonl");
    std::os::unix::fs::symlink("/dev/zero", set.path()).unwrap();
    assert_eq!(set.error(), expected(not_a_file));

    let set = OnDisk::new("posts.jsonl");
    let status = std::process::Command::new("mkfifo")
        .arg(set.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(set.error(), expected(not_a_file));
}

/// A table with one column of text, `body`, which may be optional. The library writes it.
fn write_texts(
    optional: bool,
    codec: Compression,
    texts: impl IntoIterator<Item = Option<String>>,
) -> OnDisk {
    let set = OnDisk::new("bomb.parquet");
    let kind = if optional { "OPTIONAL" } else { "REQUIRED" };
    let schema = format!("message m {{ {kind} BYTE_ARRAY body (UTF8); }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder().set_compression(codec).build();
    let file = fs::File::create(set.path()).unwrap();
    let mut file = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = file.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts: Vec<Option<String>> = texts.into_iter().collect();
    let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
    let values: Vec<ByteArray> = texts
        .iter()
        .flatten()
        .map(|text| text.as_str().into())
        .collect();
    let writer = column.typed::<ByteArrayType>();
    writer
        .write_batch(&values, optional.then_some(&levels[..]), None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    file.close().unwrap();
    bounded(set)
}

fn column_set(name: &str, pages: &[Page], rows: i64) -> OnDisk {
    compressed_column_set(name, pages, rows, CompressionCodec::UNCOMPRESSED)
}

/// A table with one column of text and these pages, whether their headers are true or not.
fn compressed_column_set(name: &str, pages: &[Page], rows: i64, codec: CompressionCodec) -> OnDisk {
    let set = OnDisk::new("bomb.parquet");
    let column = Type::primitive_type_builder(name, ::parquet::basic::Type::BYTE_ARRAY)
        .with_repetition(::parquet::basic::Repetition::REQUIRED)
        .build();
    let schema = Type::group_type_builder("m").with_fields(vec![Arc::new(column.unwrap())]);
    let schema = Arc::new(schema.build().unwrap());

    let mut bytes = TrackedWrite::new(Vec::new());
    let mut writer = SerializedPageWriter::new(&mut bytes);
    let mut dictionary = None;
    let mut data = 0;
    for page in pages {
        let size = page.buffer().len();
        let written = writer
            .write_page(CompressedPage::new(page.clone(), size))
            .unwrap();
        match page {
            Page::DictionaryPage { .. } => dictionary = Some(written.offset as i64),
            _ => data = written.offset as i64,
        }
    }
    let bytes = Bytes::from(bytes.into_inner().unwrap());

    let file = fs::File::create(set.path()).unwrap();
    let mut file = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let metadata = ColumnChunkMetaData::builder(file.schema_descr().column(0))
        .set_compression_codec(codec)
        .set_num_values(rows)
        .set_dictionary_page_offset(dictionary)
        .set_data_page_offset(data)
        .set_total_compressed_size(bytes.len() as i64)
        .set_total_uncompressed_size(bytes.len() as i64)
        .build()
        .unwrap();
    let mut group = file.next_row_group().unwrap();
    let close = ColumnCloseResult {
        bytes_written: bytes.len() as u64,
        rows_written: rows as u64,
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: None,
    };
    group.append_column(&bytes, close).unwrap();
    group.close().unwrap();
    file.close().unwrap();
    bounded(set)
}

fn data_page(values: u32, encoding: Encoding, bytes: &[u8]) -> Page {
    Page::DataPage {
        buf: Bytes::copy_from_slice(bytes),
        num_values: values,
        encoding,
        def_level_encoding: Encoding::RLE,
        rep_level_encoding: Encoding::RLE,
        statistics: None,
    }
}

fn plain_page(values: u32, bytes: &[u8]) -> Page {
    data_page(values, Encoding::PLAIN, bytes)
}

fn dictionary(values: u32, bytes: &[u8]) -> Page {
    Page::DictionaryPage {
        buf: Bytes::copy_from_slice(bytes),
        num_values: values,
        encoding: Encoding::PLAIN,
        is_sorted: false,
    }
}

/// A text in plain encoding.
fn plain(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The index 0, `count` times. The header of a run is twice its length, seven bits per byte.
fn zeros(count: u32) -> Vec<u8> {
    let mut bytes = vec![1];
    let mut header = u64::from(count) << 1;
    while header >= 0x80 {
        bytes.push(header as u8 | 0x80);
        header >>= 7;
    }
    bytes.extend([header as u8, 0]);
    bytes
}

/// Gzipped zeros, `size` bytes when decompressed.
fn gzipped_zeros(size: usize) -> Vec<u8> {
    let mut compressed = Vec::new();
    let mut encoder = GzEncoder::new(&mut compressed, flate2::Compression::default());
    std::io::copy(&mut std::io::repeat(0).take(size as u64), &mut encoder).unwrap();
    encoder.finish().unwrap();
    compressed
}

#[test]
fn rows_are_bounded() {
    let long = [Some("x".repeat(MB + 1))];
    let many = (0..5000).map(|n| Some(n.to_string()));
    let plain = Compression::UNCOMPRESSED;
    let snappy = Compression::SNAPPY;
    let rows = [
        (1, ONE_RECORD, write_texts(false, plain, long)),
        (1001, RECORDS, write_texts(false, snappy, many)),
        (1001, RECORDS, write_texts(true, snappy, vec![None; 5000])),
    ];
    for (row, expected, set) in rows {
        assert_eq!(
            set.error(),
            format!("`bomb.parquet`, row {row}: {expected}")
        );
    }
}

#[test]
fn pages_are_bounded() {
    let text = "x".repeat(700_000);
    let two_billion = i32::MAX as u32;
    let repeated = [
        dictionary(1, &plain(&text)),
        data_page(two_billion, Encoding::RLE_DICTIONARY, &zeros(two_billion)),
    ];
    let too_many_promised = [
        dictionary(two_billion, &plain("x")),
        plain_page(1, &plain("x")),
    ];
    let gzip = CompressionCodec::GZIP;
    let rows = [
        // A dictionary's only text in every row.
        (3, TASKS, column_set("body", &repeated, i64::MAX)),
        // A dictionary that promises two billion texts and has one.
        (1, WHOLE_FILE, column_set("body", &too_many_promised, 1)),
        // A page that is far larger than its header says.
        (
            1,
            WHOLE_FILE,
            compressed_column_set("body", &[plain_page(1, &gzipped_zeros(50 * MB))], 1, gzip),
        ),
        (
            1,
            WHOLE_FILE,
            compressed_column_set("body", &[dictionary(1, &gzipped_zeros(50 * MB))], 1, gzip),
        ),
    ];
    for (row, expected, set) in rows {
        assert_eq!(
            set.error(),
            format!("`bomb.parquet`, row {row}: {expected}")
        );
    }
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::ZSTD(Default::default()),
    ] {
        let texts = (0..9).map(|n| Some(format!("{n}{text}")));
        let mut set = write_texts(false, codec, texts);
        set.source.bounds.set_mb = NonZeroUsize::new(99).unwrap();
        let error = set.error();
        assert!(error.ends_with(WHOLE_FILE), "{codec}: {error}");
        set.source.bounds.file_mb = NonZeroUsize::new(99).unwrap();
        assert_eq!(set.load().len(), 9, "{codec}");
    }
}

/// In these encodings a page can promise billions of lengths, or repeat prefixes.
#[test]
fn encodings_that_can_expand_are_refused() {
    for (encoding, name) in [
        (Encoding::DELTA_BYTE_ARRAY, "DELTA_BYTE_ARRAY"),
        (Encoding::DELTA_LENGTH_BYTE_ARRAY, "DELTA_LENGTH_BYTE_ARRAY"),
    ] {
        // Blocks of 2²⁷ values, one part per block, 2³⁰ values, all of them 0.
        let header = [
            0x80, 0x80, 0x80, 0x40, 1, 0x80, 0x80, 0x80, 0x80, 4, 0, 0, 0, 0,
        ];
        let set = column_set("body", &[data_page(1, encoding, &header)], 1);
        let expected = format!(
            "cannot read row 1 of `bomb.parquet`: NYI: the encoding {name}; \
             write the file again with plain or dictionary encoding"
        );
        assert_eq!(set.error(), expected);
    }
}

#[test]
fn metadata_is_bounded() {
    let set = OnDisk::new("bomb.parquet");
    let mut column = Type::primitive_type_builder("x", ::parquet::basic::Type::INT32)
        .with_repetition(::parquet::basic::Repetition::REQUIRED)
        .build()
        .unwrap();
    for _ in 0..1000 {
        column = Type::group_type_builder("g")
            .with_repetition(::parquet::basic::Repetition::REQUIRED)
            .with_fields(vec![Arc::new(column)])
            .build()
            .unwrap();
    }
    let schema = Type::group_type_builder("m").with_fields(vec![Arc::new(column)]);
    let file = fs::File::create(set.path()).unwrap();
    let schema = Arc::new(schema.build().unwrap());
    SerializedFileWriter::new(file, schema, Arc::default())
        .unwrap()
        .close()
        .unwrap();
    let expected = "cannot read `bomb.parquet` as Parquet: Parquet error: it has 1002 columns, \
        and at most 1000 are read; write it again with only the needed columns";
    assert_eq!(set.error(), expected);

    let length = 9_u32 << 20;
    let set = OnDisk::with("bomb.parquet", "PAR1");
    let mut file = fs::File::options().write(true).open(set.path()).unwrap();
    file.set_len(u64::from(length) + 4).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    file.write_all(&[&length.to_le_bytes()[..], b"PAR1"].concat())
        .unwrap();
    let expected = "cannot read `bomb.parquet` as Parquet: Parquet error: its metadata takes \
        9437184 bytes, and at most 8388608 are read; \
        write the file again with larger row groups and only the needed columns";
    assert_eq!(set.error(), expected);
}

/// The decoder passes over a list of two billion booleans without reading a byte, and a list of such lists takes
/// six bytes for each.
#[test]
fn lists_that_take_no_bytes_are_refused() {
    let set = OnDisk::new("bomb.parquet");
    let column = Type::primitive_type_builder("x", ::parquet::basic::Type::INT32)
        .with_repetition(::parquet::basic::Repetition::REQUIRED);
    let column = Arc::new(column.build().unwrap());
    let schema = Type::group_type_builder("m").with_fields(vec![column]);
    let file = fs::File::create(set.path()).unwrap();
    SerializedFileWriter::new(file, Arc::new(schema.build().unwrap()), Arc::default())
        .unwrap()
        .close()
        .unwrap();
    let whole = fs::read(set.path()).unwrap();
    let (before, tail) = whole.split_at(whole.len() - 8);
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    // The field 200 is a list of booleans. It comes before the byte that ends the metadata.
    let field = [9, 0x90, 3, 0xf2, 0xff, 0xff, 0xff, 0xff, 7];
    let bomb = [
        &before[..before.len() - 1],
        &field,
        &[0],
        &(length + field.len() as u32).to_le_bytes(),
        b"PAR1",
    ];
    fs::write(set.path(), bomb.concat()).unwrap();
    let expected = "cannot read `bomb.parquet` as Parquet: Parquet error: damaged file: the metadata is wrong: \
        it has a list of booleans";
    assert_eq!(set.error(), expected);
}
