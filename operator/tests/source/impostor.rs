//! A hand-written imitation of a metrics source, for what the real one never sends: redirects, refusals, endless, slow and broken replies.
//!
//! One thread of blocking sockets, one request a connection. It says nothing about how Prometheus behaves: that is asked of the real one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What to answer.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Status line, further header lines, body.
    Http(&'static str, Vec<String>, String),
    /// A Prometheus body with status 200.
    Json(String),
    /// Headers, then bytes without an end.
    Endless,
    /// Headers, then one byte every 100 ms.
    Drip,
    /// Nothing at all.
    Silence,
    /// The connection ends without a reply.
    HangUp,
    /// A length that is longer than what follows.
    CutOff,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    /// `name: value`, the name in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// The server; ends when dropped.
pub(crate) struct Impostor {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    address: std::net::SocketAddr,
}

impl Impostor {
    pub(crate) fn new(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let script: Arc<Script> = Arc::new(script);
        let (seen, ended) = (Arc::clone(&requests), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (seen, ended, script) = (Arc::clone(&seen), Arc::clone(&ended), Arc::clone(&script));
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &ended, script.as_ref()));
            }
        });
        Self {
            url: format!("http://{address}"),
            requests,
            stop,
            address,
        }
    }

    /// Answers every request alike.
    pub(crate) fn always(answer: Answer) -> Self {
        Self::new(move |_| answer.clone())
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Request>>, ended: &AtomicBool, script: &Script) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    let mut length = 0;
    let mut headers = Vec::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap();
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        if name == "content-length" {
            length = value.parse().unwrap();
        }
        headers.push(format!("{name}: {value}"));
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let request = Request {
        line: line.trim().into(),
        headers,
        body: String::from_utf8(body).unwrap(),
    };
    seen.lock().unwrap().push(request.clone());
    let write = |stream: &mut TcpStream, bytes: &[u8]| stream.write_all(bytes).and_then(|()| stream.flush()).is_ok();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
    match script(&request) {
        Answer::Http(status, headers, body) => {
            let headers = headers.join("\r\n") + if headers.is_empty() { "" } else { "\r\n" };
            let length = body.len();
            write(
                &mut stream,
                format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
                    .as_bytes(),
            );
        }
        Answer::Json(body) => {
            let length = body.len();
            write(
                &mut stream,
                format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes(),
            );
        }
        Answer::Endless => {
            write(&mut stream, format!("{head}\r\n{{\"status\":\"").as_bytes());
            while !ended.load(Ordering::SeqCst) && write(&mut stream, &[b'x'; 4096]) {}
        }
        Answer::Drip => {
            write(&mut stream, format!("{head}\r\n").as_bytes());
            while !ended.load(Ordering::SeqCst) && write(&mut stream, b" ") {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Answer::Silence => {
            while !ended.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Answer::HangUp => {}
        Answer::CutOff => {
            write(
                &mut stream,
                format!("{head}content-length: 500\r\n\r\n{{\"status\":").as_bytes(),
            );
        }
    }
}
