//! Writes the inputs of the corpus that code has to make: records of a run, and tables. Run it when a format
//! has changed: `cargo test --workspace --test seeds -- --ignored`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, sync::Arc};

use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use polyphony_fuzz::find;

fn write(target: &str, name: &str, bytes: &[u8]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    fs::write(corpus.join(target).join(name), bytes).unwrap();
}

#[test]
#[ignore = "writes into the corpus"]
fn records_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    (find("run").unwrap().prepare)(folder.path());
    let whole = folder.path().join("whole");
    let records = [
        ("run", 0, "recipe.ron"),
        ("run", 1, "run.json"),
        ("run", 2, "metrics.jsonl"),
        ("run", 3, "metrics.json"),
        ("run", 4, "rollouts.jsonl"),
        ("run", 5, "evaluations.jsonl"),
        ("run", 7, "tensorboard/events.out.tfevents.polyphony"),
        ("checkpoint", 0, "checkpoints/step-000002/state.ron"),
        ("checkpoint", 2, "metrics.jsonl"),
        ("checkpoint", 3, "rollouts.jsonl"),
        ("checkpoint", 4, "evaluations.jsonl"),
        ("checkpoint", 5, "tensorboard/events.out.tfevents.polyphony"),
    ];
    for (target, number, record) in records {
        let bytes = fs::read(whole.join(record)).unwrap();
        let (name, _) = Path::new(record)
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .split_once('.')
            .unwrap();
        let seed = [&[number], &bytes[..bytes.len().min(19_000)]].concat();
        write(target, &format!("{number}-{name}"), &seed);
        if number != 3 {
            let hostile =
                String::from_utf8_lossy(&seed).replacen("summarizer", "\\u001b[2J\\u202e", 50);
            write(
                target,
                &format!("{number}-{name}-hostile"),
                hostile.as_bytes(),
            );
        }
    }
}

#[test]
#[ignore = "writes into the corpus"]
fn tables() {
    for (name, codec, dictionary) in [
        ("plain", Compression::UNCOMPRESSED, false),
        ("snappy", Compression::SNAPPY, true),
        ("gzip", Compression::GZIP(Default::default()), true),
        ("zstd", Compression::ZSTD(Default::default()), false),
    ] {
        let schema = "message m { REQUIRED BYTE_ARRAY body (UTF8); OPTIONAL INT64 id; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_dictionary_enabled(dictionary)
            .build();
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts = ["my cat sat", "he ran", "he ran"].map(ByteArray::from);
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts, None, None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&[1, 2], Some(&[1, 0, 1]), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        file.close().unwrap();
        write("parquet", name, &bytes);
        write("parquet", &format!("{name}-cut"), &bytes[bytes.len() / 2..]);
    }
}
