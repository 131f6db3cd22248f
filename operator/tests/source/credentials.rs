//! What a source is shown, and what it has to show: tokens, headers and certificates, read again when they change.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stepgate::source::file::parse;
use stepgate::source::{ErrorClass, MetricsSource, SourceError, SourceLimits};

use crate::impostor::{Answer, Impostor};
use crate::programs::program;

const TIME: &str = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#;

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("credentials-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn source(url: &str, fields: &str) -> Result<MetricsSource, SourceError> {
    let text = format!("sources: {{team: {{url: '{url}', {fields}}}}}");
    let spec = parse("sources.yaml", &text).unwrap().remove(0);
    let limits = SourceLimits {
        timeout: Duration::from_secs(2),
        ..SourceLimits::default()
    };
    MetricsSource::new(&spec, limits)
}

#[tokio::test]
async fn token_headers_and_tenant_are_sent() {
    let folder = folder("sent");
    std::fs::write(folder.join("token"), "hunter2\n").unwrap();
    std::fs::write(folder.join("key"), "hunter3").unwrap();
    let impostor = Impostor::always(Answer::Json(TIME.into()));
    let fields = format!(
        "bearerTokenFile: '{0}/token', tenant: shop, headers: {{X-Region: eu}}, headerFiles: {{X-Key: '{0}/key'}}",
        folder.display()
    );
    let source = source(&impostor.url, &fields).unwrap();
    source.clock().await.unwrap();
    let headers = impostor.requests()[0].headers.clone();
    for header in [
        "authorization: Bearer hunter2",
        "x-scope-orgid: shop",
        "x-region: eu",
        "x-key: hunter3",
    ] {
        assert!(headers.iter().any(|sent| sent == header), "{header}: {headers:?}");
    }
    assert!(!format!("{source:?}").contains("hunter"), "{source:?}");
}

#[tokio::test]
async fn a_token_that_changed_is_used_without_a_restart() {
    let folder = folder("changed");
    let file = folder.join("token");
    std::fs::write(&file, "first").unwrap();
    let valid = Arc::new(Mutex::new("first"));
    let wanted = Arc::clone(&valid);
    let impostor = Impostor::new(move |request| {
        let wanted = format!("authorization: Bearer {}", wanted.lock().unwrap());
        if request.headers.contains(&wanted) {
            Answer::Json(TIME.into())
        } else {
            Answer::Http("401 Unauthorized", vec![], "first second".into())
        }
    });
    let source = source(&impostor.url, &format!("bearerTokenFile: '{}'", file.display())).unwrap();
    source.clock().await.unwrap();
    *valid.lock().unwrap() = "second";
    let refused = source.clock().await.unwrap_err();
    assert_eq!(
        (refused.label(), refused.class()),
        ("unauthorized", ErrorClass::Forbidden)
    );
    // What was refused is read again at once.
    std::fs::write(&file, "second\n").unwrap();
    source.clock().await.unwrap();
    // One that went away is told by its path, and one that came back is used.
    std::fs::remove_file(&file).unwrap();
    *valid.lock().unwrap() = "third";
    assert_eq!(source.clock().await.unwrap_err().label(), "unauthorized");
    let gone = source.clock().await.unwrap_err();
    let cause = std::error::Error::source(&gone).unwrap().to_string();
    assert_eq!((gone.label(), gone.class()), ("credentials", ErrorClass::Transient));
    assert!(
        gone.to_string().contains("team: its bearerTokenFile") && cause.contains("token: No such file"),
        "{gone}: {cause}"
    );
    std::fs::write(&file, "third").unwrap();
    source.clock().await.unwrap();
}

#[test]
fn a_secret_that_cannot_be_used_is_told_at_the_start_and_not_shown() {
    let folder = folder("unusable");
    std::fs::write(folder.join("empty"), "\n").unwrap();
    std::fs::write(folder.join("two-lines"), "hunter2\nhunter3").unwrap();
    std::fs::write(folder.join("no-pem"), "hunter2").unwrap();
    let at = |file: &str| format!("{}/{file}", folder.display());
    let cases = [
        (
            format!("bearerTokenFile: '{}'", at("none")),
            "bearerTokenFile",
            "No such file",
        ),
        (
            format!("bearerTokenFile: '{}'", at("empty")),
            "bearerTokenFile",
            "is empty",
        ),
        (
            format!("bearerTokenFile: '{}'", at("two-lines")),
            "bearerTokenFile",
            "HTTP header",
        ),
        (
            format!("headerFiles: {{X-Key: '{}'}}", at("empty")),
            "headerFiles",
            "is empty",
        ),
        (format!("caFile: '{}'", at("no-pem")), "caFile", "no certificate"),
        (format!("caFile: '{}'", folder.display()), "caFile", "directory"),
        (
            format!("clientCertificateFile: '{0}', clientKeyFile: '{0}'", at("no-pem")),
            "HTTP client",
            "",
        ),
    ];
    for (fields, field, why) in cases {
        let error = source("https://127.0.0.1:1", &fields).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap();
        let text = format!("{error}: {cause}");
        assert!(text.contains("metrics source team") && text.contains(field), "{text}");
        assert!(text.contains(why), "{text}");
        assert!(!format!("{text} {error:?}").contains("hunter"), "{text}");
    }
}

#[tokio::test]
async fn a_source_is_asked_directly() {
    // Also run by the test below, with proxies in its environment.
    let own = Impostor::always(Answer::Json(TIME.into()));
    let url = std::env::var("STEPGATE_TEST_SOURCE").unwrap_or_else(|_| own.url.clone());
    source(&url, "headers: {}").unwrap().clock().await.unwrap();
}

#[test]
fn no_proxy_of_the_environment_is_asked() {
    let proxy = Impostor::always(Answer::Http("502 Bad Gateway", vec![], String::new()));
    let target = Impostor::always(Answer::Json(TIME.into()));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "credentials::a_source_is_asked_directly"])
        .env("STEPGATE_TEST_SOURCE", &target.url);
    for variable in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        child.env(variable, &proxy.url);
    }
    child.env_remove("no_proxy").env_remove("NO_PROXY");
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!((proxy.requests().len(), target.requests().len()), (0, 1));
}

/// Certificates of one authority: of a server on the loopback interface and of a client.
struct Authority(PathBuf);

impl Authority {
    fn new(folder: PathBuf) -> Self {
        let authority = Self(folder);
        authority.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt");
        authority.sign("server", "subjectAltName=IP:127.0.0.1");
        authority.sign("client", "extendedKeyUsage=clientAuth");
        authority
    }

    fn sign(&self, name: &str, extension: &str) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        std::fs::write(self.0.join("extensions"), extension).unwrap();
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.crt"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&self.0)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }
}

/// A Prometheus that answers over TLS alone, and those alone who show a certificate of the authority.
struct Secure {
    url: String,
    child: Child,
}

impl Secure {
    fn start(authority: &Authority) -> Self {
        let folder: &Path = &authority.0;
        std::fs::write(folder.join("prometheus.yml"), "global: {scrape_interval: 1h}\n").unwrap();
        let web = format!(
            "tls_server_config: {{cert_file: '{}', key_file: '{}', client_auth_type: RequireAndVerifyClientCert, client_ca_file: '{}'}}\n",
            authority.path("server.crt"),
            authority.path("server.key"),
            authority.path("ca.crt")
        );
        std::fs::write(folder.join("web.yml"), web).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new(program("prometheus"))
            .arg(format!("--config.file={}", authority.path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", authority.path("data")))
            .arg(format!("--web.config.file={}", authority.path("web.yml")))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self {
            url: format!("https://127.0.0.1:{port}"),
            child,
        }
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_real_prometheus_over_tls_is_known_by_its_authority_and_knows_us_by_ours() {
    let authority = Authority::new(folder("tls"));
    let prometheus = Secure::start(&authority);
    let fields = |ca: &str| {
        format!(
            "caFile: '{}', clientCertificateFile: '{}', clientKeyFile: '{}'",
            authority.path(ca),
            authority.path("client.crt"),
            authority.path("client.key")
        )
    };
    let known = source(&prometheus.url, &fields("ca.crt")).unwrap();
    let until = Instant::now() + Duration::from_mins(1);
    while let Err(error) = known.check(5.0).await {
        assert!(Instant::now() < until, "{error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Without a certificate of ours it does not answer.
    let unknown = source(&prometheus.url, &format!("caFile: '{}'", authority.path("ca.crt"))).unwrap();
    let error = unknown.clock().await.unwrap_err();
    assert!(["connect", "broken"].contains(&error.label()), "{error:?}");
    // One that another authority signed is not believed.
    let other = Authority::new(folder("tls-other"));
    std::fs::copy(other.path("ca.crt"), authority.path("other.crt")).unwrap();
    let error = source(&prometheus.url, &fields("other.crt"))
        .unwrap()
        .clock()
        .await
        .unwrap_err();
    assert_eq!(error.label(), "connect");
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
    // New certificates are used within seconds.
    let turned = source(&prometheus.url, &fields("other.crt")).unwrap();
    std::fs::copy(authority.path("ca.crt"), authority.path("other.crt")).unwrap();
    authority.sign("client", "extendedKeyUsage=clientAuth");
    let until = Instant::now() + Duration::from_secs(30);
    while let Err(error) = turned.clock().await {
        assert!(Instant::now() < until, "{error:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
