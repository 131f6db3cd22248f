//! Sends requests at a fixed rate through the local cluster's gateway and prints what came back.
//!
//! Ends with code 1 when a request failed for any other reason than an error the application made on purpose.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use stepgate_tests::cluster::GATEWAY_URL;
use stepgate_tests::load::{Load, LoadOptions};

/// An open-loop load generator: a fixed rate, whatever the answers do.
#[derive(Parser)]
struct Arguments {
    /// Where to connect.
    #[arg(long, default_value = GATEWAY_URL)]
    url: String,
    /// The Host header.
    #[arg(long)]
    host: String,
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests a second.
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Seconds to send.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// At most so many requests.
    #[arg(long)]
    count: Option<u64>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a program's answer")]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let load = Load::start(LoadOptions {
        url: arguments.url,
        path: arguments.path,
        rate: arguments.rate,
        duration: Some(Duration::from_secs(arguments.seconds)),
        count: arguments.count,
        ..LoadOptions::to_host(&arguments.host)
    })?;
    let report = load.finished().await?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.other_failures() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
