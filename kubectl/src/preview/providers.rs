//! The sets of queries that come with Stepgate, as preflight sees them. What the administrator added is not known here.

use serde::Deserialize;
use stepgate_core::input::{Instead, ProviderView};
use stepgate_crds::provider::ProviderName;

/// The operator's files.
const FILES: [&str; 14] = [
    include_str!("../../../operator/providers/agentgateway.yaml"),
    include_str!("../../../operator/providers/aws-alb.yaml"),
    include_str!("../../../operator/providers/cilium.yaml"),
    include_str!("../../../operator/providers/contour.yaml"),
    include_str!("../../../operator/providers/envoy-gateway.yaml"),
    include_str!("../../../operator/providers/istio.yaml"),
    include_str!("../../../operator/providers/istio-mesh.yaml"),
    include_str!("../../../operator/providers/kgateway.yaml"),
    include_str!("../../../operator/providers/kong.yaml"),
    include_str!("../../../operator/providers/linkerd.yaml"),
    include_str!("../../../operator/providers/nginx.yaml"),
    include_str!("../../../operator/providers/nginx-plus.yaml"),
    include_str!("../../../operator/providers/pods.yaml"),
    include_str!("../../../operator/providers/traefik.yaml"),
];

/// What of a file preflight goes by.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    name: ProviderName,
    controller_names: Vec<String>,
    sees: Sees,
    #[serde(default)]
    trickle: bool,
    instead: Option<Other>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Sees {
    Gateway,
    Everything,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Other {
    provider: ProviderName,
    #[serde(default)]
    unless_filtered: bool,
    why: String,
}

/// All of them.
pub(crate) fn built_in() -> Vec<ProviderView> {
    let files = FILES
        .iter()
        .filter_map(|text| serde_saphyr::from_str::<File>(text).ok());
    files
        .map(|file| ProviderView {
            name: file.name,
            controllers: file.controller_names,
            counts_all_callers: file.sees == Sees::Everything,
            trickle: file.trickle,
            instead: file.instead.map(|other| Instead {
                provider: other.provider,
                unless_filtered: other.unless_filtered,
                why: other.why,
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_operator_is_known_and_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/providers");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let mut known: Vec<String> = built_in().iter().map(|view| view.name.to_string()).collect();
        names.sort();
        known.sort();
        assert_eq!(names, known);
    }
}
