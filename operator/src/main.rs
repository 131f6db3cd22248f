//! `stepgate`.
fn main() {}
