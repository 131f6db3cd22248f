//! Prints `rollouts.yaml`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write;
    std::io::stdout().write_all(stepgate_crds::rollouts_yaml()?.as_bytes())?;
    Ok(())
}
