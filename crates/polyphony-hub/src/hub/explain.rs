//! Explains the hub's refusals and failures to users, and suggests what would help.

use std::error::Error as StdError;

use polyphony_http::HttpError;

use super::{
    client::{Failure, Refusal, RequestKind},
    model::{Form, HubModel},
    settings::HubConfig,
    snapshot::{CONFIG, INDEX, OPTIONAL, WEIGHTS},
};
use crate::error::HubError;

/// The error for a model that is not cached while the network must not be used.
pub(super) fn offline(model: &HubModel, settings: &HubConfig) -> HubError {
    let reason = "HF_HUB_OFFLINE is set, and the model is not in the cache".to_owned();
    unreachable(reason, first_file(&model.form), None, model, settings)
}

/// The first file of a model that is requested.
pub(super) fn first_file(form: &Form) -> &str {
    match form {
        Form::Directory => CONFIG,
        Form::Gguf(file) => file,
    }
}

/// Explains a failure to fetch `file`: [`HubError::Unreachable`] if the hub did not answer.
pub(super) fn explain(
    failure: Failure,
    file: &str,
    model: &HubModel,
    settings: &HubConfig,
) -> HubError {
    match failure {
        Failure::NoAnswer(error) => {
            let reason = format!("the hub does not answer ({})", innermost(&error));
            unreachable(reason, file, Some(error), model, settings)
        }
        Failure::Request(error) => HubError::Request(error),
        Failure::Refused(refusal) => refused(refusal, file, model, settings),
        Failure::Protocol { what, source } => HubError::Protocol {
            endpoint: settings.endpoint.clone(),
            what,
            source,
        },
        Failure::Local(error) => error,
    }
}

fn refused(refusal: Refusal, file: &str, model: &HubModel, settings: &HubConfig) -> HubError {
    let repository = model.repository();
    let page = format!("{}/{repository}", settings.endpoint);
    let token = format!(
        "create a token at {}/settings/tokens, and set HF_TOKEN to it or save it with `hf auth login`",
        settings.endpoint
    );
    let Refusal {
        kind,
        status,
        code,
        message,
        retry_after,
    } = refusal;
    let message = message.unwrap_or_else(|| "no reason given".to_owned());
    match (status.as_u16(), code.as_deref(), kind) {
        (401 | 403, Some("GatedRepo"), _) => HubError::Gated {
            reason: message,
            page,
            token,
        },
        (401 | 403, _, _) => HubError::Hidden {
            repository,
            reason: message,
            page,
            token,
        },
        (404, Some("RepoNotFound"), _) => HubError::NoRepository { repository },
        (404, Some("RevisionNotFound"), _) | (404, None, RequestKind::Revision) => {
            HubError::NoRevision {
                revision: model.revision.clone(),
                page,
            }
        }
        (404, _, RequestKind::Contents) => HubError::NoFile {
            file: file.to_owned(),
            hint: format!(": {page}/tree/{} lists its files", model.revision),
        },
        (429, _, _) => HubError::RateLimited { retry_after, token },
        _ => HubError::Refused {
            file: file.to_owned(),
            status,
            message,
        },
    }
}

fn unreachable(
    reason: String,
    file: &str,
    cause: Option<HttpError>,
    model: &HubModel,
    settings: &HubConfig,
) -> HubError {
    let page = format!("{}/{}", settings.endpoint, model.repository());
    let revision = model.revision.replace('/', "%2F");
    let by_hand = match &model.form {
        Form::Directory => format!(
            "on a machine with a network, run `hf download {} --revision {} --local-dir \
             DIRECTORY`, or save the files from {page}/tree/{} into one directory: {CONFIG}, \
             {WEIGHTS} or {INDEX} with the files that it names, and if they exist {}; then \
             give the directory instead of the name",
            model.repository(),
            model.revision,
            model.revision,
            OPTIONAL.join(", "),
        ),
        Form::Gguf(_) => "save it on a machine with a network, and give the file's path instead \
                          of the name"
            .to_owned(),
    };
    HubError::Unreachable {
        reason,
        file: file.to_owned(),
        url: format!("{page}/resolve/{revision}/{file}"),
        by_hand,
        cause,
    }
}

/// The innermost cause of an error. It states what happened without naming the request again.
fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let causes = std::iter::successors(Some(error), |&cause| cause.source());
    causes.last().unwrap_or(error)
}
