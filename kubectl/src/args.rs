//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stepgate_crds::{
    Verb,
    units::{Share, Span},
};

use crate::preview::Given;

/// Shows rollouts and steers them.
#[derive(Parser, Debug)]
#[command(
    name = "kubectl-stepgate",
    bin_name = "kubectl stepgate",
    version,
    about,
    max_term_width = 120
)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the operator did not answer in time."
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: Action,
    /// Which cluster.
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Which cluster and namespace, with kubectl's own flags.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// The namespace; by default the context's.
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
    /// The context of the kubeconfig; by default its current one.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// The kubeconfig file; by default what KUBECONFIG says, ~/.kube/config, or the pod's own account.
    #[arg(long, global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub(crate) enum Action {
    /// Show one rollout in detail, or all of the namespace as a table.
    Status(StatusArguments),
    /// Say why the verdict is what it is: counts, shares, evidence, what is missing, and the PromQL to paste.
    Explain(ExplainArguments),
    #[command(flatten)]
    Ask(Ask),
    /// Let the held Deployment roll at once, unjudged. Works while the operator is away or uninstalled.
    Release(ReleaseArguments),
    /// Judge counts as the operator would have, interval by interval: those of a file, which needs no cluster, or of a Rollout's last run.
    Replay(ReplayArguments),
    /// Say what a Rollout in a file would do: what stands in its way, how long its steps take, which regressions it finds. Writes nothing.
    Preview(PreviewArguments),
}

/// The subcommands that the operator carries out.
#[derive(Subcommand, Debug)]
pub(crate) enum Ask {
    /// Go on to the next step without waiting for evidence, or approve a step that waits for it.
    Promote(PromoteArguments),
    /// Take all traffic back to the stable version, and end the run as failed.
    Abort(CommandArguments),
    /// Try the version that failed once more.
    Retry(CommandArguments),
    /// Put the stable version's template back into the Deployment in place of the version that failed.
    Undo(CommandArguments),
    /// Stay at the present weight until somebody resumes; a failed verdict still takes the version back.
    Pause(CommandArguments),
    /// Go on after a pause.
    Resume(CommandArguments),
}

impl Ask {
    /// What is asked, and of which Rollout.
    pub(crate) fn request(&self) -> (Request, &CommandArguments) {
        let (verb, full, arguments) = match self {
            Self::Promote(promote) => (Verb::Promote, promote.full, &promote.command),
            Self::Abort(arguments) => (Verb::Abort, false, arguments),
            Self::Retry(arguments) => (Verb::Retry, false, arguments),
            Self::Undo(arguments) => (Verb::Undo, false, arguments),
            Self::Pause(arguments) => (Verb::Pause, false, arguments),
            Self::Resume(arguments) => (Verb::Resume, false, arguments),
        };
        (Request { verb, full }, arguments)
    }
}

/// What is asked of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// What to do.
    pub(crate) verb: Verb,
    /// With `promote`: skip all steps that are left.
    pub(crate) full: bool,
}

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct StatusArguments {
    /// The Rollout; without it all of the namespace are shown.
    pub(crate) name: Option<String>,
    /// Show the Rollouts of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub(crate) all_namespaces: bool,
    /// Print it as the API server has it.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Output>,
}

/// What to explain.
#[derive(Args, Debug)]
pub(crate) struct ExplainArguments {
    /// The Rollout.
    pub(crate) name: String,
    /// Print it for programs.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Output>,
}

/// What to command.
#[derive(Args, Debug)]
pub(crate) struct CommandArguments {
    /// The Rollout.
    pub(crate) name: String,
    /// How long to wait for the operator's answer; 0s: not at all.
    #[arg(long, default_value = "10s")]
    pub(crate) wait: Span,
}

/// How far to promote.
#[derive(Args, Debug)]
pub(crate) struct PromoteArguments {
    /// Skip all steps that are left: the canary gets the last step's weight at once, unjudged, and the Deployment follows.
    #[arg(long)]
    pub(crate) full: bool,
    /// The Rollout, and how long to wait.
    #[command(flatten)]
    pub(crate) command: CommandArguments,
}

/// What to release.
#[derive(Args, Debug)]
pub(crate) struct ReleaseArguments {
    /// The Rollout; where it is gone already, the Deployment.
    pub(crate) name: String,
}

/// What to replay.
#[derive(Args, Debug)]
pub(crate) struct ReplayArguments {
    /// The Rollout whose last run is judged again, from what its status kept.
    #[arg(required_unless_present = "counts", conflicts_with_all = ["counts", "interval"])]
    pub(crate) name: Option<String>,
    /// A JSON document of counts, such as tests/vectors/eprocess.json; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) counts: Option<PathBuf>,
    /// How long an interval takes: what lasts too long is told by it.
    #[arg(long, value_name = "SPAN", default_value = "30s")]
    pub(crate) interval: Span,
    /// Print the same document with evidence and verdicts filled in.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Output>,
}

/// What to preview.
#[derive(Args, Debug)]
pub(crate) struct PreviewArguments {
    /// A manifest with one Rollout or more, other kinds are left aside; `-` for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) filename: PathBuf,
    /// Requests a second to the stable Service. Default: what this Rollout's last run counted, else 1, 10, 100 and 1000.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// The share of requests that fail with the stable version, such as 0.1%. Default: what the last run counted, else a tenth of the max.
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    pub(crate) bad: Option<Share>,
    /// The share of requests that are slow with the stable version. Default: as for --bad.
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    pub(crate) slow: Option<Share>,
    /// Print it for programs.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Output>,
}

impl PreviewArguments {
    /// What the user says of the traffic.
    pub(crate) fn given(&self) -> Given {
        Given {
            rate: self.rate,
            bad: self.bad,
            slow: self.slow,
        }
    }
}

/// Requests a second.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (1e-3..=1e7).contains(number));
    number.ok_or_else(|| "a number of requests a second, from 0.001 to 10000000, such as 40".to_owned())
}

/// A share, with or without its sign.
fn percentage(text: &str) -> Result<Share, String> {
    let share = format!("{}%", text.trim_end_matches('%')).parse();
    share.map_err(|_| "a percentage from 0 to 100, such as 0.1%".to_owned())
}

/// Formats of `status`, `explain`, `replay` and `preview`.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Output {
    /// JSON, with every field.
    Json,
}

/// The name of a Rollout, also where it is written as `rollout/NAME`.
pub(crate) fn bare(name: &str) -> &str {
    match name.split_once('/') {
        Some(("rollout" | "rollouts" | "sg" | "rollout.stepgate.dev" | "rollouts.stepgate.dev", bare)) => bare,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn kubectl_flags_go_before_and_after_the_verb() {
        for words in [
            ["kubectl-stepgate", "-n", "shop", "abort", "checkout"],
            ["kubectl-stepgate", "abort", "checkout", "-n", "shop"],
        ] {
            assert_eq!(Arguments::parse_from(words).target.namespace.as_deref(), Some("shop"));
        }
    }

    #[test]
    fn full_is_for_promote_alone() {
        let asked = |words: &[&str]| Arguments::try_parse_from(words).ok();
        let full = asked(&["kubectl-stepgate", "promote", "checkout", "--full", "--wait=0s"]).unwrap();
        let Action::Ask(ask) = full.action else {
            panic!("{:?}", full.action)
        };
        let wanted = Request {
            verb: Verb::Promote,
            full: true,
        };
        assert_eq!(ask.request().0, wanted);
        assert!(asked(&["kubectl-stepgate", "abort", "checkout", "--full"]).is_none());
    }

    #[test]
    fn a_name_may_carry_its_kind() {
        for name in [
            "checkout",
            "rollout/checkout",
            "sg/checkout",
            "rollouts.stepgate.dev/checkout",
        ] {
            assert_eq!(bare(name), "checkout");
        }
    }
}
