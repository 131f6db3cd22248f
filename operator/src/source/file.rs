//! The file of metrics sources that the administrator mounts (`--metrics-sources-file`).
//!
//! ```yaml
//! sources:
//!   default: http://prometheus.monitoring:9090
//!   mimir:
//!     url: https://mimir.example.com/prometheus
//!     tenant: shop
//!     bearerTokenFile: /etc/stepgate/secrets/mimir/token
//! ```
//!
//! Read once, at the start, and strictly: a mistake names file, source and field, and the operator does not start. Values that may hold a
//! secret are not repeated in a message.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::header::{HeaderName, HeaderValue};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use stepgate_crds::units::Span;
use thiserror::Error;

use super::spec::{ClientCertificate, Credentials, SourceSpec};

/// Headers that the client itself sets.
const RESERVED: [&str; 9] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
/// Headers that are a secret, and therefore read from a file.
const SECRET: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];
/// The header by which Cortex and Mimir know the tenant; Thanos' is `THANOS-TENANT`.
const TENANT_HEADER: &str = "X-Scope-OrgID";

/// Why the file is no good.
#[derive(Debug, Error)]
pub enum SourcesFileError {
    /// It cannot be read at all.
    #[error("--metrics-sources-file {file} cannot be read")]
    Read {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("--metrics-sources-file {file}: {place}: {why}")]
    Content {
        /// The file.
        file: String,
        /// Source and field.
        place: String,
        /// What is wrong, and what to write instead.
        why: String,
    },
}

/// The sources of a file, by name.
pub fn read(file: &Path) -> Result<Vec<SourceSpec>, SourcesFileError> {
    let shown = file.display().to_string();
    match std::fs::read_to_string(file) {
        Ok(text) => parse(&shown, &text),
        Err(source) => Err(SourcesFileError::Read { file: shown, source }),
    }
}

/// The sources of a file's text. `file` is for messages.
pub fn parse(file: &str, text: &str) -> Result<Vec<SourceSpec>, SourcesFileError> {
    let fault = |place: String, why: String| SourcesFileError::Content {
        file: file.to_owned(),
        place,
        why,
    };
    // In two steps, so that a mistake is told by the path of its field.
    let options = serde_saphyr::options! { with_snippet: false };
    let tree: serde_json::Value = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| fault("not YAML".to_owned(), without_values(&error.to_string())))?;
    let whole: Whole = serde_path_to_error::deserialize(tree)
        .map_err(|error| fault(error.path().to_string(), without_values(&error.inner().to_string())))?;
    whole
        .sources
        .into_iter()
        .map(|(name, Source(fields))| {
            let place = |field: &str| match field {
                "" => format!("sources.{name}"),
                field => format!("sources.{name}.{field}"),
            };
            fields.spec(&name).map_err(|(field, why)| fault(place(&field), why))
        })
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    sources: BTreeMap<String, Source>,
}

/// A URL, or fields.
struct Source(Fields);

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields {
    url: String,
    scrape_interval: Option<Span>,
    ca_file: Option<String>,
    client_certificate_file: Option<String>,
    client_key_file: Option<String>,
    bearer_token_file: Option<String>,
    tenant: Option<String>,
    tenant_header: Option<String>,
    tenant_label: Option<String>,
    #[serde(default)]
    single_tenant: bool,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    header_files: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrFields;
        impl<'de> Visitor<'de> for UrlOrFields {
            type Value = Source;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a URL, or a map with `url`")
            }

            fn visit_str<E>(self, url: &str) -> Result<Source, E> {
                Ok(Source(Fields {
                    url: url.to_owned(),
                    ..Fields::default()
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                Fields::deserialize(MapAccessDeserializer::new(map)).map(Source)
            }
        }
        deserializer.deserialize_any(UrlOrFields)
    }
}

/// A field, and what is wrong with it.
type Fault = (String, String);

impl Fields {
    fn spec(self, name: &str) -> Result<SourceSpec, Fault> {
        let mut spec = SourceSpec::new(name, &self.url).map_err(|error| {
            let field = if error == super::SpecError::BadName { "" } else { "url" };
            (field.to_owned(), error.to_string())
        })?;
        if let Some(scrape) = self.scrape_interval {
            if scrape < Span::seconds(1) || scrape > Span::seconds(600) {
                return Err(fault("scrapeInterval", "from 1s to 10m"));
            }
            spec.scrape = Some(scrape);
        }
        spec.tenant_label = match (self.tenant_label, self.single_tenant) {
            (Some(_), true) => {
                return Err(fault(
                    "singleTenant",
                    "true says that no label tells tenants apart, and tenantLabel names one",
                ));
            }
            (None, true) => None,
            (Some(label), false) => Some(tenant_label(label)?),
            (None, false) => spec.tenant_label,
        };
        let encrypted = spec.url.scheme() == "https";
        let tls = [
            ("caFile", &self.ca_file),
            ("clientCertificateFile", &self.client_certificate_file),
            ("clientKeyFile", &self.client_key_file),
        ];
        if let Some((field, _)) = tls.iter().find(|(_, file)| file.is_some() && !encrypted) {
            return Err(fault(field, "it is for https, and the url begins with http://"));
        }
        let client = match (self.client_certificate_file, self.client_key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(ClientCertificate {
                certificate: path("clientCertificateFile", certificate)?,
                key: path("clientKeyFile", key)?,
            }),
            (Some(_), None) => {
                return Err(fault(
                    "clientKeyFile",
                    "missing: a certificate is of no use without its key",
                ));
            }
            (None, Some(_)) => {
                return Err(fault(
                    "clientCertificateFile",
                    "missing: a key is of no use without its certificate",
                ));
            }
        };
        let mut headers = Vec::new();
        match (self.tenant, self.tenant_header) {
            (Some(tenant), header) => {
                let name = header_name("tenantHeader", header.as_deref().unwrap_or(TENANT_HEADER))?;
                headers.push((name, header_value("tenant", &tenant)?));
            }
            (None, Some(_)) => return Err(fault("tenantHeader", "there is no tenant to name in it")),
            (None, None) => {}
        }
        for (header, value) in self.headers {
            let field = format!("headers.{header}");
            let name = header_name(&field, &header)?;
            if SECRET.contains(&name.as_str()) {
                return Err(fault(
                    &field,
                    "its value is a secret: name a file with it in headerFiles",
                ));
            }
            headers.push((name, header_value(&field, &value)?));
        }
        let mut header_files = Vec::new();
        for (header, file) in self.header_files {
            let field = format!("headerFiles.{header}");
            header_files.push((header_name(&field, &header)?, path(&field, file)?));
        }
        let bearer_token = self
            .bearer_token_file
            .map(|file| path("bearerTokenFile", file))
            .transpose()?;
        let mut seen = Vec::new();
        if bearer_token.is_some() {
            seen.push("authorization");
        }
        let names = headers.iter().map(|(name, _)| name);
        for name in names.chain(header_files.iter().map(|(name, _)| name)) {
            if seen.contains(&name.as_str()) {
                return Err(fault("", &format!("the header {name} is set twice")));
            }
            seen.push(name.as_str());
        }
        spec.credentials = Credentials {
            ca: self.ca_file.map(|file| path("caFile", file)).transpose()?,
            client,
            bearer_token,
            headers,
            header_files,
        };
        Ok(spec)
    }
}

/// A label of series; those with two underscores in front are Prometheus' own.
fn tenant_label(label: String) -> Result<String, Fault> {
    let plain = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let is_label = label.chars().all(plain) && !label.starts_with(|first: char| first.is_ascii_digit());
    if label.is_empty() || !is_label || label.starts_with("__") {
        return Err(fault(
            "tenantLabel",
            "the name of a label that the source gives each series, such as namespace",
        ));
    }
    Ok(label)
}

fn fault(field: &str, why: &str) -> Fault {
    (field.to_owned(), why.to_owned())
}

/// An absolute path. What is none is not repeated: it may be the secret itself.
fn path(field: &str, file: String) -> Result<PathBuf, Fault> {
    let file = PathBuf::from(file);
    if file.is_absolute() {
        Ok(file)
    } else {
        Err(fault(
            field,
            "the path of a file, beginning with /; the secret itself does not stand here",
        ))
    }
}

fn header_name(field: &str, name: &str) -> Result<HeaderName, Fault> {
    let name: HeaderName = name.parse().map_err(|_| fault(field, "no name of an HTTP header"))?;
    if RESERVED.contains(&name.as_str()) {
        return Err(fault(field, "Stepgate sets this header itself"));
    }
    Ok(name)
}

fn header_value(field: &str, value: &str) -> Result<HeaderValue, Fault> {
    if value.is_empty() {
        return Err(fault(field, "empty"));
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| fault(field, "no value of an HTTP header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A parser's message without the text that it met.
fn without_values(message: &str) -> String {
    let mut kept = String::with_capacity(message.len());
    let mut parts = message.split('"');
    kept.push_str(parts.next().unwrap_or_default());
    while let Some(_value) = parts.next() {
        kept.push('…');
        kept.push_str(parts.next().unwrap_or_default());
    }
    kept
}
