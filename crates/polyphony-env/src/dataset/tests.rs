//! Data sets on disk: every format, intact and damaged.

use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    fs,
    io::Write,
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
};

use ::parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type},
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};
use flate2::{Compression, write::GzEncoder};
use polyphony_episode::{Task, TaskSource};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;

use super::*;

mod bombs;

/// A data set in its own temporary folder.
struct OnDisk {
    folder: TempDir,
    source: File,
}

impl OnDisk {
    /// Maps `post` to `body`; does not write the file.
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let fields = BTreeMap::from([("post".to_owned(), "body".to_owned())]);
        Self {
            folder,
            source: File {
                fields,
                ..File::new(path)
            },
        }
    }

    fn with(name: &str, content: impl AsRef<[u8]>) -> Self {
        let set = Self::new(name);
        fs::write(set.path(), content).unwrap();
        set
    }

    fn path(&self) -> &Path {
        &self.source.path
    }

    fn mapped(mut self, fields: &[(&str, &str)], id: &str) -> Self {
        self.source.fields = fields
            .iter()
            .map(|(task_field, field)| ((*task_field).to_owned(), (*field).to_owned()))
            .collect();
        self.source.id = Some(id.to_owned());
        self
    }

    fn load(&self) -> Vec<Task> {
        self.source.load().unwrap()
    }

    fn error(&self) -> String {
        self.message(&*self.source.load().unwrap_err())
    }

    /// An error with its sources, without the temporary folder's name.
    fn message(&self, error: &(dyn Error + Send + Sync)) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Rows of `body` (text), `plain` (text without the annotation), `votes`, `id`, `score`, `share`,
/// `maybe` (text, the second row null) and `tags` (a list).
fn write_parquet(path: &Path, bodies: &[&str]) {
    let schema = "message posts {
        REQUIRED BYTE_ARRAY body (UTF8);
        REQUIRED BYTE_ARRAY plain;
        REQUIRED INT32 votes;
        REQUIRED INT64 id;
        REQUIRED DOUBLE score;
        REQUIRED FLOAT share;
        OPTIONAL BYTE_ARRAY maybe (UTF8);
        OPTIONAL group tags (LIST) { REPEATED group list { OPTIONAL INT32 element; } }
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut file =
        SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = file.next_row_group().unwrap();
    let texts: Vec<ByteArray> = bodies.iter().map(|body| ByteArray::from(*body)).collect();
    let present: Vec<i16> = (0..bodies.len()).map(|row| i16::from(row != 1)).collect();
    let present_texts: Vec<ByteArray> = texts
        .iter()
        .zip(&present)
        .filter(|(_, present)| **present == 1)
        .map(|(t, _)| t.clone())
        .collect();
    let none = vec![0; bodies.len()];

    macro_rules! column {
        ($kind:ty, $values:expr, $definition:expr, $repetition:expr) => {
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<$kind>()
                .write_batch($values, $definition, $repetition)
                .unwrap();
            column.close().unwrap();
        };
    }
    column!(ByteArrayType, &texts, None, None);
    column!(ByteArrayType, &texts, None, None);
    column!(Int32Type, &vec![-7; bodies.len()], None, None);
    column!(
        Int64Type,
        &(1 << 40..).take(bodies.len()).collect::<Vec<i64>>(),
        None,
        None
    );
    column!(DoubleType, &vec![2.0; bodies.len()], None, None);
    column!(FloatType, &vec![0.1; bodies.len()], None, None);
    column!(ByteArrayType, &present_texts, Some(&present), None);
    column!(Int32Type, &[], Some(&none), Some(&none));
    group.close().unwrap();
    file.close().unwrap();
}

fn parquet_set(bodies: &[&str]) -> OnDisk {
    let set = OnDisk::new("posts.parquet");
    write_parquet(set.path(), bodies);
    set
}

const LINES: &str = "{\"body\": \"It rained.\", \"n\": 1}\n\n{\"body\": \"Ça a plu.\", \"n\": 2}\n";

#[test]
fn json_lines_load_plain_and_gzipped() {
    let expected = [
        Task::new("posts/1", [("post", "It rained.")]),
        Task::new("posts/3", [("post", "Ça a plu.")]),
    ];
    assert_eq!(OnDisk::with("posts.jsonl", LINES).load(), expected);
    assert_eq!(OnDisk::with("posts.JSONL", LINES).load(), expected);
    assert_eq!(OnDisk::with("posts.jsonl.gz", gzip(LINES)).load(), expected);
    // Gzip files may be put one after the other.
    let (head, tail) = LINES.split_at(20);
    assert_eq!(
        OnDisk::with("posts.jsonl.gz", [gzip(head), gzip(tail)].concat()).load(),
        expected
    );
}

#[test]
fn parquet_columns_become_text() {
    let fields = ["body", "plain", "votes", "score", "share"].map(|name| (name, name));
    let set = parquet_set(&["It rained.", "Ça a plu."]).mapped(&fields, "id");
    let task = |id: u64, body| {
        let fields = [
            ("body", body),
            ("plain", body),
            ("votes", "-7"),
            ("score", "2.0"),
            ("share", "0.1"),
        ];
        Task::new(id.to_string(), fields)
    };
    assert_eq!(
        set.load(),
        [
            task(1 << 40, "It rained."),
            task((1 << 40) + 1, "Ça a plu.")
        ]
    );

    let tasks = parquet_set(&["x", "y"]).load();
    assert_eq!(
        tasks,
        [
            Task::new((1u64 << 40).to_string(), [("post", "x")]),
            Task::new(((1u64 << 40) + 1).to_string(), [("post", "y")])
        ]
    );
}

#[test]
fn errors_say_why_a_file_cannot_be_read() {
    let lines_error = "not valid JSON: expected value";
    let rows = [
        (
            OnDisk::new("posts.jsonl"),
            "cannot open data set `posts.jsonl`: No such file or directory (os error 2)".to_owned(),
        ),
        (
            OnDisk::with("posts.csv", ""),
            "`posts.csv`: unknown data set format; the name must end in one of \
             `.jsonl`, `.jsonl.gz`, `.parquet`"
                .to_owned(),
        ),
        (
            OnDisk::with("posts.jsonl", "\n\n"),
            "`posts.jsonl` holds no records".to_owned(),
        ),
        (
            OnDisk::with("posts.jsonl.gz", gzip("")),
            "`posts.jsonl.gz` holds no records".to_owned(),
        ),
        (
            parquet_set(&[]),
            "`posts.parquet` holds no records".to_owned(),
        ),
        (
            OnDisk::with("posts.jsonl", "{\"body\": \"x\"}\nbody\n"),
            format!("`posts.jsonl`, line 2, column 1: {lines_error}"),
        ),
        (
            OnDisk::with("posts.jsonl.gz", LINES),
            "`posts.jsonl.gz` is not a complete gzip file: line 1 cannot be unpacked; \
             download it again: invalid gzip header"
                .to_owned(),
        ),
        (
            OnDisk::with("posts.parquet", LINES),
            "cannot read `posts.parquet` as Parquet: \
             Parquet error: Invalid Parquet file. Corrupt footer"
                .to_owned(),
        ),
    ];
    for (set, expected) in rows {
        assert_eq!(set.error(), expected);
    }
}

#[test]
fn a_truncated_gzip_file_is_an_error() {
    let complete = gzip(LINES);
    let error = OnDisk::with("posts.jsonl.gz", &complete[..complete.len() - 4]).error();
    let expected = "`posts.jsonl.gz` is not a complete gzip file: line 4 cannot be unpacked";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn errors_say_why_a_mapping_does_not_fit() {
    let lines = || OnDisk::with("posts.jsonl", LINES);
    let table = || parquet_set(&["x", "y"]);
    let not_text = "only text, numbers and true or false can be used";
    let rows = [
        (
            lines().mapped(&[("post", "text")], "n"),
            "`posts.jsonl`, line 1: no field `text`; the record has: body, n".to_owned(),
        ),
        (
            table().mapped(&[("post", "text")], "id"),
            "`posts.parquet` has no column `text`; \
             it has: body, plain, votes, id, score, share, maybe, tags"
                .to_owned(),
        ),
        (
            table().mapped(&[("post", "body")], "uid"),
            "`posts.parquet` has no column `uid`; \
             it has: body, plain, votes, id, score, share, maybe, tags"
                .to_owned(),
        ),
        (
            table().mapped(&[("post", "maybe")], "id"),
            format!("`posts.parquet`, row 2: field `maybe` holds null; {not_text}"),
        ),
        (
            table().mapped(&[("post", "tags")], "id"),
            format!("`posts.parquet`, row 1: field `tags` holds a list or a group; {not_text}"),
        ),
        (
            table().mapped(&[("post", "body")], "votes"),
            "`posts.parquet`, row 2: the id `-7` is already used by row 1".to_owned(),
        ),
    ];
    for (set, expected) in rows {
        assert_eq!(set.error(), expected);
    }
}

#[test]
fn a_damaged_parquet_file_does_not_panic() {
    let set = parquet_set(&["It rained.", "It snowed.", "It hailed."]);
    let intact = fs::read(set.path()).unwrap();
    let mut errors = HashSet::new();
    for position in 0..intact.len() {
        for damage in [0x01, 0x80, 0xff] {
            let mut damaged = intact.clone();
            damaged[position] ^= damage;
            // Overwrites the file, because truncating it first makes some file systems wait for the disk.
            let mut file = fs::File::options().write(true).open(set.path()).unwrap();
            file.write_all(&damaged).unwrap();
            // Not every flipped bit can be detected. What matters is that none causes a panic.
            if let Err(error) = set.source.load() {
                errors.insert(set.message(&*error));
            }
        }
    }
    for error in &errors {
        assert!(error.contains("`posts.parquet`"), "{error}");
    }
    for kind in [
        "cannot read `posts.parquet` as Parquet: ",
        "cannot read `posts.parquet` as Parquet: Parquet error: damaged file: ",
        "cannot read row 1 of `posts.parquet`: ",
    ] {
        assert!(
            errors.iter().any(|error| error.starts_with(kind)),
            "none starts with {kind}"
        );
    }
}

#[test]
fn coding_problems_have_fixed_field_names() {
    let line = |id, rest| format!("{{\"task_id\": {id}, \"prompt\": \"p\", {rest}}}\n");
    let complete = r#""entry_point": "f", "test": "t", "canonical_solution": "s""#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mbpp.jsonl");
    let load = |lines: &str, skip| {
        fs::write(&path, lines).unwrap();
        let source = Problems {
            path: path.clone(),
            skip,
            limit: None,
            bounds: DataBounds::default(),
        };
        source.load().map_err(|error| error.to_string())
    };
    let lines = [line("\"Mbpp/1\"", complete), line("2", complete)].concat();
    let task = |id| Task::new(id, [("prompt", "p"), ("entry_point", "f"), ("test", "t")]);
    assert_eq!(load(&lines, 0), Ok(vec![task("Mbpp/1"), task("2")]));
    assert_eq!(load(&lines, 1), Ok(vec![task("2")]));
    let error = load(&line("1", r#""entry_point": "f""#), 0).unwrap_err();
    let expected = "line 1: no field `test`; the record has: task_id, prompt, entry_point";
    assert!(error.ends_with(expected), "{error}");
    let error = load(&lines.replace("task_id", "id"), 0).unwrap_err();
    assert!(error.contains("no field `task_id`"), "{error}");
}

#[test]
fn fields_and_id_are_optional() {
    let mut set = OnDisk::with(
        "posts.jsonl",
        "{\"id\": 4, \"body\": \"x\", \"tags\": []}\n",
    );
    set.source.fields.clear();
    assert_eq!(set.load(), [Task::new("4", [("id", "4"), ("body", "x")])]);

    let mut table = parquet_set(&["x", "y"]);
    table.source.fields.clear();
    let tasks = table.load();
    assert_eq!(tasks[0].id, (1u64 << 40).to_string());
    let names = |task: &Task| task.fields.keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&tasks[0]), "body id maybe plain score share votes");
    // A null value gives the task no field.
    assert_eq!(names(&tasks[1]), "body id plain score share votes");
}

#[test]
fn the_error_says_how_to_fetch_the_problems() {
    let load = |path: &str| {
        let source = Problems {
            path: path.into(),
            skip: 0,
            limit: None,
            bounds: DataBounds::default(),
        };
        source.load().unwrap_err().to_string()
    };
    assert_eq!(
        load("data/HumanEval.jsonl.gz"),
        "cannot open data set `data/HumanEval.jsonl.gz`: `cargo xtask fetch humaneval` downloads it"
    );
    assert_eq!(
        load("data/none.jsonl"),
        "cannot open data set `data/none.jsonl`"
    );
}

#[test]
fn labels_name_the_set_or_the_file() {
    let problems = |skip| Problems {
        path: "data/p.jsonl".into(),
        skip,
        limit: None,
        bounds: DataBounds::default(),
    };
    assert_eq!(Embedded(EmbeddedSet::CoopTrain).label(), "CoopTrain");
    assert_eq!(File::new("data/posts.jsonl.gz").label(), "posts.jsonl.gz");
    assert_eq!(problems(0).label(), "p.jsonl");
    assert_eq!(problems(32).label(), "p.jsonl from 32");
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    ron::from_str(text).map_err(|error| error.code.to_string())
}

fn check<T>(text: &str, expected: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    assert_eq!(read::<T>(text).as_ref(), Ok(expected));
    assert_eq!(
        read::<T>(&ron::to_string(expected).unwrap()).as_ref(),
        Ok(expected)
    );
}

#[test]
fn sources_are_read_strictly() {
    check(r#"(path: "a.jsonl")"#, &File::new("a.jsonl"));
    check(
        r#"(path: "a.jsonl", fields: {"post": "content"}, id: Some("uid"), limit: Some(5))"#,
        &File {
            path: "a.jsonl".into(),
            fields: BTreeMap::from([("post".to_owned(), "content".to_owned())]),
            id: Some("uid".to_owned()),
            limit: NonZeroUsize::new(5),
            bounds: DataBounds::default(),
        },
    );
    check("(ArxivHeldOut)", &Embedded(EmbeddedSet::ArxivHeldOut));
    check(
        r#"(path: "p.parquet", bounds: (set_mb: 64))"#,
        &Problems {
            path: "p.parquet".into(),
            skip: 0,
            limit: None,
            bounds: DataBounds {
                set_mb: NonZeroUsize::new(64).unwrap(),
                ..DataBounds::default()
            },
        },
    );
    assert!(read::<Problems>(r#"(path: "a.jsonl", fields: {})"#).is_err());
    assert!(read::<File>(r#"(path: "a.jsonl", ids: Some("uid"))"#).is_err());
    assert!(read::<File>(r#"(path: "a.jsonl", limit: Some(0))"#).is_err());
    assert!(read::<File>(r#"(path: "a.jsonl", bounds: (file_mb: 0))"#).is_err());
    assert!(read::<File>(r#"(path: "a.jsonl", bounds: (files: 1))"#).is_err());
    assert!(read::<File>("()").is_err());
    assert!(read::<Embedded>("(TldrTest)").is_err());
}
