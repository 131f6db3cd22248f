//! Why a backend keeps a trickle behind Envoy Gateway with filters: weights that go to 0 and come from 0 lose requests there, and the same
//! weights with a trickle do not. No operator: the weights are patched as it would.

use serde_json::json;

use super::*;

/// Requests a second.
const DENSE: f64 = 1_000.0;
/// How often all of the traffic goes from one backend to the other.
const TURNS: u32 = 30;
/// How long each has it.
const STAY: Duration = Duration::from_millis(600);

const OTHER: &str = "
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {selector: {app: checkout}, ports: [{name: http, port: 80, targetPort: http}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn envoy_gateway_with_filters_loses_requests_to_a_backend_that_was_idle_and_none_to_one_with_a_trickle()
-> Result<()> {
    let namespace = Cluster::attach().await?.namespace("idle").await?;
    let gateway = OwnGateway::start(Make::EnvoyGateway, &namespace).await?;
    let shop = Shop {
        replicas: 2,
        own_gateway: Some(Make::EnvoyGateway.gateway()),
        rules: rule(&[
            filtered("name: checkout, weight: 1000000"),
            filtered("name: other, weight: 1"),
        ]),
        ..Shop::default()
    };
    namespace.apply(&shop.application()).await?;
    namespace.apply(OTHER).await?;
    namespace.apply(&shop.route(&namespace)).await?;
    let options = LoadOptions {
        url: gateway.url.clone(),
        rate: DENSE,
        ..shop::load(&namespace)
    };
    let one = LoadOptions {
        count: Some(1),
        ..options.clone()
    };
    until("an answer", BOUND, async || {
        let report = Load::start(one.clone())?.finished().await?;
        Ok(if report.other_failures() == 0 {
            Seen::Done(())
        } else {
            Seen::NotYet(report.to_string())
        })
    })
    .await?;
    let turns = async |whole: u32, idle: u32| -> Result<Report> {
        let load = Load::start(options.clone())?;
        for turn in 0..TURNS {
            let (first, second) = if turn % 2 == 0 { (idle, whole) } else { (whole, idle) };
            let weight = |place: u32, weight: u32| json!({"op": "add", "path": format!("/spec/rules/0/backendRefs/{place}/weight"), "value": weight});
            let patch = json!([weight(0, first), weight(1, second)]).to_string();
            namespace
                .kubectl(&["patch", "httproute", shop::NAME, "--type=json", "-p", &patch])
                .await?;
            sleep(STAY).await;
        }
        load.stop().await
    };
    let with_trickle = turns(1_000_000, 1).await?;
    let without = turns(100, 0).await?;
    println!(
        "| Envoy Gateway, with filters, all of the traffic from one backend to the other {TURNS} times | with a trickle: {} of {} lost | without: {} of {} lost |",
        with_trickle.other_failures(),
        with_trickle.requests,
        without.other_failures(),
        without.requests
    );
    ensure!(
        with_trickle.other_failures() == 0,
        "lost with a trickle: {with_trickle}"
    );
    ensure!(
        without.other_failures() > 0,
        "nothing was lost without a trickle: is it needed any more?"
    );
    Ok(())
}
