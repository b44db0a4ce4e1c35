//! An outside model that proposes edits, one text an agent: the feedback `expert_edits`.
//!
//! It speaks the chat-completions format that OpenAI began and most servers know, local ones such
//! as llama.cpp, vLLM and Ollama included. This is the only part of the crate that uses the
//! network.
//!
//! What may pass by itself is tried again: silence, a server out of order, too many requests, an
//! answer that is not what was asked for. The waits between double, and are as long as the
//! endpoint's `Retry-After` asks, up to [`LONGEST_WAIT`].

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

/// The wait before the second try; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait. An endpoint that asks for a longer one is not asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The longest time limit of a request: clocks overflow at some length.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest answer that is read.
const MOST_BYTES: u64 = 1 << 20;

/// The outside model. It may be asked from several threads.
pub struct Expert {
    settings: ExpertSettings,
    url: Address,
    key: Option<Key>,
    http: Client,
    timeout: Duration,
    /// Spends the time between two tries.
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
        // Redirects are returned: an endpoint that moved is named to the user, since following it
        // would send the key elsewhere.
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

    /// Asks for one suggestion an agent, in the order of the review's drafts.
    ///
    /// # Errors
    /// If the endpoint cannot be reached, refuses, or answers something else, after as many further
    /// tries as the settings allow where another try could help: names the address, what came back,
    /// and what would help.
    pub fn suggest(&self, review: &Review<'_>) -> Result<Vec<String>, ExpertError> {
        let mut body = self.body(review);
        let mut backoff = FIRST_WAIT;
        let mut tries = 1;
        loop {
            let failure = match self.ask(&body, review) {
                Ok(suggestions) => return Ok(suggestions),
                Err(failure) => failure,
            };
            let asked = failure.retry_after().unwrap_or_default();
            let pause = backoff.max(asked);
            if !failure.may_pass() || tries > self.settings.retries || pause > LONGEST_WAIT {
                return Err(ExpertError::Request {
                    url: self.shown_url(),
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

    /// How often a request was tried again so far.
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

    /// One request.
    fn ask(&self, body: &Value, review: &Review<'_>) -> Result<Vec<String>, ExpertFailure> {
        let text = body.to_string();
        let mut request = Request::post(&self.url, "application/json", text.as_bytes());
        if let Some(key) = &self.key {
            request = request.bearer(key.reveal());
        }
        let response = self.http.send(&request);
        let response = response.map_err(|error| self.silence(&error))?;
        let status = response.status();
        let refusal = Refusal::of(&response);
        let body = response.read_up_to(MOST_BYTES);
        let body = body.map_err(|error| self.silence(&error))?;
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            return Err(self.refused(refusal, &text));
        }
        answer::suggestions(&text, review).map_err(|reason| ExpertFailure::Malformed {
            reason: self.excerpt(&reason),
            answer: self.excerpt(&text),
        })
    }

    /// No answer, or half of one.
    fn silence(&self, error: &HttpError) -> ExpertFailure {
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

    /// An answer that says no.
    fn refused(&self, refusal: Refusal, text: &str) -> ExpertFailure {
        let key_variable = self.settings.key_variable.as_deref();
        let location = refusal.location.map(|location| self.excerpt(&location));
        let advice = error::advice(refusal.status, location.as_deref(), key_variable);
        ExpertFailure::Refused {
            status: refusal.status,
            retry_after: refusal.retry_after,
            body: self.excerpt(text),
            advice,
        }
    }

    /// The first part of what came from the endpoint, made fit to be shown: it may repeat the key.
    fn excerpt(&self, text: &str) -> String {
        match &self.key {
            // Before it is shortened, which could leave half of the key.
            Some(key) => error::excerpt(&key.hide_in(text)),
            None => error::excerpt(text),
        }
    }

    /// The address without its query, which may hold secrets.
    fn shown_url(&self) -> String {
        self.url.without_query().to_string()
    }
}

/// What the head of an answer holds that may be a refusal.
struct Refusal {
    status: StatusCode,
    retry_after: Option<Duration>,
    location: Option<String>,
}

impl Refusal {
    fn of(response: &Response) -> Self {
        // The other form of this header, a date, is rare: then the waits are our own.
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
