//! Errors on the way from a model's name to its files.

use std::{error::Error as StdError, io, path::PathBuf, time::Duration};

use polyphony_http::{HttpError, StatusCode};
use thiserror::Error;

/// Why a model cannot be obtained. Causes are kept as sources.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name is malformed.
    #[error("`{text}` is not a model name: {reason}")]
    Name {
        /// The name.
        text: String,
        /// The part that is missing or malformed, and the right form.
        reason: String,
    },
    /// A text is neither a name nor a path.
    #[error(
        "`{text}` is neither a model that polyphony knows ({known}) nor a directory or .gguf file \
         that exists; models elsewhere are written `hub:org/name` or \
         `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`{guess}"
    )]
    Unknown {
        /// The text.
        text: String,
        /// The known names.
        known: String,
        /// A guess at what was meant, as the end of the sentence; or nothing.
        guess: String,
    },
    /// No environment variable sets a folder.
    #[error("no folder is set for {what}: set {variable} to one")]
    NoFolder {
        /// What would be stored there.
        what: &'static str,
        /// The variable that can be set.
        variable: &'static str,
    },
    /// A folder cannot be written to.
    #[error("{path} cannot be used for models: set {variable} to another folder")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The variable that sets it.
        variable: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file or folder cannot be read, written or removed.
    #[error("{action} {path}")]
    Io {
        /// The action that failed, such as `reading`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A model on the hub could not be obtained.
    #[error("`{model}` could not be obtained")]
    Hub {
        /// The model's name.
        model: String,
        /// Why not.
        source: Box<HubError>,
    },
    /// A model in a wheel could not be obtained.
    #[error("the model `{model}` could not be obtained. {by_hand}")]
    Wheel {
        /// The model's name.
        model: String,
        /// How to place it by hand.
        by_hand: String,
        /// Why not.
        source: Box<HubError>,
    },
    /// The hub does not answer, or must not be contacted. Cached files may be enough.
    #[error(
        "{reason}. The next file would have been {file} from {url}. Try again when there is a \
         network: files that have been downloaded are kept. Or place the model by hand: {by_hand}"
    )]
    Unreachable {
        /// Why not, from the cause if there is one.
        reason: String,
        /// The file that would have been requested.
        file: String,
        /// Its address.
        url: String,
        /// How to place the model without a connection.
        by_hand: String,
        /// The cause of the reason.
        cause: Option<HttpError>,
    },
    /// The request to the hub is invalid.
    #[error("the request to the hub is invalid")]
    Request(#[source] HttpError),
    /// The hub has no such repository.
    #[error("the hub has no model repository `{repository}`: check the spelling")]
    NoRepository {
        /// The repository.
        repository: String,
    },
    /// The hub has no such repository, or does not show it to this user.
    #[error(
        "the hub has no model repository `{repository}`, or it is not public ({reason}): \
         check the spelling; if it is private or gated, accept its terms at {page} if there are \
         any, then {token}"
    )]
    Hidden {
        /// The repository.
        repository: String,
        /// The hub's message.
        reason: String,
        /// The repository's page.
        page: String,
        /// How to create and set a token.
        token: String,
    },
    /// A repository's terms have not been accepted.
    #[error("the repository is gated ({reason}): accept its terms at {page}, then {token}")]
    Gated {
        /// The hub's message.
        reason: String,
        /// The repository's page.
        page: String,
        /// How to create and set a token.
        token: String,
    },
    /// A repository has no such revision.
    #[error(
        "the repository has no revision `{revision}`: give a branch, a tag or a whole commit hash \
         from {page}/commits"
    )]
    NoRevision {
        /// The revision.
        revision: String,
        /// The repository's page.
        page: String,
    },
    /// A repository has no such file.
    #[error("the repository has no file {file}{hint}")]
    NoFile {
        /// The file.
        file: String,
        /// The files that it has, or what needs the file, as the end of the sentence; or nothing.
        hint: String,
    },
    /// A repository is not a model in a supported format.
    #[error("the repository has {lacks}{hint}")]
    NotAModel {
        /// What is missing.
        lacks: String,
        /// The GGUF files that it has, as the end of the text; or nothing.
        hint: String,
    },
    /// A repository holds adapters, which do not name their base model by a path on this machine.
    #[error(
        "the repository is an adapter (adapter_config.json), not a whole model: run `hf download \
         {repository} --revision {revision} --local-dir DIRECTORY`, fetch the model that its \
         adapter_config.json calls `base_model_name_or_path`, replace the name by that model's \
         path, and give DIRECTORY instead of `{model}`"
    )]
    Adapter {
        /// The repository.
        repository: String,
        /// The revision.
        revision: String,
        /// The model's name.
        model: String,
    },
    /// The hub limits the rate of requests.
    #[error(
        "the hub accepts no more requests from here for now: try again {wait}; with a token it accepts \
         more: {token}",
        wait = later(*.retry_after)
    )]
    RateLimited {
        /// How long the hub asks to wait.
        retry_after: Option<Duration>,
        /// How to create and set a token.
        token: String,
    },
    /// The hub refuses the request for another reason.
    #[error("fetching {file}: the hub answered {status}: {message}")]
    Refused {
        /// What was requested.
        file: String,
        /// The status.
        status: StatusCode,
        /// The hub's message.
        message: String,
    },
    /// The hub's answer does not follow its protocol.
    #[error(
        "{endpoint} does not answer like a hub ({what}): check HF_ENDPOINT, and whether a proxy or a \
         login page stands in between"
    )]
    Protocol {
        /// The hub's address.
        endpoint: String,
        /// What could not be read.
        what: &'static str,
        /// The error of the JSON parser, if there is one.
        source: Option<serde_json::Error>,
    },
    /// A file does not have the size or digest that the hub announced.
    #[error("{file} does not have the size and the digest that the hub announced: try again")]
    Damaged {
        /// The file.
        file: String,
    },
    /// A file is larger than the limit. It was not fetched or, if it is in a wheel, not unpacked to its end.
    #[error(
        "{file} has {bytes} bytes or more, but at most {most} are fetched: check where the model comes \
         from"
    )]
    TooLarge {
        /// The file.
        file: String,
        /// Its size, as far as it is known, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        most: u64,
    },
    /// The index of a model's weights is damaged.
    #[error("{path} {reason}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The error of the JSON parser, if there is one.
        source: Option<serde_json::Error>,
    },
    /// A file has the wrong digest.
    #[error("{file} has the SHA-256 digest {found}, but must have {expected}")]
    Digest {
        /// The file.
        file: String,
        /// Its digest.
        found: String,
        /// The right digest.
        expected: String,
    },
    /// A file that was placed by hand is not the right one.
    #[error("{path} must be replaced or removed")]
    Placed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<HubError>,
    },
    /// `pip` does not start.
    #[error("`{command}` could not start: install Python 3 with pip")]
    PipStart {
        /// The command.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// `pip` has failed.
    #[error("`{command}` could not download {package} {version}: {reason}")]
    Pip {
        /// The command.
        command: String,
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// Why, as `pip` reports it.
        reason: String,
    },
    /// `pip` has left no wheel.
    #[error("`{command}` reported success but left no wheel")]
    NoWheel {
        /// The command.
        command: String,
    },
    /// A wheel is damaged.
    #[error("unpacking {path}")]
    Archive {
        /// The wheel.
        path: PathBuf,
        /// What is wrong with it.
        source: zip::result::ZipError,
    },
    /// A wheel has no such file.
    #[error("{wheel} contains no file {file}")]
    NotInWheel {
        /// The wheel.
        wheel: PathBuf,
        /// The file.
        file: String,
    },
    /// A GGUF file cannot be converted.
    #[error("converting {file}")]
    Convert {
        /// The file.
        file: String,
        /// Why not, from the converter.
        source: Box<dyn StdError + Send + Sync>,
    },
}

fn later(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("in {} s", wait.as_secs()),
        None => "later".to_owned(),
    }
}

/// Adds the action and the file to an error.
pub(crate) trait During<T> {
    /// The error with an action, such as `reading`, and a path.
    fn during(self, action: &'static str, path: &std::path::Path) -> Result<T, HubError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &std::path::Path) -> Result<T, HubError> {
        self.map_err(|source| HubError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}
