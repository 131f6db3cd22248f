//! An imitation of a slow network between an operator and the API server: a small HTTP proxy on the loopback that can hold back single
//! requests and deliver them late, when whoever sent them has long given up.
//!
//! It acts as the operator's ServiceAccount. Everything passes as it is, watches as a stream; only what a `Hold` asks for is kept back. It
//! changes nothing in a request and never sends one twice.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::stream;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cluster::{API_SERVER_ADDRESS, API_SERVER_PORT, Cluster, service_account_token};
use crate::operator::{ACCOUNT, SYSTEM};

/// The largest request that is passed on.
const MOST: usize = 16 << 20;
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running proxy. Ends when dropped.
#[derive(Debug)]
pub struct Interceptor {
    kubeconfig: PathBuf,
    holds: Holds,
    cut: watch::Sender<bool>,
    server: JoinHandle<()>,
}

/// Which request to hold back: the first that meets all of it.
#[derive(Clone, Debug)]
pub struct Matching {
    /// The method.
    pub method: Method,
    /// The path, without its query, ends with this.
    pub path: String,
    /// The body contains all of these.
    pub body: Vec<String>,
    /// The body contains none of these.
    pub without: Vec<String>,
}

/// A request that is held back.
#[derive(Clone, Debug)]
pub struct Caught {
    /// When it came.
    pub at: Timestamp,
    /// Path and query.
    pub path: String,
    /// Its body, as text.
    pub body: String,
}

/// What the API server said to a request that was delivered late.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// When it was sent on.
    pub sent: Timestamp,
    /// The status code.
    pub status: u16,
    /// The answer's body, as text.
    pub body: String,
}

/// One request that is, or will be, held back. Dropped, it lets go.
#[derive(Debug)]
pub struct Hold {
    caught: oneshot::Receiver<Caught>,
    release: oneshot::Sender<()>,
    delivered: oneshot::Receiver<Result<Delivered>>,
}

type Holds = Arc<Mutex<Vec<Waiting>>>;

/// The proxy's end of a `Hold`.
#[derive(Debug)]
struct Waiting {
    matching: Matching,
    caught: oneshot::Sender<Caught>,
    release: oneshot::Receiver<()>,
    delivered: oneshot::Sender<Result<Delivered>>,
}

#[derive(Clone)]
struct Passage {
    client: reqwest::Client,
    token: String,
    holds: Holds,
    cut: watch::Receiver<bool>,
}

impl Interceptor {
    /// Starts a proxy to the cluster's API server.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let authority = &cluster.facts().authority;
        let authority = std::fs::read(authority).with_context(|| format!("reading {}", authority.display()))?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([reqwest::Certificate::from_pem(&authority)?])
            .build()
            .context("making the proxy's client")?;
        let holds = Holds::default();
        let cut = watch::Sender::new(false);
        let passage = Passage {
            cut: cut.subscribe(),
            client,
            token: service_account_token(&cluster.client(), SYSTEM, ACCOUNT).await?,
            holds: Arc::clone(&holds),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening")?;
        let kubeconfig = write_kubeconfig(cluster, listener.local_addr()?)?;
        let router = Router::new().fallback(pass).with_state(passage);
        let server = tokio::spawn(async move {
            // It ends with the task alone.
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self {
            kubeconfig,
            holds,
            cut,
            server,
        })
    }

    /// The kubeconfig that leads through it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The network behind it is gone, or back: nothing arrives any more, no answer comes, and open watches fall silent.
    pub fn cut(&self, is_cut: bool) {
        self.cut.send_replace(is_cut);
    }

    /// Holds back the next request that matches.
    pub fn hold(&self, matching: Matching) -> Hold {
        let (caught, see) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let (delivered, answer) = oneshot::channel();
        let waiting = Waiting {
            matching,
            caught,
            release: released,
            delivered,
        };
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).push(waiting);
        Hold {
            caught: see,
            release,
            delivered: answer,
        }
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Matching {
    /// A patch, of either form, on the object whose path ends like this (`/httproutes/checkout`).
    pub fn patch(path: &str) -> Self {
        Self {
            method: Method::PATCH,
            path: path.to_owned(),
            body: Vec::new(),
            without: Vec::new(),
        }
    }

    /// The same whose body contains this besides.
    #[must_use]
    pub fn with(mut self, text: &str) -> Self {
        self.body.push(text.to_owned());
        self
    }

    /// The same whose body does not contain this.
    #[must_use]
    pub fn without(mut self, text: &str) -> Self {
        self.without.push(text.to_owned());
        self
    }

    fn meets(&self, method: &Method, path: &str, body: &str) -> bool {
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        *method == self.method
            && path.ends_with(&self.path)
            && self.body.iter().all(|text| body.contains(text))
            && !self.without.iter().any(|text| body.contains(text))
    }
}

impl Hold {
    /// Waits until a request is held back.
    pub async fn caught(&mut self, bound: Duration) -> Result<Caught> {
        timeout(bound, &mut self.caught)
            .await
            .with_context(|| format!("no request to hold back came within {} s", bound.as_secs()))?
            .context("the proxy ended")
    }

    /// Delivers it to the API server, whoever may still wait for an answer, and gives what the API server said.
    pub async fn deliver(self) -> Result<Delivered> {
        let _ended_if_refused = self.release.send(());
        timeout(Duration::from_secs(30), self.delivered)
            .await
            .context("the API server did not answer a late request within 30 s")?
            .context("nothing was held back, or the proxy ended")?
    }
}

/// Passes one request on, at once or when its hold ends.
async fn pass(State(passage): State<Passage>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let Ok(body) = to_bytes(body, MOST).await else {
        return failed("the request's body could not be read");
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    passage.joined().await;
    let waiting = {
        let mut holds = passage.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let place = holds
            .iter()
            .position(|hold| hold.matching.meets(&head.method, &path, &text));
        place.map(|place| holds.remove(place))
    };
    let Some(waiting) = waiting else {
        return match passage.send(head.method, &path, &head.headers, body).await {
            Ok(answer) => streamed(answer, passage),
            Err(error) => failed(&format!("{error:#}")),
        };
    };
    let _nobody_looks = waiting.caught.send(Caught {
        at: Timestamp::now(),
        path: path.clone(),
        body: text,
    });
    // In a task of its own: whoever sent it gives up, and this handler ends with the connection.
    let late = tokio::spawn(async move {
        let _let_go = waiting.release.await;
        let answered = passage.late(head.method, &path, &head.headers, body).await;
        let response = match &answered {
            Ok(delivered) => {
                let mut response = Response::new(Body::from(delivered.body.clone()));
                *response.status_mut() = StatusCode::from_u16(delivered.status).unwrap_or(StatusCode::BAD_GATEWAY);
                response
            }
            Err(error) => failed(&format!("{error:#}")),
        };
        let _nobody_looks = waiting.delivered.send(answered);
        response
    });
    late.await
        .unwrap_or_else(|error| failed(&format!("the held request was dropped: {error}")))
}

impl Passage {
    /// Comes back while the network is there.
    async fn joined(&self) {
        let mut cut = self.cut.clone();
        if cut.wait_for(|is_cut| !is_cut).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> reqwest::Result<reqwest::Response> {
        let mut headers = headers.clone();
        for hop in [AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING] {
            headers.remove(hop);
        }
        self.client
            .request(method, format!("https://{API_SERVER_ADDRESS}:{API_SERVER_PORT}{path}"))
            .headers(headers)
            .bearer_auth(&self.token)
            .body(body)
            .send()
            .await
    }

    async fn late(&self, method: Method, path: &str, headers: &HeaderMap, body: Bytes) -> Result<Delivered> {
        let sent = Timestamp::now();
        let answer = self.send(method, path, headers, body).await?;
        let status = answer.status().as_u16();
        Ok(Delivered {
            sent,
            status,
            body: answer.text().await?,
        })
    }
}

/// The answer, piece by piece as it comes: a watch never ends.
fn streamed(answer: reqwest::Response, passage: Passage) -> Response {
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    for hop in [CONNECTION, TRANSFER_ENCODING] {
        headers.remove(hop);
    }
    let pieces = stream::try_unfold((answer, passage), |(mut answer, passage)| async move {
        let piece = answer.chunk().await?;
        passage.joined().await;
        Ok::<_, reqwest::Error>(piece.map(|piece| (piece, (answer, passage))))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn failed(why: &str) -> Response {
    let mut response = Response::new(Body::from(format!("interceptor: {why}\n")));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

fn write_kubeconfig(cluster: &Cluster, address: SocketAddr) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": ACCOUNT, "user": {}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": ACCOUNT}}],
        "current-context": "local",
    });
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = cluster
        .facts()
        .path(&format!("kubeconfig-intercepted-{}-{number}", std::process::id()));
    std::fs::write(&file, serde_json::to_vec_pretty(&config)?)
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}
