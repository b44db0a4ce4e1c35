//! An outside model that proposes edits, one text per agent: the feedback `ExpertEdits`.
//!
//! The client uses OpenAI's chat-completions format, which most servers support, including local ones
//! such as llama.cpp, vLLM and Ollama. This is the only part of the crate that uses the network.
//!
//! Failures that may be temporary are tried again: no answer, a server error, too many requests, an
//! answer in the wrong format. The wait doubles from one try to the next, and is at least what the
//! endpoint's `Retry-After` asks for, up to [`LONGEST_WAIT`].

use std::{
    env, fmt,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use polyphony_http::{Address, Client, ClientConfig, HttpError, Request, Response, StatusCode};
use serde_json::{Value, json};

mod answer;
mod error;
mod key;
mod prompt;
mod settings;

use self::key::Key;
pub use self::{
    error::{ExpertError, ExpertFailure},
    prompt::{Draft, Review},
    settings::ExpertSettings,
};

/// The wait before the second try; every later wait is twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait. If an endpoint asks for a longer one, the request fails.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Longer time limits of a request are cut to this one: adding a very long duration to a clock overflows.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// The outside model. Several threads may use it at once.
pub struct Expert {
    settings: ExpertSettings,
    url: Address,
    key: Option<Key>,
    http: Client,
    timeout: Duration,
    /// Waits between two tries; tests replace it.
    wait: Box<dyn Fn(Duration) + Send + Sync>,
    retries: AtomicU64,
}

impl fmt::Debug for Expert {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("Expert");
        fields.field("settings", &self.settings);
        fields.finish_non_exhaustive()
    }
}

impl Expert {
    /// Reads the key and prepares requests. Sends nothing yet.
    ///
    /// # Errors
    /// If the address is malformed, or an environment variable holds no key or names a proxy that
    /// cannot be used.
    pub fn new(settings: &ExpertSettings) -> Result<Self, ExpertError> {
        let timeout = LONGEST_TIMEOUT.min(Duration::from_secs(settings.timeout_secs.get()));
        let variable = settings.key_variable.as_deref();
        let key = variable.map(|name| Key::read(name, env::var(name).ok()));
        Self::build(settings, key.transpose()?, timeout, Box::new(thread::sleep))
    }

    fn build(
        settings: &ExpertSettings,
        key: Option<Key>,
        timeout: Duration,
        wait: Box<dyn Fn(Duration) + Send + Sync>,
    ) -> Result<Self, ExpertError> {
        let url = settings::completions_url(&settings.base_url)?;
        // Redirects are not followed, since that would send the key elsewhere. The error names the
        // endpoint's new address instead.
        let config = ClientConfig {
            connect_timeout: timeout,
            read_timeout: timeout,
            total_timeout: Some(timeout),
            ..ClientConfig::default()
        };
        let http = if matches!(url.host(), "localhost" | "127.0.0.1" | "[::1]") {
            Client::direct(config)
        } else {
            Client::new(config).map_err(ExpertError::Client)?
        };
        Ok(Self {
            settings: settings.clone(),
            url,
            key,
            http,
            timeout,
            wait,
            retries: AtomicU64::new(0),
        })
    }

    /// Asks for one suggestion per agent, in the order of the review's drafts.
    ///
    /// # Errors
    /// If the endpoint cannot be reached, refuses the request, or sends an answer in the wrong format.
    /// Where another try could help, the error comes after as many retries as the settings allow. It
    /// names the address, the answer, and what would help.
    pub fn suggest(&self, review: &Review<'_>) -> Result<Vec<String>, ExpertError> {
        let mut body = self.body(review);
        let mut backoff = FIRST_WAIT;
        let mut tries = 1;
        loop {
            let failure = match self.request(&body, review) {
                Ok(suggestions) => return Ok(suggestions),
                Err(failure) => failure,
            };
            let retry_after = failure.retry_after().unwrap_or_default();
            let pause = backoff.max(retry_after);
            if !failure.is_temporary() || tries > self.settings.retries || pause > LONGEST_WAIT {
                return Err(ExpertError::Request {
                    url: self.public_url(),
                    tries,
                    failure,
                });
            }
            if let (ExpertFailure::Malformed { .. }, Some(seed)) = (&failure, self.settings.seed) {
                // The same seed would give the same answer again.
                body["seed"] = seed.wrapping_add(u64::from(tries)).into();
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            (self.wait)(pause);
            backoff = (backoff * 2).min(LONGEST_WAIT);
            tries += 1;
        }
    }

    /// The number of retries so far.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    fn body(&self, review: &Review<'_>) -> Value {
        let mut body = json!({
            "model": self.settings.model,
            "messages": [
                {"role": "system", "content": prompt::SYSTEM},
                {"role": "user", "content": review.message()},
            ],
        });
        if let Some(temperature) = self.settings.temperature {
            body["temperature"] = temperature.into();
        }
        if let Some(seed) = self.settings.seed {
            body["seed"] = seed.into();
        }
        body
    }

    /// Sends one request.
    fn request(&self, body: &Value, review: &Review<'_>) -> Result<Vec<String>, ExpertFailure> {
        let text = body.to_string();
        let mut request = Request::post(&self.url, "application/json", text.as_bytes());
        if let Some(key) = &self.key {
            request = request.bearer(key.reveal());
        }
        let response = self.http.send(&request);
        let response = response.map_err(|error| self.no_answer(&error))?;
        let status = response.status();
        let head = ResponseHead::of(&response);
        let body = response.read_up_to(MAX_ANSWER_BYTES + 1);
        let body = body.map_err(|error| self.no_answer(&error))?;
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            return Err(self.refusal(head, &text));
        }
        if body.len() as u64 > MAX_ANSWER_BYTES {
            return Err(ExpertFailure::Malformed {
                reason: format!("it has more than {MAX_ANSWER_BYTES} bytes"),
                answer: self.excerpt(&text),
            });
        }
        answer::suggestions(&text, review).map_err(|reason| ExpertFailure::Malformed {
            reason: self.excerpt(&reason),
            answer: self.excerpt(&text),
        })
    }

    /// The failure if there is no answer, or only part of one.
    fn no_answer(&self, error: &HttpError) -> ExpertFailure {
        if error.is_timeout() {
            ExpertFailure::TimedOut {
                after: self.timeout,
            }
        } else {
            ExpertFailure::Unreachable {
                reason: self.excerpt(&error::with_causes(error)),
            }
        }
    }

    /// The failure if the status of the answer is not a success.
    fn refusal(&self, head: ResponseHead, text: &str) -> ExpertFailure {
        let key_variable = self.settings.key_variable.as_deref();
        let location = head.location.map(|location| self.excerpt(&location));
        let advice = error::advice(head.status, location.as_deref(), key_variable);
        ExpertFailure::Refused {
            status: head.status,
            retry_after: head.retry_after,
            body: self.excerpt(text),
            advice,
        }
    }

    /// The first part of a text from the endpoint. The text may repeat the key, which is hidden.
    fn excerpt(&self, text: &str) -> String {
        let line = error::one_line(text);
        match &self.key {
            // The key is hidden before the line is cut, because a cut could leave half of the key, and after
            // the line is escaped, because the key must be hidden in what is shown.
            Some(key) => error::excerpt(&key.hide_in(&line)),
            None => error::excerpt(&line),
        }
    }

    /// The address without its query, which may contain secrets.
    fn public_url(&self) -> String {
        self.url.without_query().to_string()
    }
}

/// The parts of an answer's head that an error needs.
struct ResponseHead {
    status: StatusCode,
    retry_after: Option<Duration>,
    location: Option<String>,
}

impl ResponseHead {
    fn of(response: &Response) -> Self {
        // The header may also be a date. That is rare and ignored: our own waits apply then.
        let seconds = response.header("Retry-After");
        let seconds = seconds.and_then(|value| value.trim().parse().ok());
        Self {
            status: response.status(),
            retry_after: seconds.map(Duration::from_secs),
            location: response.header("Location").map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests;
