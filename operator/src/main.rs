//! The binary `stepgate`.

use clap::Parser;
use stepgate::args::{Arguments, Command};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The metrics client may come before the Kubernetes client, which would install it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Arguments::parse().command {
        Command::Run(run) => stepgate::run::run(*run).await,
    }
}
