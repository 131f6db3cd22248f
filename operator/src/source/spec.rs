//! How the administrator names a metrics source on the command line.
//!
//! Pure. What is refused is not repeated in the message, because it may hold a password.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;
use thiserror::Error;

/// One `--metrics-source name=url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The name by which a Rollout refers to it, a DNS label.
    pub name: String,
    /// The base URL, to which `/api/v1/…` is appended. Without user, password, query and fragment.
    pub url: Url,
}

/// Why a `--metrics-source` is refused. The value itself is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpecError {
    /// No `=`.
    #[error("a metrics source is written name=url, say default=http://prometheus.monitoring:9090")]
    NoName,
    /// The name is no DNS label.
    #[error(
        "a metrics source's name has lower-case letters, digits and dashes only, at most 63 of them, and begins and ends with a letter or digit"
    )]
    BadName,
    /// Not an http or https URL with a host.
    #[error(
        "a metrics source's URL begins with http:// or https:// and has a host, say http://prometheus.monitoring:9090"
    )]
    BadUrl,
    /// `user:password@`.
    #[error(
        "a metrics source's URL has no user and password: they would be seen by everyone who sees the command line"
    )]
    Credentials,
    /// `?` or `#`.
    #[error("a metrics source's URL has no query and no fragment: /api/v1/query is appended to it")]
    Query,
}

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, url) = text.split_once('=').ok_or(SpecError::NoName)?;
        let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        if name.is_empty()
            || name.len() > 63
            || !name.chars().all(|character| plain(character) || character == '-')
            || !name.starts_with(plain)
            || !name.ends_with(plain)
        {
            return Err(SpecError::BadName);
        }
        let url = Url::parse(url).map_err(|_| SpecError::BadUrl)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(SpecError::BadUrl);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SpecError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(SpecError::Query);
        }
        Ok(Self {
            name: name.to_owned(),
            url,
        })
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.name, self.url)
    }
}
