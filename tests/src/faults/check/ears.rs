//! Hears what the operators of this process log, for what they may not say.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What every secret and every body of a bad reply begins with in runs of plans; its namespace follows.
pub const HUSH: &str = "hush-";

/// The ears of this process, once for all runs.
#[derive(Clone, Debug, Default)]
pub struct Ears {
    heard: Arc<Mutex<Vec<String>>>,
    /// Whether what is heard is also printed.
    aloud: bool,
}

impl Ears {
    /// Begins to listen to everything at this level, such as `info`; a second time the first ones are given back.
    pub fn open(filter: &str, aloud: bool) -> Self {
        static EARS: OnceLock<Ears> = OnceLock::new();
        EARS.get_or_init(|| {
            let ears = Self {
                aloud,
                ..Self::default()
            };
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(EnvFilter::new(filter))
                .with_ansi(false)
                .with_writer(ears.clone())
                .finish();
            // Where somebody else listens already, nothing is heard here: the test of this page says so.
            let _other = tracing::subscriber::set_global_default(subscriber);
            ears
        })
        .clone()
    }

    /// Lines that said this.
    pub fn heard(&self, secret: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|line| line.contains(secret)).cloned().collect()
    }
}

impl io::Write for Ears {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if text.contains(HUSH) {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.push(text.into_owned());
        }
        if self.aloud {
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Ears {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_said_is_heard() {
        let ears = Ears::open("info", false);
        tracing::info!("a line about {HUSH}somebody");
        tracing::info!("a line about nobody");
        assert_eq!(ears.heard(&format!("{HUSH}somebody")).len(), 1);
        assert!(ears.heard(&format!("{HUSH}somebody-else")).is_empty());
    }
}
