//! Runs the worked examples of the metric queries' forms (`tests/vectors/promql`) through `promtool test rules`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use stepgate_tests::cluster::parts::Parts;

#[test]
fn every_promql_vector_holds() -> Result<()> {
    let promtool = Parts::find()?.promtool;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/promql");
    let mut seen = 0;
    for file in fs::read_dir(&folder)? {
        let path = file?.path();
        let output = Command::new(&promtool).args(["test", "rules"]).arg(&path).output()?;
        ensure!(
            output.status.success(),
            "{}:\n{}{}",
            path.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        seen += 1;
    }
    ensure!(seen >= 3, "only {seen} files in {}", folder.display());
    Ok(())
}
