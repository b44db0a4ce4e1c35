//! A small blocking HTTP client for programs that make a few requests.
//!
//! It is a thin layer over [`ureq`](https://docs.rs/ureq), which needs neither an async runtime nor a
//! large cryptography library in C. The layer finds the user's proxies and the system's certificates,
//! sets time limits, and distinguishes transient failures, for which a retry may help
//! ([`HttpError::is_transient`]), from permanent ones.
//!
//! Redirects are never followed. An answer with status 3xx is returned as it is, because only the
//! caller knows which headers another host may see. [`Address::join`] and [`Address::same_origin`] help
//! to follow it.
//!
//! This crate must not know any server, file layout or other crate of the workspace. Start reading
//! at [`Client::send`].
//!
//! ```no_run
//! use polyphony_http::{Address, Client, ClientConfig, Request};
//!
//! let client = Client::new(ClientConfig::default())?;
//! let address: Address = "https://example.org/".parse()?;
//! let response = client.send(&Request::get(&address))?;
//! if response.status().is_success() {
//!     let page = response.read_up_to(1 << 20)?;
//!     println!("{} bytes", page.len());
//! }
//! # Ok::<(), polyphony_http::HttpError>(())
//! ```

mod address;
mod client;
mod error;
mod proxies;
mod request;
mod response;

pub use self::{
    address::Address,
    client::{Client, ClientConfig},
    error::HttpError,
    request::Request,
    response::Response,
};
pub use ureq::http::StatusCode;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests;
