//! What the hub's refusals and silence mean to a user, and what would help.

use std::{error::Error as StdError, fmt};

use anyhow::{Error, anyhow};
use hf_hub::HFError;

use super::{
    Form, HubModel, Settings,
    snapshot::{CONFIG, INDEX, OPTIONAL, WEIGHTS},
};

/// The hub could not be asked. What is in the cache may serve.
#[derive(Debug)]
pub(super) struct NoConnection {
    /// Why not.
    reason: String,
    /// The next file that it would have been asked for, and that file's address.
    file: String,
    url: String,
    /// How the model can be placed without a connection.
    by_hand: String,
}

impl NoConnection {
    /// The network may not be used.
    pub(super) fn offline(model: &HubModel, settings: &Settings) -> Self {
        Self::new(
            "HF_HUB_OFFLINE is set, and the cache does not hold it",
            first_file(&model.form),
            model,
            settings,
        )
    }

    /// Why the hub could not be asked.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    fn new(reason: &str, file: &str, model: &HubModel, settings: &Settings) -> Self {
        let page = format!("{}/{}", settings.endpoint, model.repository());
        let revision = model.revision.replace('/', "%2F");
        let by_hand = match &model.form {
            Form::Directory => format!(
                "on a machine with a network, run `hf download {} --revision {} --local-dir \
                 DIRECTORY`, or save the files from {page}/tree/{} into one directory: {CONFIG}, \
                 {WEIGHTS} or {INDEX} with the files that it names, and as far as they exist {}; \
                 then give the directory in place of the name",
                model.repository(),
                model.revision,
                model.revision,
                OPTIONAL.join(", "),
            ),
            Form::Gguf(_) => "save it on a machine with a network, and give the file's path in \
                              place of the name"
                .to_owned(),
        };
        Self {
            reason: reason.to_owned(),
            file: file.to_owned(),
            url: format!("{page}/resolve/{revision}/{file}"),
            by_hand,
        }
    }
}

impl fmt::Display for NoConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            file,
            url,
            by_hand,
        } = self;
        write!(
            formatter,
            "{reason}. The next file would have been {file} from {url}. Run the command again when \
             there is a network: what has been downloaded is kept. Or place the model by hand: \
             {by_hand}"
        )
    }
}

impl StdError for NoConnection {}

/// The file of a model that is asked for first.
pub(super) fn first_file(form: &Form) -> &str {
    match form {
        Form::Directory => CONFIG,
        Form::Gguf(file) => file,
    }
}

/// What an error means that came while `file` was to be fetched. The error is a [`NoConnection`]
/// where the hub did not answer.
pub(super) fn explain(error: HFError, file: &str, model: &HubModel, settings: &Settings) -> Error {
    let repository = model.repository();
    let page = format!("{}/{repository}", settings.endpoint);
    let token = format!(
        "make a token at {}/settings/tokens, and set HF_TOKEN to it or save it with `hf auth login`",
        settings.endpoint
    );
    let revision = &model.revision;
    match &error {
        HFError::Request { source, .. } if is_silence(&error) => {
            let reason = format!("the hub does not answer ({})", innermost(source));
            NoConnection::new(&reason, file, model, settings).into()
        }
        HFError::AuthRequired { context } | HFError::Forbidden { context } => {
            let said = context
                .server_message
                .as_deref()
                .unwrap_or("no reason given");
            if context.error_code.as_deref() == Some("GatedRepo") {
                anyhow!(
                    "the repository is gated ({said}): accept its terms at {page}, then {token}"
                )
            } else {
                anyhow!(
                    "the hub has no model repository `{repository}`, or shows it only to some \
                     ({said}): check the spelling; if it is private or gated, accept its terms at \
                     {page} if there are any, then {token}"
                )
            }
        }
        HFError::RepoNotFound { .. } => no_repository(&repository),
        HFError::RevisionNotFound { context, .. } => {
            let code = context
                .as_ref()
                .and_then(|context| context.error_code.as_deref());
            if code == Some("RepoNotFound") {
                no_repository(&repository)
            } else {
                anyhow!(
                    "the repository has no revision `{revision}`: give a branch, a tag or a whole \
                     commit hash from {page}/commits"
                )
            }
        }
        HFError::EntryNotFound { path, .. } => anyhow!(
            "the repository has no file {path}: {page}/tree/{revision} shows those that it has"
        ),
        HFError::RateLimited { retry_after, .. } => {
            let wait = retry_after.map_or_else(
                || "later".to_owned(),
                |wait| format!("in {} s", wait.as_secs()),
            );
            anyhow!(
                "the hub takes no more requests from here for now: run the command again {wait}; \
                 with a token it takes more: {token}"
            )
        }
        _ => Error::new(error).context(format!("fetching {file}")),
    }
}

fn no_repository(repository: &str) -> Error {
    anyhow!("the hub has no model repository `{repository}`: check the spelling")
}

/// Whether an error is that the hub does not answer, or not to the end, rather than what it answers.
pub(super) fn is_silence(error: &HFError) -> bool {
    let HFError::Request { source, .. } = error else {
        return false;
    };
    // `reqwest` tells an answer that breaks off and one that is not JSON by their causes alone.
    let answered = causes(source).any(|cause| cause.is::<serde_json::Error>());
    !(answered || source.is_builder())
}

/// The cause of an error's causes, which says what happened without naming the request again.
fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    causes(error).last().unwrap_or(error)
}

/// An error and its causes, from the outermost to the innermost.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}
