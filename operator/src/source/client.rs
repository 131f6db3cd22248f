//! The HTTP client of one source, and what it shows of itself with each request.
//!
//! It follows no redirect and takes no proxy from the environment. Secrets are read from their files, again and again, so that one that was
//! changed is used within seconds and without a restart; they get into no error, log or `Debug`.

use std::fmt;
use std::io::{Error, ErrorKind, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Identity, redirect};

use super::spec::{Credentials, SourceSpec};
use super::{SourceError, SourceLimits};

/// For so long what was read from the files is used.
const FRESH: Duration = Duration::from_secs(5);
/// Most bytes of one of these files.
const LARGEST: u64 = 1 << 20;

/// A client with the headers to send.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) client: Client,
    pub(super) headers: HeaderMap,
}

/// The client of one source.
#[derive(Clone)]
pub(super) struct Connection(Arc<Shared>);

struct Shared {
    name: String,
    credentials: Credentials,
    limits: SourceLimits,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    files: TlsFiles,
    ready: Ready,
    at: Instant,
    stale: bool,
}

/// What a client is built with, as it stood in the files.
#[derive(PartialEq, Eq, Default)]
struct TlsFiles {
    ca: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Connection").field(&self.0.name).finish()
    }
}

impl Connection {
    /// Reads the files and builds the client; connects to nothing.
    pub(super) fn new(spec: &SourceSpec, limits: SourceLimits) -> Result<Self, SourceError> {
        let (files, headers) = load(&spec.name, &spec.credentials)?;
        let client = build(&spec.name, &files, limits)?;
        Ok(Self(Arc::new(Shared {
            name: spec.name.clone(),
            credentials: spec.credentials.clone(),
            limits,
            loaded: Mutex::new(Loaded {
                files,
                ready: Ready { client, headers },
                at: Instant::now(),
                stale: false,
            }),
        })))
    }

    /// The client and the headers for one request, as the files are now, or were seconds ago.
    pub(super) async fn ready(&self) -> Result<Ready, SourceError> {
        {
            let loaded = self.0.loaded();
            if !self.0.credentials.have_files() || (!loaded.stale && loaded.at.elapsed() < FRESH) {
                return Ok(loaded.ready.clone());
            }
        }
        let shared = Arc::clone(&self.0);
        // A mounted folder may be slow.
        tokio::task::spawn_blocking(move || shared.reload())
            .await
            .unwrap_or_else(|panicked| Err(unreadable(&self.0.name, "credentials", Error::other(panicked))))
    }

    /// Has the files read again before the next request: what they held was refused.
    pub(super) fn distrust(&self) {
        self.0.loaded().stale = true;
    }
}

impl Shared {
    fn reload(&self) -> Result<Ready, SourceError> {
        let (files, headers) = load(&self.name, &self.credentials)?;
        let mut loaded = self.loaded();
        if loaded.files != files {
            loaded.ready.client = build(&self.name, &files, self.limits)?;
            loaded.files = files;
        }
        loaded.ready.headers = headers;
        loaded.at = Instant::now();
        loaded.stale = false;
        Ok(loaded.ready.clone())
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credentials {
    fn have_files(&self) -> bool {
        self.ca.is_some() || self.client.is_some() || self.are_shown()
    }
}

/// Reads all files of a source.
fn load(name: &str, credentials: &Credentials) -> Result<(TlsFiles, HeaderMap), SourceError> {
    let of = |what: &'static str, file: &Path| {
        read(file).map_err(|error| {
            unreadable(
                name,
                what,
                Error::new(error.kind(), format!("{}: {error}", file.display())),
            )
        })
    };
    let mut files = TlsFiles::default();
    if let Some(ca) = &credentials.ca {
        files.ca = Some(of("caFile", ca)?);
    }
    if let Some(client) = &credentials.client {
        let mut both = of("clientCertificateFile", &client.certificate)?;
        both.push(b'\n');
        both.extend(of("clientKeyFile", &client.key)?);
        files.identity = Some(both);
    }
    let mut headers = HeaderMap::new();
    for (header, value) in &credentials.headers {
        headers.insert(header.clone(), value.clone());
    }
    if let Some(file) = &credentials.bearer_token {
        let token = of("bearerTokenFile", file)?;
        let value = secret(b"Bearer ", &token).map_err(|error| unreadable(name, "bearerTokenFile", error))?;
        headers.insert(AUTHORIZATION, value);
    }
    for (header, file) in &credentials.header_files {
        let value = of("headerFiles", file)?;
        let value = secret(b"", &value).map_err(|error| unreadable(name, "headerFiles", error))?;
        headers.insert(HeaderName::clone(header), value);
    }
    Ok((files, headers))
}

/// The value of a header from the contents of a file, without the line break at its end.
fn secret(scheme: &[u8], contents: &[u8]) -> Result<HeaderValue, Error> {
    let contents = contents.trim_ascii();
    if contents.is_empty() {
        return Err(Error::new(ErrorKind::InvalidData, "the file is empty"));
    }
    let mut value = HeaderValue::from_bytes(&[scheme, contents].concat()).map_err(|_| {
        Error::new(
            ErrorKind::InvalidData,
            "what the file holds cannot stand in an HTTP header",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let mut contents = Vec::new();
    let read = std::fs::File::open(file)?
        .take(LARGEST + 1)
        .read_to_end(&mut contents)?;
    if read as u64 > LARGEST {
        return Err(Error::new(
            ErrorKind::InvalidData,
            format!("larger than {LARGEST} bytes"),
        ));
    }
    Ok(contents)
}

fn build(name: &str, files: &TlsFiles, limits: SourceLimits) -> Result<Client, SourceError> {
    let fault = |source| SourceError::Client {
        name: name.to_owned(),
        source,
    };
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .timeout(limits.timeout)
        .connect_timeout(limits.timeout)
        .user_agent(concat!("stepgate/", env!("CARGO_PKG_VERSION")));
    if let Some(ca) = &files.ca {
        let certificates = Certificate::from_pem_bundle(ca).map_err(fault)?;
        if certificates.is_empty() {
            return Err(unreadable(
                name,
                "caFile",
                Error::new(ErrorKind::InvalidData, "no certificate in PEM is in it"),
            ));
        }
        builder = builder.tls_certs_only(certificates);
    }
    if let Some(identity) = &files.identity {
        builder = builder.identity(Identity::from_pem(identity).map_err(fault)?);
    }
    builder.build().map_err(fault)
}

fn unreadable(name: &str, what: &'static str, source: Error) -> SourceError {
    SourceError::Credentials {
        name: name.to_owned(),
        what,
        source,
    }
}
