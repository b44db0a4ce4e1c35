//! Tests of the hub, against one in this process. None reaches the network or the user's home.

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use polyphony_model::ModelFiles;
use serde_json::{Value, json};

use super::*;
use fake_hub::{Behaviour, FakeHub, File, Repository, sha256};

mod fake_hub;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT_COMMIT: &str = "76543210fedcba9876543210fedcba9876543210";

fn fixture(path: &str) -> Vec<u8> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-model/fixtures");
    fs::read(fixtures.join(path)).unwrap()
}

/// A repository with these files. Those that end in `safetensors` or `gguf` are large.
fn repository(files: &[(&str, Vec<u8>)]) -> Repository {
    let files = files.iter().map(|(name, contents)| {
        let large = name.ends_with(".safetensors") || name.ends_with(".gguf");
        let file = if large { File::Large } else { File::Git };
        ((*name).to_owned(), file(contents.clone()))
    });
    Repository {
        commit: COMMIT.to_owned(),
        files: files.collect(),
        behaviour: Behaviour::Plain,
    }
}

/// A model that opens, with a tokenizer, and files beside it that are not asked for.
fn tiny_model() -> Repository {
    repository(&[
        ("README.md", b"A tiny model.".to_vec()),
        ("config.json", fixture("tiny-llama/config.json")),
        ("model.safetensors", fixture("tiny-llama/model.safetensors")),
        ("pytorch_model.bin", b"pickles".to_vec()),
        ("tokenizer.json", fixture("tiny-chat/tokenizer.json")),
        (
            "tokenizer_config.json",
            fixture("tiny-chat/tokenizer_config.json"),
        ),
    ])
}

/// The settings of a test: its own cache, no second attempts, small pieces.
fn settings(endpoint: &str, cache: &Path) -> Settings {
    Settings {
        endpoint: endpoint.to_owned(),
        cache: cache.to_owned(),
        token: Some("hf_wrong".to_owned()),
        network: Network::On,
        retries: 0,
        piece_bytes: 100_000,
    }
}

/// An address where nobody listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn obtain(name: &str, settings: &Settings) -> Result<PathBuf> {
    HubModel::parse(name)?.obtain(settings, Freshness::Cached)
}

/// The folder of the repository in a cache.
fn folder(cache: &Path) -> PathBuf {
    cache.join("models--org--tiny")
}

#[test]
fn names_are_read_and_written() {
    let rows = [
        ("org/name", "hub:org/name"),
        ("org/name@main", "hub:org/name"),
        ("O-1/n_a.m-e@v1.0", "hub:O-1/n_a.m-e@v1.0"),
        ("org/name@refs/pr/1", "hub:org/name@refs/pr/1"),
        ("org/name/f.gguf", "hub:org/name/f.gguf"),
        ("org/name/a/F.GGUF", "hub:org/name/a/F.GGUF"),
        ("org/name@v1/a/f.gguf", "hub:org/name@v1/a/f.gguf"),
    ];
    for (text, expected) in rows {
        assert_eq!(HubModel::parse(text).unwrap().to_string(), expected);
    }
}

#[test]
fn malformed_names_are_refused_with_the_right_form() {
    let rows = [
        ("", "the organization is missing"),
        ("name", "the organization is missing"),
        ("/name", "`` is no name of an organization"),
        ("org/", "`` is no name of an organization"),
        ("org/na me", "`na me` is no name"),
        ("org/a--b", "`a--b` is no name"),
        ("../name", "`..` is no name"),
        ("https://huggingface.co/org/name", "`https:` is no name"),
        ("org/name@", "the revision is empty"),
        ("org/name@/f.gguf", "the revision is empty"),
        ("org/name@../x", "`../x` is no revision"),
        ("org/name@a b", "`a b` is no revision"),
        ("org/name/f.bin", "`f.bin` is no .gguf file"),
        ("org/name/", "`` is no .gguf file"),
        ("org/name/.gguf", "`.gguf` is no .gguf file"),
        ("org/name/../f.gguf", "`../f.gguf` is no .gguf file"),
    ];
    for (text, expected) in rows {
        let message = HubModel::parse(text).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{text}: {message}");
        assert!(message.ends_with(FORM), "{text}: {message}");
    }
}

#[test]
fn the_environment_says_where_and_whether() {
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let rows: [(Variables<'_>, &str, &str, Network); 6] = [
        (
            &[("HOME", "/u")],
            "/u/.cache/huggingface/hub",
            "https://huggingface.co",
            Network::On,
        ),
        (
            &[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")],
            "/x/huggingface/hub",
            "https://huggingface.co",
            Network::On,
        ),
        (
            &[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")],
            "/h/hub",
            "https://huggingface.co",
            Network::On,
        ),
        (
            &[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/o")],
            "/o",
            "https://huggingface.co",
            Network::On,
        ),
        (
            &[("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HUB_CACHE", "/c")],
            "/c",
            "https://huggingface.co",
            Network::On,
        ),
        (
            &[
                ("HF_HUB_CACHE", ""),
                ("HF_HOME", "/h"),
                ("HF_ENDPOINT", "http://mirror/"),
                ("HF_HUB_OFFLINE", "Yes"),
            ],
            "/h/hub",
            "http://mirror",
            Network::Off,
        ),
    ];
    for (variables, cache, endpoint, network) in rows {
        let variable = |name: &str| {
            let found = variables.iter().find(|variable| variable.0 == name);
            found.map(|variable| variable.1.to_owned())
        };
        let settings = Settings::from_variables(&variable).unwrap();
        assert_eq!(settings.cache, Path::new(cache), "{variables:?}");
        assert_eq!(settings.endpoint, endpoint, "{variables:?}");
        assert_eq!(settings.network, network, "{variables:?}");
    }
    assert!(Settings::from_variables(&|_| None).is_none());
}

#[test]
fn a_model_is_fetched_once_and_opens() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(tiny_model());
    let settings = settings(&hub.endpoint(), cache.path());
    let path = obtain("org/tiny", &settings).unwrap();
    assert_eq!(path, folder(cache.path()).join("snapshots").join(COMMIT));
    let files = ModelFiles::open(&path).unwrap();
    assert!(files.tokenizer.is_some());

    let names = fs::read_dir(&path).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let expected = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected, "what is read, and nothing else");
    let reference = fs::read_to_string(folder(cache.path()).join("refs/main")).unwrap();
    assert_eq!(reference, COMMIT);
    let absent = folder(cache.path()).join(".no_exist").join(COMMIT);
    assert!(absent.join("chat_template.jinja").exists());
    assert!(!absent.join("tokenizer.json").exists());
    let weights = fs::canonicalize(path.join("model.safetensors")).unwrap();
    let digest = sha256(&fixture("tiny-llama/model.safetensors"));
    assert_eq!(
        weights,
        fs::canonicalize(folder(cache.path()).join("blobs").join(digest)).unwrap(),
        "Python's huggingface_hub finds it"
    );

    drop(hub);
    assert_eq!(obtain("org/tiny", &settings).unwrap(), path);
    assert_eq!(
        obtain(&format!("org/tiny@{COMMIT}"), &settings).unwrap(),
        path
    );
}

/// A safetensors file as two, each with the names of its tensors.
fn halves(whole: &[u8]) -> [(Vec<String>, Vec<u8>); 2] {
    let (length, rest) = whole.split_first_chunk().unwrap();
    let (header, contents) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).unwrap();
    let tensors = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__");
    let tensors: Vec<(String, Value)> = tensors.collect();
    let (front, back) = tensors.split_at(tensors.len() / 2);
    [front, back].map(|tensors| {
        let (mut header, mut part) = (serde_json::Map::new(), Vec::new());
        for (name, tensor) in tensors {
            let offset = |end: usize| tensor["data_offsets"][end].as_u64().unwrap() as usize;
            let begin = part.len();
            part.extend(&contents[offset(0)..offset(1)]);
            let mut tensor = tensor.clone();
            tensor["data_offsets"] = json!([begin, part.len()]);
            header.insert(name.clone(), tensor);
        }
        let names = header.keys().cloned().collect();
        let header = Value::from(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        (names, [&length, header.as_bytes(), &part].concat())
    })
}

#[test]
fn exactly_the_shards_that_the_index_names_are_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let [first, second] = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"];
    let parts = halves(&fixture("tiny-llama/model.safetensors"));
    let mut weight_map = serde_json::Map::new();
    for (file, (names, _)) in [first, second].iter().zip(&parts) {
        weight_map.extend(names.iter().map(|name| (name.clone(), json!(file))));
    }
    let index = json!({"weight_map": weight_map});
    let [one, two] = parts.map(|part| part.1);
    let mut files = vec![
        ("config.json", fixture("tiny-llama/config.json")),
        (
            "model.safetensors.index.json",
            index.to_string().into_bytes(),
        ),
        (first, one.clone()),
        (second, two.clone()),
        ("model-3-of-2.safetensors", vec![3; 30]),
    ];
    let hub = FakeHub::start(repository(&files));
    let settings_here = settings(&hub.endpoint(), cache.path());
    let path = obtain("org/tiny", &settings_here).unwrap();
    assert_eq!(fs::read(path.join(first)).unwrap(), one);
    assert_eq!(fs::read(path.join(second)).unwrap(), two);
    ModelFiles::open(&path).unwrap();
    assert!(!path.join("model-3-of-2.safetensors").exists());
    drop(hub);
    assert_eq!(obtain("org/tiny", &settings_here).unwrap(), path);
    fs::remove_file(path.join(second)).unwrap();
    obtain("org/tiny", &settings_here).expect_err("a snapshot without a shard is not whole");

    let cache = tempfile::tempdir().unwrap();
    files.retain(|file| file.0 != second);
    let hub = FakeHub::start(repository(&files));
    let error = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        format!(
            "`hub:org/tiny` could not be obtained: the repository has no file {second}, which \
             model.safetensors.index.json names"
        )
    );
}

#[test]
fn an_index_leads_nowhere_else() {
    let cache = tempfile::tempdir().unwrap();
    let index = json!({"weight_map": {"a": "../../outside.safetensors"}});
    let hub = FakeHub::start(repository(&[
        ("config.json", b"{}".to_vec()),
        (
            "model.safetensors.index.json",
            index.to_string().into_bytes(),
        ),
    ]));
    let error = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap_err();
    let expected = "puts a into `../../outside.safetensors`, which is no file beside it";
    assert!(format!("{error:#}").contains(expected), "{error:#}");
}

#[test]
fn one_gguf_file_is_fetched_out_of_many() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(repository(&[
        ("small/a.gguf", vec![1; 10]),
        ("small/b.gguf", vec![2; 20]),
    ]));
    let settings = settings(&hub.endpoint(), cache.path());
    let path = obtain("org/tiny@v1/small/b.gguf", &settings).unwrap();
    assert!(path.ends_with(format!("{COMMIT}/small/b.gguf")));
    assert_eq!(fs::read(&path).unwrap(), [2; 20]);
    assert!(!path.with_file_name("a.gguf").exists());
    drop(hub);
    assert_eq!(obtain("org/tiny@v1/small/b.gguf", &settings).unwrap(), path);
}

#[test]
fn refusals_say_what_would_help() {
    let bare = repository(&[("a.gguf", vec![1]), ("b.gguf", vec![2])]);
    let weightless = repository(&[("config.json", b"{}".to_vec())]);
    let adapter = repository(&[
        ("adapter_config.json", b"{}".to_vec()),
        ("adapter_model.safetensors", vec![1]),
        ("config.json", b"{}".to_vec()),
    ]);
    let behaving = |behaviour: Behaviour| Repository {
        behaviour,
        ..tiny_model()
    };
    let rows = [
        (
            tiny_model(),
            "org/tiny@v2",
            "the repository has no revision `v2`: give a branch, a tag or a whole commit hash from \
             HUB/org/tiny/commits",
        ),
        (
            tiny_model(),
            "org/tinny",
            "the hub has no model repository `org/tinny`: check the spelling",
        ),
        (
            tiny_model(),
            "org/tiny/c.gguf",
            "the repository has no file c.gguf",
        ),
        (
            bare,
            "org/tiny",
            "the repository has no config.json, so it is no model in Hugging Face form. It has \
             GGUF files: name one, such as `hub:org/tiny/a.gguf` (a.gguf, b.gguf)",
        ),
        (
            weightless,
            "org/tiny",
            "the repository has neither model.safetensors nor model.safetensors.index.json, and \
             other weights are not read",
        ),
        (
            adapter,
            "org/tiny",
            "the repository is an adapter (adapter_config.json), not a whole model: run `hf \
             download org/tiny --revision main --local-dir DIRECTORY`, fetch the model that its \
             adapter_config.json calls `base_model_name_or_path` with `polyphony models fetch`, put \
             the path that this prints in place of that name, and give DIRECTORY in place of \
             `hub:org/tiny`",
        ),
        (
            behaving(Behaviour::Private),
            "org/tiny",
            "the hub has no model repository `org/tiny`, or shows it only to some (no, sorry): \
             check the spelling; if it is private or gated, accept its terms at HUB/org/tiny if \
             there are any, then make a token at HUB/settings/tokens, and set HF_TOKEN to it or \
             save it with `hf auth login`",
        ),
        (
            behaving(Behaviour::Gated),
            "org/tiny",
            "the repository is gated (no, sorry): accept its terms at HUB/org/tiny, then make a \
             token at HUB/settings/tokens, and set HF_TOKEN to it or save it with `hf auth login`",
        ),
    ];
    for (repository, name, expected) in rows {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::start(repository);
        let error = obtain(name, &settings(&hub.endpoint(), cache.path())).unwrap_err();
        let message = format!("{error:#}").replace(&hub.endpoint(), "HUB");
        let expected = format!("`hub:{name}` could not be obtained: {expected}");
        assert_eq!(message, expected);
        assert!(!folder(cache.path()).join("refs").exists(), "{name}");
    }
}

#[test]
fn the_token_is_sent() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::Private,
        ..tiny_model()
    });
    let mut settings = settings(&hub.endpoint(), cache.path());
    settings.token = Some("hf_right".to_owned());
    obtain("org/tiny", &settings).unwrap();
}

#[test]
fn without_a_network_the_file_and_the_way_out_are_named() {
    let cache = tempfile::tempdir().unwrap();
    let endpoint = nowhere();
    let mut settings = settings(&endpoint, cache.path());
    let by_hand = |revision: &str| {
        format!(
            "on a machine with a network, run `hf download org/tiny --revision {revision} \
             --local-dir DIRECTORY`, or save the files from HUB/org/tiny/tree/{revision} into one \
             directory: config.json, model.safetensors or model.safetensors.index.json with the \
             files that it names, and as far as they exist generation_config.json, tokenizer.json, \
             tokenizer_config.json, chat_template.jinja; then give the directory in place of the \
             name"
        )
    };
    let rows = [
        (
            "org/tiny",
            "config.json from HUB/org/tiny/resolve/main/config.json",
            by_hand("main"),
        ),
        (
            "org/tiny@refs/pr/1",
            "config.json from HUB/org/tiny/resolve/refs%2Fpr%2F1/config.json",
            by_hand("refs/pr/1"),
        ),
        (
            "org/tiny@v1/a/b.gguf",
            "a/b.gguf from HUB/org/tiny/resolve/v1/a/b.gguf",
            "save it on a machine with a network, and give the file's path in place of the name"
                .to_owned(),
        ),
    ];
    let refused = TcpStream::connect(endpoint.strip_prefix("http://").unwrap());
    let silence = format!("the hub does not answer ({})", refused.unwrap_err());
    let offline = "HF_HUB_OFFLINE is set, and the cache does not hold it";
    for (network, reason) in [(Network::On, &silence[..]), (Network::Off, offline)] {
        settings.network = network;
        for (name, file, by_hand) in &rows {
            let error = obtain(name, &settings).unwrap_err();
            let expected = format!(
                "`hub:{name}` could not be obtained: {reason}. The next file would have been \
                 {file}. Run the command again when there is a network: what has been downloaded \
                 is kept. Or place the model by hand: {by_hand}"
            );
            assert_eq!(format!("{error:#}").replace(&endpoint, "HUB"), expected);
        }
    }
}

#[test]
fn what_others_have_cached_is_completed_or_taken_as_it_is() {
    // Python's `snapshot_download` does not note which optional files there are not.
    let cache = tempfile::tempdir().unwrap();
    let snapshot = folder(cache.path()).join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder(cache.path()).join("refs")).unwrap();
    fs::write(folder(cache.path()).join("refs/main"), COMMIT).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::write(snapshot.join(name), fixture(&format!("tiny-llama/{name}"))).unwrap();
    }
    let mut alone = settings(&nowhere(), cache.path());
    for network in [Network::On, Network::Off] {
        alone.network = network;
        assert_eq!(obtain("org/tiny", &alone).unwrap(), snapshot);
    }

    let hub = FakeHub::start(tiny_model());
    let settings = settings(&hub.endpoint(), cache.path());
    assert_eq!(obtain("org/tiny", &settings).unwrap(), snapshot);
    assert!(snapshot.join("tokenizer.json").exists());
    let asked = hub.asked().join("\n");
    assert!(!asked.contains("model.safetensors"), "{asked}");
    obtain("org/tiny", &settings).unwrap();
    assert_eq!(hub.asked(), [""; 0], "now it is whole");
}

#[test]
fn a_download_that_broke_off_goes_on_where_it_stopped() {
    let cache = tempfile::tempdir().unwrap();
    let weights = fixture("tiny-llama/model.safetensors");
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::BreaksOff(250_000),
        ..tiny_model()
    });
    let error = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("the hub does not answer ("), "{message}");
    assert!(
        message.contains("The next file would have been model.safetensors from"),
        "{message}"
    );
    let snapshot = folder(cache.path()).join("snapshots").join(COMMIT);
    assert!(!snapshot.join("model.safetensors").exists());
    drop(hub);

    let hub = FakeHub::start(tiny_model());
    let path = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), weights);
    let url = format!("GET /cdn/{}", sha256(&weights));
    let asked = hub.asked();
    let ranges = asked.iter().filter_map(|asked| asked.strip_prefix(&url));
    let expected = [
        " bytes=200000-299999",
        " bytes=300000-399999",
        " bytes=400000-499999",
        " bytes=500000-512687",
    ];
    assert_eq!(ranges.collect::<Vec<_>>(), expected);
    let blobs = fs::read_dir(folder(cache.path()).join("blobs")).unwrap();
    let names = blobs.map(|blob| blob.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.contains("incomplete")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn an_answer_that_breaks_off_is_asked_for_again() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::BreaksOff(0),
        ..repository(&[("a.gguf", vec![1; 10])])
    });
    let mut settings = settings(&hub.endpoint(), cache.path());
    settings.retries = 2;
    obtain("org/tiny/a.gguf", &settings).unwrap_err();
    let asked = hub.asked();
    let attempts = asked.iter().filter(|asked| asked.starts_with("GET /cdn/"));
    assert_eq!(attempts.count(), 3);
}

#[test]
fn what_came_damaged_never_counts_as_whole() {
    let cases = [("config.json", "org/tiny"), ("a.gguf", "org/tiny/a.gguf")];
    for (file, name) in cases {
        let contents = b"not the same backwards".to_vec();
        let files = repository(&[(file, contents), ("model.safetensors", vec![1])]);
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::start(Repository {
            behaviour: Behaviour::Damages,
            ..files.clone()
        });
        let error = obtain(name, &settings(&hub.endpoint(), cache.path())).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            format!(
                "`hub:{name}` could not be obtained: {file} came with another size or digest than \
                 the hub says: run the command again"
            )
        );
        let blobs = fs::read_dir(folder(cache.path()).join("blobs")).unwrap();
        assert_eq!(blobs.count(), 0, "nothing damaged stays");
        drop(hub);
        let hub = FakeHub::start(files);
        obtain(name, &settings(&hub.endpoint(), cache.path())).unwrap();
    }
}

#[test]
fn a_branch_moves_when_it_is_fetched_and_unchanged_files_stay() {
    let cache = tempfile::tempdir().unwrap();
    let model = HubModel::parse("org/tiny").unwrap();
    let hub = FakeHub::start(tiny_model());
    let first = model.obtain(&settings(&hub.endpoint(), cache.path()), Freshness::Newest);
    let first = first.unwrap();
    drop(hub);

    let mut changed = tiny_model();
    changed.commit = NEXT_COMMIT.to_owned();
    let template = File::Git(fixture("tiny-chat/chat_template.jinja"));
    changed
        .files
        .insert("chat_template.jinja".to_owned(), template);
    let hub = FakeHub::start(changed);
    let settings = settings(&hub.endpoint(), cache.path());
    assert_eq!(model.obtain(&settings, Freshness::Cached).unwrap(), first);
    assert_eq!(hub.asked(), [""; 0]);
    let second = model.obtain(&settings, Freshness::Newest).unwrap();
    assert!(second.ends_with(NEXT_COMMIT));
    assert!(second.join("chat_template.jinja").exists());
    assert!(ModelFiles::open(&second).is_ok());
    let asked = hub.asked().join("\n");
    assert!(!asked.contains("/cdn/"), "the weights are there: {asked}");
    assert_eq!(model.obtain(&settings, Freshness::Cached).unwrap(), second);
    let pinned = HubModel::parse(&format!("org/tiny@{COMMIT}")).unwrap();
    hub.asked();
    assert_eq!(pinned.obtain(&settings, Freshness::Newest).unwrap(), first);
    assert_eq!(hub.asked(), [""; 0], "a commit never moves");
    drop(hub);
    assert_eq!(model.obtain(&settings, Freshness::Newest).unwrap(), second);
}

#[test]
fn what_the_cache_holds_is_listed_by_names_that_can_be_given() {
    let cache = tempfile::tempdir().unwrap();
    let settings_nowhere = settings(&nowhere(), cache.path());
    assert_eq!(cached_models(&settings_nowhere).unwrap(), []);

    let mut all = tiny_model();
    let gguf = File::Large(vec![1; 10]);
    all.files.insert("small/a.gguf".to_owned(), gguf);
    let hub = FakeHub::start(all);
    let settings = settings(&hub.endpoint(), cache.path());
    obtain("org/tiny", &settings).unwrap();
    obtain("org/tiny@v1/small/a.gguf", &settings).unwrap();
    drop(hub);
    let others = ["models--gpt2", "datasets--org--set", "models--org--half"];
    for other in others {
        let snapshot = cache.path().join(other).join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(snapshot.join("config.json"), "{}").unwrap();
    }
    fs::write(folder(cache.path()).join("refs/a"), COMMIT).unwrap();

    let listed = cached_models(&settings_nowhere).unwrap();
    let names: Vec<String> = listed.iter().map(|one| one.model.to_string()).collect();
    assert_eq!(names, ["hub:org/tiny", "hub:org/tiny/small/a.gguf"]);
    for one in &listed {
        let path = one.model.obtain(&settings_nowhere, Freshness::Cached);
        assert_eq!(path.unwrap(), one.path);
    }
    let parts = [
        "tiny-llama/config.json",
        "tiny-llama/model.safetensors",
        "tiny-chat/tokenizer.json",
        "tiny-chat/tokenizer_config.json",
    ];
    let bytes: usize = parts.iter().map(|part| fixture(part).len()).sum();
    assert_eq!(listed[0].bytes, bytes as u64);
    assert_eq!(listed[1].bytes, 10);

    fs::remove_file(folder(cache.path()).join("refs/main")).unwrap();
    fs::remove_file(folder(cache.path()).join("refs/v1")).unwrap();
    fs::create_dir(folder(cache.path()).join("refs/pr")).unwrap();
    fs::remove_file(folder(cache.path()).join("refs/a")).unwrap();
    fs::write(folder(cache.path()).join("refs/pr/1"), COMMIT).unwrap();
    let listed = cached_models(&settings_nowhere).unwrap();
    let names: Vec<String> = listed.iter().map(|one| one.model.to_string()).collect();
    let by_commit = format!("hub:org/tiny@{COMMIT}/small/a.gguf");
    let mut expected = ["hub:org/tiny@pr/1".to_owned(), by_commit];
    expected.sort();
    assert_eq!(names, expected);
}
