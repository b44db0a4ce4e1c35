//! The client: chooses the proxy and the certificates, and sets the time limits.

use std::{fmt, sync::OnceLock, time::Duration};

use ureq::{
    Agent, AsSendBody, Body,
    http::{self, Uri},
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::{
    error::HttpError,
    proxies::{Proxies, Route},
    request::Request,
    response::Response,
};

/// The largest head of an answer, with all its headers, in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// The time limits of a client, and the name by which servers know it.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The value of the header `User-Agent`.
    pub user_agent: String,
    /// The longest time for the lookup of the host's name, and again for connecting, including the proxy
    /// and the TLS handshake.
    pub connect_timeout: Duration,
    /// The longest time of a single read or write on the connection.
    pub read_timeout: Duration,
    /// The longest time from a request until the last byte of its answer is read. `None` is meant for
    /// requests with their own limits ([`Request::within`]). Without either limit, a server that sends a
    /// byte now and then can keep the client waiting forever.
    pub total_timeout: Option<Duration>,
}

impl Default for ClientConfig {
    /// Limits for an interactive program: ten seconds to connect, and a minute for each read.
    fn default() -> Self {
        Self {
            user_agent: concat!("polyphony/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            total_timeout: None,
        }
    }
}

/// A client that may be used from several threads. It keeps connections open between requests.
pub struct Client {
    config: ClientConfig,
    proxies: Proxies,
    /// One agent per route, made when it is first needed.
    agents: [OnceLock<Agent>; Route::COUNT],
}

impl Client {
    /// A client with the proxies that the environment variables name.
    ///
    /// # Errors
    /// If an environment variable names a proxy that cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, HttpError> {
        let proxies = Proxies::from_variables(&|name| std::env::var(name).ok())?;
        Ok(Self::with_proxies(config, proxies))
    }

    /// A client for servers on this machine: it uses no proxy, whatever the environment variables name.
    pub fn direct(config: ClientConfig) -> Self {
        Self::with_proxies(config, Proxies::default())
    }

    pub(crate) fn with_proxies(config: ClientConfig, proxies: Proxies) -> Self {
        Self {
            config,
            proxies,
            agents: Default::default(),
        }
    }

    /// Sends a request and returns the answer, whatever its status. Redirects are not followed.
    ///
    /// # Errors
    /// If no server answers, or the request is malformed.
    pub fn send(&self, request: &Request<'_>) -> Result<Response, HttpError> {
        let mut message = http::Request::builder()
            .method(request.method.clone())
            .uri::<Uri>(request.address.uri().clone());
        for (name, value) in &request.headers {
            message = message.header(*name, value);
        }
        let agent = self.agent(self.proxies.route(request.address));
        let total_timeout = request.total_timeout.or(self.config.total_timeout);
        let answer = match request.body {
            Some(body) => run(agent, message.body(body), total_timeout),
            None => run(agent, message.body(()), total_timeout),
        };
        answer.map(Response::new)
    }

    fn agent(&self, route: Route) -> &Agent {
        self.agents[route as usize].get_or_init(|| {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .user_agent(&self.config.user_agent)
                .proxy(self.proxies.proxy(route).cloned())
                .tls_config(tls(self.proxies.encrypts(route)))
                .timeout_resolve(Some(self.config.connect_timeout))
                .timeout_connect(Some(self.config.connect_timeout))
                .timeout_per_read(Some(self.config.read_timeout))
                .timeout_per_write(Some(self.config.read_timeout))
                .max_response_header_size(MAX_HEADER_BYTES);
            config.build().into()
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("Client");
        fields.field("config", &self.config).finish_non_exhaustive()
    }
}

fn run(
    agent: &Agent,
    message: Result<http::Request<impl AsSendBody>, http::Error>,
    total_timeout: Option<Duration>,
) -> Result<http::Response<Body>, HttpError> {
    let message = agent.configure_request(message.map_err(HttpError::Request)?);
    Ok(agent.run(message.timeout_global(total_timeout).build())?)
}

/// The TLS settings. The system's certificates are read only if the agent encrypts.
fn tls(encrypts: bool) -> TlsConfig {
    let mut config = TlsConfig::builder();
    if encrypts {
        config = config.root_certs(roots());
    }
    config.build()
}

/// The certificates that the system trusts, read once, or Mozilla's list if the system has none.
fn roots() -> RootCerts {
    static ROOTS: OnceLock<RootCerts> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            log::debug!("reading the system's certificates: {error}");
        }
        let certificates = system.certs.iter();
        let certificates: Vec<Certificate<'static>> = certificates
            .map(|certificate| Certificate::from_der(certificate).to_owned())
            .collect();
        if certificates.is_empty() {
            log::debug!("the system has no certificates: trusting Mozilla's list");
            return RootCerts::WebPki;
        }
        RootCerts::new_with_certs(&certificates)
    });
    roots.clone()
}
