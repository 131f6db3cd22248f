//! All providers: those that are compiled in, and those of the folder that the administrator mounts (`--providers-folder`).
//!
//! The folder is read once, at the start, and strictly: what cannot be read, fits no rule or is there twice is an error with the file's name,
//! and the operator does not start. A file may take the place of a provider that is compiled in.

use std::fs;
use std::path::Path;

use stepgate_crds::provider::ProviderName;

use super::{Provider, ProviderError};

/// The providers that are compiled in, by file name; `auto` takes the first that fits.
const BUILT_IN: [(&str, &str); 14] = [
    ("agentgateway.yaml", include_str!("../../providers/agentgateway.yaml")),
    ("aws-alb.yaml", include_str!("../../providers/aws-alb.yaml")),
    ("cilium.yaml", include_str!("../../providers/cilium.yaml")),
    ("contour.yaml", include_str!("../../providers/contour.yaml")),
    ("envoy-gateway.yaml", include_str!("../../providers/envoy-gateway.yaml")),
    ("istio.yaml", include_str!("../../providers/istio.yaml")),
    ("istio-mesh.yaml", include_str!("../../providers/istio-mesh.yaml")),
    ("kgateway.yaml", include_str!("../../providers/kgateway.yaml")),
    ("kong.yaml", include_str!("../../providers/kong.yaml")),
    ("linkerd.yaml", include_str!("../../providers/linkerd.yaml")),
    ("nginx.yaml", include_str!("../../providers/nginx.yaml")),
    ("nginx-plus.yaml", include_str!("../../providers/nginx-plus.yaml")),
    ("pods.yaml", include_str!("../../providers/pods.yaml")),
    ("traefik.yaml", include_str!("../../providers/traefik.yaml")),
];

/// Most bytes of a provider file.
const LARGEST: u64 = 64 << 10;

/// All providers.
#[derive(Debug, Clone)]
pub struct Providers(Vec<Provider>);

impl Providers {
    /// Reads the providers that are compiled in; each template is tried once.
    pub fn built_in() -> Result<Self, ProviderError> {
        let providers = BUILT_IN.into_iter().map(|(file, text)| named_as_file(file, text));
        let providers = Self(providers.collect::<Result<_, _>>()?);
        providers.check("compiled in")?;
        Ok(providers)
    }

    /// Those that are compiled in and those of a folder, which come first.
    pub fn with_folder(folder: &Path) -> Result<Self, ProviderError> {
        let fault = |file: &Path, why: String| ProviderError::Folder {
            file: file.display().to_string(),
            why,
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| fault(folder, format!("cannot be read: {error}")))? {
            let path = entry
                .map_err(|error| fault(folder, format!("cannot be read: {error}")))?
                .path();
            // Kubernetes mounts a ConfigMap with hidden folders and links beside its files.
            if !path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'))
            {
                files.push(path);
            }
        }
        files.sort();
        let mut own = Vec::new();
        for path in files {
            let shown = path.display().to_string();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                return Err(fault(
                    &path,
                    "is no .yaml file; keep provider files alone in this folder".to_owned(),
                ));
            }
            let size = fs::metadata(&path).map(|about| about.len());
            let text = match size {
                Ok(size) if size > LARGEST => Err(format!("larger than {LARGEST} bytes")),
                Ok(_) => fs::read_to_string(&path).map_err(|error| format!("cannot be read: {error}")),
                Err(error) => Err(format!("cannot be read: {error}")),
            };
            own.push(named_as_file(&shown, &text.map_err(|why| fault(&path, why))?)?);
        }
        let built_in = Self::built_in()?.0;
        for provider in &own {
            if built_in.iter().any(|other| other.name == provider.name) {
                tracing::info!(provider = %provider.name, "the file of --providers-folder takes the place of what is compiled in");
            }
        }
        let kept = built_in
            .into_iter()
            .filter(|provider| own.iter().all(|other| other.name != provider.name));
        let providers = Self(own.iter().cloned().chain(kept).collect());
        Self(own).check_controllers(&folder.display().to_string())?;
        providers.check(&folder.display().to_string())?;
        Ok(providers)
    }

    /// The provider of that name, as `spec.analysis.provider` says it.
    pub fn named(&self, name: &str) -> Result<&Provider, ProviderError> {
        self.0
            .iter()
            .find(|provider| provider.name.as_str() == name)
            .ok_or_else(|| ProviderError::Unknown {
                name: name.to_owned(),
                known: self
                    .0
                    .iter()
                    .map(|provider| provider.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// Every provider, in the order in which `auto` looks at them.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.0.iter()
    }

    /// Whether those that take another's place are there, and `pods`, which is taken where none fits.
    fn check(&self, place: &str) -> Result<(), ProviderError> {
        self.named(ProviderName::PODS.as_str())?;
        for provider in &self.0 {
            let Some(instead) = &provider.instead else { continue };
            let other = self.named(instead.provider.as_str())?;
            if other.instead.is_some() {
                return Err(ProviderError::Folder {
                    file: place.to_owned(),
                    why: format!(
                        "provider {}: {} takes its place, and needs one in its own; name one that has none",
                        provider.name, other.name
                    ),
                });
            }
        }
        Ok(())
    }

    /// Whether no two are for one controller: which of them `auto` takes would be chance.
    fn check_controllers(&self, place: &str) -> Result<(), ProviderError> {
        for (index, provider) in self.0.iter().enumerate() {
            let mut others = self.0.iter().skip(index + 1);
            let twice = |other: &&Provider| {
                other
                    .controller_names
                    .iter()
                    .any(|name| provider.controller_names.contains(name))
            };
            if let Some(other) = others.find(twice) {
                return Err(ProviderError::Folder {
                    file: place.to_owned(),
                    why: format!(
                        "providers {} and {} have a controllerName in common; leave it to one of them",
                        provider.name, other.name
                    ),
                });
            }
        }
        Ok(())
    }
}

/// A provider whose file is called as it is.
fn named_as_file(file: &str, text: &str) -> Result<Provider, ProviderError> {
    let provider = Provider::parse(file, text)?;
    let fault = |why: String| ProviderError::Folder {
        file: file.to_owned(),
        why,
    };
    if provider.name == ProviderName::AUTO {
        return Err(fault("no provider is named auto".to_owned()));
    }
    let stem = Path::new(file)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    if stem.as_deref() != Some(provider.name.as_str()) {
        return Err(fault(format!("its name is {0}; call the file {0}.yaml", provider.name)));
    }
    Ok(provider)
}
