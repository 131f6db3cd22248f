//! What one of a user's own queries is asked as: the words of the providers' templates filled in, and held to the Rollout's namespace.
//!
//! Pure.

use thiserror::Error;

use super::{Arms, fill};
use crate::promql::{self, PromqlError, Tenant};

/// Why a query cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuestionError {
    /// A word that nothing fills.
    #[error(
        "`${{{0}` is unknown or has no end; known are ${{namespace}}, ${{stableService}}, ${{canaryService}}, ${{port}}, ${{routes}}, ${{stablePods}} and ${{canaryPods}}"
    )]
    Placeholder(String),
    /// It is no PromQL, or asks for more than its namespace.
    #[error(transparent)]
    Promql(#[from] PromqlError),
}

/// The PromQL that is asked in place of a user's. `tenant_label`: by which label the source tells namespaces apart; `None` where the
/// administrator lets everybody see everything in it, and then the text is the source's to understand.
pub fn asked(query: &str, arms: &Arms, tenant_label: Option<&str>) -> Result<String, QuestionError> {
    let filled = fill(query, arms, &[]).map_err(|word| QuestionError::Placeholder(word.to_owned()))?;
    let Some(label) = tenant_label else {
        return Ok(filled);
    };
    let tenant = Tenant {
        label,
        namespace: &arms.namespace,
    };
    Ok(promql::enforce(&filled, &tenant)?)
}
