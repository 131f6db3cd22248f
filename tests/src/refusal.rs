//! Refuses the operator one kind of write for a while, by an admission policy of the API server's own: to hold a state that would be over in
//! milliseconds, or to see what is said of a refusal.
//!
//! Only for tests. Whoever makes one ends it; the end of the cluster takes what was left.

use std::time::Duration;

use anyhow::Result;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use crate::cluster::{Cluster, Namespace};
use crate::operator::{ACCOUNT, SYSTEM};
use crate::shop::NAME;
use crate::until::{Seen, until};

/// An admission policy that refuses the operator every write to the routes of one namespace, until it is ended.
#[derive(Debug)]
pub struct Refusal {
    policy: String,
    cluster: Cluster,
}

impl Refusal {
    /// Comes back once the API server refuses.
    pub async fn of_route_writes(namespace: &Namespace) -> Result<Self> {
        let cluster = namespace.cluster().clone();
        let policy = format!("refuse-routes-{}", namespace.name());
        let account = format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}");
        let manifest = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": policy},
                "spec": {
                    "matchConstraints": {"resourceRules": [{
                        "apiGroups": ["gateway.networking.k8s.io"], "apiVersions": ["v1"],
                        "operations": ["UPDATE"], "resources": ["httproutes"],
                    }]},
                    "validations": [{
                        "expression": format!("request.userInfo.username != '{account}'"),
                        "message": "refused by a test",
                    }],
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": policy},
                "spec": {
                    "policyName": policy,
                    "validationActions": ["Deny"],
                    "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name()}}},
                },
            },
        ]});
        cluster
            .kubectl_with(&["apply", "-f", "-"], &manifest.to_string())
            .await?;
        let refusal = Self { policy, cluster };
        refusal.await_effect(namespace).await?;
        Ok(refusal)
    }

    async fn await_effect(&self, namespace: &Namespace) -> Result<()> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
        let client = self.cluster.client_of_service_account(SYSTEM, ACCOUNT).await?;
        let routes: Api<DynamicObject> = Api::namespaced_with(client, namespace.name(), &kind);
        let rehearsal = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let touch = Patch::Merge(json!({"metadata": {"annotations": {"test": "rehearsal"}}}));
        until("the refusal to take effect", Duration::from_secs(30), async || {
            let answer = routes.patch(NAME, &rehearsal, &touch).await;
            Ok(if answer.is_err() {
                Seen::Done(())
            } else {
                Seen::NotYet("writes are still allowed".to_owned())
            })
        })
        .await
    }

    /// Lets the writes through again.
    pub async fn end(self) -> Result<()> {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            self.cluster.kubectl(&["delete", kind, &self.policy]).await?;
        }
        Ok(())
    }
}
