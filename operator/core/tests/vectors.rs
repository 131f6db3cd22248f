//! The formulas against reference values that were computed apart from this code, to 1e-9 relative.

use serde::Deserialize;
use stepgate_core::verdict::eprocess::{ln_e_absolute, ln_e_pass, ln_e_relative};
use stepgate_crds::evidence::Tally;

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    rho0: f64,
    phi: f64,
    tolerance: f64,
    intervals_nc_xc_ns_xs: Vec<[u32; 4]>,
    ln_e_relative: Vec<f64>,
    ln_e_absolute: Vec<f64>,
    ln_e_pass: Vec<f64>,
}

#[track_caller]
fn assert_close(what: &str, case: usize, found: f64, expected: f64) {
    let tolerance = 1e-9 * expected.abs();
    assert!(
        (found - expected).abs() <= tolerance,
        "case {case}, {what}: {found} instead of {expected}"
    );
}

#[test]
fn all_forty_reference_cases_agree_to_a_billionth() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../../tests/vectors/eprocess.json")).unwrap();
    let cases = vectors.cases;
    assert_eq!(cases.len(), 40);
    for (number, case) in cases.iter().enumerate() {
        let mut intervals = Vec::new();
        let (mut requests, mut bad) = (0, 0);
        assert_eq!(case.intervals_nc_xc_ns_xs.len(), case.ln_e_relative.len());
        for (at, [n_c, x_c, n_s, x_s]) in case.intervals_nc_xc_ns_xs.iter().copied().enumerate() {
            let canary = Tally {
                requests: n_c.into(),
                bad: x_c.into(),
            };
            intervals.push((
                canary,
                Tally {
                    requests: n_s.into(),
                    bad: x_s.into(),
                },
            ));
            requests += n_c;
            bad += x_c;
            let (n, x) = (f64::from(requests), f64::from(bad));
            assert_close(
                "relative",
                number,
                ln_e_relative(&intervals, case.rho0, case.phi),
                case.ln_e_relative[at],
            );
            assert_close(
                "absolute",
                number,
                ln_e_absolute(n, x, case.tolerance, 1.0),
                case.ln_e_absolute[at],
            );
            assert_close("pass", number, ln_e_pass(n, x, case.tolerance, 1.0), case.ln_e_pass[at]);
        }
    }
}
