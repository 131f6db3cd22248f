//! What decisions read of the objects that preflight looks at: whom policies select, which Services they name, and how claims may be
//! mounted.

use stepgate_core::{
    apart::selector::{of_disruption_budget, of_network_policy},
    input::{SelectorView, ServicePolicyView, VolumeClaimView},
};

use super::{BackendTlsPolicy, DisruptionBudget, NetworkPolicy, Raw, VolumeClaim, bounded, items, text};

impl From<Raw> for NetworkPolicy {
    fn from(raw: Raw) -> Self {
        Self {
            view: SelectorView {
                name: raw.name(),
                selectors: of_network_policy(raw.body("spec")),
            },
            metadata: raw.metadata(),
        }
    }
}

impl From<Raw> for DisruptionBudget {
    fn from(raw: Raw) -> Self {
        Self {
            view: SelectorView {
                name: raw.name(),
                selectors: of_disruption_budget(raw.body("spec")),
            },
            metadata: raw.metadata(),
        }
    }
}

impl From<Raw> for BackendTlsPolicy {
    fn from(raw: Raw) -> Self {
        let spec = raw.body("spec");
        let services = items(spec, "targetRefs")
            .filter(|target| text(target, "kind").as_deref() == Some("Service"))
            .filter_map(|target| text(target, "name"));
        Self {
            view: ServicePolicyView {
                kind: "BackendTLSPolicy",
                name: raw.name(),
                services: services.collect(),
            },
            metadata: raw.metadata(),
        }
    }
}

impl From<Raw> for VolumeClaim {
    fn from(raw: Raw) -> Self {
        let modes = [raw.body("spec"), raw.body("status")];
        let mut access_modes: Vec<String> = modes
            .iter()
            .flat_map(|part| items(part, "accessModes"))
            .filter_map(|mode| mode.as_str().map(bounded))
            .collect();
        access_modes.sort();
        access_modes.dedup();
        Self {
            view: VolumeClaimView {
                name: raw.name(),
                access_modes,
            },
            metadata: raw.metadata(),
        }
    }
}
