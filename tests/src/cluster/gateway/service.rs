//! The way from Envoy to its controller, as a Service gives it: closed until the controller is ready.
//!
//! Contour 1.33 opens its port before it has read every HTTPRoute, and tells who asks in that tenth of a second that there are no clusters
//! (`contour cli cds` saw it in 6 of 25 starts): Envoy then answers 503 (`NC`). In a cluster nobody can ask so soon: its own manifest has a readiness probe, a
//! connection to that port, and kubelet, EndpointSlice and node take their time after it.

use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// How often the probe knocks.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// From the probe's success to the first connection. A cluster takes longer.
const ENDPOINT_AFTER: Duration = Duration::from_secs(2);

/// One controller's Service, from its start to its end. Connections and port go when this is dropped.
#[derive(Debug)]
pub(super) struct Service {
    task: JoinHandle<()>,
}

impl Service {
    /// Serves 127.0.0.1:`port` from the controller on 127.0.0.1:`controller`, once that is ready.
    pub(super) fn of(controller: u16, port: u16) -> Self {
        Self {
            task: tokio::spawn(async move {
                if let Err(error) = serve(controller, port).await {
                    say(&format!(
                        "no way to the gateway's controller through 127.0.0.1:{port}: {error}"
                    ));
                }
            }),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(
    clippy::print_stderr,
    reason = "nobody waits for the task, and without it the gateway stays as it was"
)]
fn say(text: &str) {
    eprintln!("gateway of a test's own: {text}");
}

async fn serve(controller: u16, port: u16) -> std::io::Result<()> {
    while TcpStream::connect(("127.0.0.1", controller)).await.is_err() {
        sleep(PROBE_EVERY).await;
    }
    sleep(ENDPOINT_AFTER).await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await?;
        connections.spawn(async move {
            if let Ok(mut server) = TcpStream::connect(("127.0.0.1", controller)).await {
                // It ends as either side does: that is all there is to know.
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
