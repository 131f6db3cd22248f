//! The cluster's own certificate authority, the API server's serving certificate and the key that signs ServiceAccount tokens, made
//! by `openssl` for one run and thrown away with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// The files, all in one folder.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    pub(super) serving_certificate: PathBuf,
    pub(super) serving_key: PathBuf,
    pub(super) service_account_key: PathBuf,
}

/// Makes them in `folder`; the serving certificate is valid for `addresses` and for the names of the `kubernetes` Service.
pub(super) async fn make(folder: &Path, addresses: &[&str]) -> Result<Certificates> {
    let file = |name: &str| folder.join(name);
    let made = Certificates {
        authority: file("ca.crt"),
        serving_certificate: file("apiserver.crt"),
        serving_key: file("apiserver.key"),
        service_account_key: file("service-account.key"),
    };
    let mut names = vec![
        "DNS:localhost",
        "DNS:kubernetes",
        "DNS:kubernetes.default",
        "DNS:kubernetes.default.svc",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    names.extend(addresses.iter().map(|address| format!("IP:{address}")));
    let names = format!("subjectAltName={}", names.join(","));
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let request = |arguments: &[&str]| {
        let mut all = vec![
            "req".to_owned(),
            "-x509".to_owned(),
            "-days".to_owned(),
            "30".to_owned(),
        ];
        all.extend(new_key.iter().chain(arguments).map(|&argument| argument.to_owned()));
        all
    };
    let path = |path: &Path| path.display().to_string();
    openssl(&request(&[
        "-subj",
        "/CN=stepgate-local-cluster",
        "-keyout",
        &path(&file("ca.key")),
        "-out",
        &path(&made.authority),
    ]))
    .await?;
    openssl(&request(&[
        "-subj",
        "/CN=kube-apiserver",
        "-addext",
        &names,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-addext",
        "extendedKeyUsage=serverAuth",
        "-CA",
        &path(&made.authority),
        "-CAkey",
        &path(&file("ca.key")),
        "-keyout",
        &path(&made.serving_key),
        "-out",
        &path(&made.serving_certificate),
    ]))
    .await?;
    let key = [
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        &path(&made.service_account_key),
    ]
    .map(str::to_owned);
    openssl(&key).await?;
    Ok(made)
}

async fn openssl(arguments: &[String]) -> Result<()> {
    let output = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .context("running openssl (apt-get install openssl)")?;
    if !output.status.success() {
        bail!(
            "openssl {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
