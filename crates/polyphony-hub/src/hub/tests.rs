//! Tests against a fake hub in this process. They use neither the network nor the user's home.

use std::{
    cell::RefCell,
    error::Error,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use super::{model::FORM, settings::Network, *};
use crate::{
    error::HubError,
    transfer::{Transfer, TransferPhase},
};
use fake_hub::{Behaviour, FakeHub, File, Repository, sha256};

mod fake_hub;
mod hostile;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT_COMMIT: &str = "76543210fedcba9876543210fedcba9876543210";

/// Contents without a repeated pattern.
fn bytes(length: u32) -> Vec<u8> {
    let words = (0..length).map(|index| index.wrapping_mul(0x9E37_79B1) >> 24);
    words.map(|word| word as u8).collect()
}

/// The weights of the tiny model.
fn weights() -> Vec<u8> {
    bytes(512_688)
}

/// An error with its causes, as a user sees it.
fn chain(error: &HubError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

/// A repository with these files. Files that end in `safetensors` or `gguf` are stored as large files.
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

/// A model with a tokenizer, and other files that are not requested.
fn tiny_model() -> Repository {
    repository(&[
        ("README.md", b"A tiny model.".to_vec()),
        ("config.json", b"{\"model_type\": \"llama\"}".to_vec()),
        ("model.safetensors", weights()),
        ("pytorch_model.bin", b"pickles".to_vec()),
        ("tokenizer.json", bytes(2000)),
        ("tokenizer_config.json", b"{}".to_vec()),
    ])
}

/// Settings for a test: a separate cache, and no retries.
fn settings(endpoint: &str, cache: &Path) -> HubConfig {
    HubConfig {
        endpoint: endpoint.to_owned(),
        cache: cache.to_owned(),
        token: Some("hf_wrong".to_owned()),
        network: Network::On,
        retries: 0,
        first_wait: Duration::ZERO,
        time_limit: Duration::from_secs(60),
    }
}

/// An address where no server listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn obtain(name: &str, settings: &HubConfig) -> Result<PathBuf, HubError> {
    let model = HubModel::parse(name).unwrap();
    model.obtain(settings, Freshness::Cached, &|_| {})
}

/// The folder of the repository in a cache.
fn folder(cache: &Path) -> PathBuf {
    cache.join("models--org--tiny")
}

#[test]
fn names_are_parsed_and_displayed() {
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
        ("/name", "`` is not a name of an organization"),
        ("org/", "`` is not a name of an organization"),
        ("org/na me", "`na me` is not a name"),
        ("org/a--b", "`a--b` is not a name"),
        ("../name", "`..` is not a name"),
        ("https://huggingface.co/org/name", "`https:` is not a name"),
        ("org/name@", "the revision is empty"),
        ("org/name@/f.gguf", "the revision is empty"),
        ("org/name@../x", "`../x` is not a revision"),
        ("org/name@a b", "`a b` is not a revision"),
        ("org/name/f.bin", "`f.bin` is not a .gguf file"),
        ("org/name/", "`` is not a .gguf file"),
        ("org/name/.gguf", "`.gguf` is not a .gguf file"),
        ("org/name/../f.gguf", "`../f.gguf` is not a .gguf file"),
        ("org/name//etc/f.gguf", "`/etc/f.gguf` is not a .gguf file"),
        ("org/name/C:\\f.gguf", "`C:\\f.gguf` is not a .gguf file"),
        ("org/name/a\0.gguf", "`a\0.gguf` is not a .gguf file"),
        ("org/name@main/..", "`main/..` is not a revision"),
        ("org/name@/etc", "`/etc` is not a revision"),
        ("org/name@a\0b", "`a\0b` is not a revision"),
        ("org/name@C:\\x", "`C:\\x` is not a revision"),
    ];
    for (text, expected) in rows {
        let message = HubModel::parse(text).unwrap_err();
        assert!(message.starts_with(expected), "{text}: {message}");
        assert!(message.ends_with(FORM), "{text}: {message}");
    }
    let long = "a".repeat(300);
    for text in [
        format!("{long}/name"),
        format!("org/{long}"),
        format!("org/name@{long}"),
        format!("org/name/{long}.gguf"),
    ] {
        assert!(HubModel::parse(&text).unwrap_err().contains("is not a"));
    }
}

#[test]
fn the_environment_sets_folder_address_and_network() {
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
        let settings = HubConfig::from_variables(&variable).unwrap();
        assert_eq!(settings.cache, Path::new(cache), "{variables:?}");
        assert_eq!(settings.endpoint, endpoint, "{variables:?}");
        assert_eq!(settings.network, network, "{variables:?}");
    }
    assert!(HubConfig::from_variables(&|_| None).is_none());
}

#[test]
fn a_model_is_fetched_once() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(tiny_model());
    let settings = settings(&hub.endpoint(), cache.path());
    let path = obtain("org/tiny", &settings).unwrap();
    assert_eq!(path, folder(cache.path()).join("snapshots").join(COMMIT));

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
    assert_eq!(names, expected, "the files that are read, and no others");
    let reference = fs::read_to_string(folder(cache.path()).join("refs/main")).unwrap();
    assert_eq!(reference, COMMIT);
    let absent = folder(cache.path()).join(".no_exist").join(COMMIT);
    assert!(absent.join("chat_template.jinja").exists());
    assert!(!absent.join("tokenizer.json").exists());
    let linked = fs::canonicalize(path.join("model.safetensors")).unwrap();
    let digest = sha256(&weights());
    assert_eq!(
        linked,
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

#[test]
fn exactly_the_shards_that_the_index_names_are_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let [first, second] = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"];
    let weight_map = json!({"a": first, "b": second, "c": first});
    let [one, two] = [bytes(100), bytes(200)];
    let index = json!({"weight_map": weight_map});
    let mut files = vec![
        ("config.json", b"{}".to_vec()),
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
    assert!(!path.join("model-3-of-2.safetensors").exists());
    drop(hub);
    assert_eq!(obtain("org/tiny", &settings_here).unwrap(), path);
    fs::remove_file(path.join(second)).unwrap();
    obtain("org/tiny", &settings_here).expect_err("a snapshot without a shard is incomplete");

    let cache = tempfile::tempdir().unwrap();
    files.retain(|file| file.0 != second);
    let hub = FakeHub::start(repository(&files));
    let error = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap_err();
    assert_eq!(
        chain(&error),
        format!(
            "`hub:org/tiny` could not be obtained: the repository has no file {second}, which \
             model.safetensors.index.json names"
        )
    );
}

#[test]
fn an_index_cannot_name_files_in_other_folders() {
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
    let expected =
        "puts a into `../../outside.safetensors`, which is not a file in the same folder";
    assert!(chain(&error).contains(expected), "{error:?}");
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
fn refusals_tell_what_would_help() {
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
            "the repository has no config.json, so it is not a model in Hugging Face format. It has \
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
             adapter_config.json calls `base_model_name_or_path`, replace the name by that model's \
             path, and give DIRECTORY instead of `hub:org/tiny`",
        ),
        (
            behaving(Behaviour::Private),
            "org/tiny",
            "the hub has no model repository `org/tiny`, or it is not public (no, sorry): \
             check the spelling; if it is private or gated, accept its terms at HUB/org/tiny if \
             there are any, then create a token at HUB/settings/tokens, and set HF_TOKEN to it or \
             save it with `hf auth login`",
        ),
        (
            behaving(Behaviour::Gated),
            "org/tiny",
            "the repository is gated (no, sorry): accept its terms at HUB/org/tiny, then create a \
             token at HUB/settings/tokens, and set HF_TOKEN to it or save it with `hf auth login`",
        ),
    ];
    for (repository, name, expected) in rows {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::start(repository);
        let error = obtain(name, &settings(&hub.endpoint(), cache.path())).unwrap_err();
        let message = chain(&error).replace(&hub.endpoint(), "HUB");
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
             files that it names, and if they exist generation_config.json, tokenizer.json, \
             tokenizer_config.json, chat_template.jinja; then give the directory instead of the \
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
            "save it on a machine with a network, and give the file's path instead of the name"
                .to_owned(),
        ),
    ];
    let refused = TcpStream::connect(endpoint.strip_prefix("http://").unwrap());
    let silence = format!("the hub does not answer ({})", refused.unwrap_err());
    let offline = "HF_HUB_OFFLINE is set, and the model is not in the cache";
    for (network, reason) in [(Network::On, &silence[..]), (Network::Off, offline)] {
        settings.network = network;
        for (name, file, by_hand) in &rows {
            let error = obtain(name, &settings).unwrap_err();
            let expected = format!(
                "`hub:{name}` could not be obtained: {reason}. The next file would have been \
                 {file}. Try again when there is a network: files that have been downloaded are kept. Or place the model by hand: {by_hand}"
            );
            assert_eq!(chain(&error).replace(&endpoint, "HUB"), expected);
        }
    }
}

#[test]
fn the_cache_of_another_program_is_completed_or_used_as_it_is() {
    // Python's `snapshot_download` does not record which optional files a repository lacks.
    let cache = tempfile::tempdir().unwrap();
    let snapshot = folder(cache.path()).join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder(cache.path()).join("refs")).unwrap();
    fs::write(folder(cache.path()).join("refs/main"), COMMIT).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::write(snapshot.join(name), "another program's").unwrap();
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
    let requests = hub.requests().join("\n");
    assert!(!requests.contains("model.safetensors"), "{requests}");
    obtain("org/tiny", &settings).unwrap();
    assert_eq!(hub.requests(), [""; 0], "now it is complete");
}

#[test]
fn a_download_that_broke_off_resumes_where_it_stopped() {
    let cache = tempfile::tempdir().unwrap();
    let weights = weights();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::BreaksOff(250_000),
        ..tiny_model()
    });
    let error = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap_err();
    let message = chain(&error);
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
    let requests = hub.requests();
    let ranges = requests
        .iter()
        .filter_map(|request| request.strip_prefix(&url));
    assert_eq!(ranges.collect::<Vec<_>>(), [" bytes=250000-"]);
    let blobs = fs::read_dir(folder(cache.path()).join("blobs")).unwrap();
    let names = blobs.map(|blob| blob.unwrap().file_name().into_string().unwrap());
    let incomplete: Vec<String> = names.filter(|name| name.contains("incomplete")).collect();
    assert_eq!(incomplete, [""; 0]);
}

#[test]
fn an_answer_that_breaks_off_is_requested_again() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::BreaksOff(0),
        ..repository(&[("a.gguf", vec![1; 10])])
    });
    let mut settings = settings(&hub.endpoint(), cache.path());
    settings.retries = 2;
    obtain("org/tiny/a.gguf", &settings).unwrap_err();
    let requests = hub.requests();
    let attempts = requests
        .iter()
        .filter(|request| request.starts_with("GET /cdn/"));
    assert_eq!(attempts.count(), 3);
}

#[test]
fn a_server_that_always_starts_over_is_given_up() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::StartsOver(200_000),
        ..tiny_model()
    });
    let mut settings = settings(&hub.endpoint(), cache.path());
    settings.retries = 2;
    let error = obtain("org/tiny", &settings).unwrap_err();
    let message = chain(&error);
    assert!(message.contains("the hub does not answer ("), "{message}");
    let requests = hub.requests();
    let attempts = requests
        .iter()
        .filter(|request| request.starts_with("GET /cdn/"));
    // The first attempt makes progress, so it does not count as a failure.
    assert_eq!(attempts.count(), 4);
}

#[test]
fn damaged_files_never_count_as_complete() {
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
            chain(&error),
            format!(
                "`hub:{name}` could not be obtained: {file} does not have the size and the \
                 digest that the hub announced: try again"
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
    let first = model.obtain(
        &settings(&hub.endpoint(), cache.path()),
        Freshness::Newest,
        &|_| {},
    );
    let first = first.unwrap();
    drop(hub);

    let mut changed = tiny_model();
    changed.commit = NEXT_COMMIT.to_owned();
    let template = File::Git(b"{{ messages }}".to_vec());
    changed
        .files
        .insert("chat_template.jinja".to_owned(), template);
    let hub = FakeHub::start(changed);
    let settings = settings(&hub.endpoint(), cache.path());
    assert_eq!(
        model.obtain(&settings, Freshness::Cached, &|_| {}).unwrap(),
        first
    );
    assert_eq!(hub.requests(), [""; 0]);
    let second = model.obtain(&settings, Freshness::Newest, &|_| {}).unwrap();
    assert!(second.ends_with(NEXT_COMMIT));
    assert!(second.join("chat_template.jinja").exists());
    let requests = hub.requests().join("\n");
    assert!(
        !requests.contains("/cdn/"),
        "the weights are cached: {requests}"
    );
    assert_eq!(
        model.obtain(&settings, Freshness::Cached, &|_| {}).unwrap(),
        second
    );
    let pinned = HubModel::parse(&format!("org/tiny@{COMMIT}")).unwrap();
    hub.requests();
    assert_eq!(
        pinned
            .obtain(&settings, Freshness::Newest, &|_| {})
            .unwrap(),
        first
    );
    assert_eq!(hub.requests(), [""; 0], "a commit never moves");
    drop(hub);
    assert_eq!(
        model.obtain(&settings, Freshness::Newest, &|_| {}).unwrap(),
        second
    );
}

#[test]
fn the_cached_version_is_used_if_the_hub_withholds_a_newer_one() {
    let cache = tempfile::tempdir().unwrap();
    let model = HubModel::parse("org/tiny").unwrap();
    let newest = |hub: &FakeHub, cache: &Path| {
        let settings = settings(&hub.endpoint(), cache);
        model.obtain(&settings, Freshness::Newest, &|_| {})
    };
    let cached = newest(&FakeHub::start(tiny_model()), cache.path()).unwrap();
    let refusing = |status| Behaviour::Refuses(u32::MAX, status, None);
    for (behaviour, uses_cache) in [
        (refusing("429 Too Many Requests"), true),
        (refusing("500 Internal Server Error"), true),
        (refusing("503 Service Unavailable"), true),
        (refusing("401 Unauthorized"), true),
        (Behaviour::Gated, true),
        (refusing("404 Not Found"), false),
        (Behaviour::Garbles, false),
    ] {
        let mut newer = Repository {
            commit: NEXT_COMMIT.to_owned(),
            behaviour,
            ..tiny_model()
        };
        // No file in the cache has these contents.
        let config = File::Git(b"{\"newer\": true}".to_vec());
        newer.files.insert("config.json".to_owned(), config);
        let hub = FakeHub::start(newer);
        let empty = tempfile::tempdir().unwrap();
        let refused = newest(&hub, empty.path()).unwrap_err();
        match newest(&hub, cache.path()) {
            Ok(path) => assert!(uses_cache && path == cached, "{}", chain(&refused)),
            Err(error) => assert!(!uses_cache, "{}", chain(&error)),
        }
    }
}

#[test]
fn cached_models_are_listed_by_names_that_resolve() {
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
    for name in others {
        let snapshot = cache.path().join(name).join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(snapshot.join("config.json"), "{}").unwrap();
    }
    fs::write(folder(cache.path()).join("refs/a"), COMMIT).unwrap();

    let listed = cached_models(&settings_nowhere).unwrap();
    let names: Vec<String> = listed
        .iter()
        .map(|cached| cached.model.to_string())
        .collect();
    assert_eq!(names, ["hub:org/tiny", "hub:org/tiny/small/a.gguf"]);
    for cached in &listed {
        let path = cached
            .model
            .obtain(&settings_nowhere, Freshness::Cached, &|_| {});
        assert_eq!(path.unwrap(), cached.path);
    }
    let parts = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let bytes = parts.map(|part| match &tiny_model().files[part] {
        File::Git(contents) | File::Large(contents) => contents.len() as u64,
    });
    assert_eq!(listed[0].bytes, bytes.iter().sum::<u64>());
    assert_eq!(listed[1].bytes, 10);

    fs::remove_file(folder(cache.path()).join("refs/main")).unwrap();
    fs::remove_file(folder(cache.path()).join("refs/v1")).unwrap();
    fs::create_dir(folder(cache.path()).join("refs/pr")).unwrap();
    fs::remove_file(folder(cache.path()).join("refs/a")).unwrap();
    fs::write(folder(cache.path()).join("refs/pr/1"), COMMIT).unwrap();
    let listed = cached_models(&settings_nowhere).unwrap();
    let names: Vec<String> = listed
        .iter()
        .map(|cached| cached.model.to_string())
        .collect();
    let by_commit = format!("hub:org/tiny@{COMMIT}/small/a.gguf");
    let mut expected = ["hub:org/tiny@pr/1".to_owned(), by_commit];
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn the_token_is_found_where_python_looks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let other = folder.path().join("other");
    fs::write(&other, "hf_other\n").unwrap();
    let other = other.to_str().unwrap();
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let token = |variables: Variables<'_>| {
        let variable = |name: &str| match name {
            "HF_HOME" => Some(home.to_owned()),
            _ => {
                let found = variables.iter().find(|variable| variable.0 == name);
                found.map(|variable| variable.1.to_owned())
            }
        };
        HubConfig::from_variables(&variable).unwrap().token
    };
    assert_eq!(token(&[]), None);
    fs::write(folder.path().join("token"), "hf_saved\n").unwrap();
    let rows: [(Variables<'_>, Option<&str>); 5] = [
        (&[], Some("hf_saved")),
        (&[("HF_TOKEN_PATH", other)], Some("hf_other")),
        (&[("HF_TOKEN_PATH", "/no/such/file")], Some("hf_saved")),
        (
            &[("HF_TOKEN", " hf_set "), ("HF_TOKEN_PATH", other)],
            Some("hf_set"),
        ),
        (
            &[
                ("HF_TOKEN", "hf_set"),
                ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
            ],
            None,
        ),
    ];
    for (variables, expected) in rows {
        assert_eq!(token(variables).as_deref(), expected, "{variables:?}");
    }
    let settings = HubConfig {
        token: Some("hf_secret".to_owned()),
        ..HubConfig::offline(folder.path().to_owned())
    };
    assert!(!format!("{settings:?}").contains("hf_secret"));
}

#[test]
fn only_the_hub_sees_the_token() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::Private,
        ..tiny_model()
    });
    let mut settings = settings(&hub.endpoint(), cache.path());
    settings.token = Some("hf_right".to_owned());
    obtain("org/tiny", &settings).unwrap();
    let requests = hub.requests().join("\n");
    assert!(requests.contains("GET /cdn/"), "{requests}");
    assert!(!requests.contains("with the token"), "{requests}");
}

#[test]
fn temporary_refusals_are_retried() {
    for status in [
        "503 Service Unavailable",
        "429 Too Many Requests",
        "502 Bad Gateway",
    ] {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::start(Repository {
            behaviour: Behaviour::Refuses(2, status, Some(("Retry-After", "0"))),
            ..tiny_model()
        });
        let mut settings = settings(&hub.endpoint(), cache.path());
        settings.retries = 2;
        obtain("org/tiny", &settings).unwrap();
        assert!(hub.requests().len() > 4);
    }
}

#[test]
fn lasting_refusals_are_reported() {
    let rows = [
        (
            "503 Service Unavailable",
            None,
            2,
            "fetching config.json: the hub answered 503 Service Unavailable: no reason given",
        ),
        (
            "418 I'm a teapot",
            Some(("X-Error-Message", "Tea only.")),
            1,
            "fetching config.json: the hub answered 418 I'm a teapot: Tea only.",
        ),
        (
            "429 Too Many Requests",
            Some(("Retry-After", "3600")),
            1,
            "the hub accepts no more requests from here for now: try again in 3600 s; with a token \
             it accepts more: create a token at HUB/settings/tokens, and set HF_TOKEN to it or save it \
             with `hf auth login`",
        ),
    ];
    for (status, header, tries, expected) in rows {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::start(Repository {
            behaviour: Behaviour::Refuses(9, status, header),
            ..tiny_model()
        });
        let mut settings = settings(&hub.endpoint(), cache.path());
        settings.retries = 1;
        let message = chain(&obtain("org/tiny", &settings).unwrap_err());
        let expected = format!("`hub:org/tiny` could not be obtained: {expected}");
        assert_eq!(message.replace(&hub.endpoint(), "HUB"), expected);
        assert_eq!(hub.requests().len(), tries, "{status}");
    }
}

#[test]
fn a_server_that_is_not_a_hub_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::Garbles,
        ..tiny_model()
    });
    let error = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap_err();
    let expected = format!(
        "{} does not answer like a hub (JSON): check HF_ENDPOINT, and whether a proxy or a login \
         page stands in between: expected value",
        hub.endpoint()
    );
    assert!(chain(&error).contains(&expected), "{}", chain(&error));

    let error = obtain("org/tiny", &settings("hub.example", cache.path())).unwrap_err();
    let expected = "the request to the hub is invalid: `hub.example/api/models/";
    assert!(
        chain(&error).contains("the request to the hub is invalid: `hub.example"),
        "{expected}: {error:?}"
    );
}

#[test]
fn answers_that_keep_breaking_off_still_complete_a_file_and_are_reported() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Repository {
        behaviour: Behaviour::Sends(150_000),
        ..tiny_model()
    });
    let mut settings = settings(&hub.endpoint(), cache.path());
    settings.retries = 1;
    let progress = RefCell::new(Vec::new());
    let on_transfer = |transfer: Transfer<'_>| {
        assert_eq!(
            (transfer.file, transfer.total),
            ("model.safetensors", 512_688)
        );
        progress.borrow_mut().push((transfer.phase, transfer.done));
    };
    let model = HubModel::parse("org/tiny").unwrap();
    let path = model
        .obtain(&settings, Freshness::Cached, &on_transfer)
        .unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), weights());
    let progress = progress.into_inner();
    assert_eq!(progress.first(), Some(&(TransferPhase::Started, 0)));
    assert_eq!(progress.last(), Some(&(TransferPhase::Ended, 512_688)));
    assert!(progress.is_sorted_by_key(|(_, done)| *done));
    let requests = hub.requests();
    let ranges = requests
        .iter()
        .filter_map(|request| request.strip_prefix("GET /cdn/"));
    let ranges: Vec<&str> = ranges
        .filter_map(|request| Some(request.split_once(' ')?.1))
        .collect();
    assert_eq!(ranges, ["bytes=150000-", "bytes=300000-", "bytes=450000-"]);
}

#[test]
fn a_partial_file_is_used_only_if_it_is_the_start_of_the_file() {
    let name = format!("{}.polyphony.incomplete", sha256(&weights()));
    let mut wrong = weights();
    wrong[7] ^= 1;
    let too_long = [weights(), vec![0; 9]].concat();
    let rows = [
        (weights()[..1000].to_vec(), Behaviour::Plain),
        (weights()[..1000].to_vec(), Behaviour::IgnoresRanges),
        (weights(), Behaviour::Plain),
        (wrong[..1000].to_vec(), Behaviour::Plain),
        (wrong, Behaviour::Plain),
        (too_long, Behaviour::Plain),
    ];
    for (partial, behaviour) in rows {
        let cache = tempfile::tempdir().unwrap();
        let blobs = folder(cache.path()).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(&name), partial).unwrap();
        let hub = FakeHub::start(Repository {
            behaviour,
            ..tiny_model()
        });
        let path = obtain("org/tiny", &settings(&hub.endpoint(), cache.path())).unwrap();
        assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), weights());
        assert!(!blobs.join(&name).exists());
    }
}
