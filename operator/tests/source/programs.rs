//! Finds Prometheus' programs: in the PATH, else where `tests/cluster/build.sh` puts them.

use std::env;
use std::path::PathBuf;

/// The path of `prometheus` or `promtool`.
pub(crate) fn program(name: &str) -> PathBuf {
    let in_path = env::var_os("PATH")
        .into_iter()
        .flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let set = |variable: &str| {
        env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("STEPGATE_CACHE").or_else(|| {
        let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(base.join("stepgate"))
    });
    in_path
        .chain(cache.map(|cache| cache.join("prometheus-debian")))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is missing: run tests/cluster/build.sh, or install Debian's package prometheus")
        })
}
