//! PromQL that a tenant wrote: read into an expression, held to one namespace, and printed back.
//!
//! Pure and total. What is asked of a source is never the tenant's text but what is printed from the expression: each vector selector in it
//! has the matcher of the tenant's namespace, and nothing else in it reads series. What this does not understand it refuses, and says where;
//! whether functions and types fit is the source's to say.

mod parser;
mod print;

use thiserror::Error;

pub use parser::parse;

/// Most levels of parentheses, arguments and signs within each other.
pub const DEEPEST: usize = 64;

/// An expression. Parentheses that only group are not kept: they are printed where they are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// A number or a duration, as it was written.
    Number(String),
    /// A string, without quotes and escapes.
    Text(String),
    /// Series, at a time or over a range.
    Selector(Selector),
    /// An expression evaluated over a range: `expr[range:step]`.
    Subquery {
        /// What is evaluated.
        of: Box<Expr>,
        /// How far back.
        range: String,
        /// How often; none: as the source says.
        step: Option<String>,
        /// Of which time.
        time: Time,
    },
    /// `name(arguments)`.
    Call {
        /// The function.
        name: String,
        /// Its arguments.
        arguments: Vec<Expr>,
    },
    /// `op by (labels) (arguments)`.
    Aggregate {
        /// The aggregation, in lower case.
        op: String,
        /// `by` or `without`, and the labels.
        grouping: Option<(&'static str, Vec<String>)>,
        /// Its arguments.
        arguments: Vec<Expr>,
    },
    /// A sign before an expression.
    Unary {
        /// `+` or `-`.
        sign: char,
        /// Before what.
        of: Box<Expr>,
    },
    /// Two expressions with an operator between them.
    Binary {
        /// The operator, in lower case.
        op: &'static str,
        /// How the two sides are matched.
        matching: Matching,
        /// The left side.
        left: Box<Expr>,
        /// The right side.
        right: Box<Expr>,
    },
}

/// Series by name and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The metric, where it is written before the braces.
    pub name: Option<String>,
    /// What stands in the braces.
    pub matchers: Vec<Matcher>,
    /// How far back; none for the newest sample.
    pub range: Option<String>,
    /// Of which time.
    pub time: Time,
}

/// `label op "value"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// The label.
    pub label: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub op: &'static str,
    /// The value, without quotes and escapes.
    pub value: String,
}

/// Of which time, where it is not that of the query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Time {
    /// `@`, in Unix seconds as written.
    pub at: Option<String>,
    /// `offset`, with its sign as written.
    pub offset: Option<String>,
}

/// How the two sides of an operator are matched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matching {
    /// Whether a comparison gives 0 or 1.
    pub bool: bool,
    /// `on` or `ignoring`, and the labels.
    pub labels: Option<(&'static str, Vec<String>)>,
    /// `group_left` or `group_right`, and the labels.
    pub group: Option<(&'static str, Vec<String>)>,
}

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PromqlError {
    /// It is no PromQL that this understands.
    #[error("at character {at}, {before}: {why}")]
    Syntax {
        /// From 1.
        at: usize,
        /// What stands there.
        before: String,
        /// What is wrong.
        why: String,
    },
    /// A matcher on the tenants' label that is not the one that is enforced.
    #[error(
        "`{matcher}` asks for other namespaces, and a query sees that of its Rollout alone: leave it out, {enforced} is put in"
    )]
    OtherTenant {
        /// The matcher, as it is printed.
        matcher: String,
        /// The one that is enforced.
        enforced: String,
    },
    /// `{}`.
    #[error("`{{}}` selects every series; name a metric or a label")]
    Everything,
    /// A function that reads series that the expression does not select.
    #[error(
        "{0}() reads series of other namespaces by itself; select what is needed and join it by `* on (…) group_left (…)`"
    )]
    ReadsMore(String),
}

/// The matcher that every selector of a tenant's query has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant<'a> {
    /// The label by which the source tells namespaces apart.
    pub label: &'a str,
    /// The tenant's namespace.
    pub namespace: &'a str,
}

/// The text to be asked in place of a tenant's: the same expression, each of its vector selectors within the tenant's namespace.
pub fn enforce(text: &str, tenant: &Tenant<'_>) -> Result<String, PromqlError> {
    let mut expression = parse(text)?;
    confine(&mut expression, tenant)?;
    Ok(expression.to_string())
}

fn confine(expression: &mut Expr, tenant: &Tenant<'_>) -> Result<(), PromqlError> {
    match expression {
        Expr::Number(_) | Expr::Text(_) => Ok(()),
        Expr::Selector(selector) => selector.confine(tenant),
        Expr::Subquery { of, .. } | Expr::Unary { of, .. } => confine(of, tenant),
        // It joins in `target_info` of whatever namespace.
        Expr::Call { name, .. } if name.eq_ignore_ascii_case("info") => Err(PromqlError::ReadsMore(name.clone())),
        Expr::Call { arguments, .. } | Expr::Aggregate { arguments, .. } => {
            arguments.iter_mut().try_for_each(|argument| confine(argument, tenant))
        }
        Expr::Binary { left, right, .. } => {
            confine(left, tenant)?;
            confine(right, tenant)
        }
    }
}

impl Selector {
    /// Refuses what asks for other namespaces, in place of putting something else in: `namespace="other"` would read as if it were asked.
    fn confine(&mut self, tenant: &Tenant<'_>) -> Result<(), PromqlError> {
        if self.name.is_none() && self.matchers.is_empty() {
            return Err(PromqlError::Everything);
        }
        let enforced = Matcher {
            label: tenant.label.to_owned(),
            op: "=",
            value: tenant.namespace.to_owned(),
        };
        let is_other = |matcher: &&Matcher| matcher.label == tenant.label && **matcher != enforced;
        if let Some(other) = self.matchers.iter().find(is_other) {
            return Err(PromqlError::OtherTenant {
                matcher: other.to_string(),
                enforced: enforced.to_string(),
            });
        }
        self.matchers.retain(|matcher| *matcher != enforced);
        self.matchers.insert(0, enforced);
        Ok(())
    }
}
