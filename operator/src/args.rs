//! The command line. Every constant that an administrator may want to change is a flag here, and a value of the chart.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use stepgate_core::Limits;
use stepgate_crds::units::Span;

use crate::{
    source::{self, SourceSpec},
    telemetry::LogFormat,
};

/// Progressive delivery over the Gateway API.
#[derive(Debug, Parser)]
#[command(name = "stepgate", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator, in a cluster or outside of one (KUBECONFIG).
    Run(Box<Run>),
}

/// How to run the operator.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// A metrics source that Rollouts may name: NAME=URL of a Prometheus API. May be given several times; `default` is the one that
    /// a Rollout uses where it names none.
    #[arg(long = "metrics-source", value_name = "NAME=URL")]
    pub metrics_sources: Vec<SourceSpec>,
    /// A YAML file of further metrics sources, for those that need a certificate, a token, headers or a tenant.
    #[arg(long, value_name = "FILE")]
    pub metrics_sources_file: Option<PathBuf>,
    /// A folder of provider files, one YAML file each; one that is called like a provider that comes with Stepgate takes its place.
    #[arg(long, value_name = "FOLDER")]
    pub providers_folder: Option<PathBuf>,
    /// How often the metrics sources scrape, where their file does not say.
    #[arg(long, default_value = "15s", value_name = "SPAN")]
    pub scrape_interval: Span,
    /// The longest that a query to a metrics source may take.
    #[arg(long, default_value = "5s", value_name = "SPAN")]
    pub query_timeout: Span,
    /// The length of an interval of the counts, where a Rollout does not say.
    #[arg(long, default_value = "30s", value_name = "SPAN")]
    pub default_interval: Span,
    /// The bake of a step, where a Rollout does not say.
    #[arg(long, default_value = "1m", value_name = "SPAN")]
    pub default_bake: Span,
    /// How long after acceptance a weight is in force, where a Rollout does not say.
    #[arg(long, default_value = "5s", value_name = "SPAN")]
    pub default_settle: Span,
    /// How long canary pods stay after weight 0 was accepted, where a Rollout does not say.
    #[arg(long, default_value = "30s", value_name = "SPAN")]
    pub default_drain: Span,
    /// How long after every growth of the canary its latency does not count, because caches are cold.
    #[arg(long, default_value = "1m", value_name = "SPAN")]
    pub warm_up: Span,
    /// How long a run waits for pods or a gateway, where a Rollout does not say.
    #[arg(long, default_value = "10m", value_name = "SPAN")]
    pub default_progress_deadline: Span,
    /// How long stable may be without a ready endpoint before a new version whose pods are ready is let roll natively.
    #[arg(long, default_value = "2m", value_name = "SPAN")]
    pub bare_deadline: Span,
    /// How long traffic goes back only as far as ready pods cover it; after that all of it goes back.
    #[arg(long, default_value = "2m", value_name = "SPAN")]
    pub way_back: Span,
    /// How long a canary that was sent requests, and of which none was counted, has no traffic before it is tried once more.
    #[arg(long, default_value = "5m", value_name = "SPAN")]
    pub retreat_silence: Span,
    /// After a fault of both versions: so many intervals stable has to be well before the run goes on.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub well_intervals: u32,
    /// How long weights that somebody else took toward stable are obeyed, the first, second and third time in `--brake-memory`; the
    /// fourth time the run is paused.
    #[arg(long, value_delimiter = ',', default_values = ["1s", "10s", "1m"], value_name = "SPAN,SPAN,SPAN")]
    pub brake: Vec<Span>,
    /// For how long it is remembered that somebody else took weights toward stable.
    #[arg(long, default_value = "10m", value_name = "SPAN")]
    pub brake_memory: Span,
    /// How often a status is refreshed in which only numbers changed.
    #[arg(long, default_value = "1m", value_name = "SPAN")]
    pub status_refresh: Span,
    /// The name of the MutatingAdmissionPolicy that holds managed Deployments, and of its binding. While it is not there, or does not
    /// let the operator's own user through, nothing is managed.
    #[arg(long, default_value = "stepgate-hold", value_name = "NAME")]
    pub hold_policy: String,
    /// Watch this namespace alone. Default: all.
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The namespace of the Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", value_name = "NAMESPACE")]
    pub lease_namespace: String,
    /// The name of the Lease.
    #[arg(long, default_value = "stepgate", value_name = "NAME")]
    pub lease_name: String,
    /// The name of this process in Lease and Events.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// The address of health and metrics pages.
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    pub listen_address: IpAddr,
    /// The port of health and metrics pages; 0 takes a free one.
    #[arg(long, default_value_t = 9808, value_name = "PORT")]
    pub port: u16,
    /// The form of the logs.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log, such as `info` or `info,stepgate=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

impl Run {
    /// The constants that these flags set, or what is wrong with them.
    pub fn limits(&self) -> Result<Limits, String> {
        if self.default_interval < self.scrape_interval.twice() || self.default_interval < Span::seconds(5) {
            return Err(format!(
                "--default-interval {}: must be at least 5s and twice --scrape-interval ({})",
                self.default_interval, self.scrape_interval
            ));
        }
        let brake: [Span; 3] = self
            .brake
            .clone()
            .try_into()
            .map_err(|given: Vec<Span>| format!("--brake: {} spans given, 3 are needed: 1s,10s,1m", given.len()))?;
        Ok(Limits {
            bake: self.default_bake,
            settle: self.default_settle,
            drain: self.default_drain,
            warm_up: self.warm_up,
            interval: self.default_interval,
            progress_deadline: self.default_progress_deadline,
            scrape: self.scrape_interval,
            bare: self.bare_deadline,
            by_capacity: self.way_back,
            silence: self.retreat_silence,
            well_intervals: self.well_intervals,
            brake,
            brake_memory: self.brake_memory,
            refresh: self.status_refresh,
            ..Limits::default()
        })
    }

    /// All metrics sources, of flags and file, or what is wrong with them.
    pub fn sources(&self) -> anyhow::Result<Vec<SourceSpec>> {
        let mut sources = self.metrics_sources.clone();
        if let Some(file) = &self.metrics_sources_file {
            sources.extend(source::file::read(file)?);
        }
        for (index, spec) in sources.iter().enumerate() {
            let name = &spec.name;
            let earlier = sources.iter().take(index);
            anyhow::ensure!(
                earlier.into_iter().all(|other| other.name != *name),
                "there are two metrics sources named {name}; leave it to --metrics-source or to --metrics-sources-file"
            );
        }
        Ok(sources)
    }

    /// Where health and metrics pages are.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.listen_address, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(flags: &[&str]) -> Run {
        let arguments = ["stepgate", "run"].iter().chain(flags);
        let Command::Run(run) = Arguments::try_parse_from(arguments).unwrap().command;
        *run
    }

    #[test]
    fn without_a_flag_every_limit_is_what_the_documentation_states() {
        assert_eq!(run(&[]).limits().unwrap(), Limits::default());
    }

    #[test]
    fn a_brake_takes_three_spans() {
        let limits = run(&["--brake=2s,3s,4s"]).limits().unwrap();
        assert_eq!(limits.brake, [Span::seconds(2), Span::seconds(3), Span::seconds(4)]);
        let error = run(&["--brake=2s"]).limits().unwrap_err();
        assert!(error.contains("--brake: 1 spans given, 3 are needed"), "{error}");
    }

    #[test]
    fn no_two_sources_have_one_name() {
        let sources = |flags: &[&str]| run(flags).sources();
        let two = sources(&["--metrics-source=a=http://p", "--metrics-source=b=http://p"]);
        assert_eq!(two.unwrap().len(), 2);
        let error = sources(&["--metrics-source=a=http://p", "--metrics-source=a=http://q"]).unwrap_err();
        assert!(error.to_string().contains("two metrics sources named a"), "{error}");
        let error = sources(&["--metrics-sources-file=/does/not/exist"]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("--metrics-sources-file /does/not/exist cannot be read"),
            "{error}"
        );
    }
}
