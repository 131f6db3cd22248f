//! A real Prometheus over series of our making: blocks written by `promtool`, served on a free port of the loopback interface.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::programs::program;

/// Seconds between two samples.
pub(crate) const SCRAPE: i64 = 5;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running Prometheus with its folder; ends when dropped.
pub(crate) struct Prometheus {
    pub(crate) url: String,
    child: Child,
    folder: PathBuf,
}

/// One counter or gauge: name with labels, and its samples from the start on, every [`SCRAPE`] seconds; `None` is no sample.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) series: &'static str,
    pub(crate) samples: Vec<Option<i64>>,
}

impl Line {
    /// `first`, and `step` more each time, `count` samples.
    pub(crate) fn rising(series: &'static str, first: i64, step: i64, count: i64) -> Self {
        Self {
            series,
            samples: (0..count).map(|index| Some(first + index * step)).collect(),
        }
    }
}

impl Prometheus {
    /// With these series, the first samples at `start` (unix seconds).
    pub(crate) fn with(start: i64, lines: &[Line]) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "prometheus-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::SeqCst)
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let mut text = String::new();
        for line in lines {
            let name = line.series.split('{').next().unwrap();
            if !text.contains(&format!("# TYPE {name} ")) {
                writeln!(text, "# TYPE {name} unknown").unwrap();
            }
            for (index, sample) in (0..).zip(&line.samples) {
                if let Some(value) = sample {
                    writeln!(text, "{} {value} {}", line.series, start + index * SCRAPE).unwrap();
                }
            }
        }
        text.push_str("# EOF\n");
        std::fs::write(folder.join("series.txt"), text).unwrap();
        std::fs::write(folder.join("prometheus.yml"), "global: {scrape_interval: 1h}\n").unwrap();
        if !lines.is_empty() {
            let blocks = Command::new(program("promtool"))
                .args(["tsdb", "create-blocks-from", "openmetrics"])
                .arg(folder.join("series.txt"))
                .arg(folder.join("data"))
                .output()
                .unwrap();
            assert!(blocks.status.success(), "{}", String::from_utf8_lossy(&blocks.stderr));
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new(program("prometheus"))
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let prometheus = Self {
            url: format!("http://127.0.0.1:{port}"),
            child,
            folder,
        };
        prometheus.wait_until_ready(port);
        prometheus
    }

    fn wait_until_ready(&self, port: u16) {
        use std::io::{Read as _, Write as _};
        let until = Instant::now() + Duration::from_mins(1);
        while Instant::now() < until {
            if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
                let mut answer = String::new();
                let asked = stream.write_all(b"GET /-/ready HTTP/1.0\r\n\r\n");
                if asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ") {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "prometheus is not ready after 60 s:\n{}",
            std::fs::read_to_string(self.folder.join("log")).unwrap()
        );
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
