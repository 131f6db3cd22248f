//! docs/analysis.md: what stands between its two marks is this program's, the rest is people's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The page.
const PAGE: &str = "analysis.md";
/// The picture.
const PICTURE: &str = "analysis.svg";
const BEGIN: &str = "<!-- calibrate: begin (written by `make calibrate`) -->\n";
const END: &str = "<!-- calibrate: end -->\n";

/// Puts the tables into the page and writes the picture.
pub(crate) fn write(folder: &Path, tables: &str, picture: &str) -> Result<()> {
    let page = folder.join(PAGE);
    let old = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    let new = with_tables(&old, tables).with_context(|| page.display().to_string())?;
    fs::write(&page, new).with_context(|| format!("writing {}", page.display()))?;
    let path = folder.join(PICTURE);
    fs::write(&path, picture).with_context(|| format!("writing {}", path.display()))
}

/// The page with these tables between its marks.
pub(crate) fn with_tables(page: &str, tables: &str) -> Result<String> {
    let Some((before, rest)) = page.split_once(BEGIN) else {
        bail!("no line {BEGIN:?}; put it where the tables belong");
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("no line {END:?} after the tables; put it there");
    };
    Ok(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}
