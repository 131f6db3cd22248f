//! The name of a provider, which is a set of queries for one gateway implementation.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The name of a provider: lower-case letters, digits and dashes, at most 63 of them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderName(Cow<'static, str>);

/// A text that is no provider's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no provider's name: lower-case letters, digits and dashes, at most 63, first and last no dash")]
pub struct BadProviderName(String);

impl ProviderName {
    /// Not a provider: the one that fits the controllers that serve the routes, else [`Self::PODS`].
    pub const AUTO: Self = Self(Cow::Borrowed("auto"));
    /// The application's own counters.
    pub const PODS: Self = Self(Cow::Borrowed("pods"));

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ProviderName {
    fn default() -> Self {
        Self::AUTO
    }
}

impl FromStr for ProviderName {
    type Err = BadProviderName;

    fn from_str(text: &str) -> Result<Self, BadProviderName> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for ProviderName {
    type Error = BadProviderName;

    fn try_from(text: String) -> Result<Self, BadProviderName> {
        let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        let good = text.len() <= 63
            && text.starts_with(plain)
            && text.ends_with(plain)
            && text.chars().all(|character| plain(character) || character == '-');
        if good {
            Ok(Self(text.into()))
        } else {
            Err(BadProviderName(text.chars().take(80).collect()))
        }
    }
}

impl From<ProviderName> for String {
    fn from(name: ProviderName) -> Self {
        name.0.into_owned()
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for ProviderName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ProviderName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_the_schema_allows_it() {
        for good in ["auto", "pods", "istio-mesh", "a", "0", &"a".repeat(63)] {
            assert_eq!(good.parse::<ProviderName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "Auto", "a.b", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<ProviderName>().is_err(), "{bad}");
        }
    }
}
