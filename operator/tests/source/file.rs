//! The file of metrics sources: what it may hold, and that a mistake is told by file, source and field, and without what may be a secret.

use std::path::PathBuf;

use stepgate::source::file::{parse, read};
use stepgate::source::{ClientCertificate, Credentials};
use stepgate_crds::units::Span;

#[test]
fn a_source_is_a_url_or_has_all_that_it_needs() {
    let sources = parse(
        "sources.yaml",
        r"
sources:
  default: http://prometheus.monitoring:9090
  mimir:
    url: https://mimir.example.com/prometheus
    scrapeInterval: 1m
    caFile: /secrets/mimir/ca.crt
    clientCertificateFile: /secrets/mimir/tls.crt
    clientKeyFile: /secrets/mimir/tls.key
    bearerTokenFile: /secrets/mimir/token
    tenant: shop
    headers:
      X-Region: eu
    headerFiles:
      X-Key: /secrets/mimir/key
  thanos: {url: 'https://thanos', tenant: shop, tenantHeader: THANOS-TENANT}
",
    )
    .unwrap();
    let names: Vec<&str> = sources.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["default", "mimir", "thanos"]);
    assert_eq!(sources[0].to_string(), "default=http://prometheus.monitoring:9090/");
    assert_eq!(sources[0].credentials, Credentials::default());
    assert_eq!((sources[0].scrape, sources[1].scrape), (None, Some(Span::seconds(60))));
    let path = |name: &str| PathBuf::from(format!("/secrets/mimir/{name}"));
    let Credentials {
        ca,
        client,
        bearer_token,
        headers,
        header_files,
    } = &sources[1].credentials;
    assert_eq!((ca, bearer_token), (&Some(path("ca.crt")), &Some(path("token"))));
    let certificate = ClientCertificate {
        certificate: path("tls.crt"),
        key: path("tls.key"),
    };
    assert_eq!(*client, Some(certificate));
    let shown: Vec<(&str, &[u8])> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    assert_eq!(shown, [("x-scope-orgid", &b"shop"[..]), ("x-region", &b"eu"[..])]);
    assert_eq!(
        (header_files[0].0.as_str(), &header_files[0].1),
        ("x-key", &path("key"))
    );
    assert_eq!(sources[2].credentials.headers[0].0, "thanos-tenant");
    assert!(parse("none.yaml", "sources: {}").unwrap().is_empty());
}

#[test]
fn each_mistake_names_file_source_and_field() {
    let of = |fields: &str| format!("sources: {{team: {{url: 'https://p', {fields}}}}}");
    let cases = [
        ("sources: [", "not YAML"),
        ("sources: {a: http://p, a: http://q}", "not YAML"),
        ("source: {}", "unknown field `source`"),
        ("{}", "missing field `sources`"),
        ("sources: {team: 7}", "sources.team: invalid type: integer"),
        ("sources: {team: {}}", "sources.team: missing field `url`"),
        ("sources: {Team: 'http://p'}", "sources.Team: a metrics source's name"),
        (
            "sources: {team: 'p:9090'}",
            "sources.team.url: a metrics source's URL begins",
        ),
        (
            "sources: {team: 'http://u:hunter2@p'}",
            "sources.team.url: a metrics source's URL has no user",
        ),
        (&of("bearerToken: hunter2"), "sources.team.bearerToken: unknown field"),
        (
            &of("bearerTokenFile: hunter2"),
            "sources.team.bearerTokenFile: the path of a file",
        ),
        (&of("caFile: ca.crt"), "sources.team.caFile: the path of a file"),
        (&of("clientKeyFile: /k"), "sources.team.clientCertificateFile: missing"),
        (&of("clientCertificateFile: /c"), "sources.team.clientKeyFile: missing"),
        (
            &of("tenantHeader: X-T"),
            "sources.team.tenantHeader: there is no tenant",
        ),
        (&of("tenant: ''"), "sources.team.tenant: empty"),
        (&of("headers: hunter2"), "sources.team.headers: invalid type: string"),
        (
            &of("headers: {'a b': c}"),
            "sources.team.headers.a b: no name of an HTTP header",
        ),
        (
            &of(r#"headers: {a: "x\ny"}"#),
            "sources.team.headers.a: no value of an HTTP header",
        ),
        (
            &of("headers: {Host: other}"),
            "sources.team.headers.Host: Stepgate sets this header itself",
        ),
        (
            &of("headers: {Authorization: hunter2}"),
            "sources.team.headers.Authorization: its value is a secret",
        ),
        (
            &of("headers: {X-Scope-OrgID: b}, tenant: a"),
            "sources.team: the header x-scope-orgid is set twice",
        ),
        (
            &of("headerFiles: {Authorization: /a}, bearerTokenFile: /b"),
            "sources.team: the header authorization is set twice",
        ),
        (&of("scrapeInterval: 0s"), "sources.team.scrapeInterval: from 1s to 10m"),
        (&of("scrapeInterval: often"), "sources.team.scrapeInterval: "),
        (&of("tenantLabel: ''"), "sources.team.tenantLabel: the name of a label"),
        (
            &of("tenantLabel: 'a b'"),
            "sources.team.tenantLabel: the name of a label",
        ),
        (
            &of("tenantLabel: __name__"),
            "sources.team.tenantLabel: the name of a label",
        ),
        (
            &of("tenantLabel: team, singleTenant: true"),
            "sources.team.singleTenant: true says that no label",
        ),
        (
            "sources: {team: {url: 'http://p', caFile: /ca}}",
            "sources.team.caFile: it is for https",
        ),
    ];
    for (text, says) in cases {
        let error = parse("/etc/stepgate/sources.yaml", text).unwrap_err().to_string();
        assert!(
            error.starts_with("--metrics-sources-file /etc/stepgate/sources.yaml: "),
            "{error}"
        );
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{text}: {error}");
    }
    let error = read("/no/such/file.yaml".as_ref()).unwrap_err().to_string();
    assert_eq!(error, "--metrics-sources-file /no/such/file.yaml cannot be read");
}

#[test]
fn a_source_holds_queries_to_their_namespace_unless_it_is_said_that_it_does_not() {
    let label = |fields: &str| {
        let text = format!("sources: {{a: {{url: 'http://p'{fields}}}}}");
        parse("sources.yaml", &text).unwrap().remove(0).tenant_label
    };
    assert_eq!(label("").as_deref(), Some("namespace"));
    assert_eq!(label(", singleTenant: false").as_deref(), Some("namespace"));
    assert_eq!(
        label(", tenantLabel: kubernetes_namespace").as_deref(),
        Some("kubernetes_namespace")
    );
    assert_eq!(label(", singleTenant: true"), None);
    let short = parse("sources.yaml", "sources: {a: 'http://p'}").unwrap().remove(0);
    assert_eq!(short.tenant_label.as_deref(), Some("namespace"));
}
