//! How the administrator names a metrics source: `NAME=URL` on the command line, or with more than that in a file ([`super::file`]).
//!
//! Pure. What is refused is not repeated in the message, because it may hold a password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use stepgate_crds::units::Span;
use thiserror::Error;

/// The label by which a source tells namespaces apart, where its administrator does not say another.
pub const TENANT_LABEL: &str = "namespace";

/// A metrics source as the administrator set it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The name by which a Rollout refers to it, a DNS label.
    pub name: String,
    /// The base URL, to which `/api/v1/…` is appended. Without user, password, query and fragment.
    pub url: Url,
    /// How often it scrapes; none: as `--scrape-interval` says.
    pub scrape: Option<Span>,
    /// By which label it tells namespaces apart: users' own queries are held to theirs by it. None: they may read all that it has.
    pub tenant_label: Option<String>,
    /// What it is shown, and what it has to show.
    pub credentials: Credentials,
}

/// What a source is shown with each request, and what it has to show. Secrets stand here by the path of their file only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Certificates in PEM that the source's own has to be signed by; none: the system's.
    pub ca: Option<PathBuf>,
    /// The client certificate and its key, each in PEM.
    pub client: Option<ClientCertificate>,
    /// A file with the token of `Authorization: Bearer`.
    pub bearer_token: Option<PathBuf>,
    /// Headers, the tenant's among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers whose values are read from files.
    pub header_files: Vec<(HeaderName, PathBuf)>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The file of the certificate, with those that signed it.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
}

/// Why a name or URL of a metrics source is refused. The value itself is not repeated: it may hold a password.
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
    #[error("a metrics source's URL has no user and password: they would be seen by everyone who sees the setup")]
    Credentials,
    /// `?` or `#`.
    #[error("a metrics source's URL has no query and no fragment: /api/v1/query is appended to it")]
    Query,
}

impl SourceSpec {
    /// A source of that name at that URL, without anything else.
    pub fn new(name: &str, url: &str) -> Result<Self, SpecError> {
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
            scrape: None,
            tenant_label: Some(TENANT_LABEL.to_owned()),
            credentials: Credentials::default(),
        })
    }
}

impl Credentials {
    /// Whether it is shown anything that others must not learn.
    pub fn are_shown(&self) -> bool {
        self.bearer_token.is_some() || !self.header_files.is_empty()
    }
}

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, url) = text.split_once('=').ok_or(SpecError::NoName)?;
        Self::new(name, url)
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.name, self.url)
    }
}
